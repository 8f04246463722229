"""What process 1 promises, with programs that try to make it break its promises."""

# ruff: noqa: E501 - most programs are one line each

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOKEN = "0123456789abcdef0123456789abcdef"
RUN_TOKEN = "fedcba9876543210fedcba9876543210"


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}/exe").exists()]


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


# The dialogue.


def test_ready(start: Callable[..., Any]) -> None:
    ready = start().hello()
    assert ready["protocol"] == 2
    assert ready["preloaded"] == []
    assert ready["token"] == TOKEN
    assert ready["pythons"]["3"].startswith("3.")
    assert ready["problems"] == []
    assert ready["cgroup"] in (0, 1, 2)
    status = ready["status"]
    assert status["dumpable"] == 0
    assert status["no_new_privs"] == 1
    assert status["cap_eff"] == status["cap_bnd"] == "0000000000000000"
    assert status["uid"] == status["gid"] == 0


@pytest.mark.parametrize(
    ("data", "exit_status"),
    [
        (b"\xff\xff\xff\xff", 64),
        (b"\x00\x00\x00\x00", 64),
        (b"\x00\x00\x00\x02{}", 64),
        (b'\x00\x00\x00\x1d{"type":"hello","protocol":1}', 65),
        (b"", 67),
        (b"\x00\x00", 67),
    ],
)
def test_a_host_that_says_something_else(data: bytes, exit_status: int, start: Callable[..., Any]) -> None:
    runner = start()
    runner.send(data)
    if exit_status == 67:
        runner.process.stdin.close()
    ended = runner.finish()
    assert ended.status == exit_status
    assert (ended.error is not None) == (exit_status != 67)
    assert ended.frames == [] if exit_status == 67 else len(ended.frames) == 1


def test_a_second_run_ends_the_first(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("import time; time.sleep(100)")
    runner.started()
    pids = runner.pids()
    with contextlib.suppress(BrokenPipeError):  # it may be gone when the frame behind `run` is sent
        runner.run("print(1)")
    ended = runner.finish()
    assert (ended.status, len(ended.frames)) == (64, 1)
    assert "nothing may follow" in ended.error
    assert alive(pids) == []


def test_hello_and_run_in_one_piece_or_byte_by_byte(start: Callable[..., Any]) -> None:
    hello: dict[str, Any] = {"type": "hello", "protocol": 2, "token": TOKEN, "preload": []}
    run = {"type": "run", "token": RUN_TOKEN, "clean": False, "python": "3", "args": [], "env": {}, "stdin": True, "merge_stderr": False,
           "seed": None, "timeout_ms": 9_000, "cpu_limit_ms": None, "open_files": 64, "stdout_limit": 100, "stderr_limit": 100,
           "on_output_limit": "truncate", "message_limit": 100, "message_count": 10, "display_limit": 0, "display_count": 0,
           "figures": False, "last_value": False, "fetch": [], "file_limit": 0, "file_count": 0}  # fmt: skip
    code = base64.b64encode(b"print(input())").decode()
    put = {"type": "put", "path": "main.py", "data": code, "last": True}
    stdin = {"type": "stdin", "data": "MQ==", "last": True}
    bodies = [json.dumps(frame).encode() for frame in (hello, run, put, stdin)]
    data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    for size in (len(data), 1):
        runner = start()
        for i in range(0, len(data), size):
            runner.send(data[i : i + size])
        assert runner.next()["type"] == "ready"
        runner.started()
        assert runner.finish().stdout == b"1\n"


def test_is_no_runner_where_it_is_not_process_1(start: Callable[..., Any], tmp_path: Path) -> None:
    # It would kill every process that it can see. A program starts it so, by its own command line.
    bystander = subprocess.Popen(["sleep", "100"])
    try:
        (tmp_path / "main.py").write_text("import sys; print(sys._xoptions, sys.stdin.read())")
        runner = start(process_1=False)
        stdout, stderr = runner.process.communicate(b"not a frame", timeout=60)
        assert (stdout, stderr, runner.process.returncode) == (b"{} not a frame\n", b"", 0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_no_error_denies_that_a_program_may_have_begun(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    process_1 = runner.pids()[0]
    os.kill(process_1, signal.SIGSTOP)
    # Found together when it goes on: the whole program, and behind it what breaks the protocol.
    runner.run("print('begun')", stdin="")
    runner.say({"type": "no such frame"})
    os.kill(process_1, signal.SIGCONT)
    ended = runner.finish()
    assert (ended.status, ended.frames) == (64, [])


# Set-up that fails is never the program's failure.


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"env": {"A=B": "1"}}, "illegal environment variable name"),
        ({"env": {"A": "\0"}}, "null byte"),
        ({"args": ["\0"]}, "null character"),
        ({"open_files": 2**60}, "error"),
        ({"python": "2"}, "Python 2"),
    ],
)
def test_a_run_that_cannot_be_set_up(members: dict[str, Any], text: str, start: Callable[..., Any]) -> None:
    # No PATH: no python2.7 of this machine is found, unless it is in /usr/bin.
    runner = start(env={"PATH": ""})
    if "2" in runner.hello()["pythons"] and "python" in members:
        pytest.skip("this machine has /usr/bin/python2.7")
    runner.run("print('never')", **members)
    ended = runner.finish()
    assert ended.status == (64 if "python" in members else 66)
    assert [frame["type"] for frame in ended.frames] == ["error"]
    assert text.lower() in ended.error.lower()


