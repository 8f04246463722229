"""Judging on a real engine: every verdict by a real program, and what a submission may try to get a
better one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from dayfly import AsyncSandbox, Limits, PoolClosed, Sandbox
from dayfly.judge import (
    Answer,
    Call,
    Case,
    CaseLimits,
    CaseResult,
    CaseRun,
    Cases,
    Exact,
    Group,
    Interactor,
    JudgeResult,
    Program,
    Tokens,
    Verdict,
    _programs,
    lcb,
)

ADD_ONE = "print(int(input()) + 1)"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(pool_size=2, max_containers=6) as sandbox:
        yield sandbox


def numbers(count: int) -> list[Case]:
    return [Case(stdin=str(number), expected=str(number + 1), name=str(number)) for number in range(count)]


def verdicts(told: JudgeResult) -> list[str]:
    return [case.verdict.value for case in told.cases]


@pytest.mark.parametrize(
    ("code", "limits", "verdict"),
    [
        (ADD_ONE, CaseLimits(), Verdict.ACCEPTED),
        ("print(input())", CaseLimits(), Verdict.WRONG_ANSWER),
        ("", CaseLimits(), Verdict.WRONG_ANSWER),
        ("1 / 0", CaseLimits(), Verdict.RUNTIME_ERROR),
        ("print(1); raise SystemExit(3)", CaseLimits(), Verdict.RUNTIME_ERROR),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", CaseLimits(), Verdict.RUNTIME_ERROR),
        ("while True: pass", CaseLimits(cpu_ms=100, wall_ms=60_000), Verdict.TIME_LIMIT),
        ("import time; time.sleep(60)", CaseLimits(cpu_ms=100, wall_ms=300), Verdict.TIME_LIMIT),
        ("import time; time.sleep(60)", CaseLimits(wall_ms=300), Verdict.TIME_LIMIT),
        ("kept = [bytes(range(250)) * 4_000 for _ in range(1_000)]", CaseLimits(), Verdict.MEMORY_LIMIT),
        ("while True: print('x' * 1_000)", CaseLimits(output_bytes=10_000), Verdict.OUTPUT_LIMIT),
        ("import sys\nwhile True: sys.stderr.write('x' * 1_000)", CaseLimits(output_bytes=10_000), Verdict.OUTPUT_LIMIT),
        ("print('x' * 2_000_000)", CaseLimits(), Verdict.OUTPUT_LIMIT),
        ("print(1", CaseLimits(), Verdict.COMPILE_ERROR),
        ("if True:\nprint(1)", CaseLimits(), Verdict.COMPILE_ERROR),
    ],
)  # fmt: skip
def test_each_verdict(sandbox: Sandbox, code: str, limits: CaseLimits, verdict: Verdict) -> None:
    told = sandbox.judge(code, numbers(1), limits=limits)
    assert told.verdict is verdict, told
    expected = Verdict.SKIPPED if verdict is Verdict.COMPILE_ERROR else verdict
    assert verdicts(told) == [expected.value]
    assert told.passed == (verdict is Verdict.ACCEPTED)


def test_a_limit_of_processor_time_covers_every_process(sandbox: Sandbox) -> None:
    burn = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    told = sandbox.judge(burn, numbers(1), limits=CaseLimits(cpu_ms=200, wall_ms=60_000))
    assert told.verdict is Verdict.TIME_LIMIT
    result = told.cases[0].result
    assert result is not None
    assert result.cpu_limited
    assert result.timed_out
    assert result.cpu_ms is not None
    # It is looked at every few milliseconds; what four processes use meanwhile is beyond it.
    assert 200 <= result.cpu_ms < 300


def test_a_compile_error_says_what_python_says(sandbox: Sandbox) -> None:
    told = sandbox.judge("x = 1\nx = (", numbers(3), concurrency=2)
    assert "SyntaxError" in told.feedback
    assert 'File "submission.py", line 2' in told.feedback
    assert verdicts(told) == ["skipped"] * 3
    # A program that only says so is not one.
    forged = "import sys; sys.stderr.write('SyntaxError: x'); sys.exit(1)"
    assert sandbox.judge(forged, numbers(2)).verdict is Verdict.RUNTIME_ERROR


@pytest.mark.parametrize("concurrency", [1, 3])
def test_stopping_gives_the_same_for_any_number_of_workers(sandbox: Sandbox, concurrency: int) -> None:
    code = "n = int(input())\nprint(n if n in (2, 4) else n + 1)"
    seen: list[CaseResult] = []
    told = sandbox.judge(code, numbers(6), stop="first", concurrency=concurrency, on_case=seen.append)
    assert verdicts(told) == ["accepted", "accepted", "wrong_answer", "skipped", "skipped", "skipped"]
    assert [case.verdict for case in seen] == [case.verdict for case in told.cases]
    assert told.counts == {"accepted": 2, "wrong_answer": 1, "skipped": 3}
    told = sandbox.judge(code, numbers(6), concurrency=concurrency)
    assert (told.passed, told.verdict) == (4, Verdict.WRONG_ANSWER)


def test_groups_require_and_stop(sandbox: Sandbox) -> None:
    cases = [Case(stdin=str(n), expected=str(n + 1), group=group) for n, group in enumerate("aabbcc")]
    groups = [Group("b", score="all", points=10), Group("c", require=["b"])]
    code = "n = int(input())\nprint(n if n == 2 else n + 1)"
    told = sandbox.judge(code, cases, groups=groups, stop="group", concurrency=2)
    assert verdicts(told) == ["accepted", "accepted", "wrong_answer", "skipped", "skipped", "skipped"]
    assert (told.score, told.max_score) == (2.0, 14.0)


# Calls.


CALLS = [Case(call=Call("add", [n], {"other": 1}), expected=n + 1) for n in range(2)]


@pytest.mark.parametrize(
    "code",
    [
        "def add(n, other): return n + other",
        "class Solution:\n    def add(self, n, other): return n + other",
        "from functools import partial\nadd = lambda n, other: float(n + other)",
    ],
)
def test_functions_and_methods(sandbox: Sandbox, code: str) -> None:
    assert sandbox.judge(code, CALLS).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("def add(n, other): return n", Verdict.WRONG_ANSWER),
        ("def add(n, other): 1 / 0", Verdict.RUNTIME_ERROR),
        ("def other(): ...", Verdict.RUNTIME_ERROR),
        ("class Solution: ...", Verdict.RUNTIME_ERROR),
        ("def add(n, other): return object()", Verdict.RUNTIME_ERROR),
        ("def add(n, other): return {(1, 2): 3}", Verdict.RUNTIME_ERROR),
        ("def add(n, other): raise SystemExit(0)", Verdict.RUNTIME_ERROR),
        ("import os; os._exit(0)", Verdict.RUNTIME_ERROR),
        ("def add(n, other): return 'x' * 2_000_000", Verdict.OUTPUT_LIMIT),
        ("def add(n, other", Verdict.COMPILE_ERROR),
        # What the program's own values say of equality decides nothing.
        ("class Yes(int):\n    def __eq__(self, other): return True\ndef add(n, other): return Yes(77)", Verdict.WRONG_ANSWER),
    ],
)
def test_what_a_call_may_end_in(sandbox: Sandbox, code: str, verdict: Verdict) -> None:
    assert sandbox.judge(code, CALLS).verdict is verdict


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        ("(1, [2, (3,)])", [1, [2, [3]]]),
        ("{'a': {1: None}}", {"a": {"1": None}}),
        ("[True, 1.5, 'é\\n', 2 ** 100]", [True, 1.5, "é\n", 2**100]),
        ("float('inf')", {"$float": "inf"}),
        ("[x for x in {7}]", [7]),
        ("{7}", [7]),
        ("__import__('collections').deque([1])", [1]),
        ("__import__('collections').Counter('aa')", {"a": 2}),
        ("__import__('enum').IntEnum('E', 'A').A", 1),
    ],
)
def test_what_becomes_of_a_value(sandbox: Sandbox, returned: str, expected: Any) -> None:
    told = sandbox.judge(f"def f(): return {returned}", [Case(call=Call("f"), expected=expected)])
    assert told.verdict is Verdict.ACCEPTED, told


def test_an_error_of_a_call_shows_the_submission_s_own_frames(sandbox: Sandbox) -> None:
    result = sandbox.judge("def add(n, other):\n    return 1 / 0", CALLS[:1]).cases[0].result
    assert result is not None
    assert 'File "/sandbox/submission.py", line 2, in add' in result.stderr
    assert "main.py" not in result.stderr


def test_asserts_and_livecodebench_s_cases(sandbox: Sandbox) -> None:
    tests = {"inputs": ["1\n2"], "outputs": ["3"], "fn_name": "add", "assert_case": ["assert add(2, 2) == 4"]}
    cases = Cases.from_lcb(tests)
    assert sandbox.judge("def add(a, b): return a + b", cases).verdict is Verdict.ACCEPTED
    assert verdicts(sandbox.judge("def add(a, b): return 3", cases)) == ["wrong_answer", "accepted"]
    assert verdicts(sandbox.judge("def add(a, b): return undefined", cases)) == ["runtime_error"] * 2
    early = sandbox.judge("import sys; sys.exit(0)", cases)
    assert verdicts(early) == ["runtime_error"] * 2


# Checkers.


def test_a_function_of_the_host_checks(sandbox: Sandbox) -> None:
    def check(run: CaseRun) -> Any:
        return {"a": True, "b": 0.5, "c": Answer(0.25, "a quarter"), "d": "yes", "e": 2}[run.case.name]

    told = sandbox.judge("print(1)", [Case(name=name, points=4) for name in "abcde"], checker=check)
    assert verdicts(told) == ["accepted", "partial", "partial", "judge_error", "judge_error"]
    assert [case.points for case in told.cases] == [4.0, 2.0, 1.0, 0.0, 0.0]
    assert told.cases[2].feedback == "a quarter"
    assert isinstance(told.cases[3].exception, TypeError)
    assert told.cases[3].retry_safe is False


SAME = "import sys\n_, output, answer = (open(name).read().split() for name in sys.argv[1:4])\nsys.exit(output != answer)"


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (SAME, Verdict.ACCEPTED),
        ("import sys; sys.exit(1)", Verdict.WRONG_ANSWER),
        ("1 / 0", Verdict.JUDGE_ERROR),
        ("import sys; sys.exit(2)", Verdict.JUDGE_ERROR),
        ("syntax error", Verdict.JUDGE_ERROR),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Verdict.JUDGE_ERROR),
    ],
)
def test_a_program_checks_in_a_container_of_its_own(sandbox: Sandbox, code: str, verdict: Verdict) -> None:
    told = sandbox.judge(ADD_ONE, numbers(2), checker=Program(code=code), concurrency=2)
    assert verdicts(told) == [verdict.value] * 2


def test_a_checker_of_the_kattis_protocol(sandbox: Sandbox) -> None:
    code = textwrap.dedent("""\
        import sys
        answer = open(sys.argv[2]).read().split()
        with open(sys.argv[3] + "/judgemessage.txt", "w") as file:
            file.write("seen")
        sys.exit(42 if sys.stdin.read().split() == answer else 43)
    """)
    told = sandbox.judge("print(2)", [Case(expected="2"), Case(expected="3")], checker=Program(code=code, protocol="kattis"))
    assert verdicts(told) == ["accepted", "wrong_answer"]
    assert told.cases[0].feedback == "seen"


def test_a_checker_program_needs_two_containers() -> None:
    with Sandbox(max_containers=1) as sandbox, pytest.raises(ValueError, match="max_containers"):
        sandbox.judge(ADD_ONE, numbers(1), checker=Program(code=SAME))


GUESS = """\
low, high = 1, 1_000_000
while True:
    middle = (low + high) // 2
    print(middle, flush=True)
    said = input()
    if said == "yes": break
    low, high = (middle + 1, high) if said == "higher" else (low, middle - 1)
