"""A short end that no program can tell.

Each program of ends/ is run plain, and by the runner in each way, and compared. The file
ends/KIND.txt has programs of one kind, each behind a line `### NAME | END`. END says which end the
program is to have in the runner: `short`, `full`, `none` (it ends in another way), `any` (it
depends on the version), or several, where it forks. Without that, a runner that always took the
full end would pass. Behind a line `#### PATH` is a file that lies beside the program; one below
NAME.zip is in that archive.

The ends are told by a callback of atexit that a .pth file registers before the runner's. So it is
called after it, and finds sys.modules empty after a short end. The plain start has the callback
too.

ends/science.txt says which end follows where numpy and pandas are preloaded. After an import in the
program it is the full one. It takes them from this interpreter, or from the folder that
DAYFLY_TEST_PACKAGES names.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

VERSION: tuple[int, ...] = tuple(
    map(int, subprocess.check_output([os.environ.get("DAYFLY_TEST_PYTHON", sys.executable), "-V"], text=True).split()[1].split(".")[:2])
)
SHORT = (3, 10) <= VERSION < (3, 14)

NUMPY = importlib.util.find_spec("numpy")
PACKAGES = os.environ.get("DAYFLY_TEST_PACKAGES") or (str(Path(str(NUMPY.origin)).parents[1]) if NUMPY else "")
SCIENCE = ["numpy", "pandas"]

TELLER = """
import atexit, os, sys
if not atexit._ncallbacks():  # the folder of .pth files has two names
    def tell(open=os.open, write=os.write, close=os.close, flags=os.O_WRONLY | os.O_APPEND, modules=sys.modules):
        file = open(FILE, flags)
        write(file, b"full " if modules else b"short ")
        close(file)
    atexit.register(tell)
if sys.version_info >= (3, 10):
    del sys.modules["atexit"]
"""


class Program(NamedTuple):
    end: str
    code: str
    files: dict[str, bytes]


def files_beside(pieces: list[str]) -> dict[str, bytes]:
    """Return the files from a list of paths and contents in turns."""
    found: dict[str, bytes] = {}
    for path, content in zip(pieces[::2], pieces[1::2], strict=True):
        archive, _, inner = path.partition(".zip/")
        if inner:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as file:
                file.writestr(inner, content)
            found[archive + ".zip"] = packed.getvalue()
        else:
            found[path] = content.encode()
    return found


def programs() -> dict[str, Program]:
    found = {}
    for file in sorted((Path(__file__).parent / "ends").glob("*.txt")):
        for piece in re.split(r"^### ", file.read_text(), flags=re.MULTILINE)[1:]:
            head, _, rest = piece.partition("\n")
            name, _, end = head.partition(" | ")
            code, *pieces = re.split(r"^#### (.+)\n", rest, flags=re.MULTILINE)
            beside = files_beside(pieces)
            assert f"{file.stem}: {name}" not in found
            assert set(end.split()) <= {"short", "full", "none", "any"}, head
            told = end.replace("short", "full") if "__del__" in code else end  # by its text
            found[f"{file.stem}: {name}"] = Program(told, code.strip("\n") + "\n", beside)
            if "__del__" in code and not re.search("audit|ctypes|gc|unregister", code):
                # So that it is told by what is left at the end, and not by its text.
                hidden = f"exec(compile(bytes.fromhex({code.encode().hex()!r}), 'hidden', 'exec'))\n"
                found[f"{file.stem}: {name}, hidden"] = Program(end, hidden, beside)
    return found


PROGRAMS = programs()


class Outcome(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str
    files: dict[str, str]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("told") / "ends"
    file.touch()
    return file


@pytest.fixture(scope="module")
def teller(python: Path, told: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Let the interpreter tell its ends in the file `told`, and have numpy and pandas."""
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    (packages / "aa_teller.pth").write_text(f"import sys; exec({TELLER.replace('FILE', repr(str(told)))!r}, {{}})\n")
    # What else is there, pandas would import: pyarrow, which starts a thread.
    science = tmp_path_factory.mktemp("science") / "site-packages"
    science.mkdir()
    for name in ("numpy", "numpy.libs", "pandas", "pandas.libs", "dateutil", "pytz", "tzdata", "six.py"):
        if Path(PACKAGES, name).exists():
            (science / name).symlink_to(Path(PACKAGES, name))
    (packages / "ab_packages.pth").write_text(f"{science}\n")
    yield
    (packages / "aa_teller.pth").unlink()
    (packages / "ab_packages.pth").unlink()