@pytest.mark.parametrize("path", ["main.py", "folder/data.csv"])
def test_a_file_that_cannot_be_written(path: str, start: Callable[..., Any], tmp_path: Path) -> None:
    # Root without its capabilities is bound by the mode, too.
    tmp_path.chmod(0o555)
    runner = start()
    runner.hello()
    runner.run("print('never')", files={} if path == "main.py" else {path: b""})
    ended = runner.finish()
    assert ended.status == 66
    assert ended.error == f"Permission denied: {path!r}"


def test_a_run_without_a_program(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run(None, files={"other.py": b"print('never')"})
    ended = runner.finish()
    assert (ended.status, [frame["type"] for frame in ended.frames]) == (66, ["error"])
    assert "main.py" in ended.error


def test_the_warm_interpreter_dies(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    os.kill(runner.pids()[1], signal.SIGKILL)
    ended = runner.finish()
    assert ended.status == 66
    assert "wait status 9" in ended.error


# How a program ends.


@pytest.mark.parametrize("number", sorted({*range(1, 32), 34, 64} - {17, 18, 19, 20, 21, 22, 23, 28}))
def test_death_by_signal(number: int, run: Callable[..., Any]) -> None:
    # Not those that are ignored, or stop, by default.
    ended = run(
        "import signal, os; number != 9 and signal.signal(number, signal.SIG_DFL); os.kill(os.getpid(), number)".replace(
            "number", str(number)
        )
    )
    assert (ended.exit["exit_code"], ended.exit["signal"]) == (None, number)
    assert not ended.exit["timed_out"]


@pytest.mark.parametrize("code", [0, 1, 2, 126, 127, 128, 137, 255])
def test_exit_code(code: int, run: Callable[..., Any]) -> None:
    ended = run(f"import os; os._exit({code})")
    assert (ended.exit["exit_code"], ended.exit["signal"]) == (code, None)


def test_exit_frame(run: Callable[..., Any]) -> None:
    ended = run("import time; time.sleep(0.2)")
    assert ended.exit["token"] == RUN_TOKEN
    assert 200 <= ended.exit["wall_ms"] < 5_000
    assert not ended.exit["timed_out"]
    assert not ended.exit["output_limit"]
    assert [ended.exit[name] for name in ("stdout_dropped", "stderr_dropped", "messages_dropped")] == [0, 0, 0]


def streams(ended: Any) -> list[str]:
    return [frame["stream"] for frame in ended.frames if frame["type"] == "output"]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_order_of_two_streams_with_a_pause(order: tuple[int, int], run: Callable[..., Any]) -> None:
    first, second = order
    code = f"import os, time; os.write({first}, b'a'); time.sleep(0.02); os.write({second}, b'b')"
    names = {1: "stdout", 2: "stderr"}
    for _ in range(20):
        assert streams(run(code)) == [names[first], names[second]]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_pipe_that_was_written_first_is_read_first(order: tuple[int, int], start: Callable[..., Any], tmp_path: Path) -> None:
    # The runner finds both readable. Which has the lower number must not matter.
    first, second = order
    runner = start()
    runner.hello()
    runner.run(
        f"""
import os, time
while not os.path.exists("stopped"): time.sleep(0.001)
os.write({first}, b"a"); os.write({second}, b"b")
open("written", "w").close()
"""
    )
    runner.started()
    process_1 = runner.pids()[0]
    os.kill(process_1, signal.SIGSTOP)
    (tmp_path / "stopped").touch()
    until((tmp_path / "written").exists)
    os.kill(process_1, signal.SIGCONT)
    assert streams(runner.finish()) == [{1: "stdout", 2: "stderr"}[file] for file in order]


@pytest.mark.parametrize(("flooded", "other"), [(1, 2), (2, 1)])
def test_a_pause_is_of_all_pipes(flooded: int, other: int, run: Callable[..., Any]) -> None:
    # Many small reads of one pipe are followed by a pause. What the other is told meanwhile waits.
    code = f"""
import os, time
for _ in range(30):
    os.write({flooded}, b".")
    time.sleep(0.0003)
os.write({flooded}, b"."); os.write({other}, b"end")
"""
    for _ in range(10):
        told = streams(run(code))
        assert told.count({1: "stdout", 2: "stderr"}[other]) == 1
        assert told[-1] == {1: "stdout", 2: "stderr"}[other]


def test_output_right_before_the_end_is_whole(python: Path, run: Callable[..., Any]) -> None:
    code = "import os; os.write(1, b'a' * 3000); os.write(2, b'b' * 60000); os.write(1, b'c'); os._exit(0)"
    for _ in range(100):
        ended = run(code)
        assert ended.stdout == b"a" * 3000 + b"c"
        assert ended.stderr == b"b" * 60000


@pytest.mark.parametrize(("size", "waits"), [(100_000, False), (300_000, True)])
def test_behind_much_output_the_runner_waits_for_the_host(start: Callable[..., Any], size: int, waits: bool) -> None:
    """Docker would reset the streams 2 s after the container's end, whatever is unread."""
    runner = start()
    runner.hello()
    runner.run(f"import os; os.write(1, b'x' * {size})")
    frame = runner.next()
    while frame["type"] != "exit":
        frame = runner.next()
    if waits:
        runner.put("a", b"what comes too late", last=False)
        with pytest.raises(subprocess.TimeoutExpired):
            runner.process.wait(1)
        runner.process.stdin.close()
    assert runner.process.wait(10) == 0


def test_a_daemon_that_holds_the_streams_delays_nothing(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("""
import os, signal, sys, time
for signal_ in range(1, 65):
    try: signal.signal(signal_, signal.SIG_IGN)
    except (OSError, ValueError): pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(1, b'daemon\\n')
        while True: time.sleep(100)
    os._exit(0)
try: os.wait()
except ChildProcessError: pass  # SIGCHLD is ignored, so nobody is left to wait for
time.sleep(0.1)
input()
os._exit(0)
""", timeout_ms=600_000, stdin=base64.b64encode(b"\n").decode())  # fmt: skip
    runner.started()
    pids = runner.pids()
    ended = runner.finish()
    assert (ended.exit["exit_code"], ended.exit["timed_out"], ended.stdout) == (0, False, b"daemon\n")
    assert alive(pids) == []


def test_streams_closed_early(run: Callable[..., Any]) -> None:
    ended = run("import os, time; os.close(0); os.close(1); os.close(2); os.close(1000); time.sleep(0.3); os._exit(5)")
    assert ended.exit["exit_code"] == 5
    assert ended.exit["wall_ms"] >= 300


def test_zombies_are_reaped(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("""
import os, time
for i in range(200):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(0)
        os._exit(0)
    os.wait()
time.sleep(0.3)
print(len([p for p in os.listdir('/proc') if p.isdigit()]))
""")  # fmt: skip
    runner.started()
    assert runner.finish().stdout == b"2\n"


# The deadline.


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time; time.sleep(100)",
        "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nsignal.pause()\nwhile True: signal.pause()",
        "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
        "import os\nwhile True: os.write(1, b'x' * 4096); os.write(2, b'y')",
        "import os\nwhile True: os.write(1000, b'\\0\\0\\0\\0')",
        "import os, signal\nwhile True: os.kill(1, signal.SIGCHLD)",
        "10 ** 10 ** 8",
        "import sys; sys.stdin.close(); import threading; [threading.Thread(target=lambda: [1 for _ in iter(int, 1)]).start() for _ in range(5)]",
    ],
)
def test_deadline(code: str, start: Callable[..., Any]) -> None:
    if "os.fork()" in code:
        code = f"import resource; resource.setrlimit(resource.RLIMIT_CPU, (5, 5)); n = 0\n{code}".replace(
            "os.fork()", "n < 6 and os.fork(); n += 1"
        )
    runner = start()
    runner.hello()
    runner.run(code, timeout_ms=500)
    runner.started()
    pids = runner.pids()
    ended = runner.finish()
    assert ended.exit["timed_out"] is True
    assert (ended.exit["exit_code"], ended.exit["signal"]) == (None, 9)
    assert 500 <= ended.exit["wall_ms"] < 5_000
    assert alive(pids) == []


def test_output_before_the_deadline_is_kept(run: Callable[..., Any]) -> None:
    ended = run("print('early'); import time; time.sleep(0.45); print('late'); time.sleep(100)", timeout_ms=600)
    assert ended.exit["timed_out"]
    assert ended.stdout == b"early\nlate\n"


def test_an_end_long_before_a_far_deadline(run: Callable[..., Any]) -> None:
    assert run("print(1)", timeout_ms=2**62).exit["timed_out"] is False


def test_the_shortest_deadline(run: Callable[..., Any]) -> None:
    assert run("import time; time.sleep(100)", timeout_ms=1).exit["timed_out"] is True


# The host.


def test_a_host_that_reads_nothing_does_not_stop_the_deadline(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("import os\nwhile True: os.write(1, b'x' * 100000)", timeout_ms=1_000, stdout_limit=2**40)
    until(lambda: len(runner.pids()) == 2)
    program = runner.pids()[1]
    until(lambda: not Path(f"/proc/{program}").exists())
    # Only now does it read: all that was kept is there, and the truth about the end.
    ended = runner.finish()
    assert ended.exit["timed_out"]
    assert ended.exit["stdout_dropped"] == 0
    assert 100_000 < len(ended.stdout) < 5_000_000
    assert set(ended.stdout) == {ord("x")}


def test_a_host_that_reads_late_gets_everything(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("import os\nfor i in range(40): os.write(1, bytes([i]) * 100_000)", stdout_limit=2**40)
    time.sleep(0.5)
    runner.started()
    ended = runner.finish()
    assert ended.stdout == b"".join(bytes([i]) * 100_000 for i in range(40))
    assert ended.exit["exit_code"] == 0


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(100)", "while True: print('x' * 1000)", "import os\nos.fork() or os.setsid()\nwhile True: pass"]
)
def test_a_host_that_goes_takes_everything_with_it(code: str, start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run(code)
    runner.started()
    pids = runner.pids()
    assert len(pids) >= 2
    runner.process.stdin.close()
    assert runner.process.wait(10) == 67
    assert alive(pids) == []


def test_a_host_that_goes_while_it_does_not_read(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("while True: print('x' * 1000)", stdout_limit=2**40)
    time.sleep(0.3)
    pids = runner.pids()
    runner.process.stdin.close()
    assert runner.process.wait(10) == 67
    assert alive(pids) == []


# Caps.


@pytest.mark.parametrize("stream", [1, 2])
@pytest.mark.parametrize("limit", [0, 1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_cap(stream: int, limit: int, over: int, run: Callable[..., Any]) -> None:
    size = max(limit + over, 0)
    ended = run(
        f"import os; data = b'x' * {size}\nwhile data: data = data[os.write({stream}, data):]", stdout_limit=limit, stderr_limit=limit
    )
    outputs, dropped = (ended.stdout, ended.stderr), (ended.exit["stdout_dropped"], ended.exit["stderr_dropped"])
    assert len(outputs[stream - 1]) == min(size, limit)
    assert dropped[stream - 1] == max(size - limit, 0)
    assert (len(outputs[2 - stream]), dropped[2 - stream]) == (0, 0)
    assert ended.exit["exit_code"] == 0


def test_the_program_goes_on_beyond_its_cap(run: Callable[..., Any]) -> None:
    ended = run("import os\nfor _ in range(1000): os.write(1, b'x' * 100_000)\nos.write(2, b'done')", stdout_limit=10)
    assert (ended.stdout, ended.stderr, ended.exit["stdout_dropped"]) == (b"x" * 10, b"done", 99_999_990)


@pytest.mark.parametrize(("size", "killed"), [(99, False), (100, False), (101, True)])
@pytest.mark.parametrize("stream", [1, 2])
def test_cap_that_kills(size: int, killed: bool, stream: int, run: Callable[..., Any]) -> None:
    ended = run(f"import os, time; os.write({stream}, b'x' * {size}); time.sleep({100 if killed else 0})",
                stdout_limit=100, stderr_limit=100, on_output_limit="kill")  # fmt: skip
    assert ended.exit["output_limit"] is killed
    assert not ended.exit["timed_out"]
    assert ended.exit["signal"] == (9 if killed else None)
    assert len((ended.stdout, ended.stderr)[stream - 1]) == min(size, 100)
    assert ended.exit[("stdout_dropped", "stderr_dropped")[stream - 1]] == max(size - 100, 0)


def test_a_flood_of_tiny_writes_is_few_frames(run: Callable[..., Any]) -> None:
    ended = run("import os\nfor _ in range(100_000): os.write(1, b'x')", timeout_ms=60_000)
    assert len(ended.stdout) == 100_000
    # One frame in two milliseconds at the most, once it is known for a flood: after four small
    # reads behind a large one, or a lull of 50 ms.
    large, lulls = len(ended.stdout) / 4_096, ended.exit["wall_ms"] / 50
    assert len(ended.frames) < 10 + 5 * (large + lulls) + ended.exit["wall_ms"] / 2


def test_a_single_line_leaves_at_once(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("import sys, time; sys.stdout.write('line\\n'); time.sleep(100)", timeout_ms=1_500)
    runner.started()
    assert runner.next() == {"type": "output", "stream": "stdout", "data": base64.b64encode(b"line\n").decode()}
    assert len(runner.pids()) == 2
    assert runner.finish().exit["timed_out"]


# Input.


def test_stdin_larger_than_a_pipe(run: Callable[..., Any]) -> None:
    data = os.urandom(3_000_000)
    ended = run("import sys, hashlib; print(hashlib.sha1(sys.stdin.buffer.read()).hexdigest())", stdin=base64.b64encode(data).decode())
    import hashlib

    assert ended.stdout.decode().strip() == hashlib.sha1(data).hexdigest()


@pytest.mark.parametrize(
    "code",
    [
        "print('ignored')",
        "import sys; sys.stdin.close(); print('ignored')",
        "import os; os.close(0); import time; time.sleep(.1); print('ignored')",
    ],
)
def test_stdin_that_is_not_read(code: str, run: Callable[..., Any]) -> None:
    ended = run(code, stdin=base64.b64encode(bytes(1_000_000)).decode())
    assert (ended.stdout, ended.exit["exit_code"]) == (b"ignored\n", 0)


def test_input_and_output_both_larger_than_their_pipes(run: Callable[..., Any]) -> None:
    ended = run("import os\nos.write(1, b'x' * 1_000_000)\nos.write(1, b'y')\nimport sys; print(len(sys.stdin.buffer.read()))",
                stdin=base64.b64encode(bytes(1_000_000)).decode(), stdout_limit=2_000_000)  # fmt: skip
    assert ended.stdout == b"x" * 1_000_000 + b"y1000000\n"


@pytest.mark.parametrize(("stdin", "expected"), [(None, b"b''"), ("", b"b''"), ("AP8=", b"b'\\x00\\xff'")])
def test_what_stdin_is(stdin: str | None, expected: bytes, run: Callable[..., Any]) -> None:
    assert run("import sys; print(sys.stdin.buffer.read())", stdin=stdin).stdout == expected + b"\n"


# The program against process 1.


def test_no_signal_reaches_process_1(run: Callable[..., Any]) -> None:
    ended = run("import os\nfor s in range(0, 65): os.kill(1, s)\nimport time; time.sleep(0.2); print('on')")
    assert (ended.stdout, ended.status) == (b"on\n", 0)


def test_kill_everybody(run: Callable[..., Any]) -> None:
    # It reaches all but process 1, and the sender.
    ended = run("import os\nif os.fork() == 0:\n    import time; time.sleep(100)\nos.kill(-1, 9); print(os.wait()[1])")
    assert ended.stdout == b"9\n"


def test_nothing_of_process_1_can_be_read_or_written(run: Callable[..., Any]) -> None:
    ended = run("""
import os
for name in ('mem', 'environ', 'maps', 'auxv', 'fd', 'fdinfo', 'map_files', 'cwd', 'root', 'exe', 'stack', 'syscall', 'fd/0', 'fd/1', 'ns/pid'):
    path = '/proc/1/' + name
    # This test's uid is that of root, who may list the names of the descriptors; another uid may not do that either.
    for how in (() if name in ('fd', 'fdinfo') else (os.listdir,)) + (os.readlink, lambda p: open(p, 'rb').read(1), lambda p: open(p, 'r+b')):
        try: print(path, how(path))
        except (PermissionError, NotADirectoryError, IsADirectoryError, FileNotFoundError): pass
        except OSError as e: e.errno == 22 or print(path, e)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, 1, 0, 0), ctypes.get_errno())
""")  # fmt: skip
    assert ended.stderr == b""
    assert ended.stdout == b"-1 1\n"


def test_descriptors_are_the_programs_own(run: Callable[..., Any]) -> None:
    ended = run(
        "import os\nfor f in sorted(map(int, os.listdir('/proc/self/fd'))): print(f, os.readlink(f'/proc/self/fd/{f}').split(':')[0] if f != 3 else '')"
    )
    assert (
        ended.stdout == b"0 pipe\n1 pipe\n2 pipe\n3 \n1000 pipe\n".replace(b"3 \n", b"")
        or ended.stdout == b"0 pipe\n1 pipe\n2 pipe\n3 \n1000 pipe\n"
    )


def test_a_descriptor_of_the_runner_stays_out_of_the_program(
    python: Path, run: Callable[..., Any], tmp_path: Path, leaky: Callable[..., Any]
) -> None:
    runner = leaky()
    runner.hello()
    runner.run("import os; print([f for f in map(int, os.listdir('/proc/self/fd')) if f > 3])")
    runner.started()
    assert runner.finish().stdout == b"[1000]\n"


def test_frames_written_by_the_program_are_its_output(run: Callable[..., Any]) -> None:
    body = json.dumps({"type": "exit", "token": TOKEN, "exit_code": 0}).encode()
    forged = len(body).to_bytes(4, "big") + body
    ended = run(f"import os\nfor f in range(1100):\n    try: os.write(f, {forged!r})\n    except OSError: pass\nos._exit(3)")
    assert ended.stdout == ended.stderr == forged
    assert ended.messages == [body]
    assert ended.exit["exit_code"] == 3


def test_limits_and_score_of_the_program(run: Callable[..., Any]) -> None:
    ended = run("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), open('/proc/self/oom_score_adj').read().strip())\n"
                "import os; os.dup2(0, 100)", open_files=99)  # fmt: skip
    assert ended.stdout == b"(99, 99) 1000\n"
    assert b"OSError" in ended.stderr


def test_the_host_s_words_are_nowhere_in_the_program(run: Callable[..., Any]) -> None:
    ended = run("""
import re
found = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        if 'r' in line.split()[1] and '[v' not in line:
            memory.seek(start)
            try: part = memory.read(end - start)
            except OSError: continue
            found += len(re.findall(b'0123456789abcdef0123456789abcde[f]', part))  # Which does not match itself.
print(found)
""")
    assert ended.stderr == b""
    assert ended.stdout == b"0\n"


# Messages.


@pytest.mark.parametrize(("sizes", "limit", "count", "kept", "dropped"), [
    ([10, 10, 10], 30, 3, 3, 0), ([10, 10, 11], 30, 3, 2, 1), ([10, 10, 10, 0], 30, 3, 3, 1), ([31, 30], 30, 3, 1, 1), ([0, 0, 0], 0, 2, 2, 1),
    ([300_000, 300_000], 600_000, 2, 2, 0), ([1] * 5000, 10_000, 4_000, 4_000, 1_000),
])  # fmt: skip
def test_message_bounds(sizes: list[int], limit: int, count: int, kept: int, dropped: int, run: Callable[..., Any]) -> None:
    ended = run(f"""
import os
for size in {sizes}:
    data = size.to_bytes(4, 'big') + b'm' * size
    while data: data = data[os.write(1000, data):]
""", message_limit=limit, message_count=count)  # fmt: skip
    assert len(ended.messages) == kept
    assert ended.exit["messages_dropped"] == dropped
    assert all(set(message) <= {ord("m")} for message in ended.messages)


@pytest.mark.parametrize(("data", "kept", "dropped"), [
    (b"\0", 0, 1), (b"\0\0\0\5mmmm", 0, 1), (b"\x7f\xff\xff\xffm", 0, 1), (b"\0\0\0\1m\0\0\0", 1, 1), (b"\0\0\0\0", 1, 0), (b"", 0, 0),
])  # fmt: skip
def test_messages_cut_off(data: bytes, kept: int, dropped: int, run: Callable[..., Any]) -> None:
    ended = run(f"import os; os.write(1000, {data!r})")
    assert (len(ended.messages), ended.exit["messages_dropped"]) == (kept, dropped)


# The module `sandbox`.


def test_sandbox_module(run: Callable[..., Any]) -> None:
    ended = run("import sandbox; sandbox.send(sandbox.data); sandbox.send('ä\\u2028'); sandbox.send({'a': [1.5, None, True]}); print(sandbox.data is sandbox.data)",
                files={"data.json": '{"ä": [1, 2.5, null, "\\ud83d\\ude00"]}'.encode()})  # fmt: skip
    assert [json.loads(message) for message in ended.messages] == [{"ä": [1, 2.5, None, "\U0001f600"]}, "ä\u2028", {"a": [1.5, None, True]}]
    assert ended.stdout == b"True\n"


def test_sandbox_data_after_a_change_of_folder(run: Callable[..., Any]) -> None:
    assert run("import sandbox, os; os.chdir('/'); print(sandbox.data); sandbox.send(1)", files={"data.json": b"[1]"}).stdout == b"[1]\n"


def test_sandbox_without_data(run: Callable[..., Any]) -> None:
    assert run("import sandbox; print(sandbox.data)").stdout == b"None\n"


@pytest.mark.parametrize(("value", "error"), [
    ("float('nan')", b"ValueError"), ("float('-inf')", b"ValueError"), ("object()", b"TypeError"), ("{(1,): 1}", b"TypeError"), ("'\\ud800'", b"UnicodeEncodeError"),
])  # fmt: skip
def test_sandbox_refuses(value: str, error: bytes, run: Callable[..., Any]) -> None:
    ended = run(f"import sandbox; sandbox.send(1); sandbox.send({value})")
    assert ended.messages == [b"1"]
    assert error in ended.stderr.splitlines()[-1]


def test_sandbox_where_there_is_no_host(run: Callable[..., Any]) -> None:
    ended = run("import subprocess, sys; subprocess.call([sys.executable, '-c', 'import sandbox; sandbox.send(1)'])")
    assert b"RuntimeError: sandbox: descriptor 1000, the pipe to the host, is not open in this process" in ended.stderr


def test_sandbox_from_threads_and_processes_at_once(run: Callable[..., Any]) -> None:
    ended = run("""
import sandbox, threading, os
def send(who):
    for i in range(20): sandbox.send([who, i, 'x' * 20_000])
children = []
for process in range(3):
    pid = os.fork()
    if pid == 0:
        threads = [threading.Thread(target=send, args=(process * 10 + t,)) for t in range(3)]
        for t in threads: t.start()
        for t in threads: t.join()
        os._exit(0)
    children.append(pid)
for pid in children: os.waitpid(pid, 0)
""", message_limit=10_000_000)  # fmt: skip
    values = [json.loads(message) for message in ended.messages]
    assert len(values) == 180
    assert all(value[2] == "x" * 20_000 for value in values)
    for who in {value[0] for value in values}:
        assert [value[1] for value in values if value[0] == who] == list(range(20))