"""
KEEPER = """\
import sys
number = int(open(sys.argv[1]).read())
for _ in range(30):
    guess = int(input())
    print("yes" if guess == number else "higher" if guess < number else "lower", flush=True)
    if guess == number:
        sys.exit(0)
sys.stderr.write("too many guesses")
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (GUESS, Verdict.ACCEPTED),
        (GUESS.replace("(low + high) // 2", "low"), Verdict.WRONG_ANSWER),
        ("input()", Verdict.TIME_LIMIT),
        ("1 / 0", Verdict.RUNTIME_ERROR),
        ("print('x', flush=True); input()", Verdict.JUDGE_ERROR),
        ("pass", Verdict.JUDGE_ERROR),
    ],
)
def test_two_programs_talk(sandbox: Sandbox, code: str, verdict: Verdict) -> None:
    cases = [Case(stdin=str(number)) for number in (600_000, 777_777)]
    told = sandbox.judge(code, cases, checker=Interactor(code=KEEPER), limits=CaseLimits(wall_ms=5_000), concurrency=2)
    assert verdicts(told) == [verdict.value] * 2, told


def test_an_interactor_outlives_a_silent_submission(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_programs, "CHECKER_TIMEOUT_MS", 500)
    told = sandbox.judge("input()", [Case(stdin="1")], checker=Interactor(code=KEEPER), limits=CaseLimits(wall_ms=2_000))
    assert verdicts(told) == ["time_limit"], told


