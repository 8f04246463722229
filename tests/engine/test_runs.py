"""What a run reports: output, outcome, limits, input. One sandbox for all, as a caller would have
it."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from dayfly import AsyncSandbox, EngineError, EngineUnreachable, ImageMissing, Job, Limits, Outcome, Piece, Result, Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pool_size=2) as sandbox:
        yield sandbox


@pytest.fixture
async def small() -> AsyncIterator[AsyncSandbox]:
    async with AsyncSandbox(limits=Limits(stdout_bytes=10, stderr_bytes=20)) as sandbox:
        yield sandbox


def test_hello(sandbox: Sandbox) -> None:
    result = sandbox.run('print("Hello, world!")')
    assert (result.outcome, result.stdout, result.stderr, result.combined) == (Outcome.OK, "Hello, world!\n", "", "Hello, world!\n")
    assert (result.exit_code, result.signal, result.is_error, result.timed_out) == (0, None, False, False)
    assert result.cpu_ms is not None and result.cpu_ms > 0
    assert result.peak_memory_bytes is not None and 1e6 < result.peak_memory_bytes < 50e6
    assert result.oom_kills == 0 and 0 < result.wall_ms < 10_000


ENDS = [
    ("import sys; sys.exit(0)", Outcome.OK, 0, None),
    ("import sys; sys.exit(7)", Outcome.ERROR, 7, None),
    ("import sys; sys.exit(256 + 3)", Outcome.ERROR, 3, None),
    ("import sys; sys.exit(-1)", Outcome.ERROR, 255, None),
    ("import sys; sys.exit('bye')", Outcome.ERROR, 1, None),
    ("import sys; sys.exit(137)", Outcome.ERROR, 137, None),
    ("1/0", Outcome.ERROR, 1, None),
    ("print(", Outcome.ERROR, 1, None),
    ("import os; os._exit(42)", Outcome.ERROR, 42, None),
    ("import os; os.abort()", Outcome.SIGNAL, None, 6),
    ("import os; os.kill(os.getpid(), 9)", Outcome.SIGNAL, None, 9),
    ("import os; os.kill(os.getpid(), 15)", Outcome.SIGNAL, None, 15),
    ("import ctypes; ctypes.string_at(0)", Outcome.SIGNAL, None, 11),
    ("import os; os.execv('/bin/true', ['true'])", Outcome.OK, 0, None),
]


@pytest.mark.parametrize(("code", "outcome", "exit_code", "number"), ENDS, ids=[row[0] for row in ENDS])
def test_ends(sandbox: Sandbox, code: str, outcome: Outcome, exit_code: int | None, number: int | None) -> None:
    result = sandbox.run(code)
    assert (result.outcome, result.exit_code, result.signal) == (outcome, exit_code, number)
    assert result.is_error is (outcome is not Outcome.OK)
    assert result.timed_out is False


def test_a_traceback_is_pythons_own_to_the_byte(sandbox: Sandbox) -> None:
    assert sandbox.run("def f():\n    1/0\nf()\n").stderr.splitlines()[:4] == [
        "Traceback (most recent call last):",
        '  File "/sandbox/main.py", line 3, in <module>',
        "    f()",
        '  File "/sandbox/main.py", line 2, in f',
    ]


LATE = {
    "spin": "print('begun')\nwhile True: pass",
    "sleep": "print('begun')\nimport time; time.sleep(60)",
    "ignores signals": """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
print('begun')
while True: pass
""",
    "daemons that hold the pipes": """
