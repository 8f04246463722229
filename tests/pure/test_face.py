"""The public names: `import dayfly` gives these and no others, and each has a docstring."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import dayfly

HOME = Path(dayfly.__file__).parent
DOCUMENTED = [
    *(
        "AsyncSandbox",
        "AsyncSession",
        "ContainerLost",
        "DayflyError",
        "EngineError",
        "EngineRefused",
        "EngineUnreachable",
        "ImageMissing",
        "Job",
        "Limits",
    ),
    *("Outcome", "Piece", "PoolClosed", "PoolError", "PoolFull", "PoolTimeout", "Result", "RunnerMisbehaved", "Sandbox", "SandboxError"),
    *("Session", "SessionLost", "StartFailed", "Stats", "__version__"),
]
NAMES = [name for name in dayfly.__all__ if name != "__version__"]
SUBMODULES = {module.name for module in pkgutil.iter_modules(dayfly.__path__)}


def test_all_is_sorted_complete_and_what_is_documented() -> None:
    assert dayfly.__all__ == sorted(dayfly.__all__)
    assert dayfly.__all__ == DOCUMENTED
    assert all(hasattr(dayfly, name) for name in dayfly.__all__)


def test_the_namespace_has_nothing_else_but_modules() -> None:
    names = {name for name in vars(dayfly) if not name.startswith("__")}
    assert names - set(dayfly.__all__) <= SUBMODULES
    assert all(isinstance(getattr(dayfly, name), types.ModuleType) for name in names - set(dayfly.__all__))


def test_star_gives_the_same() -> None:
    namespace: dict[str, Any] = {}
    exec("from dayfly import *", namespace)
    assert {name for name in namespace if name != "__builtins__"} == set(dayfly.__all__)


def listed() -> dict[str, list[str]]:
    """Return the names that the reference shows, by module."""
    text = (HOME.parents[1] / "docs" / "reference" / "python.md").read_text()
    found: dict[str, list[str]] = {}
    for module, members in re.findall(r"^::: (\S+)\n((?: +.*\n)*)", text, re.MULTILINE):
        found.setdefault(module, []).extend(re.findall(r"^ +- (\w+)$", members, re.MULTILINE))
    return found


def declared(file: Path) -> list[str]:
    """Return `__all__` of a module without importing it: a framework need not be here."""
    (value,) = re.findall(r"^__all__ = (\[.*?\])", file.read_text(), re.DOTALL | re.MULTILINE)
    names: list[str] = ast.literal_eval(value)
    return names


def test_the_reference_has_every_public_name_once() -> None:
    found = listed()
    assert found.pop("sandbox") == []  # all of it
    assert sorted(found.pop("dayfly") + found.pop("dayfly._errors")) == sorted(NAMES)
    adapters = {f"adapters.{file.stem}": file for file in HOME.glob("adapters/*.py") if "__all__" in file.read_text()}
    files = {"judge": HOME / "judge" / "__init__.py", "remote": HOME / "remote.py"} | adapters
    assert {module: sorted(names) for module, names in found.items()} == {
        f"dayfly.{name}": sorted(declared(file)) for name, file in files.items()
    }


def test_every_adapter_is_public_but_what_runs_elsewhere() -> None:
    private = {file.stem for file in HOME.glob("adapters/*.py") if "__all__" not in file.read_text()}
    assert private == {"__init__", "smolagents_step"}  # a program in the container


def test_the_references_have_every_command_and_setting() -> None:
    spec = importlib.util.spec_from_file_location("hooks", HOME.parents[1] / "docs" / "hooks.py")
    assert spec
    assert spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    command = hooks.command()
    for name in ("run", "judge", "serve", "serve key new", "mcp", "doctor", "clean", "image build"):
        assert f"`dayfly {name}`" in command
    for option in ("--config FILE", "--check-config", "--limits-pids VALUE", "--file FILE"):
        assert option in command
    assert "| `limits.pids` | Processes and threads" in hooks.server_settings()


def docstrings() -> Iterator[tuple[str, str]]:
    for file in sorted([*HOME.rglob("*.py"), *(HOME.parents[1] / "runner_stdio").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{file.name}: {getattr(node, 'name', '')}", ast.get_docstring(node) or ""


CODE = r"(?:from \S+ import |import \w+$|(?:async )?with .*:$|[\w.]+\($|\w+ = )"


def test_examples_in_docstrings_compile() -> None:
    examples = 0
    for where, text in docstrings():
        assert not re.search(rf"^{CODE}", text, re.MULTILINE), f"{where}: code that is not indented"
        for block in re.findall(r"(?:^(?: {4}.*)?\n)*^ {4}.*", text, re.MULTILINE):
            code = textwrap.dedent(block).strip("\n")
            if re.match(CODE, code, re.MULTILINE):
                compile(code, where, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
                examples += 1
    assert examples > 5


@pytest.mark.parametrize("name", [f"{module}.{name}" for module, names in listed().items() for name in names if "adapters" not in module])
def test_every_public_name_has_a_docstring_with_a_full_stop(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    value = getattr(importlib.import_module(module), attribute)
    text = value.__doc__ if inspect.isfunction(value) else vars(value).get("__doc__")
    assert text
    assert text.strip()[-1] in ".:`"
    assert not text.startswith(f"{name}(")  # what a dataclass or a Struct says by itself


@pytest.mark.parametrize("name", NAMES)
def test_every_public_member_of_it_has_one_too(name: str) -> None:
    value = getattr(dayfly, name)
    own = [kind for kind in getattr(value, "__mro__", ()) if kind.__module__.startswith("dayfly.")]
    for member, thing in (pair for kind in own or [value] for pair in vars(kind).items()):
        if member.startswith("_") or member in getattr(value, "__struct_fields__", ()):
            continue
        if isinstance(thing, property):
            assert thing.fget is not None
            assert thing.fget.__doc__, f"{name}.{member}"
        elif inspect.isfunction(inspect.unwrap(getattr(thing, "__func__", thing))):
            assert thing.__doc__, f"{name}.{member}"


def bare_fields(source: str, wanted: set[str]) -> list[str]:
    """Fields of the classes `wanted` in `source` with no docstring right below them. A docstring
    may speak for those above it too."""
    bare = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.name in wanted:
            for one, following in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(one, (ast.AnnAssign, ast.Assign)):
                    bare.append(f"{node.name}.{ast.unparse(one)}")
                if (
                    isinstance(following, ast.Expr)
                    and isinstance(following.value, ast.Constant)
                    and isinstance(one, (ast.AnnAssign, ast.Assign))
                ):
                    bare.pop()
    return bare


def test_every_field_of_a_public_value_says_what_it_is() -> None:
    # Where a twin (stderr beside stdout) or a plain word needs no sentence, it is named here.
    plain = {"Piece.stream", "Piece.data", "Result.outcome", "Result.stderr",
             "Result.stderr_truncated", "Result.stderr_dropped", "Result.stderr_raw"}  # fmt: skip
    structs = {name for name in NAMES if isinstance(getattr(dayfly, name), type(msgspec.Struct))} | {"Outcome"}
    found = [field for path in HOME.glob("*.py") for field in bare_fields(path.read_text(), structs)]
    assert {field.partition(":")[0].partition(" ")[0] for field in found} == plain


@pytest.mark.parametrize("name", sorted(SUBMODULES - {"__main__"}))
def test_every_module_opens_by_saying_what_it_owns(name: str) -> None:
    module = importlib.import_module(f"dayfly.{name}")
    assert module.__doc__
    assert module.__doc__.strip()


def test_every_public_name_is_defined_in_the_package() -> None:
    for name in NAMES:
        assert getattr(dayfly, name).__module__.partition(".")[0] == "dayfly"


def test_both_sandboxes_have_the_same_methods_and_parameters() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        members = {name: inspect.getattr_static(kind, name) for name in dir(kind)}  # inherited ones too
        methods = {name: thing for name, thing in members.items() if inspect.isfunction(thing) and not name.startswith("_")}
        return {name: list(inspect.signature(thing).parameters) for name, thing in methods.items()}

    assert public(dayfly.Sandbox) == public(dayfly.AsyncSandbox)
    documented = list(inspect.signature(dayfly.AsyncSandbox).parameters)
    assert documented[:3] == list(inspect.signature(dayfly.Sandbox).parameters)[:3] == ["pool_size", "timeout_ms", "memory_limit_mb"]


@pytest.mark.parametrize("kind", [dayfly.Sandbox, dayfly.AsyncSandbox])
def test_an_option_that_does_not_exist_is_a_type_error(kind: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\b.*memroy"):
        kind(memroy=3)


async def test_a_misspelt_run_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="timeot_ms"):
        await dayfly.AsyncSandbox().run("1", timeot_ms=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="timeot_ms"):
        async for _ in dayfly.AsyncSandbox().stream("1", timeot_ms=3):  # type: ignore[call-arg]
            pass
    with pytest.raises(TypeError, match="timeot_ms"):
        list(dayfly.Sandbox().stream("1", timeot_ms=3))  # type: ignore[call-arg]


def test_a_misspelt_option_is_an_error_of_the_type_checker(tmp_path: Path) -> None:
    lines = [
        "from dayfly import AsyncSandbox, Sandbox",
        "Sandbox(memroy=3)",
        "AsyncSandbox(memroy=3)",
        "Sandbox().run('x', timeout=3)",
        "Sandbox().stream('x', timeot_ms=3)",
        "async def use() -> None:",
        "    await AsyncSandbox().run('x', timeout=3)",
        "    AsyncSandbox().stream('x', timeot_ms=3)",
        "Sandbox(2, image='x', limits=None).run('x', timeout_ms=3, stdin=b'', args=['a'], env={}, data=1, v3=True)",
    ]
    program = tmp_path / "program.py"
    program.write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    wrong = {int(line.split(":")[1]) for line in done.stdout.splitlines() if "Unexpected keyword argument" in line}
    assert wrong == {2, 3, 4, 5, 7, 8}, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("Found 6 errors"), done.stdout


@pytest.mark.parametrize("kind", [dayfly.Sandbox, dayfly.AsyncSandbox])
def test_the_documented_defaults(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    assert [parameters[name].default for name in ("pool_size", "timeout_ms", "memory_limit_mb")] == [1, 10_000, 50]
    assert all(parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for name in ("pool_size", "timeout_ms", "memory_limit_mb"))


def test_importing_does_nothing_but_import() -> None:
    """No thread, no process, no file left open, no output; and nothing of the command's or the
    server's, whose packages are extras.

    httpx itself imports rich where it finds click, which uvicorn brings: so rich says nothing here.
    """
    program = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd"))
import dayfly
assert set(os.listdir("/proc/self/fd")) == before
assert threading.active_count() == 1
assert not {"typer", "pytest", "litestar", "uvicorn", "structlog", "dayfly._cli", "dayfly._server"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_is_typed() -> None:
    assert (HOME / "py.typed").exists()


@pytest.mark.parametrize("kind", [dayfly.Sandbox, dayfly.AsyncSandbox])
def test_a_sandbox_cannot_be_pickled_or_copied(kind: Any) -> None:
    import copy
    import pickle

    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="owns containers"):
            way(kind())


@pytest.mark.parametrize("kind", [dayfly.Sandbox, dayfly.AsyncSandbox])
def test_the_text_of_a_sandbox_says_its_size_and_its_engine(kind: Any) -> None:
    assert repr(kind(3, docker_host="tcp://engine:2375")) == f"<{kind.__name__} of 3 at tcp://engine:2375>"


async def test_an_unusable_sandbox_says_so_and_can_be_closed() -> None:
    sandbox = dayfly.AsyncSandbox()
    with pytest.raises(dayfly.PoolClosed, match="not initialized"):
        await sandbox.run("1")
    with pytest.raises(dayfly.PoolClosed, match="not initialized"):
        sandbox.stats()
    await sandbox.close()
    await sandbox.close()


def test_the_same_from_threads() -> None:
    sandbox = dayfly.Sandbox()
    with pytest.raises(dayfly.PoolClosed, match="not initialized"):
        sandbox.run("1")
    with pytest.raises(dayfly.PoolClosed, match="not initialized"):
        sandbox.stats()
    sandbox.close()
    sandbox.close()


async def test_bad_input_is_found_before_a_missing_pool() -> None:
    with pytest.raises(ValueError, match="code is 1,000,001 bytes"):
        await dayfly.AsyncSandbox().run("#" * 1_000_001)
    with pytest.raises(ValueError, match="code is 1,000,001 bytes"):
        async for _ in dayfly.AsyncSandbox().stream("#" * 1_000_001):
            pass