def test_a_conversation_is_kept_up_to_a_bound(sandbox: Sandbox) -> None:
    told = sandbox.judge(GUESS, [Case(stdin="750000")], checker=Interactor(code=KEEPER))
    assert told.cases[0].transcript == "> 500000\n< higher\n> 750000\n< yes\n"
    flood = "while True: print('x' * 1_000)"
    listener = "import sys\nfor line in sys.stdin: pass\nsys.exit(1)"
    one = sandbox.judge(flood, [Case()], checker=Interactor(code=listener), limits=CaseLimits(output_bytes=500_000)).cases[0]
    assert one.verdict is Verdict.OUTPUT_LIMIT
    assert len(one.transcript) == 4_096


def test_many_judgings_with_programs_do_not_wait_for_each_other() -> None:
    with Sandbox(pool_size=1, max_containers=3) as sandbox:
        found: list[Verdict] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(sandbox.judge(ADD_ONE, numbers(2), checker=Program(code=SAME), concurrency=2).verdict)
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [Verdict.ACCEPTED] * 4


# What a submission may try.


PLANT = """\
import os, socket, threading, glob
seen = []
for folder in (".", "/tmp", "/dev/shm"):
    seen += [path for path in glob.glob(folder + "/*") if not path.endswith(("main.py", "data.json"))]
n = int(input())
for folder in (".", "/tmp", "/dev/shm"):
    open(f"{folder}/seen-{n}", "w").write("x")
if os.fork() == 0:
    os.setsid()
    while True: pass
print(seen or n + 1)
"""


