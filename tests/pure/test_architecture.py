"""The layers of modules, read from the source: who may import whom, and what may come from
outside."""

from __future__ import annotations

import ast
import re
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

# From top to bottom: a module imports only from layers below its own, wherever in the file the
# import stands, also where it is for the type checker only. Modules of one layer do not import each
# other.
LAYERS = [
    ["__main__"],
    ["__init__", "_cli"],
    ["_build_view", "_doctor", "_judge_view", "_mcp", "remote"],
    ["_sync"],
    ["_sandbox"],
    ["judge"],
    ["_save", "_session"],
    ["_container", "_image", "_pool", "_watchdog"],
    ["_cleaner", "_execution", "_post_mortem", "_watchdog_process"],
    ["_orphans", "_owner"],
    ["_engine_api"],
    ["_connection"],
    ["_endpoint", "_forks"],
    ["_deadline", "_dialogue", "_events", "_job", "_ledger"],
    ["_result"],
    ["_frames", "_messages", "_stdcopy"],
    ["_spec"],
    ["_seccomp"],
    ["_limits", "_stats", "_errors", "_names", "_requirements"],
    ["_version"],
]
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer}

NO_IO = [
    *("_deadline", "_dialogue", "_errors", "_events", "_frames", "_job", "_ledger", "_limits", "_messages", "_names", "_requirements"),
    *("_result", "_seccomp", "_spec", "_stats", "_stdcopy"),
]
OUTSIDE = {"anyio", "httpcore", "httpx", "msgspec"}
OUTSIDE_OF = {
    "_cli": OUTSIDE | {"rich", "typer"},
    "_build_view": OUTSIDE | {"rich"},
    "_judge_view": OUTSIDE | {"rich"},
    "_mcp": OUTSIDE | {"mcp", "pydantic"},
}
TYPING_ONLY = {"typing_extensions"}  # the type checker has it


def table() -> dict[str, int]:
    """Return the number of each module's row in the table of ARCHITECTURE.md."""
    text = (ROOT / "engine" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]*) \| ", text.partition("| module |")[2].partition("\n\n")[0], re.MULTILINE)
    names = [(name.rstrip("/"), number) for number, row in enumerate(rows) for name in re.findall(r"`([\w/]+)`", row)]
    return {name if name in ("__init__", "adapters", "judge", "remote") else f"_{name}": number for name, number in names}


# What need not be in a layer below, but is imported inside a function only, and why.
DEFERRED = {
    "_cli": {"dayfly._server"},  # built on the library, loaded when somebody asks to serve
    "_watchdog_process": {"dayfly._watchdog_process"},  # a script until its host is dead, then this module
}
# What must not be imported before it is needed, though it is in a layer below.
LAZY = {
    "_cli": {"dayfly._mcp"},  # an extra of its own
    "_engine_api": {"dayfly._connection"},  # brings httpx, half of what `import dayfly` would cost
    "_watchdog_process": {  # waits in a bare interpreter
        *("anyio", "msgspec", "dayfly._endpoint", "dayfly._engine_api", "dayfly._errors", "dayfly._orphans"),
    },
}


class Import(NamedTuple):
    name: str
    """`dayfly._errors`, or the top name of a package from outside."""
    deferred: bool
    """Inside a function."""
    typing: bool
    """For the type checker only."""


