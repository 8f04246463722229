"""The command as a user meets it: the installed `dayfly` as a process, on the real engine."""

from __future__ import annotations

import contextlib
import fcntl
import inspect
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import dayfly
from dayfly._engine_api import EngineAPI

COMMAND = str(Path(sys.executable).with_name("dayfly"))
NOWHERE = "unix:///nonexistent/docker.sock"
FOREVER = "\nwhile True: time.sleep(1)"
ALL_BYTES = bytes(range(256))

pytestmark = pytest.mark.usefixtures("image")

Dayfly = Callable[..., "subprocess.CompletedProcess[bytes]"]


@contextlib.contextmanager
def started(engine: Any, *args: str, **given: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process. When it has ended, of whatever, none of its containers is there any
    more."""
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | given
    # The signals' dispositions may be those of a job in the background.
    with subprocess.Popen(["env", "--default-signal", COMMAND, *args], **options) as process:
        try:
            yield process
            process.wait(60)
        finally:
            process.kill()
    assert not engine.containers(process.pid)


@pytest.fixture
def dayfly_(engine: Any) -> Dayfly:
    def run(*args: str, input: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: A002 - as subprocess calls it
        with started(engine, *args, stdin=subprocess.PIPE, **options) as process:
            stdout, stderr = process.communicate(input, timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, stdout, stderr)

    return run


def failure_line(done: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr of a command that did not do its work."""
    assert done.stdout == b""
    text = done.stderr.decode()
    assert text.startswith("dayfly: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text.removeprefix("dayfly: ").rstrip("\n")


# What a program writes, and how it ends.


def test_output_is_passed_on_to_the_byte(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "-c", "import os\nos.write(1, bytes(range(256)))\nos.write(2, bytes(range(255, -1, -1)))\nraise SystemExit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, ALL_BYTES, ALL_BYTES[::-1])


def test_an_exception_is_python_s_own_affair(dayfly_: Dayfly, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("1/0\n")
    done = dayfly_("run", str(tmp_path / "program.py"))
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"Traceback (most recent call last):\n")
    assert done.stderr.endswith(b"ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("code", [0, 1, 2, 124, 125, 137, 255])
def test_the_exit_code_is_the_program_s_without_a_line(dayfly_: Dayfly, code: int) -> None:
    done = dayfly_("run", "-c", f"import sys; sys.exit({code})")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", b"")


@pytest.mark.parametrize(("number", "name"), [(signal.SIGSEGV, "Segmentation fault"), (signal.SIGKILL, "Killed")])
def test_a_signal_is_128_and_its_number(dayfly_: Dayfly, number: signal.Signals, name: str) -> None:
    done = dayfly_("run", "-c", f"import os; os.kill(os.getpid(), {int(number)})")
    assert done.returncode == 128 + number
    assert failure_line(done) == f"the program was ended by signal {int(number)} ({name})"


def test_a_timeout_keeps_the_output_and_is_124(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--timeout-ms", "500", "-c", "import time\nprint('so far')" + FOREVER)
    assert (done.returncode, done.stdout) == (124, b"so far\n")
    assert done.stderr == b"dayfly: the program was killed at its time-out of 500 ms (--timeout-ms)\n"


def test_a_line_of_our_own_does_not_continue_the_program_s(dayfly_: Dayfly) -> None:
    code = "import sys, time\nprint('no newline', end='', file=sys.stderr)" + FOREVER
    done = dayfly_("run", "--timeout-ms", "500", "-c", code)
    assert done.stderr.splitlines()[0] == b"no newline"
    assert done.stderr.splitlines()[1].startswith(b"dayfly: ")
    done = dayfly_("run", "--timeout-ms", "500", "-c", code.replace("sys.stderr", "sys.stdout"), stderr=subprocess.STDOUT)
    assert done.stdout.startswith(b"no newline\ndayfly: ")


def test_out_of_memory_is_137(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--memory-mb", "40", "-c", "kept = []\nwhile True: kept.append(bytearray(100_000))")
    assert done.returncode == 137
    assert failure_line(done) == "the program was killed at its memory limit of 40 MB (--memory-mb)"


def test_truncated_output_is_told(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--output-bytes", "1000", "-c", "print('x' * 1499)")
    assert (done.returncode, done.stdout) == (0, b"x" * 1000)
    assert done.stderr == b"dayfly: stdout is truncated, 500 bytes were dropped (--output-bytes)\n"


def test_a_kill_for_output_is_told(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--output-bytes", "1000", "--limit", "on_output_limit=kill", "-c", "while True: print('x' * 99)")
    assert (done.returncode, len(done.stdout)) == (137, 1000)
    assert b"dayfly: the program was killed for its output (--limit on_output_limit=kill)\n" in done.stderr


def test_messages_are_not_lost_in_silence(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "-c", "import sandbox; sandbox.send(1); sandbox.send(2)")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"dayfly: 2 messages that the program sent are shown with --json\n"


SHOWS = """
import sandbox
class Shown:
    _repr_png_ = lambda self: b"a PNG"
for _ in range(2):
    sandbox.display(Shown())
sandbox.display("no image")
print("out")
"""


def test_images_are_written_to_the_folder_for_figures(dayfly_: Dayfly, tmp_path: Path) -> None:
    done = dayfly_("run", "--figures", str(tmp_path / "new/figures"), "-c", SHOWS)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out\n", b"")
    assert {path.name: path.read_bytes() for path in (tmp_path / "new/figures").iterdir()} == dict.fromkeys(
        ("figure-1.png", "figure-2.png"), b"a PNG"
    )
    done = dayfly_("run", "--figures", str(tmp_path / "new/figures"), "--limit", "displays=1", "-c", SHOWS)
    assert done.returncode == 125
    assert b"dayfly: 2 displays were dropped, over a limit or not a bundle\n" in done.stderr
    assert b"'figure-1.png' was not written to" in done.stderr
    assert dayfly_("run", "--figures", str(tmp_path / "new/figures"), "--force", "-c", SHOWS).returncode == 0


# What it is given.


def test_a_program_gets_all_it_is_given(dayfly_: Dayfly, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, sandbox, sys\nprint(sys.argv, os.environ['A'], os.environ['B'], sandbox.data)\nprint(input())"
    )
    (tmp_path / "input").write_bytes(b"a line\n")
    done = dayfly_(
        *("run", "--arg", "-x", "--arg", "", "--env", "A=1=2", "--env", "B="),
        *("--data", '{"x": [null, "é"]}', "--stdin", str(tmp_path / "input")),
        str(tmp_path / "program.py"),
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "['main.py', '-x', ''] 1=2  {'x': [None, 'é']}\na line\n"


def test_null_is_data_as_well(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--data", "null", "-c", "import sandbox; print(sandbox.data, repr(input()))")
    assert (done.stdout, done.stderr) == (b"None 'null'\n", b"")


def test_the_program_comes_from_stdin(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "-", input="print('é')\nprint(input('?'))".encode())
    assert (done.returncode, done.stdout) == (1, "é\n?".encode())
    assert done.stderr.endswith(b"EOFError: EOF when reading a line\n")


def test_the_program_s_stdin_comes_from_stdin(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--stdin", "-", "-c", "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())", input=ALL_BYTES)
    assert (done.returncode, done.stdout, done.stderr) == (0, ALL_BYTES, b"")


def test_without_stdin_the_program_reads_none_of_ours(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "-c", "import sys; print(repr(sys.stdin.read()))", input=b"secret")
    assert done.stdout == b"''\n"


def test_limits_reach_the_program(dayfly_: Dayfly) -> None:
    code = "import os, resource; s = os.statvfs('/tmp'); print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], s.f_files)"
    done = dayfly_("run", "--limit", "open_files=77", "--limit", "tmpfs_inodes=100", "-c", code)
    assert (done.stdout, done.stderr) == (b"77 100\n", b"")


@pytest.mark.usefixtures("image_python2")
def test_python_2_has_an_image_of_its_own(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--python", "2", "-c", "import sys; print sys.version_info[:2]")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"(2, 7)\n", b"")


def test_one_run_makes_one_container(engine: Any) -> None:
    begun = int(time.time())
    with started(engine, "run", "-c", "print(1)") as process:
        pass
    filters = {"event": ["create"], "label": [f"dayfly.pid={process.pid}"]}
    status, events = engine.call("GET", "/events", since=str(begun), until=str(int(time.time()) + 1), filters=filters)
    assert status == 200
    assert isinstance(events, dict), events  # one line of JSON


# The result as JSON.


def test_json_has_the_documented_names(dayfly_: Dayfly) -> None:
    code = "import sandbox, sys\nsandbox.send({'a': 10**30})\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)"
    done = dayfly_("run", "--json", "-c", code)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout.count(b"\n") == 1
    result = json.loads(done.stdout)
    assert result["cpuMs"] > 0
    assert {name: result[name] for name in ("outcome", "stdout", "stderr", "combined", "isError", "timedOut", "exitCode", "signal")} == {
        "outcome": "error",
        "stdout": "out\n",
        "stderr": "err\n",
        "combined": "out\nerr\n",
        "isError": True,
        "timedOut": False,
        "exitCode": 3,
        "signal": None,
    }
    assert result["messages"] == [{"a": 10**30}]


def test_json_comes_with_the_same_exit_code_and_line(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--json", "--timeout-ms", "300", "-c", "import os, time; os.write(1, b'\\xff')" + FOREVER)
    assert done.returncode == 124
    assert done.stderr.startswith(b"dayfly: the program was killed at its time-out")
    result = json.loads(done.stdout)
    assert (result["outcome"], result["timedOut"], result["stdout"], result["stdoutRaw"]) == ("timeout", True, "\ufffd", "/w==")


# Files.

COPY = "import os, shutil; os.makedirs('out/deep'); [shutil.copy(name, 'out/deep') for name in os.listdir() if '.csv' in name]"


def test_files_go_in_and_come_out(dayfly_: Dayfly, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(ALL_BYTES)
    (tmp_path / "a=b.csv").write_bytes(b"2")
    files = ["--file", str(tmp_path / "data.csv"), "--file", f"{tmp_path / 'a=b.csv'}=b.csv", "--file", "-=c.csv"]
    done = dayfly_("run", *files, "--fetch", "out/**", "--out", str(tmp_path / "new" / "out"), "-c", COPY, input=b"3")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    folder = tmp_path / "new" / "out" / "out" / "deep"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"data.csv": ALL_BYTES, "b.csv": b"2", "c.csv": b"3"}


def test_files_that_are_not_written_are_told_and_125(dayfly_: Dayfly, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "folder").symlink_to("/nonexistent")
    args = [
        "run",
        "--fetch",
        "**",
        "--out",
        str(tmp_path),
        "-c",
        "import os; os.mkdir('folder'); [open(n, 'w') for n in ('a', 'b', 'folder/c')]",
    ]
    done = dayfly_(*args)
    assert done.returncode == 125
    assert done.stderr.decode().splitlines() == [
        f"dayfly: 'a' was not written to {tmp_path}: File exists (--force replaces it)",
        f"dayfly: 'folder/c' was not written to {tmp_path}: Not a directory",
    ]
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("old", "")
    done = dayfly_(*args[:-2], "--force", "-c", "open('a', 'w').write('new'); open('b', 'w').write('new')")
    assert (done.returncode, done.stderr) == (0, b"")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("new", "new")


def test_what_did_not_come_back_is_told(dayfly_: Dayfly, tmp_path: Path) -> None:
    code = "import os; os.mkfifo('fifo'); open('big', 'wb').write(bytes(2000)); open('x\\x1b', 'w'); os.symlink('x', 'link'); os._exit(3)"
    done = dayfly_("run", "--limit", "file_bytes=1000", "--fetch", "*", "--fetch", "none", "--out", str(tmp_path), "-c", code)
    assert done.returncode == 3
    assert done.stderr.decode().splitlines() == [
        "dayfly: 'big' did not come back: too large for what is left of --limit file_bytes",
        "dayfly: 'fifo' did not come back: not a regular file, or behind a link",
        "dayfly: 'link' did not come back: not a regular file, or behind a link",
        "dayfly: 'none' did not come back: there is no such file",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["x\x1b"]
    code = "[open(str(i), 'w') for i in range(150)]"
    done = dayfly_("run", "--json", "--limit", "file_count=1", "--fetch", "*", "-c", code)
    assert done.stderr.decode().splitlines()[-1] == "dayfly: 49 more files did not come back"
    assert json.loads(done.stdout)["files"] == {"0": ""}


# What cannot be.


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "give one program"),
        (["--stdin", "-", "-"], "can come from stdin"),
        (["--file", "-=x", "-"], "can come from stdin"),
        (["no such\nprogram.py"], "no such program.py: No such file or directory"),
        (["/"], "/: Is a directory"),
        (["/dev/zero"], "/dev/zero is larger than 40,000,000 bytes"),
        (["-c", "1", "--stdin", "none"], "none: No such file or directory"),
        (["-c", "1", "--timeout-ms", "0"], "timeout_ms must be a finite number"),
        (["-c", "1", "--timeout-ms", "nan"], "timeout_ms must be a finite number"),
        (["-c", "1", "--timeout-ms=-1"], "timeout_ms must be a finite number"),
        (["-c", "1", "--memory-mb", "1"], "memory_limit_mb must be"),
        (["-c", "1", "--memory-mb", "inf"], "memory_limit_mb must be"),
        (["-c", "1", "--pids", "0"], "pids must be from 8"),
        (["-c", "1", "--cpus", "0"], "cpus must be a finite number"),
        (["-c", "1", "--output-bytes", "0"], "stdout_bytes must be from 1"),
        (["-c", "1", "--limit", "memory=3"], "--limit 'memory' is unknown; there are cpus, pids,"),
        (["-c", "1", "--limit", "open_files"], "--limit needs the form KEY=VALUE"),
        (["-c", "1", "--limit", "open_files=many"], "open_files must be an int, not str"),
        (["-c", "1", "--limit", "on_output_limit=stop"], "on_output_limit must be 'truncate' or 'kill'"),
        (["-c", "1", "--env", "A"], "--env needs the form KEY=VALUE"),
        (["-c", "1", "--env", "=1"], "the env key ''"),
        (["-c", "1", "--data", "{"], "--data is not valid JSON"),
        (["-c", "1", "--data", "[" * 100_000], "--data is not valid JSON"),
        (["-c", "1", "--file", "none"], "none: No such file or directory"),
        (["-c", "1", "--file", "/dev/zero=x"], "/dev/zero is larger than 40,000,000 bytes"),
        (["-c", "1", "--file", "/dev/null=../x"], "the path '../x' of files has a part that is empty"),
        (["-c", "1", "--file", "/dev/null=main.py"], "the file 'main.py' is made from code"),
        (["-c", "1", "--file", "/dev/null", "--file", "/dev/zero=null"], "--file 'null' is given twice"),
        (["-c", "1", "--fetch", "*"], "--out DIR where they are written"),
        (["-c", "1", "--out", "x"], "--fetch GLOB says which files come back"),
        (["-c", "1", "--fetch", "../*", "--out", "x"], "the pattern '../*' of fetch must be relative"),
        (["-c", "1", "--fetch", "*", "--out", "/dev/null"], "/dev/null: File exists"),
        (["-c", "1", "--image", "no image"], "image 'no image' has characters"),
        (["-c", "1", "--docker-host", "ssh://somewhere"], "ssh"),
    ],
)
def test_bad_input_is_125_with_one_line_and_no_engine(dayfly_: Dayfly, tmp_path: Path, args: list[str], said: str) -> None:
    done = dayfly_("run", *args, env={"DOCKER_HOST": NOWHERE}, cwd=tmp_path)
    assert said in failure_line(done)
    assert done.returncode == 125


def test_what_a_program_is_encoded_in_is_pythons_to_say(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "-", input=b"# -*- coding: latin-1 -*-\nprint('caf\xe9')")
    assert (done.returncode, done.stdout.decode()) == (0, "caf\u00e9\n")
    done = dayfly_("run", "-", input=b"# caf\xe9")
    assert done.returncode == 1
    assert b"SyntaxError" in done.stderr
    assert dayfly_("run", "-c", "").returncode == 0


def test_merge_stderr_keeps_the_order_of_writing(dayfly_: Dayfly) -> None:
    code = "import sys\nfor i in range(9): print(i, file=[sys.stdout, sys.stderr][i % 2])"
    done = dayfly_("run", "--merge-stderr", "-c", code)
    assert (done.stdout, done.stderr) == (b"".join(b"%d\n" % i for i in range(9)), b"")


def test_preloaded_modules_and_a_seed(dayfly_: Dayfly) -> None:
    code = "import random, sys; print('decimal' in sys.modules, random.random())"
    first, second = (dayfly_("run", "--preload", "decimal", "--seed", "7", "-c", code).stdout for _ in range(2))
    assert first == second
    assert first.startswith(b"True ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--image", "dayfly/none:1"], "dayfly image build"),
        (["--runtime", "nonesuch"], "the engine has no runtime 'nonesuch'; it has "),
        (["--docker-host", NOWHERE], "there is no socket /nonexistent/docker.sock"),
        (["--limit", "code_bytes=3"], "code is 5 bytes in UTF-8; the limit (code_bytes) is 3"),
    ],
)
def test_a_sandbox_that_cannot_work_is_125_with_one_line(dayfly_: Dayfly, args: list[str], said: str) -> None:
    done = dayfly_("run", "-c", "print", *args)
    assert said in failure_line(done)
    assert done.returncode == 125


def test_a_command_line_that_cannot_be_read_is_2(dayfly_: Dayfly) -> None:
    for args in (["--timeout-ms", "soon"], ["--python", "4"], ["--no-such-option"]):
        done = dayfly_("run", "-c", "1", *args)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"Usage: dayfly run" in done.stderr


# Streams and signals.


def next_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line or process.stderr is None, process.stderr.read()
    return line


SLOW = "import time\nprint('first')" + FOREVER


def test_output_arrives_while_the_program_runs(engine: Any) -> None:
    code = "import sys, time\nprint('to stderr', file=sys.stderr)\nprint('first')" + FOREVER
    with started(engine, "run", "--timeout-ms", "60000", "-c", code) as process:
        assert next_line(process) == b"first\n"
        assert process.stderr is not None
        assert process.stderr.readline() == b"to stderr\n"
        assert process.poll() is None
        assert [row["State"] for row in engine.containers(process.pid)] == ["running"]
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_leaves_no_container(engine: Any, number: signal.Signals) -> None:
    with started(engine, "run", "-c", SLOW) as process:
        assert next_line(process) == b"first\n"
        process.send_signal(number)
        process.send_signal(number)  # timeout(1) sends it twice
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (128 + number, b"", b"")


def test_a_signal_at_any_moment_of_the_start_leaves_no_container(engine: Any) -> None:
    for state in ("created", "running"):
        with started(engine, "run", "-c", SLOW) as process:
            while state not in [row["State"] for row in engine.containers(process.pid)] and state == "running":
                assert process.poll() is None
            while not engine.containers(process.pid):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
        assert process.returncode == 130


def test_ctrl_c_in_a_terminal(engine: Any) -> None:
    master, slave = pty.openpty()
    with started(
        engine, "run", "-c", SLOW, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=_own_terminal
    ) as process:
        os.close(slave)
        seen = b""
        while not seen.endswith(b"\n"):  # a terminal hands over a line in as many pieces as it likes
            seen += os.read(master, 100)
        assert seen == b"first\r\n"
        os.write(master, b"\x03")
    os.close(master)
    assert process.returncode == 130


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_an_ignored_signal_stays_ignored(engine: Any) -> None:
    code = "import time\nprint('first')\ntime.sleep(1)\nprint('last')"
    command = f"trap '' HUP; exec {COMMAND} run -c \"$0\""
    with subprocess.Popen(["sh", "-c", command, code], stdout=subprocess.PIPE) as process:
        assert next_line(process) == b"first\n"
        process.send_signal(signal.SIGHUP)
        assert next_line(process) == b"last\n"
    assert process.returncode == 0


def test_a_reader_that_goes_ends_the_run_in_silence(engine: Any) -> None:
    with started(engine, "run", "--timeout-ms", "60000", "--output-bytes", "1000000000", "-c", "while True: print('y')") as process:
        assert next_line(process) == b"y\n"
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 128 + signal.SIGPIPE


def test_a_slow_reader_changes_nothing(engine: Any) -> None:
    with started(engine, "run", "--timeout-ms", "1000", "-c", "print('x' * 900_000)") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        start = process.stdout.read(1)
        time.sleep(2)  # longer than the program has; and it wrote more than a pipe holds
        assert start + process.stdout.read() == b"x" * 900_000 + b"\n"
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_full_disk_is_told(dayfly_: Dayfly) -> None:
    with Path("/dev/full").open("wb") as full:
        for more in ([], ["--json"]):
            done = dayfly_("run", "-c", "print(1)", *more, stdout=full)
            assert (done.returncode, done.stderr) == (125, b"dayfly: output: No space left on device\n")


def test_closed_standard_streams_are_no_harm(engine: Any) -> None:
    code = "import sys; print('to stdout'); print('to stderr', file=sys.stderr); sys.exit(5)"
    done = subprocess.run(["sh", "-c", f'{COMMAND} run -c "$0" <&- >&-', code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"", b"to stderr\n")
    done = subprocess.run(["sh", "-c", f'{COMMAND} run -c "$0" <&- 2>&-', code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"to stdout\n", b"")


# The other commands.


def test_version(dayfly_: Dayfly) -> None:
    assert dayfly_("--version").stdout.decode() == f"dayfly {dayfly.__version__}\n"


def test_without_the_extra_one_line_says_how_to_install_it() -> None:
    code = "import sys; sys.modules['typer'] = None; sys.argv = ['dayfly', 'run']; from dayfly._cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"dayfly: the command needs typer, which is not installed: pip install 'dayfly[cli]'\n"


def test_a_run_loads_only_what_it_needs() -> None:
    # httpx loads rich for a command of its own, wherever click is installed too: that is not what
    # is asked here.
    wasteful = {"dayfly._doctor", "dayfly._image", "rich.console", "rich.table"}
    code = f"import sys; sys.modules['httpx._main'] = None; import dayfly._cli; print({wasteful} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"set()\n"


def test_a_shell_completes_commands(dayfly_: Dayfly) -> None:
    asked = {"_DAYFLY_COMPLETE": "complete_bash", "COMP_WORDS": "dayfly im", "COMP_CWORD": "1"}
    assert dayfly_(env={**os.environ, **asked}).stdout == b"image\n"


def test_the_defaults_are_the_library_s() -> None:
    from dayfly import _cli as cli

    command = inspect.signature(cli.run).parameters
    library = inspect.signature(dayfly.AsyncSandbox).parameters
    limits = dayfly.Limits()
    assert command["timeout_ms"].default == library["timeout_ms"].default
    assert command["memory_mb"].default == library["memory_limit_mb"].default
    assert command["python"].default.value == library["python"].default
    shown = {
        name: inspect.get_annotations(cli.run, eval_str=True)[name].__metadata__[0].show_default
        for name in ("cpus", "pids", "output_bytes")
    }
    assert shown == {"cpus": str(limits.cpus), "pids": str(limits.pids), "output_bytes": str(limits.stdout_bytes)}
    assert limits.stdout_bytes == limits.stderr_bytes


def test_doctor_shows_each_finding(dayfly_: Dayfly) -> None:
    as_json = dayfly_("doctor", "--json")
    findings = json.loads(as_json.stdout)
    assert {"engine", "seccomp", "image"} <= {finding["name"] for finding in findings}
    assert {finding["level"] for finding in findings} <= {"ok", "warning", "failure"}
    assert as_json.returncode == any(finding["level"] == "failure" for finding in findings)
    table = dayfly_("doctor")
    assert (table.returncode, table.stderr, as_json.stderr) == (as_json.returncode, b"", b"")
    lines = table.stdout.decode().splitlines()
    assert [line for line in lines if line.endswith(" ")] == []
    for finding in findings:
        assert f"{finding['name']} " in table.stdout.decode()


@pytest.mark.parametrize("args", [["--docker-host", NOWHERE], ["--image", "dayfly/none:1"], ["--runtime", "nonesuch"]])
def test_doctor_fails_for_what_a_sandbox_refuses(dayfly_: Dayfly, args: list[str]) -> None:
    done = dayfly_("doctor", "--json", *args)
    assert done.returncode == 1
    assert [finding for finding in json.loads(done.stdout) if finding["level"] == "failure" and finding["advice"]]


@pytest.mark.alone
def test_clean_removes_leftovers_and_shows_them(engine: Any, dayfly_: Dayfly, docker_host: str, image: str) -> None:
    code = "import json; from dayfly._orphans import labels; print(json.dumps(labels()))"
    dead = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True).stdout)

    async def leave() -> str:
        async with EngineAPI(docker_host) as api:
            return await api.create("dayfly-4712", {"Image": image, "Labels": dead})

    left = anyio.run(leave)
    done = dayfly_("clean")
    assert (done.returncode, done.stderr) == (0, b"")
    row = next(line for line in done.stdout.decode().splitlines() if line.startswith("dayfly-4712 "))
    assert left[:12] in row
    assert "was created" in row
    assert dead["dayfly.pid"] in row
    assert left not in [row["Id"] for row in engine.containers()]


def test_clean_touches_nothing_that_lives(engine: Any, dayfly_: Dayfly) -> None:
    with started(engine, "run", "-c", SLOW) as process:
        assert next_line(process) == b"first\n"
        names = [row["Names"][0].lstrip("/") for row in engine.containers(process.pid)]
        done = dayfly_("clean")
        assert done.returncode == 0
        assert names[0].encode() not in done.stdout
        assert names == [row["Names"][0].lstrip("/") for row in engine.containers(process.pid)]
        process.send_signal(signal.SIGTERM)


def test_image_ls_shows_the_default_image(dayfly_: Dayfly, image: str) -> None:
    found = json.loads(dayfly_("image", "ls", "--json").stdout)
    assert [entry["id"] for entry in found if f"dayfly/python:{dayfly.__version__}" in entry["tags"]] == [image]
    table = dayfly_("image", "ls")
    assert (table.returncode, table.stderr) == (0, b"")
    assert f"dayfly/python:{dayfly.__version__} " in table.stdout.decode()


def test_image_build_shows_its_steps_and_prints_the_id(engine: Any, dayfly_: Dayfly) -> None:
    tag = f"dayfly/test-cli:{os.getpid()}"
    try:
        done = dayfly_("image", "build", "--base", f"dayfly/python:{dayfly.__version__}", "--tag", tag)
        assert done.returncode == 0, done.stderr
        assert "installing the runner" in done.stderr.decode()
        assert done.stdout.decode() == f"{engine.call('GET', f'/images/{tag}/json')[1]['Id']}\n"
        again = dayfly_("image", "build", "--base", f"dayfly/python:{dayfly.__version__}", "--tag", tag)
        assert (again.returncode, again.stdout, again.stderr.decode()) == (0, done.stdout, f"{tag} is up to date\n")
        assert dayfly_("run", "--image", tag, "-c", "print(1)").stdout == b"1\n"
    finally:
        engine.call("DELETE", f"/images/{tag}")


def test_errors_of_other_commands_are_one_line_and_1(dayfly_: Dayfly) -> None:
    for args, said in [
        (["clean", "--docker-host", NOWHERE], "there is no socket"),
        (["image", "ls", "--docker-host", NOWHERE], "there is no socket"),
        (["image", "build", "--base", "debian:buzz"], "no such Debian suite"),
        (["image", "build", "--pip", "../evil"], "is not a requirement"),
    ]:
        done = dayfly_(*args)
        assert said in failure_line(done)
        assert done.returncode == 1


def test_arguments_follow_the_program(dayfly_: Dayfly, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print(sys.argv[1:])")
    done = dayfly_("run", "--arg", "0", str(tmp_path / "program.py"), "a", "--json", "-c", "", "--", "b")
    assert (done.returncode, done.stdout) == (0, b"['0', 'a', '--json', '-c', '', '--', 'b']\n")
    done = dayfly_("run", "-c", "import sys; print(sys.argv[1:])", "a", "-b")
    assert (done.returncode, done.stdout) == (0, b"['a', '-b']\n")


def test_a_refusal_of_the_engine_is_said_once(dayfly_: Dayfly) -> None:
    done = dayfly_("run", "--cpus", "4000", "-c", "1")
    assert done.returncode == 125
    assert done.stderr.count(b"Range of CPUs") == 1


def test_python_m_dayfly_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dayfly", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"dayfly {dayfly.__version__}\n"


# dayfly judge


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    for number in range(1, 4):
        (tmp_path / f"{number}.in").write_text(str(number))
        (tmp_path / f"{number}.ans").write_text(str(number + 1))
    (tmp_path / "right.py").write_text("print(int(input()) + 1)")
    (tmp_path / "wrong.py").write_text("n = int(input())\nprint(n if n == 2 else n + 1)")
    return tmp_path


def test_a_submission_is_judged_by_a_folder(dayfly_: Dayfly, problem: Path) -> None:
    done = dayfly_("judge", str(problem / "right.py"), "--cases", str(problem))
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode().splitlines()
    assert [line.split()[:2] for line in lines] == [["accepted", "1"], ["accepted", "2"], ["accepted", "3"], ["accepted", "3"]]
    done = dayfly_("judge", str(problem / "wrong.py"), "--cases", str(problem), "--stop", "first", "--cpu-ms", "1000", "--concurrency", "1")
    assert done.returncode == 1
    text = done.stdout.decode()
    assert "token 1: expected '3', found '2'" in text
    assert text.splitlines()[-1].startswith("wrong_answer  1 of 3 cases  1 skipped")


def test_a_judging_as_json_and_cases_from_a_file(dayfly_: Dayfly, problem: Path) -> None:
    shapes = {
        "lcb": {"inputs": ["1", "2"], "outputs": ["2", "3"], "fn_name": None},
        "fusion": [{"input": {"stdin": "1"}, "output": {"stdout": "2"}}],
        "own": {"cases": [{"stdin": "1", "expected": "2"}], "checker": {"type": "exact"}},
    }
    verdicts = {}
    for name, shape in shapes.items():
        (problem / f"{name}.json").write_text(json.dumps(shape))
        done = dayfly_("judge", str(problem / "right.py"), "--cases", str(problem / f"{name}.json"), "--json")
        verdicts[name] = (json.loads(done.stdout)["verdict"], done.returncode)
    assert verdicts == {"lcb": ("accepted", 0), "fusion": ("accepted", 0), "own": ("wrong_answer", 1)}
    done = dayfly_(
        "judge", "-", "--cases", str(problem), "--checker", '{"type": "floats", "abs": 0.5}', input=b"print(int(input()) + 1.25)"
    )
    assert done.returncode == 0


def test_a_compile_error_shows_what_python_says(dayfly_: Dayfly, problem: Path) -> None:
    done = dayfly_("judge", "-", "--cases", str(problem), input=b"print(")
    assert done.returncode == 1
    assert done.stdout.startswith(b"compile_error  0 of 3 cases  3 skipped")
    assert b"SyntaxError: '(' was never closed" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--cases", "/nonexistent"], "/nonexistent: No such file"),
        (["--cases", "{}", "--checker", "best"], "--checker 'best': Invalid value"),
        (["--cases", "{}/right.py"], "does not hold cases"),
        (["--cases", "{}", "--cpu-ms", "0"], "cpu_ms must be"),
        (["--cases", "{}", "--concurrency", "-1"], "pool_size must be"),
        (["--cases", "{}", "--concurrency", "0"], "pool_size must be"),
    ],
)
def test_what_cannot_be_judged_is_said_on_one_line(dayfly_: Dayfly, problem: Path, arguments: list[str], says: str) -> None:
    done = dayfly_("judge", str(problem / "right.py"), *(argument.replace("{}", str(problem)) for argument in arguments))
    assert done.returncode == 125
    assert says in failure_line(done)


def on_terminal(engine: Any, *arguments: str, **variables: str) -> str:
    """Return what a command shows on a terminal of 80 columns."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    with started(engine, *arguments, stdout=terminal, stderr=terminal, env={**environment, "TERM": "xterm", **variables}) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # EIO is the end
            while piece := os.read(controller, 65_536):
                shown += piece
        process.wait(60)
    os.close(controller)
    return shown.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*3\dm")


def test_a_judging_on_a_terminal_has_colours_and_a_bar(engine: Any, problem: Path) -> None:
    arguments = ("judge", str(problem / "right.py"), "--cases", str(problem))
    shown = on_terminal(engine, *arguments)
    assert "\x1b[32maccepted" in shown
    assert "of 3 cases" in shown
    assert not COLOUR.search(on_terminal(engine, *arguments, NO_COLOR="1"))


@pytest.mark.parametrize("arguments", ["doctor", "image ls", "image build", "--help", "run --help", "judge --help", "serve --help"])
def test_eighty_columns_are_enough(engine: Any, arguments: str) -> None:
    shown = on_terminal(engine, *arguments.split())
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown).splitlines()
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) > 1


def test_a_terminal_without_colours_has_none(engine: Any) -> None:
    assert COLOUR.search(on_terminal(engine, "doctor"))
    assert not COLOUR.search(on_terminal(engine, "doctor", NO_COLOR="1"))