def test_nothing_of_one_case_is_seen_by_the_next(sandbox: Sandbox) -> None:
    told = sandbox.judge(PLANT, numbers(4), limits=CaseLimits(wall_ms=20_000))
    assert verdicts(told) == ["accepted"] * 4


SEARCH = """\
import glob, os
secret = b"se" + b"cret-answer"
found = []
for folder in ("/sandbox", "/tmp", "/dev", "/run", "/var", "/home", "/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline"):
    for path in glob.glob(folder) + glob.glob(folder + "/**/*", recursive=True):
        try:
            if os.path.isfile(path) and secret in open(path, "rb").read(1_000_000):
                found.append(path)
        except OSError:
            pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        for line in open(f"/proc/{pid}/maps") if int(pid) != os.getpid() else ():
            low, high = (int(part, 16) for part in line.split()[0].split("-"))
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(low)
                if secret in memory.read(min(high - low, 1_000_000)):
                    found.append(pid)
    except (OSError, ValueError, OverflowError):
        pass
print(found)
"""


FORKED = """\
import os, sys, time
kept = sys.stdin.read() * 1_000
child = os.fork()
if child == 0:
    time.sleep(30)
    os._exit(0)
kept = None
"""


def outputs_of(told: JudgeResult) -> list[str]:
    return [case.result.stdout if case.result else "" for case in told.cases]


