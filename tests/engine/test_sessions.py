"""Sessions: many programs of one owner in one container, and nothing but files from one to the
next."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from dayfly import AsyncSandbox, Limits, Outcome, PoolClosed, Result, Sandbox, Session, SessionLost, StartFailed


@pytest.fixture(scope="module")
def sandbox() -> Any:
    with Sandbox(max_containers=4) as sandbox:
        yield sandbox


@pytest.fixture
def session(sandbox: Sandbox) -> Any:
    with sandbox.session() as session:
        yield session


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await anyio.sleep(0.02)


def test_files_are_kept_and_wiped_when_asked(session: Session) -> None:
    session.run("open('a.txt', 'w').write('1'); open('/tmp/b', 'w').write('2')")
    result = session.run("print(open('a.txt').read(), open('/tmp/b').read())", fetch=["*.txt"])
    assert (result.stdout, result.files) == ("1 2\n", {"a.txt": b"1"})
    wiped = session.run("import os; print(os.listdir(), os.listdir('/tmp'))", clean=True)
    assert wiped.stdout == "['main.py'] []\n"
    assert session.runs == 3
    for clean in ("no", None, 5):
        with pytest.raises(TypeError, match="clean must be True or False"):
            session.run("pass", clean=clean)  # type: ignore[arg-type]
    assert session.run("print(4)").stdout == "4\n"


def test_each_program_is_a_fresh_process(session: Session) -> None:
    pids = set()
    for _ in range(3):
        code = "import os, sys; print(os.getpid(), 'marker' in dir(sys)); sys.marker = 1"
        pid, marked = session.run(code).stdout.split()
        pids.add(pid)
        assert marked == "False"
    assert len(pids) == 3


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("while True: pass", Outcome.TIMEOUT),
        ("x = [bytearray(10**6) for _ in range(10**3)]", Outcome.OUT_OF_MEMORY),
        ("import os; os.abort()", Outcome.SIGNAL),
        ("1 / 0", Outcome.ERROR),
        ("import os, sys; os.kill(os.getpid(), 9)", Outcome.SIGNAL),
    ],
)
def test_an_end_of_a_program_is_not_the_end_of_the_session(session: Session, code: str, outcome: Outcome) -> None:
    assert session.run(code, timeout_ms=700 if outcome is Outcome.TIMEOUT else 60_000).outcome is outcome
    assert session.run("print('on')").stdout == "on\n"


def test_counters_are_those_of_one_program(session: Session) -> None:
    session.run("x = [bytearray(10**6) for _ in range(10**3)]")
    result = session.run("print(1)")
    assert result.oom_kills == 0
    assert result.cpu_ms is not None
    assert result.cpu_ms < 2_000
    assert result.max_rss_bytes is not None


def test_the_peak_of_memory_is_never_an_earlier_programs(session: Session) -> None:
    """The kernel has it of the container's whole life, and nobody inside can reset it."""
    take = "x = b'x' * ({} * 10**6)"
    first, after, second, last = [session.run(take.format(size)).peak_memory_bytes for size in (10, 1, 35, 10)]
    assert first is not None
    assert second is not None
    assert (after, last) == (None, None)
    assert 10_000_000 < first < 35_000_000 < second
    session.run("x = [bytearray(10**6) for _ in range(10**3)]")
    assert session.run(take.format(35)).peak_memory_bytes is None


FILL = """
with open('fill', 'wb', 0) as file:
    try:
        while True: file.write(bytes(4096))
    except OSError as error: print(error.strerror)
"""


def test_a_full_folder_ends_a_session_by_its_name(session: Session) -> None:
    assert session.run(FILL).stdout == "No space left on device\n"
    large = f"print(1)\n{'#' * 100_000}"
    with pytest.raises(SessionLost, match=r"could not be started.*No space left on device.*main\.py") as caught:
        session.run(large)
    assert not caught.value.delivered
    assert session.run(FILL, clean=True).stdout == "No space left on device\n"
    uid = "import os; print(os.getuid())"
    before = session.run(uid).stdout
    assert session.run(f"{uid}\n{large}", clean=True).stdout == f"{before}1\n", "in the same container"


