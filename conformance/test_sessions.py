"""Sessions: many programs in one container, and nothing but files from one to the next."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conformance.adapter import Session, SessionOver
from conformance.conftest import OOM_UNDER_GVISOR, Box, NewBox
from conformance.oracle import DIED, GONE, eventually
from conformance.report import clause, not_applicable
from conformance.test_pool import LEAVE, LOOK

NewSession = Callable[..., Session]


@pytest.fixture
def new_session(box: Box) -> Iterator[NewSession]:
    """Opens a session of the sandbox that all share."""
    opened: list[Session] = []

    def new(**bounds: float) -> Session:
        opened.append(box.sandbox.session(**bounds))
        return opened[-1]

    yield new
    for session in opened:
        session.close()


@clause("session.container")
def test_a_session_has_a_container_to_itself(new_box: NewBox) -> None:
    box = new_box(pool_size=1)
    (first,) = box.seen.listed("running")
    session = box.sandbox.session()
    mine = session.run("import os\nprint(os.getuid())")["stdout"]
    other = box.run("import os\nprint(os.getuid())")["stdout"]
    assert session.run("import os\nprint(os.getuid())")["stdout"] == mine != other
    assert first in box.seen.listed("running")
    session.close()
    eventually(lambda: first in box.seen.which(GONE), "the session is closed, and its container is gone")
    assert box.run("import os\nprint(os.getuid())")["stdout"] not in (mine, other)
    eventually(lambda: len(box.seen.listed("running")) == 1, "the pool is back at its size")


STATE = """
import builtins, os, signal, sys, threading
print([hasattr(builtins, 'kept'), 'KEPT' in os.environ, os.getcwd(), os.umask(0o022), signal.getsignal(signal.SIGUSR1), len(sys.argv), 'fractions' in sys.modules])
import fractions
builtins.kept = os.environ['KEPT'] = 'kept'
os.chdir('/tmp')
os.umask(0o777)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
sys.argv.append('kept')
"""


@clause("session.fresh")
def test_each_program_is_a_process_of_its_own(new_session: NewSession) -> None:
    session = new_session()
    answers = [session.run(STATE) for _ in range(3)]
    assert [answer["stderr"] for answer in answers] == [""] * 3
    assert {answer["stdout"] for answer in answers} == {"[False, False, '/sandbox', 18, <Handlers.SIG_DFL: 0>, 1, False]\n"}
    numbers = {session.run("import os\nprint(os.getpid())")["stdout"] for _ in range(3)}
    assert len(numbers) == 3


@clause("session.files")
def test_files_are_kept_until_a_program_says_clean(new_session: NewSession) -> None:
    session = new_session()
    make = "import os\nos.makedirs('a/b')\nfor path in ('f', 'a/b/f', '/tmp/f'): open(path, 'w').write(path)"
    read = "print([open(path).read() for path in ('f', 'a/b/f', '/tmp/f', 'given')])"
    assert session.run(make)["stderr"] == ""
    first = session.run({"code": read, "filesText": {"given": "1"}, "fetch": ["**/f"]})
    assert first["stdout"] == "['f', 'a/b/f', '/tmp/f', '1']\n"
    assert first["files"] == {path: base64.b64encode(path.encode()).decode() for path in ("f", "a/b/f")}
    assert session.run({"code": read, "filesText": {"given": "2"}})["stdout"] == "['f', 'a/b/f', '/tmp/f', '2']\n"
    closed = "import os\nos.makedirs('/tmp/d/e')\nopen('/tmp/d/e/f', 'w').close()\nos.chmod('/tmp/d', 0)\nos.chmod('/sandbox', 0)"
    assert session.run(closed)["stderr"] == ""
    wiped = session.run("import os\nprint(os.listdir(), os.listdir('/tmp'), oct(os.stat('.').st_mode))", clean=True)
    assert (wiped["stdout"], wiped["stderr"]) == ("['main.py'] [] 0o40755\n", "")


@clause("session.one")
def test_a_second_program_at_once_is_refused(new_session: NewSession) -> None:
    session = new_session()
    begun, answers = threading.Event(), list[Any]()

    def run() -> None:
        code = "import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('ended')"
        answers.append(session.run(code, heard=lambda *_: begun.set()))

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(30)
    with pytest.raises(RuntimeError):
        session.run("print(2)")
    thread.join()
    assert answers[0]["stdout"] == "begun\nended\n"
    assert session.run("print(3)")["stdout"] == "3\n"


@clause("session.survives")
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("1/0", "error"),
        ("while True: pass", "timeout"),
        ("import os, time\nif os.fork() == 0: os.setsid()\ntime.sleep(600)", "timeout"),
        ("import os; os.abort()", "signal"),
        ("import os; os.kill(os.getpid(), 9)", "signal"),
        ("x = [bytearray(b'x' * 10**6) for _ in range(300)]", "out_of_memory"),
    ],
)
def test_a_session_goes_on_however_a_program_ends(new_session: NewSession, code: str, outcome: str, gvisor: bool) -> None:
    if gvisor and outcome == "out_of_memory":
        not_applicable(OOM_UNDER_GVISOR)
    session = new_session()
    job = {
        "code": f"open('kept', 'w').write('kept')\nprint('before', flush=True)\n{code}",
        "timeoutMs": 1_000 if outcome == "timeout" else 30_000,
    }
    answer = session.run(job)
    assert (answer["outcome"], answer["stdout"]) == (outcome, "before\n")
    assert session.run("print(open('kept').read())")["stdout"] == "kept\n"


class Enough(Exception):
    """The caller wants no more."""


@clause("session.stopped")
def test_a_run_that_is_left_ends_its_program(new_session: NewSession) -> None:
    session = new_session()

    def leave(stream: str, text: str) -> None:
        raise Enough

    code = "import time\nopen('early', 'w').close()\nprint('begun', flush=True)\ntime.sleep(5)\nopen('late', 'w').close()"
    with pytest.raises(Enough):
        session.run({"code": code, "timeoutMs": 60_000}, heard=leave)
    assert session.run("import os\nprint(sorted(os.listdir()))")["stdout"] == "['early', 'main.py']\n"


@clause("session.bounds")
@pytest.mark.parametrize("name", ["max_runs", "max_seconds", "idle_seconds"])
def test_a_session_ends_at_its_bounds(new_box: NewBox, name: str) -> None:
    box = new_box()
    (container,) = box.seen.listed("running")
    session = box.sandbox.session(**{name: 2})
    for number in range(2):
        assert session.run(f"print({number})")["stdout"] == f"{number}\n"
        time.sleep(1.1 if name == "max_seconds" else 0)
    eventually(lambda: container in box.seen.which(GONE), "its container is gone, and nobody has closed the session")
    for clean in (False, True) if name != "idle_seconds" else (False,):
        with pytest.raises(SessionOver, match=name) as over:
            session.run("print(1)", clean=clean)
        assert over.value.delivered is False


@clause("session.bounds")
@pytest.mark.parametrize(
    "bounds", [{"max_runs": 0}, {"max_runs": 1.5}, {"max_seconds": 0}, {"idle_seconds": -1}, {"idle_seconds": float("nan")}], ids=str
)
def test_bounds_that_make_no_sense_are_refused(box: Box, bounds: dict[str, float]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(bounds))):
        box.sandbox.session(**bounds)


@clause("session.lost")
def test_a_lost_container_is_told_with_delivered(new_box: NewBox) -> None:
    box = new_box()
    session = box.sandbox.session()
    (container,) = box.seen.listed("running")

    def kill(stream: str, text: str) -> None:
        box.seen.oracle.call("POST", f"/containers/{container}/kill", ok=False)

    with pytest.raises(SessionOver) as lost:
        session.run({"code": "print('begun', flush=True)\nwhile True: pass", "timeoutMs": 60_000}, heard=kill)
    assert lost.value.delivered is True
    eventually(lambda: container in box.seen.which(DIED), "it is dead")
    with pytest.raises(SessionOver) as lost:
        session.run("print(1)")
    assert lost.value.delivered is False, "this program wants the files of earlier ones, and was not run"
    assert session.run("import os\nprint(os.listdir())", clean=True)["stdout"] == "['main.py']\n"
    session.close()


@clause("session.traceless")
def test_nothing_but_files_is_left_between_two_programs(new_session: NewSession) -> None:
    session = new_session()
    here = "['/tmp/trace-of-before', '/sandbox/trace-of-before', '/sandbox/trace-of-before']\n"
    for clean, found in ((True, "[]\n"), (False, here)):
        left = session.run(LEAVE)
        assert left["stderr"] == "" and "/dev/shm" in left["stdout"], "the program that leaves traces could not leave any"
        answer = session.run(LOOK, clean=clean)
        assert (answer["stderr"], answer["stdout"]) == ("", found)


@clause("session.counters")
def test_an_answer_counts_its_own_program(new_box: NewBox, gvisor: bool) -> None:
    limits = {"stdout_bytes": 100, "stderr_bytes": 100, "messages": 1, "file_count": 1}
    session = new_box(limits=limits).sandbox.session()
    code = """