import os
print('begun')
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        while True: pass
while True: pass
""",
    "stops itself": "import os, signal\nprint('begun')\nos.kill(os.getpid(), signal.SIGSTOP)",
    "fork bomb": "import os\nprint('begun')\nwhile True:\n  try: os.fork()\n  except OSError: pass",
    "deadlock": "import threading\nprint('begun')\nthreading.Lock().acquire()\nl = threading.Lock(); l.acquire(); l.acquire()",
    "without the interpreter's help": "print('begun')\n10 ** 10 ** 8",
}


@pytest.mark.parametrize("code", LATE.values(), ids=LATE.keys())
def test_late_programs_are_killed_and_their_output_is_kept(sandbox: Sandbox, code: str) -> None:
    begun = time.monotonic()
    result = sandbox.run(code, timeout_ms=500)
    assert time.monotonic() - begun < 5
    assert (result.outcome, result.timed_out, result.stdout) == (Outcome.TIMEOUT, True, "begun\n")


def test_a_flood_is_killed_at_its_deadline_with_its_output(sandbox: Sandbox) -> None:
    result = sandbox.run("import os\nwhile True: os.write(1, b'x' * 65536)", timeout_ms=500)
    assert result.outcome is Outcome.TIMEOUT
    assert result.stdout == "x" * 1_000_000 and result.stdout_truncated


def test_children_of_the_program_end_with_it_without_delay(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    result = sandbox.run(
        "import os, time\nprint('parent', flush=True)\nif os.fork() == 0:\n  os.setsid(); time.sleep(60)", timeout_ms=30_000
    )
    assert (result.outcome, result.stdout) == (Outcome.OK, "parent\n")
    assert time.monotonic() - begun < 10


def test_out_of_memory_is_said_as_such(sandbox: Sandbox) -> None:
    result = sandbox.run("print('begun')\nx = []\nwhile True: x.append(bytearray(1_000_000))")
    assert (result.outcome, result.stdout, result.signal) == (Outcome.OUT_OF_MEMORY, "begun\n", 9)
    assert result.oom_kills == 1


POOLS = """
import concurrent.futures, multiprocessing, os, sys
if sys.argv[1:]:  # what the C library reads on a host of another size
    open('/sys/devices/system/cpu/online', 'w').write(sys.argv[1] + '\\n')