def imports(file: Path, package: str) -> Iterator[Import]:
    def visit(node: ast.AST, deferred: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = deferred or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            types = typing or (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING" and not child.orelse)
            if isinstance(child, ast.Import):
                yield from (Import(_shortened(alias.name, package), inside, types) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level < 2, f"{file.name} line {child.lineno}: the package is one folder deep"
                module = ".".join(filter(None, [package if child.level else "", child.module or ""]))
                names = [f"{module}.{alias.name}" for alias in child.names] if module in (package, "dayfly") else [module]
                yield from (Import(_shortened(name, package), inside, types) for name in names)
            yield from visit(child, inside, types)

    yield from visit(ast.parse(file.read_text(encoding="utf-8"), file.name), False, False)


def _shortened(name: str, package: str) -> str:
    if name.startswith(f"{package}."):
        return f"{package}.{name[len(package) + 1 :].partition('.')[0]}"
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "dayfly" else parts[0]


def modules() -> list[str]:
    return sorted(file.stem for file in HOST.glob("*.py"))


def test_every_module_has_its_layer_and_every_layer_exists() -> None:
    assert sorted(LAYER_OF) == sorted([*modules(), "_image", "judge"])


def test_the_architecture_names_every_module_in_this_order() -> None:
    rows = table()
    assert sorted(rows) == sorted({*modules(), "_image", "_server", "adapters", "judge"} - {"__main__", "_version"})
    upwards = [
        (module, other)
        for module in modules()
        for other in (name.partition(".")[2] for name, *_ in imports(HOST / f"{module}.py", "dayfly"))
        if module in rows and other in rows and rows[other] < rows[module]
    ]
    assert upwards == []


def test_the_architecture_is_short() -> None:
    assert len((ROOT / "engine" / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_from_layers_below(module: str) -> None:
    for name, deferred, _ in imports(HOST / f"{module}.py", "dayfly"):
        if name.startswith("dayfly.") and not (deferred and name in DEFERRED.get(module, ())):
            other = name.partition(".")[2]
            # The package's own names (`from dayfly import ...`) would be an import of __init__,
            # from below.
            assert other in LAYER_OF and LAYER_OF[other] > LAYER_OF[module], f"{module} imports {name}"


@pytest.mark.parametrize("module", LAZY)
def test_what_is_costly_is_imported_when_it_is_needed(module: str) -> None:
    at_import = {name for name, deferred, typing in imports(HOST / f"{module}.py", "dayfly") if not deferred and not typing}
    assert not at_import & LAZY[module]


def test_no_allowance_for_an_import_outlives_its_use() -> None:
    for module, names in DEFERRED.items():
        assert names <= {name for name, deferred, _ in imports(HOST / f"{module}.py", "dayfly") if deferred}


@pytest.mark.parametrize("module", modules())
def test_the_core_needs_only_its_dependencies(module: str) -> None:
    found = imports(HOST / f"{module}.py", "dayfly")
    foreign = {
        name
        for name, _, typing in found
        if not name.startswith("dayfly") and name not in sys.stdlib_module_names and not (typing and name in TYPING_ONLY)
    }
    assert foreign <= OUTSIDE_OF.get(module, OUTSIDE)


@pytest.mark.parametrize("module", NO_IO)
def test_a_pure_module_has_no_io_no_loop_and_no_clock(module: str) -> None:
    names = {name for name, _, _ in imports(HOST / f"{module}.py", "dayfly")}
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


# The image build's modules, top to bottom, by the same rule. The package's place among the others
# is that of `_image` above.
IMAGE = HOST / "_image"
IMAGE_LAYERS = [["__init__"], ["build"], ["debian", "workbench"], ["answers", "wheels"], ["processes", "recipe"], ["workbench_program"]]
IMAGE_LAYER_OF = {module: number for number, layer in enumerate(IMAGE_LAYERS) for module in layer}


@pytest.mark.parametrize("module", sorted(file.stem for file in IMAGE.glob("*.py")))
def test_the_image_build_imports_only_from_below(module: str) -> None:
    for name, *_ in imports(IMAGE / f"{module}.py", "dayfly._image"):
        if name.startswith("dayfly._image."):
            assert IMAGE_LAYER_OF[name.rpartition(".")[2]] > IMAGE_LAYER_OF[module]
        elif name.startswith("dayfly."):
            assert LAYER_OF[name.partition(".")[2]] > LAYER_OF["_image"]
        else:
            assert name in {"anyio", "msgspec"} | sys.stdlib_module_names


# The judge's modules, by the same rule. It is public, as dayfly itself is.
JUDGE = HOST / "judge"
JUDGE_LAYERS = [
    ["__init__"],
    ["_judging"],
    ["_sources", "_talk"],
    ["_plan", "_problem", "_verdicts"],
    ["_cases"],
    ["_programs"],
    ["_checkers"],
]
JUDGE_LAYER_OF = {module: number for number, layer in enumerate(JUDGE_LAYERS) for module in layer}


@pytest.mark.parametrize("module", sorted(file.stem for file in JUDGE.glob("*.py")))
def test_the_judge_imports_only_from_below(module: str) -> None:
    for name, deferred, typing in imports(JUDGE / f"{module}.py", "dayfly.judge"):
        if name.startswith("dayfly.judge."):
            assert typing or JUDGE_LAYER_OF[name.rpartition(".")[2]] > JUDGE_LAYER_OF[module]
        elif name.startswith("dayfly."):
            assert LAYER_OF[name.partition(".")[2]] > LAYER_OF["judge"]
        else:
            assert name in {"anyio", "msgspec"} | sys.stdlib_module_names or (deferred and name == "yaml")


def test_the_workbench_program_is_imported_by_nobody() -> None:
    imported = {name for file in HOST.rglob("*.py") for name, *_ in imports(file, file.parent.name)}
    assert not [name for name in imported if name.endswith("workbench_program")]
    assert {name for name, *_ in imports(IMAGE / "workbench_program.py", "dayfly._image")} <= sys.stdlib_module_names


# The server's modules, top to bottom, by the same rule; it is built on the library, so of dayfly
# it may use what any host program may.
SERVER = HOST / "_server"
SERVER_LAYERS = [
    ["command"],
    ["process"],
    ["app"],
    ["middleware", "routes"],
    ["fusion", "judging", "mcp", "piston"],
    ["guards"],
    ["runs"],
    ["context"],
    ["sessions"],
    ["service", "results", "docs"],
    ["bodies", "case_sets", "metrics", "turns", "tracing", "connections", "logs"],
    ["problems"],
    ["quotas"],
    ["keys", "config"],
    ["__init__"],
]
SERVER_LAYER_OF = {module: number for number, layer in enumerate(SERVER_LAYERS) for module in layer}
SERVER_MAY_ALSO_USE = {
    "dayfly._engine_api",  # one ping, for /readyz
    "dayfly._endpoint",  # where the engine is, found once
    "dayfly._job",  # bounds that it shares with the sandbox
    "dayfly._limits",
    "dayfly._messages",
    "dayfly._names",  # the default image
    "dayfly._result",  # the text of JSON without its strings
    "dayfly.judge",  # public
    "dayfly.judge._judging",  # the judging itself, and what it keeps
    "dayfly.judge._programs",  # what a checker may be in JSON
    "dayfly._mcp",  # the tools, which `dayfly mcp` has too
}


@pytest.mark.parametrize("module", sorted(file.stem for file in SERVER.glob("*.py")))
def test_the_server_imports_from_below_and_the_public_names(module: str) -> None:
    for node in ast.walk(ast.parse((SERVER / f"{module}.py").read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == 1:
            others = [node.module] if node.module else [alias.name for alias in node.names]
            assert [other for other in others if SERVER_LAYER_OF[str(other)] <= SERVER_LAYER_OF[module]] == []
        elif (node.module or "").partition(".")[0] == "dayfly":
            assert node.level == 0
            if node.module == "dayfly":
                assert {alias.name for alias in node.names} <= set(dayfly.__all__)
            else:
                assert node.module in SERVER_MAY_ALSO_USE


# Each adapter may use what any host program may, and its own framework. Nothing else in dayfly
# knows of them.
ADAPTERS = HOST / "adapters"
FRAMEWORKS = {"inspect_ai": {"anyio", "inspect_ai"}, "ray": {"ray"}, "smolagents": {"smolagents"}, "verl": set()}
PROGRAMS = {"__init__", "smolagents_step"}  # the second runs in the container
ADAPTERS_MAY_ALSO_USE = {"dayfly._job"}  # what `run` may be called with, and its form in JSON


@pytest.mark.parametrize("adapter", FRAMEWORKS)
def test_an_adapter_uses_the_public_names_and_its_framework(adapter: str) -> None:
    for name, *_ in imports(ADAPTERS / f"{adapter}.py", "dayfly.adapters"):
        if name.partition(".")[0] == "dayfly":
            assert name in ADAPTERS_MAY_ALSO_USE or name.removeprefix("dayfly.") in {"dayfly", "judge", "remote", *dayfly.__all__}
        else:
            assert name in {"msgspec", *FRAMEWORKS[adapter], *TYPING_ONLY, *sys.stdlib_module_names}


def test_no_adapter_is_imported_by_dayfly_or_by_another() -> None:
    assert sorted(FRAMEWORKS) == sorted(file.stem for file in ADAPTERS.glob("*.py") if file.stem not in PROGRAMS)
    for file in HOST.rglob("*.py"):
        found = {name for name, *_ in imports(file, ".".join(("dayfly", *file.parent.relative_to(HOST).parts)))}
        assert not [name for name in found if name.startswith("dayfly.adapters")], file


def test_dayfly_is_whole_without_its_adapters() -> None:
    modules = "dayfly.remote, dayfly.judge, dayfly._cli, dayfly._mcp, dayfly._server.app"
    code = f"import sys; sys.modules['dayfly.adapters'] = None; import {modules}"
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)


def test_a_server_is_whole_without_what_nobody_asks_it_for() -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(f'dayfly._server.{name}' for name in ('fusion', 'piston', 'mcp'))\n"
        "from dayfly._server import app, command\n"
        "from dayfly._server.config import Config\n"
        "from dayfly._server.context import AppContext\n"
        "from dayfly._server.tracing import Tracing\n"
        "given = dict.fromkeys(AppContext.__struct_fields__) | {'config': Config()}\n"
        "app.application(AppContext(**given), Tracing(wanted=False))\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)


def test_importing_dayfly_loads_no_http_client() -> None:
    code = "import sys, dayfly; print({'httpx', 'httpcore', 'trio', 'typer', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True).stdout == b"set()\n"


def test_the_pool_knows_no_docker() -> None:
    names = {name for name, _, _ in imports(HOST / "_pool.py", "dayfly")}
    assert {name for name in names if name.startswith("dayfly.")} == {"dayfly._errors", "dayfly._ledger", "dayfly._owner"}


def test_the_host_never_imports_the_runner() -> None:
    assert [module for module in modules() if "dayfly_runner" in {one.name for one in imports(HOST / f"{module}.py", "dayfly")}] == []


@pytest.mark.parametrize("file", sorted(RUNNER.rglob("*.py")), ids=lambda file: str(file.relative_to(RUNNER)))
def test_the_runner_imports_the_standard_library_only(file: Path) -> None:
    foreign = {name for name, _, _ in imports(file, "dayfly_runner") if name.partition(".")[0] != "dayfly_runner"} - sys.stdlib_module_names
    assert foreign == set()


def test_the_package_itself_imports_and_does_nothing_else() -> None:
    tree = ast.parse((HOST / "__init__.py").read_text(encoding="utf-8"))
    assert {type(node) for node in tree.body} <= {ast.Expr, ast.ImportFrom, ast.Assign}


def test_every_file_of_the_runner_says_what_it_is() -> None:
    assert [file.name for file in RUNNER.rglob("*.py") if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))] == []