def test_a_program_that_says_clean_has_time_for_the_wipe(engine: Any) -> None:
    """The runner may take seconds for it, here because it is paused."""
    with Sandbox(max_containers=2) as sandbox, sandbox.session() as session:
        session.run("print(1)")
        mine = [row["Id"] for row in engine.containers(os.getpid())]
        for container in mine:
            assert engine.call("POST", f"/containers/{container}/pause")[0] == 204
        results: list[Result] = []
        thread = threading.Thread(target=lambda: results.append(session.run("print(2)", clean=True)))
        thread.start()
        time.sleep(6)
        for container in mine:
            assert engine.call("POST", f"/containers/{container}/unpause")[0] == 204
        thread.join()
        assert [result.stdout for result in results] == ["2\n"]


def test_a_second_program_at_once_is_an_error() -> None:
    with Sandbox() as sandbox, sandbox.session() as session:
        started = threading.Event()
        thread = threading.Thread(target=lambda: session.run("import time; time.sleep(1)", on_start=started.set))
        thread.start()
        assert started.wait(10)
        with pytest.raises(RuntimeError, match="one program at a time"):
            session.run("print(1)")
        thread.join()
        assert session.run("print(1)").stdout == "1\n"


def test_limits_in_number_and_idle_time(sandbox: Sandbox) -> None:
    with sandbox.session(max_runs=1) as session:
        session.run("print(1)")
        with pytest.raises(SessionLost, match="max_runs") as caught:
            session.run("print(1)")
        assert not caught.value.delivered
    with sandbox.session(idle_seconds=0.3) as session:
        time.sleep(1.0)
        with pytest.raises(SessionLost, match="idle_seconds"):
            session.run("print(1)")
    with sandbox.session(max_seconds=0.5) as session:
        session.run("import time; time.sleep(0.8)")
        with pytest.raises(SessionLost, match="max_seconds"):
            session.run("print(1)")