def normal(text: bytes, folder: Path) -> str:
    found = text.decode(errors="backslashreplace").replace(str(folder), "FOLDER")
    found = re.sub(r"0x[0-9a-f]{6,}", "0x", found)
    return re.sub(r"(pid=|started |in )[0-9.]+s?\b", r"\1", found)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): normal(path.read_bytes(), folder)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def emptied(folder: Path) -> Path:
    subprocess.run(["find", str(folder), "-mindepth", "1", "-delete"], check=True)
    return folder


@pytest.fixture(scope="module")
def plain(python: Path, teller: None, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path, dict[str, str]], Outcome]:
    """Run a program by a plain start in a folder, once for all ways."""
    known: dict[str, Outcome] = {}

    def plain(name: str, folder: Path, environment: dict[str, str]) -> Outcome:
        if name not in known:
            (emptied(folder) / "main.py").write_text(PROGRAMS[name].code)
            for path, content in PROGRAMS[name].files.items():
                (folder / path).parent.mkdir(exist_ok=True)
                (folder / path).write_bytes(content)
            done = subprocess.run(
                [str(python), "-u", "main.py"], check=False, cwd=folder, env=environment, input=b"", capture_output=True, timeout=60,
                start_new_session=True,
            )  # fmt: skip
            known[name] = Outcome(done.returncode, normal(done.stdout, folder), normal(done.stderr, folder), files(folder))
            emptied(folder)
        return known[name]

    return plain


def outcome(ended: Any, folder: Path) -> Outcome:
    exit_code = ended.exit["exit_code"] if ended.exit["signal"] is None else -ended.exit["signal"]
    return Outcome(exit_code, normal(ended.stdout, folder), normal(ended.stderr, folder), files(folder))


def check(name: str, ended: Any, expected: Outcome, folder: Path, told: Path) -> None:
    assert outcome(ended, folder) == expected
    end = PROGRAMS[name].end
    if end != "any" and not name.startswith("science: "):
        assert sorted(told.read_text().split()) == sorted((end if SHORT else end.replace("short", "full")).replace("none", "").split())