def test_what_is_expected_is_not_in_the_container(sandbox: Sandbox) -> None:
    cases = [Case(expected="[]"), Case(stdin="secret-answer", expected="[]"), Case(expected="secret-answer")]
    told = sandbox.judge(SEARCH, cases, checker=Exact(), limits=CaseLimits(wall_ms=60_000))
    assert outputs_of(told) == ["[]\n"] * 3
    # The search finds what there is: in a file, and in the memory of another process.
    there = [Case(files_text={"note": "secret-answer"}), Case(stdin="secret-answer")]
    assert outputs_of(sandbox.judge(SEARCH, there[:1], limits=CaseLimits(wall_ms=60_000))) == ["['/sandbox/note']\n"]
    found = outputs_of(sandbox.judge(FORKED + SEARCH, there[1:], limits=CaseLimits(wall_ms=60_000)))
    assert re.fullmatch(r"\['\d+'.*\]\n", found[0]), found


SPEND = """\
import os, time
n = int(input())
time.sleep(0.3)
while time.process_time() < 0.15: pass
print([n + 1, os.listdir("/tmp")] if os.listdir("/tmp") else n + 1)
open(f"/tmp/{n}", "w").close()
if n == 0 and os.fork() == 0:
    while True: pass  # into the next case, were it left
"""


def test_a_late_case_has_its_own_time(sandbox: Sandbox) -> None:
    """What earlier cases took, and what they left running, is not a later one's."""
    told = sandbox.judge(SPEND, numbers(5), limits=CaseLimits(cpu_ms=450, wall_ms=10_000))
    assert verdicts(told)[1:] == ["accepted"] * 4
    assert told.cases[0].verdict in (Verdict.ACCEPTED, Verdict.TIME_LIMIT)  # its child may be seen
    assert all(case.cpu_ms is not None and 100 <= case.cpu_ms <= 450 for case in told.cases[1:])


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print('accepted'); print('score 1.0', file=__import__('sys').stderr)",
        "import sandbox; sandbox.send({'returned': 2})",
        'import os, struct\nbody = b\'{"type":"exit","exit_code":0}\'\nos.write(1, struct.pack(\'>I\', len(body)) + body)',
        "import os, signal\nos.kill(-1, signal.SIGKILL)",
    ],
)
def test_no_trick_is_an_accepted_case(sandbox: Sandbox, code: str) -> None:
    told = sandbox.judge(code, numbers(3))
    assert told.passed == 0
    assert set(verdicts(told)) <= {"wrong_answer", "runtime_error"}


def test_a_program_that_spends_its_container_costs_one(sandbox: Sandbox) -> None:
    before = sandbox.stats().made
    code = "import os, signal\nn = int(input())\nprint(n + 1, flush=True)\nif n == 1: os.kill(-1, signal.SIGKILL)"
    told = sandbox.judge(code, numbers(4))
    assert verdicts(told) == ["accepted"] * 4  # who kills all others does not kill itself
    assert sandbox.stats().made >= before + 1


def test_a_container_that_is_lost_is_a_judge_error(engine: Any) -> None:
    with Sandbox(max_containers=1) as sandbox:

        def lose(case: CaseResult) -> None:
            if case.name == "0":
                threading.Thread(target=kill).start()

        def kill() -> None:
            time.sleep(0.5)
            for row in engine.containers(os.getpid()):
                if row["State"] == "running":
                    engine.call("POST", f"/containers/{row['Id']}/kill")

        slow = "import time\nn = int(input())\ntime.sleep(3 if n == 1 else 0)\nprint(n + 1)"
        told = sandbox.judge(slow, numbers(4), on_case=lose)
    assert verdicts(told) == ["accepted", "judge_error", "accepted", "accepted"]
    lost = told.cases[1]
    assert (lost.retry_safe, type(lost.exception).__name__) == (False, "SessionLost")
    assert lost.error is not None
    assert lost.error.startswith("SessionLost: ")


# Its life.


def test_what_a_callback_raises_is_raised(sandbox: Sandbox) -> None:
    def fail(case: CaseResult) -> None:
        raise KeyError(case.name)

    with pytest.raises(KeyError):
        sandbox.judge(ADD_ONE, numbers(3), on_case=fail)
    assert sandbox.judge(ADD_ONE, numbers(1)).verdict is Verdict.ACCEPTED