@pytest.mark.parametrize("options", [{"max_runs": 0}, {"max_seconds": 0}, {"idle_seconds": -1}, {"max_runs": "x"}])
def test_limits_are_checked(sandbox: Sandbox, options: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        sandbox.session(**options)


def test_a_session_that_is_not_open_or_closed_says_so(sandbox: Sandbox) -> None:
    session = sandbox.session()
    with pytest.raises(SessionLost, match="not open"):
        session.run("print(1)")
    session.open()
    with pytest.raises(RuntimeError, match="opened once"):
        session.open()
    assert sandbox.stats().sessions == 1
    session.close()
    session.close()
    assert sandbox.stats().sessions == 0
    with pytest.raises(SessionLost, match="closed"):
        session.run("print(1)")


def test_bad_input_costs_nothing(session: Session) -> None:
    with pytest.raises(TypeError):
        session.run(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout_ms"):
        session.run("print(1)", timeout_ms=0)
    assert session.run("print(1)").stdout == "1\n"


def test_a_lost_container_is_told_with_delivered(engine: Any) -> None:
    with Sandbox(max_containers=2) as sandbox, sandbox.session() as session:

        def kill(_: object) -> None:
            for row in engine.containers(os.getpid()):
                engine.call("POST", f"/containers/{row['Id']}/kill")

        with pytest.raises(SessionLost) as caught:
            session.run("import time; print(1, flush=True); time.sleep(60)", on_output=kill)
        assert caught.value.delivered
        with pytest.raises(SessionLost) as caught:
            session.run("print(1)")
        assert not caught.value.delivered
        assert session.run("print(2)", clean=True).stdout == "2\n", "it needs no files: another container"


def test_a_program_left_early_is_ended_and_the_session_goes_on(session: Session) -> None:
    for _ in session.stream("import time; open('a', 'w').write('1'); print(1, flush=True); time.sleep(60)"):
        break
    begun = time.monotonic()
    assert session.run("print(open('a').read())").stdout == "1\n"
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("when", [0.0, 0.001, 0.003, 0.01, 0.1])
@pytest.mark.parametrize("stdin", [b"", bytes(3_000_000)])
async def test_a_session_outlives_runs_that_are_cancelled(when: float, stdin: bytes) -> None:
    async with AsyncSandbox(memory_limit_mb=64) as sandbox, sandbox.session() as session:
        for number in range(5):
            with anyio.move_on_after(when):
                await session.run("while True: pass", stdin=stdin)
            assert (await session.run(f"print({number})")).stdout == f"{number}\n"


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_async_sessions(anyio_backend: str) -> None:
    async with AsyncSandbox() as sandbox:
        async with sandbox.session() as session:
            items = [item async for item in session.stream("print('a')")]
            assert isinstance(items[-1], Result)
            assert items[-1].stdout == "a\n"
            with anyio.move_on_after(0.5):
                await session.run("while True: pass")
            assert (await session.run("print(1)")).stdout == "1\n"
        await eventually(lambda: sandbox.stats().running == 0)


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_session_ends_with_its_task(anyio_backend: str) -> None:
    async with AsyncSandbox(max_containers=2) as sandbox:
        opened = anyio.Event()

        async def own() -> None:
            async with sandbox.session() as session:
                opened.set()
                await session.run("while True: pass", timeout_ms=60_000)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(own)
            await opened.wait()
            assert sandbox.stats().sessions == 1
            tasks.cancel_scope.cancel()
        assert sandbox.stats().sessions == 0
        await eventually(lambda: sandbox.stats().running == 0)


async def test_close_of_the_sandbox_ends_sessions() -> None:
    sandbox = AsyncSandbox()
    await sandbox.initialize()
    session = sandbox.session()
    await session.open()
    await sandbox.close()
    with pytest.raises((SessionLost, PoolClosed)):
        await session.run("print(1)")
    await session.close()


MARKERS = """
import ctypes, os, socket, subprocess, sys, fcntl
libc = ctypes.CDLL(None, use_errno=True)
subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(999)"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: pass
    os._exit(0)
open("/dev/shm/marker", "w").write("x")
print("shm", libc.shmget(0x1234, 4096, 0o1600))
print("sem", libc.semget(0x1234, 1, 0o1600))
print("msg", libc.msgget(0x1234, 0o1600))
s = socket.socket(socket.AF_UNIX); s.bind("\\0marker"); s.listen()
a, b = socket.socketpair(); socket.send_fds(a, [b"x"], [s.fileno(), a.fileno(), b.fileno()])
f = open("locked", "w"); fcntl.flock(f, fcntl.LOCK_EX)
"""

LOOK = """
import ctypes, os, socket, fcntl
libc = ctypes.CDLL(None)
found = []
me = {1, os.getpid()}
others = [p for p in os.listdir("/proc") if p.isdigit() and int(p) not in me]
if len(others) > 1: found.append(f"processes {others}")  # the zygote alone
if os.listdir("/dev/shm"): found.append("shm file")
for name in ("shm", "sem", "msg"):
    if open(f"/proc/sysvipc/{name}").read().count("\\n") > 1: found.append(name)
if "marker" in open("/proc/net/unix").read(): found.append("abstract socket")
f = open("locked", "a")
try: fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError: found.append("lock")
print(found)
"""


def test_nothing_but_files_is_left_of_a_program(session: Session) -> None:
    session.run(MARKERS, timeout_ms=2_000)
    assert session.run(LOOK).stdout == "[]\n"


def test_closed_connections_of_the_host_are_not_the_programs(session: Session) -> None:
    session.run("print(1)")
    with contextlib.ExitStack() as peers, socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(20):
            peers.enter_context(socket.create_connection(server.getsockname()))
            connection, _ = server.accept()
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    connection.send(bytes(65_536))
            connection.close()  # and what was not read keeps it: an orphan, in the kernel's words
        for number in range(3):
            assert session.run(f"print({number})").stdout == f"{number}\n"


OTHERS = """
import os, signal
others = [int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) not in (1, os.getpid())]
"""


@pytest.mark.parametrize(
    "code",
    [
        f"{OTHERS}\nos.kill(others[0], signal.SIGKILL)",
        "import os, signal; os.kill(-1, signal.SIGKILL)",
        f"{OTHERS}\nfor pid in others: os.kill(pid, signal.SIGSTOP)",
    ],
)
def test_attacks_on_the_zygote_change_no_verdict(sandbox: Sandbox, code: str) -> None:
    with sandbox.session() as session:
        result = session.run(f"print('before', flush=True)\n{code}", timeout_ms=3_000)
        assert result.stdout == "before\n"
        try:
            assert session.run("print(1)").stdout == "1\n"
        except SessionLost as error:
            assert not error.delivered
        assert session.run("print(2)", clean=True).stdout == "2\n"


HOST = """
    from dayfly import Sandbox
    sandbox = Sandbox()
    sandbox.initialize()
    session = sandbox.session()
    session.open()
    session.run("print(1)")
    print("open", flush=True)
    session.run("import time; time.sleep(3600)", timeout_ms=3_600_000)
"""


@pytest.mark.alone
def test_a_killed_host_leaves_no_session(engine: Any) -> None:
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(HOST)], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"open\n"
        time.sleep(0.3)
        host.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while engine.containers(host.pid):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_preloaded_modules_are_there_in_every_program() -> None:
    with Sandbox(preload=("decimal",), memory_limit_mb=60) as sandbox:
        code = "import sys; print('decimal' in sys.modules)"
        result = sandbox.run(code)
        assert (result.stdout, result.preloaded) == ("True\n", True)
        with sandbox.session() as session:
            assert session.run(code).stdout == "True\n"
            seen = {session.run("import random; print(random.random())").stdout for _ in range(4)}
            assert len(seen) == 4, "a fork would share the generator's state"
            seeded = {session.run("import random; print(random.random())", seed=7).stdout for _ in range(2)}
            assert len(seeded) == 1


def test_too_little_memory_beside_a_preload_is_refused() -> None:
    with pytest.raises(StartFailed, match="leaves a program less than 16 MB") as caught:
        Sandbox(preload=("decimal",), memory_limit_mb=17).initialize()
    (enough,) = re.findall(r"set memory_limit_mb to (\d+) or more", str(caught.value))
    with Sandbox(pool_size=2, preload=("decimal",), memory_limit_mb=int(enough)) as sandbox:
        for _ in range(4):  # the pool is filled again, too
            assert sandbox.run("import decimal; x = b'x' * 12_000_000; print(1)").stdout == "1\n"
    with Sandbox(memory_limit_mb=17) as sandbox:
        assert sandbox.run("print(1)").stdout == "1\n", "without a preload there is no such floor"


def test_a_sandbox_whose_limits_are_small(sandbox: Sandbox) -> None:
    with Sandbox(limits=Limits(pids=8), memory_limit_mb=24) as small, small.session() as session:
        for _ in range(3):
            assert session.run("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()").stdout == "\n"


def test_stats_count_the_sessions_that_have_a_container(sandbox: Sandbox) -> None:
    def until(count: int) -> None:
        end = time.monotonic() + 10
        while sandbox.stats().sessions != count:
            assert time.monotonic() < end
            time.sleep(0.02)

    until(0)
    idle, full = sandbox.session(idle_seconds=2), sandbox.session(max_runs=1)
    idle.open()
    full.open()
    assert sandbox.stats().sessions == 2
    full.run("print(1)")
    until(0)  # neither was closed
    idle.close()
    full.close()
    assert sandbox.stats().sessions == 0