print(os.cpu_count(), flush=True)
with multiprocessing.Pool() as pool: print(pool.map(abs, [-1]))
with concurrent.futures.ProcessPoolExecutor() as pool: print(list(pool.map(abs, [-2])))
"""


@pytest.mark.parametrize(
    ("cpus", "pids", "args", "seen"),
    [(0.5, 64, (), 1), (1.0, 8, (), 1), (1.5, 64, (), 2), (1.0, 64, ("0-55",), 56)],
)
def test_pools_fit(cpus: float, pids: int, args: tuple[str, ...], seen: int) -> None:
    with Sandbox(limits=Limits(cpus=cpus, pids=pids), memory_limit_mb=500) as sandbox:
        result = sandbox.run(Job(code=POOLS, args=args, timeout_ms=30_000))
    assert (result.stdout, result.stderr) == (f"{seen}\n[1]\n[2]\n", "")


def test_pools_of_a_large_hosts_size_would_not_fit() -> None:
    with Sandbox(memory_limit_mb=500) as sandbox:
        result = sandbox.run(Job(code=POOLS, args=("0-127",), timeout_ms=5_000))
    assert result.stdout == "128\n"
    assert result.is_error


def test_an_oversized_allocation_is_a_memory_error(sandbox: Sandbox) -> None:
    result = sandbox.run("bytearray(2 * 10 ** 9)")
    assert result.outcome is Outcome.ERROR
    assert result.stderr.endswith("MemoryError\n")


def test_an_oom_kill_of_a_child_is_not_the_programs(sandbox: Sandbox) -> None:
    code = "import os\npid = os.fork()\nif not pid:\n  x = []\n  while True: x.append(bytearray(1_000_000))\nprint(os.waitpid(pid, 0)[1])"
    result = sandbox.run(code)
    assert (result.outcome, result.stdout, result.oom_kills) == (Outcome.OK, "9\n", 1)


def test_tmpfs_counts_as_memory(sandbox: Sandbox) -> None:
    with Sandbox(memory_limit_mb=30, limits=Limits(tmpfs_bytes=64_000_000, file_size_bytes=64_000_000)) as greedy:
        result = greedy.run("f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1_000_000)); f.flush()")
        assert result.outcome is Outcome.OUT_OF_MEMORY
    result = sandbox.run("f = open('/tmp/x', 'wb')\nwhile True: f.write(bytes(1_000_000)); f.flush()")
    assert result.outcome is Outcome.ERROR
    assert "No space left" in result.stderr or "File too large" in result.stderr


async def test_output_is_kept_to_the_byte_of_its_limit(small: AsyncSandbox) -> None:
    for size, kept, dropped in ((9, 9, 0), (10, 10, 0), (11, 10, 1), (100_000, 10, 99_990)):
        result = await small.run(f"import sys; sys.stdout.write('x' * {size}); sys.stderr.write('y' * 20)")
        assert (result.stdout, result.stdout_dropped, result.stdout_truncated) == ("x" * kept, dropped, dropped > 0)
        assert (result.stderr, result.stderr_truncated, result.outcome) == ("y" * 20, False, Outcome.OK)


async def test_on_output_limit_kill_ends_the_run() -> None:
    async with AsyncSandbox(limits=Limits(stdout_bytes=1000, on_output_limit="kill")) as sandbox:
        result = await sandbox.run("while True: print('x' * 99)", timeout_ms=30_000)
        assert (result.outcome, len(result.stdout), result.stdout_truncated) == (Outcome.OUTPUT_LIMIT, 1000, True)
        assert (await sandbox.run("print('x' * 999)")).outcome is Outcome.OK


def test_bytes_that_are_no_text_are_kept_as_bytes(sandbox: Sandbox) -> None:
    result = sandbox.run(r"import os; os.write(1, b'a\xff\xc3'); os.write(2, 'ü'.encode()[:1]); os.write(2, 'ü'.encode()[1:])")
    assert (result.stdout, result.stdout_bytes, result.stderr, result.stderr_bytes) == ("a��", b"a\xff\xc3", "ü", b"\xc3\xbc")


def test_output_streams_as_it_is_written(sandbox: Sandbox) -> None:
    items = list(sandbox.stream("import time, sys\nprint('one', flush=True)\ntime.sleep(0.3)\nprint('two', file=sys.stderr)"))
    pieces = [item for item in items if isinstance(item, Piece)]
    assert "".join(piece.text for piece in pieces) == "one\ntwo\n"
    assert [stream for stream, _ in itertools.groupby(piece.stream for piece in pieces)] == ["stdout", "stderr"]
    assert isinstance(items[-1], Result) and items[-1].combined == "one\ntwo\n"
    seen: list[str] = []
    sandbox.run("print('one')", on_output=lambda piece: seen.append(piece.text))
    assert "".join(seen) == "one\n"


def test_input(sandbox: Sandbox) -> None:
    code = "import sys, os; print(sys.argv, os.environ['KEY'], repr(sys.stdin.read()))"
    result = sandbox.run(code, stdin="tea\n\x00ü", args=["a b", "", "-x"], env={"KEY": "välue"})
    assert result.stdout == "['main.py', 'a b', '', '-x'] välue 'tea\\n\\x00ü'\n"
    assert sandbox.run("import sys; print(sys.stdin.buffer.read())", stdin=b"\xff\x10\x11").stdout == "b'\\xff\\x10\\x11'\n"
    assert sandbox.run("import sys; print(repr(sys.stdin.read()))").stdout == "''\n"


def test_large_input_echoed_does_not_deadlock(sandbox: Sandbox) -> None:
    text = "x" * 3_000_000
    result = sandbox.run("import sys\nsys.stdout.write('y' * 2_000_000)\nprint(len(sys.stdin.read()), file=sys.stderr)", stdin=text)
    assert (result.stderr, result.stdout_dropped, result.outcome) == ("3000000\n", 1_000_000, Outcome.OK)


OWN_PEAK = "\nprint(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
MOST = {"stdin": 2_000_000, "code": 900_000 + 2_000_000, "data": 3_900_000 + 4_000_000, "files": 3_900_000 + 4_000_000}
"""Bytes that input costs beside what the program makes of it. Code, data and files are files in
memory."""
INPUTS: list[tuple[str, dict[str, Any]]] = [
    ("", {"stdin": "x" * 3_900_000}),
    ("input()", {"stdin": "x\n" * 1_950_000}),
    ("import sys\nfor line in sys.stdin: pass", {"stdin": b"line\n" * 780_000}),
    ("import sys\ntext = sys.stdin.read()", {"stdin": "x" * 3_900_000}),
    ("", {"data": ["x" * 39] * 92_000}),
    ("import sandbox\nsandbox.data", {"data": ["x" * 39] * 92_000}),
    ("import json, sys\nvalue = json.load(sys.stdin)", {"data": ["x" * 39] * 92_000}),
    ("", {"files": {"a": b"x" * 3_900_000}}),
    ("#" * 900_000, {}),
]


@pytest.mark.parametrize(("code", "given"), INPUTS, ids=[f"{next(iter(given), 'code')}-{code[:20]}" for code, given in INPUTS])
def test_input_costs_what_the_program_makes_of_it(code: str, given: dict[str, Any], sandbox: Sandbox) -> None:
    without, having = sandbox.run(OWN_PEAK), sandbox.run(code + OWN_PEAK, **given)
    assert having.outcome is Outcome.OK and without.peak_memory_bytes and having.peak_memory_bytes
    own = (int(having.stdout) - int(without.stdout)) * 1024
    assert having.peak_memory_bytes - without.peak_memory_bytes < own + MOST[next(iter(given), "code")]


def test_unread_input_leaves_a_small_memory_limit_to_the_program() -> None:
    with Sandbox(memory_limit_mb=30) as sandbox:
        for given in ({"stdin": "x" * 3_900_000}, {"stdin": b"x" * 3_900_000}):
            result = sandbox.run("print('begun')", **given)
            assert (result.outcome, result.stdout) == (Outcome.OK, "begun\n")


DATA: list[Any] = [None, True, 0, -1.5, "text ü 🦋", [], {}, {"a": [1, {"b": None}]}, "x" * 500_000, 10**30]


@pytest.mark.parametrize("data", DATA, ids=[str(d)[:20] for d in DATA])
def test_data_goes_in_and_comes_back(sandbox: Sandbox, data: Any) -> None:
    code = "import sandbox, sys, json\nsandbox.send(sandbox.data)\nassert json.loads(sys.stdin.readline()) == sandbox.data"
    result = sandbox.run(code, data=data)
    assert (result.stderr, result.messages) == ("", [data])


def test_data_beside_stdin_and_the_order_of_messages(sandbox: Sandbox) -> None:
    code = "import sandbox, sys\nfor n in range(sandbox.data): sandbox.send([n, sys.stdin.readline()])"
    assert sandbox.run(code, data=3, stdin="a\nb\nc\n").messages == [[0, "a\n"], [1, "b\n"], [2, "c\n"]]


def test_messages_over_the_limit_are_counted_and_dropped(sandbox: Sandbox) -> None:
    result = sandbox.run("import sandbox\nfor n in range(1500): sandbox.send(n)\nsandbox.send('x' * 2_000_000)")
    assert (len(result.messages), result.messages_dropped, result.outcome) == (1000, 501, Outcome.OK)


def test_displays_and_the_last_value_beside_messages(sandbox: Sandbox) -> None:
    code = """