import os, sandbox, sys, time
if {oom} and os.fork() == 0: x = [bytearray(b'x' * 10**6) for _ in range(300)]
if {oom}: os.wait()
for stream in (sys.stdout, sys.stderr): stream.write('x' * 1000)
for n in range(3): sandbox.send(n)
for n in range(3): open('f%d' % n, 'w').close()
while time.process_time() < 1.5: pass
""".replace("{oom}", str(not gvisor))  # the container would end: OOM_UNDER_GVISOR
    first = session.run({"code": code, "fetch": ["f?"], "timeoutMs": 60_000})
    names = ("stdoutDropped", "stderrDropped", "messagesDropped", "oomKills", "messages", "stdoutTruncated", "stderrTruncated")
    kills, no_kills = (None, None) if gvisor else (1, 0)
    assert {name: first[name] for name in names} == dict(zip(names, (900, 900, 2, kills, [0], True, True), strict=True))
    assert (len(first["files"]), len(first["filesSkipped"])) == (1, 2)
    assert first["cpuMs"] >= (1_400 if gvisor else 1_500)  # its two clocks differ by some ticks
    second = session.run({"code": "print('x' * 99)\nimport sandbox\nsandbox.send(7)"})
    assert {name: second[name] for name in names} == dict(zip(names, (0, 0, 0, no_kills, [7], False, False), strict=True))
    assert (second["stdout"], second["files"], second["filesSkipped"]) == ("x" * 99 + "\n", {}, [])
    assert second["cpuMs"] < 1_000
    assert second["peakMemoryBytes"] is None
    session.close()


@clause("session.random")
def test_random_numbers_are_a_programs_own(new_box: NewBox) -> None:
    session = new_box(preload=["random"]).sandbox.session()
    code = "import random\nprint([random.random(), random.randrange(10**9)])"
    assert len({session.run(code)["stdout"] for _ in range(4)}) == 4
    seeded = [session.run({"code": code, "seed": seed})["stdout"] for seed in (1, 1, 2)]
    assert seeded[0] == seeded[1] != seeded[2]
    session.close()