@pytest.mark.parametrize("name", PROGRAMS)
def test_one_program(name: str, run: Callable[..., Any], plain: Any, told: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    expected = plain(name, tmp_path, environment)
    told.write_text("")
    check(name, run(PROGRAMS[name].code, files=PROGRAMS[name].files), expected, tmp_path, told)


FULL = {"PYTHONUNKNOWN": ""}
"""An environment in which the end is always the full one."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""As in a container: numpy would start threads otherwise, which no preload may."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("preload", [[], ["decimal", "json", "logging", "threading"], SCIENCE], ids=["bare", "preload", "science"])
def test_all_in_sessions(preload: list[str], session: Callable[..., Any], teller: None, told: Path, tmp_path: Path) -> None:
    """Compare with the full end in the same circumstances: a preload makes differences, too."""
    runners: dict[bool, Any] = {}
    wrong, short = [], 0
    for name, program in PROGRAMS.items():
        outcomes = []
        for full in (False, True):
            runner = runners.pop(full, None) or session(preload=preload, env={**ONE_THREAD, **(FULL if full else {})})
            told.write_text("")
            ended = runner.session_run(program.code, files=program.files, clean=True)
            outcomes.append(outcome(ended, tmp_path))
            if program.end != "any":
                assert not (full and "short" in told.read_text())
                short += told.read_text().count("short")
                if preload == SCIENCE and name.startswith("science: ") and not full and SHORT:
                    assert told.read_text().split() == program.end.split(), name
            if ended.frames[-1]["type"] == "next":
                runners[full] = runner
        if outcomes[0] != outcomes[1]:
            wrong.append((name, *outcomes))
    assert not wrong, repr(wrong)
    assert not SHORT or short > len(PROGRAMS) / 3


@pytest.mark.parametrize("shift", [1, 5, 17, 60])
def test_no_end_is_short_by_chance(shift: int, session: Callable[..., Any], teller: None, told: Path) -> None:
    """Objects are told apart by their ids, so what lies where must not matter."""
    runner = None
    wrong = []
    for name, program in PROGRAMS.items():
        if program.end != "full" or name.startswith("science: "):
            continue
        runner = runner or session()
        told.write_text("")
        arguments = [*map(str, range(shift)), "x" * 50 * shift]
        ended = runner.session_run(program.code, files=program.files, clean=True, args=arguments)
        if "short" in told.read_text():
            wrong.append(name)
        if ended.frames[-1]["type"] != "next":
            runner = None
    assert not wrong


VARIABLES = {
    "short": ("PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX", "PYTHONUTF8", "PYTHON_CPU_COUNT"),
    "full": (
        *("PYTHONASYNCIODEBUG", "PYTHONDEBUG", "PYTHONDEVMODE", "PYTHONDUMPREFS", "PYTHONFAULTHANDLER", "PYTHONINSPECT"),
        *("PYTHONMALLOC", "PYTHONMALLOCSTATS", "PYTHONNODEBUGRANGES", "PYTHONOPTIMIZE", "PYTHONPERFSUPPORT"),
        *("PYTHONPROFILEIMPORTTIME", "PYTHONTHREADDEBUG", "PYTHONTRACEMALLOC", "PYTHONVERBOSE", "PYTHONWARNINGS"),
    ),
}
"""By the end of a program in a container that has such a variable."""
VALUES = {"PYTHONIOENCODING": "latin-1", "PYTHONMALLOC": "malloc", "PYTHONPYCACHEPREFIX": "/tmp", "PYTHONWARNINGS": "always"}


@pytest.mark.parametrize(("name", "end"), [(name, end) for end, names in VARIABLES.items() for name in names])
def test_a_variable_of_the_container(
    name: str, end: str, python: Path, start: Callable[..., Any], teller: None, told: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    variable = {name: VALUES.get(name, "1")}
    code = "import sys\nprint('hi', sys.flags)\nsys.exit(3)\n"
    (tmp_path / "main.py").write_text(code)
    expected = subprocess.run(
        [str(python), "-u", "main.py"], check=False, cwd=tmp_path, env={**environment, **variable}, capture_output=True, timeout=60
    )
    told.write_text("")
    runner = start(env=variable)
    runner.hello()
    runner.run(code)
    runner.started()
    ended = runner.finish()
    # 3.12.1 crashes at its end with PYTHONMALLOCSTATS.
    exit_code = ended.exit["exit_code"] if ended.exit["signal"] is None else -ended.exit["signal"]
    assert (exit_code, ended.stdout) == (expected.returncode, expected.stdout)
    assert told.read_text().split() == [end if SHORT else "full"]


PRELOADED = {
    "an object in its place": ("import sys\nclass Thing: pass\nsys.modules[__name__] = Thing()", "full"),
    "nothing to notice": ("value = [1, 2]", "full"),
    "a finalizer": ("import other\nlast = other.Last()", "full"),
    "a finalizer in a cycle": ("import other\nlast = other.Last()\nlast.itself = last", "full"),
    "a callback of a weak reference": (
        "import os, weakref\nclass A: pass\na = A()\nr = weakref.ref(a, lambda r, write=os.write: write(1, b'gone\\n'))",
        "full",
    ),
    "a generator with finally": (
        "import os\ndef f(write=os.write):\n    try:\n        yield\n    finally:\n        write(1, b'closed\\n')\ng = f()\nnext(g)",
        "full",
    ),
    "a metaclass that cannot be hashed": ("class Meta(type):\n    __hash__ = None\nclass A(metaclass=Meta): pass\na = A()", "full"),
}
OTHER = """
import os
class Last:
    def __del__(self, write=os.write):
        write(1, b"gone\\n")
"""


@pytest.mark.parametrize("name", PRELOADED)
def test_what_a_preloaded_module_has_ends_as_plain(
    name: str, python: Path, start: Callable[..., Any], teller: None, told: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    code, end = PRELOADED[name]
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    (packages / "other.py").write_text(OTHER)
    (packages / "mine.py").write_text(code + "\n")
    program = "import mine\nprint('hi')\n"
    try:
        (tmp_path / "main.py").write_text(program)
        expected = subprocess.run(
            [str(python), "-u", "main.py"], check=True, cwd=tmp_path, env=environment, capture_output=True, timeout=60
        )
        told.write_text("")
        runner = start()
        runner.hello(preload=["mine"])
        runner.run(program)
        runner.started()
        ended = runner.finish()
        assert (ended.exit["exit_code"], ended.stdout, ended.stderr) == (0, expected.stdout, expected.stderr)
        assert told.read_text().split() == [end]
    finally:
        (packages / "other.py").unlink()
        (packages / "mine.py").unlink()
