"""The arrows between the rooms, read from the source: who may import whom, and what may come from outside."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import dayfly

ROOT = Path(__file__).parents[2]
HOST = ROOT / "engine" / "dayfly"
RUNNER = ROOT / "runner_stdio" / "dayfly_runner"

# From top to bottom: a room imports only from rows below its own. Within a row nobody imports anybody.
ROWS = [
    ["__main__"],
    ["__init__", "cli"],
    ["doctor"],
    ["sync"],
    ["sandbox"],
    ["pool"],
    ["ledger"],
    ["container"],
    ["reaper", "image"],
    ["undertaker"],
    ["engine_api"],
    ["connection"],
    ["endpoint", "forks"],
    ["dialogue"],
    ["job", "result"],
    ["frames", "stdcopy", "messages"],
    ["spec"],
    ["seccomp"],
    ["limits", "stats", "errors", "names", "requirements"],
    ["_version"],
]
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}

NO_IO = [
    "ledger",
    "dialogue",
    "frames",
    "stdcopy",
    "messages",
    "spec",
    "seccomp",
    "job",
    "result",
    "limits",
    "stats",
    "errors",
    "names",
    "requirements",
]
OUTSIDE = {"anyio", "httpcore", "httpx", "msgspec"}
OUTSIDE_OF = {"cli": OUTSIDE | {"rich", "typer"}}

# Imports inside a function, and why they are there.
DEFERRED = {
    "cli": {"dayfly.server"},  # a guest of the library, loaded when somebody asks to serve
    "engine_api": {"dayfly.connection"},  # brings httpx, half of what `import dayfly` would cost
    "sandbox": {"trio"},  # is there already if its event loop runs; not a dependency
    "undertaker": {
        "anyio",
        "dayfly.engine_api",
        "dayfly.errors",
        "dayfly.reaper",
        "dayfly.undertaker",
    },  # a process of its own, a script until its host has died
}


class Import(NamedTuple):
    name: str
    """`dayfly.errors`, or the top name of a package from outside."""
    deferred: bool


def imports(file: Path, package: str) -> Iterator[Import]:
    def visit(node: ast.AST, deferred: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.Import):
                yield from (Import(_shortened(alias.name, package), inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level < 2, f"{file.name} line {child.lineno}: the package has no room for more dots"
                module = ".".join(filter(None, [package if child.level else "", child.module or ""]))
                names = [f"{module}.{alias.name}" for alias in child.names] if module == package else [module]
                yield from (Import(_shortened(name, package), inside) for name in names)
            yield from visit(child, inside)

    yield from visit(ast.parse(file.read_text(encoding="utf-8"), file.name), False)


def _shortened(name: str, package: str) -> str:
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == package else parts[0]


def rooms() -> list[str]:
    return sorted(file.stem for file in HOST.glob("*.py"))


def test_every_room_has_its_row() -> None:
    assert [room for room in rooms() if room not in ROW_OF] == []


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_only_from_rooms_below(room: str) -> None:
    for name, deferred in imports(HOST / f"{room}.py", "dayfly"):
        if name.startswith("dayfly.") and not (deferred and name in DEFERRED.get(room, ())):
            other = name.partition(".")[2]
            below = other in ROW_OF and ROW_OF[other] > ROW_OF[room]
            # The package's own names (`from dayfly import ...`) would be an import of the face, from below.
            assert below, f"{room} imports {name}"


@pytest.mark.parametrize("room", rooms())
def test_the_core_needs_nothing_from_outside_but_its_dependencies(room: str) -> None:
    allowed = OUTSIDE_OF.get(room, OUTSIDE)
    foreign = {
        name
        for name, deferred in imports(HOST / f"{room}.py", "dayfly")
        if not name.startswith("dayfly") and name not in sys.stdlib_module_names and not (deferred and name in DEFERRED.get(room, ()))
    }
    assert foreign <= allowed


@pytest.mark.parametrize("room", NO_IO)
def test_a_pure_room_has_no_io_no_loop_and_no_clock(room: str) -> None:
    names = {name for name, _ in imports(HOST / f"{room}.py", "dayfly")}
    assert not names & {
        "anyio",
        "asyncio",
        "httpcore",
        "httpx",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "socket",
        "subprocess",
        "threading",
        "time",
    }


# The server's rooms, top to bottom, by the same rule; it is a guest of the library, so of dayfly it may use what any host program may.
SERVER = HOST / "server"
SERVER_ROWS = [
    ["command"],
    ["process"],
    ["app"],
    ["docs", "service"],
    ["problems", "metrics", "tracing"],
    ["quotas"],
    ["keys", "config"],
    ["__init__"],
]
SERVER_ROW_OF = {room: number for number, row in enumerate(SERVER_ROWS) for room in row}
SERVER_BEYOND_THE_FACE = {
    "dayfly.engine_api",  # one ping, for /readyz
    "dayfly.job",  # UNSET, for a job's data
}


@pytest.mark.parametrize("room", sorted(file.stem for file in SERVER.glob("*.py")))
def test_a_room_of_the_server_imports_only_from_rooms_below_and_from_the_face(room: str) -> None:
    for node in ast.walk(ast.parse((SERVER / f"{room}.py").read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == 1:
            others = [node.module] if node.module else [alias.name for alias in node.names]
            assert [other for other in others if SERVER_ROW_OF[str(other)] <= SERVER_ROW_OF[room]] == []
        elif (node.module or "").partition(".")[0] == "dayfly":
            assert node.level == 0
            if node.module == "dayfly":
                assert {alias.name for alias in node.names} <= set(dayfly.__all__)
            else:
                assert node.module in SERVER_BEYOND_THE_FACE


def test_importing_dayfly_loads_no_http_client() -> None:
    code = "import sys, dayfly; print({'httpx', 'httpcore', 'trio', 'typer', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True).stdout == b"set()\n"


def test_the_pool_knows_no_docker() -> None:
    assert {name for name, _ in imports(HOST / "pool.py", "dayfly") if name.startswith("dayfly.")} <= {
        "dayfly.errors",
        "dayfly.ledger",
        "dayfly.stats",
    }


def test_the_host_never_imports_the_runner() -> None:
    assert [room for room in rooms() if any(name == "dayfly_runner" for name, _ in imports(HOST / f"{room}.py", "dayfly"))] == []


@pytest.mark.parametrize("file", sorted(RUNNER.rglob("*.py")), ids=lambda file: str(file.relative_to(RUNNER)))
def test_the_runner_imports_the_standard_library_only(file: Path) -> None:
    foreign = {name for name, _ in imports(file, "dayfly_runner") if name.partition(".")[0] != "dayfly_runner"} - sys.stdlib_module_names
    assert foreign == set()


def test_the_face_imports_and_does_nothing_else() -> None:
    tree = ast.parse((HOST / "__init__.py").read_text(encoding="utf-8"))
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.ImportFrom, ast.Assign}


def test_every_file_of_the_runner_says_what_it_is() -> None:
    assert [file.name for file in RUNNER.rglob("*.py") if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))] == []