async def test_a_judging_that_is_cancelled_leaves_nothing(anyio_backend: str) -> None:
    async with AsyncSandbox(pool_size=1) as sandbox:
        with anyio.move_on_after(1.0) as scope:
            await sandbox.judge("import time; time.sleep(30)", numbers(2), concurrency=2, limits=CaseLimits(wall_ms=60_000))
        assert scope.cancelled_caught
        assert sandbox.stats().sessions == 0
        seen: list[CaseResult] = []
        told = await sandbox.judge(ADD_ONE, numbers(3), concurrency=2, on_case=seen.append)
        assert told.verdict is Verdict.ACCEPTED
        assert len(seen) == 3


async def test_close_ends_a_judging(anyio_backend: str) -> None:
    sandbox = AsyncSandbox(pool_size=1)
    await sandbox.initialize()
    raised: list[BaseException] = []

    async def judge() -> None:
        try:
            await sandbox.judge("import time; time.sleep(30)", numbers(2), limits=CaseLimits(wall_ms=60_000))
        except PoolClosed as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(judge)
        await anyio.sleep(1.0)
        await sandbox.close()
    assert len(raised) == 1


def test_eight_judgings_at_once(sandbox: Sandbox) -> None:
    found: list[Verdict] = []
    threads = [threading.Thread(target=lambda: found.append(sandbox.judge(ADD_ONE, numbers(5), checker=lcb()).verdict)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == [Verdict.ACCEPTED] * 8


DISPLAY = """\
import os
body = b'{text}' % (b"x" * 500_000)
item = (len(body) | 1 << 31).to_bytes(4, "big") + body
while item:
    item = item[os.write(1000, item) :]
"""


def test_output_is_kept_up_to_a_bound() -> None:
    with Sandbox(limits=Limits(stdout_bytes=2_000_000)) as sandbox:
        cases = [Case(expected="x" * 500_000), Case(expected="y")]
        told = sandbox.judge("print('x' * 500_000)", cases, checker=Tokens(), keep_output=100)
        assert verdicts(told) == ["accepted", "wrong_answer"]
        assert [(case.cut, case.result and len(case.result.stdout)) for case in told.cases] == [(True, 100)] * 2
        whole = sandbox.judge("print('x' * 500_000)", cases[:1], keep_output=None).cases[0]
        assert (whole.cut, whole.result and len(whole.result.stdout)) == (False, 500_001)
        # A display, and what claims to be the last value of a program that was not asked for it.
        for text in ('{"text/plain": "%s"}', '{"application/vnd.dayfly.value+json": {"repr": "%s"}}'):
            shown = sandbox.judge(DISPLAY.format(text=text), [Case()]).cases[0]
            assert (shown.cut, shown.result and (shown.result.displays_raw, shown.result.last_value)) == (True, ([], None))


def test_bad_input_costs_nothing(sandbox: Sandbox) -> None:
    while (before := sandbox.stats()).ending or before.uncertain:  # of the tests before
        time.sleep(0.05)
    for options, message in [
        ({"stop": "all"}, "stop must be"),
        ({"concurrency": 0}, "concurrency"),
        ({"keep_output": -1}, "keep_output"),
        ({"checker": 1}, "a checker must be"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            sandbox.judge(ADD_ONE, numbers(1), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="input_bytes"):
        sandbox.judge(ADD_ONE, [Case(stdin="x" * 5_000_000)])
    with pytest.raises(TypeError, match="code must be"):
        sandbox.judge(1, numbers(1))  # type: ignore[arg-type]
    assert sandbox.stats() == before


HOST = """\
from dayfly import Sandbox
from dayfly.judge import Case, CaseLimits
with Sandbox(pool_size=2) as sandbox:
    cases = [Case(stdin=str(n), expected=str(n)) for n in range(50)]
    sandbox.judge("import time; time.sleep(1); print(input())", cases, concurrency=2, on_case=lambda case: print(case.verdict, flush=True))
"""


@pytest.mark.alone
def test_a_killed_host_leaves_no_container(engine: Any) -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE)
    assert host.stdout is not None
    assert host.stdout.readline() == b"accepted\n"
    os.kill(host.pid, signal.SIGKILL)
    host.wait()
    host.stdout.close()
    end = time.monotonic() + 20
    while (left := engine.containers(host.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == []
