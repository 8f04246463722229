"""Modules that are imported before a program comes, and those that are refused."""

# ruff: noqa: E501 - most programs are one line each

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REFUSED = {
    "a thread": (
        "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
        "number of threads 1 is now 2",
    ),
    "a child": ("import os, time\nif os.fork() == 0: time.sleep(100)", "child process False is now True"),
    "a descriptor": ("file = open('/dev/null')", "descriptors"),
    "a signal handler": ("import signal; signal.signal(signal.SIGTERM, lambda *_: None)", "signals handled"),
    "an ignored signal": ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signals ignored"),
    "a blocked signal": ("import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [10])", "signals blocked"),
    "a timer": ("import signal; signal.setitimer(signal.ITIMER_REAL, 100)", "timer"),
    "the working directory": ("import os; os.chdir('/')", "working directory"),
    "the umask": ("import os; os.umask(0)", "umask"),
    "an exception": ("1/0", "ZeroDivisionError"),
    "an exit": ("raise SystemExit(3)", "SystemExit: 3"),
}


@pytest.fixture
def module(python: Path) -> Iterator[Callable[[str, str], None]]:
    """Write modules where the interpreter under test finds them, as long as the test lasts."""
    (packages,) = python.parents[1].glob("lib/python3*/site-packages")
    written: list[Path] = []

    def write(name: str, code: str) -> None:
        path = packages / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
        written.append(path)

    yield write
    for path in written:
        path.unlink()


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_fork_cannot_carry_is_refused_by_name(name: str, start: Callable[..., Any], module: Callable[[str, str], None]) -> None:
    code, says = REFUSED[name]
    module("guilty", code)
    runner = start()
    runner.say({"type": "hello", "protocol": 2, "token": "0" * 32, "preload": ["json", "guilty"]})
    ended = runner.finish()
    assert ended.status == 66
    assert "preload of guilty: " in ended.error
    assert says in ended.error


def test_a_module_that_is_not_there(start: Callable[..., Any]) -> None:
    runner = start()
    runner.say({"type": "hello", "protocol": 2, "token": "0" * 32, "preload": ["not.there"]})
    assert "preload of not.there: ModuleNotFoundError" in runner.finish().error


GARBAGE = """
class Last:
    def __del__(self):
        print("loud")
last = Last()
last.itself = last
del last
"""
FACTS = "import sys; print('json' in sys.modules, 'quiet' in sys.modules, __import__('quiet').value, 'dayfly_runner' in sys.modules, '_ctypes' in sys.modules)"


def test_the_modules_are_there_and_what_they_print_is_not(
    session: Callable[..., Any], start: Callable[..., Any], module: Callable[[str, str], None]
) -> None:
    module("quiet", "import sys, os; print('loud'); os.write(2, b'loud' * 100_000); value = 5; finder = sys.path\n" + GARBAGE)
    alone = start()
    assert alone.hello(preload=["json", "quiet"])["preloaded"] == ["json", "quiet"]
    alone.run(FACTS)
    assert alone.started()["preloaded"] is True
    assert alone.finish().stdout == b"True True 5 False False\n"
    runner = session(preload=["json", "quiet"])
    for _ in range(2):
        ended = runner.session_run(FACTS)
        assert (ended.stdout, ended.stderr) == (b"True True 5 False False\n", b"")


def test_an_interpreter_that_starts_anew_has_no_preload(session: Callable[..., Any], module: Callable[[str, str], None]) -> None:
    module("quiet", "value = 5")
    runner = session(preload=["quiet"])
    ended = runner.session_run("import sys; print('quiet' in sys.modules)", env={"PYTHONHASHSEED": "0"})
    assert (ended.frames[0]["preloaded"], ended.stdout) == (False, b"False\n")
    ended = runner.session_run("import sys; print('quiet' in sys.modules)")
    assert (ended.frames[0]["preloaded"], ended.stdout) == (True, b"True\n")


def test_random_numbers_differ_unless_there_is_a_seed(session: Callable[..., Any]) -> None:
    runner = session(preload=["random"])
    code = "import random; print(random.random())"
    assert len({runner.session_run(code).stdout for _ in range(4)}) == 4
    assert len({runner.session_run(code, seed=7).stdout for _ in range(3)}) == 1
    assert runner.session_run(code, seed=8).stdout != runner.session_run(code, seed=-7).stdout


HOLDERS = """
import random
class Own(random.Random):
    def seed(self, *args): raise AssertionError("it is not asked")
    def __init__(self): random.Random.seed(self)
own, rng = Own(), random.Random()
class Lazy:
    @property
    def __class__(self): raise AssertionError("it is not asked")
lazy = Lazy()
"""
NUMPY = """
class BitGenerator:
    def __init__(self, seed=None):
        import os
        self.state = os.urandom(8).hex() if seed is None else seed
class PCG64(BitGenerator): pass
_seeded = []
def seed(value): _seeded.append(value)
held = PCG64()
"""


def test_generators_that_modules_hold_are_seeded_too(session: Callable[..., Any], module: Callable[[str, str], None]) -> None:
    module("holders", HOLDERS)
    module("numpy.random", NUMPY)
    runner = session(preload=["holders", "numpy.random"])
    held = ["holders.rng.random()", "holders.own.random()", "numpy.random.held.state", "numpy.random._seeded"]
    code = f"import holders, numpy.random; print({', '.join(held)}, sep=';')"
    runs = [runner.session_run(code).stdout.decode().split(";") for _ in range(4)]
    assert [len(set(numbers)) for numbers in zip(*runs, strict=True)] == [4] * len(held)
    seeded = {runner.session_run(code, seed=seed).stdout for seed in (7, 7, -7)}
    assert len(seeded) == 2
    expected = "import random; r = random.Random(7); n = r.random(); print(n, n, 7, [7], sep=';')"
    assert runner.session_run(expected).stdout in seeded


def test_a_seed_without_a_preload(run: Callable[..., Any]) -> None:
    code = "import random; print(random.random())"
    assert run(code, seed=5).stdout == run(code, seed=5).stdout != run(code).stdout


def test_atexit_and_environment_of_a_module_are_carried(
    run: Callable[..., Any], session: Callable[..., Any], module: Callable[[str, str], None]
) -> None:
    module(
        "carried", "import atexit, os, sys; atexit.register(print, 'at the end'); os.environ['CARRIED'] = '1'; sys.path.append('/carried')"
    )
    runner = session(preload=["carried"])
    for _ in range(2):
        ended = runner.session_run("import os, sys; print(os.environ['CARRIED'], sys.path[-1])")
        assert ended.stdout == b"1 /carried\nat the end\n"