import sandbox
class A:
    _repr_html_ = lambda self: "<b>"
    __repr__ = lambda self: "an A"
sandbox.send(1)
sandbox.display(A())
[2]
"""
    result = sandbox.run(code, last_value=True)
    assert (result.stderr, result.messages, result.last_value) == ("", [1], {"repr": "[2]", "json": [2]})
    assert result.displays == [{"text/html": "<b>", "text/plain": "an A"}]
    assert sandbox.run(code).last_value is None


def test_displays_over_the_limit_are_counted_and_dropped(sandbox: Sandbox) -> None:
    result = sandbox.run("import sandbox\nfor n in range(30): sandbox.display(n)\nsandbox.send(1)")
    assert (len(result.displays), result.displays_dropped, result.messages, result.outcome) == (20, 10, [1], Outcome.OK)


def test_a_message_that_is_no_json_is_dropped_and_counted(sandbox: Sandbox) -> None:
    result = sandbox.run("import os\nos.write(1000, b'\\0\\0\\0\\x03{]}' + b'\\0\\0\\0\\x011' + b'\\0\\0')")
    assert (result.messages, result.messages_dropped, result.outcome) == ([1], 2, Outcome.OK)


def test_mappings_and_jobs(sandbox: Sandbox) -> None:
    assert sandbox.run({"code": "while True: pass", "timeoutMs": 200}).timed_out
    assert sandbox.run({"code": "while True: pass", "timeoutMs": 60_000}, timeout_ms=200).timed_out
    job = Job(code="import sandbox; print(sandbox.data)", data={"x": 1})
    assert sandbox.run(job).stdout == "{'x': 1}\n"
    document = json.loads(msgspec.json.encode(sandbox.run("import sys; sys.exit(3)")))
    assert document["isError"] is True and document["timedOut"] is False
    assert {"stdout", "stderr", "combined", "outcome", "exitCode"} <= document.keys()


@pytest.mark.parametrize(
    ("code", "stdout", "error"),
    [
        ("", "", ""),
        (b"# -*- coding: latin-1 -*-\nprint('\xe4')", "\u00e4\n", ""),
        (b"print(1)\nprint('\xff')", "", "SyntaxError: Non-UTF-8 code starting with '\\xff'"),
        ("print('\ud800')", "", "SyntaxError: Non-UTF-8 code starting with '\\xed'"),
    ],
)
def test_any_bytes_are_a_program(code: str | bytes, stdout: str, error: str, sandbox: Sandbox) -> None:
    result = sandbox.run(Job(code=code))
    assert (result.stdout, result.is_error) == (stdout, bool(error))
    assert error in result.stderr


def test_what_a_null_character_means_is_pythons_to_say(sandbox: Sandbox) -> None:
    # 3.11 reads a file up to it; others refuse it as a syntax error.
    result = sandbox.run("print(1)\0")
    assert (result.stdout, result.outcome) in {("1\n", Outcome.OK), ("", Outcome.ERROR)}


def test_merged_stderr_keeps_the_order(sandbox: Sandbox) -> None:
    code = "import os\nfor i in range(500): os.write(1 + i % 2, b'%d\\n' % i)"
    result = sandbox.run(Job(code=code, merge_stderr=True))
    assert result.stdout == result.combined == "".join(f"{i}\n" for i in range(500))
    assert result.stderr == ""


def test_files_are_there_when_the_program_starts(sandbox: Sandbox) -> None:
    files: dict[str, str | bytes] = {"a/b.csv": b"\xff" * 200_000, "text": "\u00e4"}
    code = "print(len(open('a/b.csv', 'rb').read()), open('text').read())"
    assert sandbox.run(Job(code=code, files=files)).stdout == "200000 \u00e4\n"


BAD: list[tuple[Any, dict[str, Any], type[Exception]]] = [
    (None, {}, TypeError),
    (bytearray(b"print(1)"), {}, TypeError),
    ("#" * 1_000_001, {}, ValueError),
    ({"code": "1", "timeout": 3}, {}, ValueError),
    ("1", {"timeout_ms": 0}, ValueError),
    ("1", {"timeout_ms": math.nan}, ValueError),
    ("1", {"timeout_ms": True}, TypeError),
    ("1", {"timeout_ms": "5"}, TypeError),
    ("1", {"data": {1, 2}}, TypeError),
    ("1", {"data": math.nan}, ValueError),
    ("1", {"env": {"a=b": "c"}}, ValueError),
    ("1", {"env": {"a": "c\0"}}, ValueError),
    ("1", {"stdin": 5}, TypeError),
    ("1", {"stdin": "x" * 4_000_001}, ValueError),
    ("1", {"v3": False}, ValueError),
]


def test_bad_input_is_refused_before_a_container_is_touched(sandbox: Sandbox) -> None:
    end = time.monotonic() + 10
    while sandbox.stats().warm < 2 and time.monotonic() < end:
        time.sleep(0.02)
    before = sandbox.stats()
    for code, options, error in BAD:
        with pytest.raises(error):
            sandbox.run(code, **options)
    after = sandbox.stats()
    assert (after.made, after.runs, after.errors) == (before.made, before.runs, before.errors)


def test_what_cannot_work_is_said_at_initialize() -> None:
    rows: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"image": "no/such:image"}, ImageMissing, "dayfly image build"),
        ({"runtime": "nope"}, EngineError, "nope"),
        ({"docker_host": "unix:///no/such.sock"}, EngineUnreachable, "no socket"),
    ]
    for options, error, text in rows:
        with pytest.raises(error, match=text):
            Sandbox(**options).initialize()


def test_nothing_of_a_run_is_visible_to_a_later_one(sandbox: Sandbox) -> None:
    sandbox.run("open('/tmp/mine', 'w').write('x'); open('/dev/shm/mine', 'w').write('x'); open('mine', 'w').write('x')")
    for _ in range(4):
        result = sandbox.run("import os; print(os.listdir('/tmp'), os.listdir('/dev/shm'), os.listdir())")
        assert result.stdout == "[] [] ['main.py']\n"


def test_programs_live_without_privileges_and_network(sandbox: Sandbox) -> None:
    code = """
import os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(os.getuid() >= 20_000, status["CapEff"].strip(), status["CapBnd"].strip(), status["NoNewPrivs"].strip(), status["Seccomp"].strip())
for path in ("/", "/etc", "/usr/lib/python3", "/sys/fs/cgroup", "/dev"):
    print(path, os.access(path, os.W_OK))
print(open("/proc/net/dev").read().count(":"))
for address in ("1.1.1.1", "172.17.0.1", "169.254.169.254"):
    try: socket.create_connection((address, 80), 2)
    except OSError as error: print(error.strerror)
server = socket.create_server(("127.0.0.1", 0)); client = socket.create_connection(server.getsockname()); print("loopback")
"""
    result = sandbox.run(code)
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "True 0000000000000000 0000000000000000 1 2",
        *(f"{path} False" for path in ("/", "/etc", "/usr/lib/python3", "/sys/fs/cgroup", "/dev")),
        "1",
        *["Network is unreachable"] * 3,
        "loopback",
    ]
