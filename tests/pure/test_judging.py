"""A judging with sessions that are scripted: what its workers do, and in which order."""

from __future__ import annotations

import gc
import json
import tracemalloc
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from dayfly import Job, Limits, Outcome, Result, SessionLost
from dayfly._events import Event, Leased
from dayfly._job import RunOptions, request
from dayfly._messages import Output, Request, Started
from dayfly.judge import Answer, Case, CaseLimits, CaseResult, CaseRun, Checker, Exact, Interactor, JudgeResult, Program, Verdict
from dayfly.judge._judging import Judging
from dayfly.judge._programs import NOT_PYTHON, SYNTAX_CHECK

pytestmark = pytest.mark.anyio


def result(outcome: Outcome = Outcome.OK, **changes: Any) -> Result:
    values: dict[str, Any] = {
        "stdout": "",
        "stderr": "",
        "combined": "",
        "is_error": outcome is not Outcome.OK,
        "timed_out": outcome is Outcome.TIMEOUT,
        "exit_code": 0 if outcome is Outcome.OK else 1 if outcome is Outcome.ERROR else None,
        "signal": None,
        "stdout_truncated": False,
        "stderr_truncated": False,
    }
    return Result(outcome=outcome, **{**values, **changes})


INVALID = result(Outcome.ERROR, stderr="  File\nSyntaxError: x\n")
NOT_VALID = result(Outcome.ERROR, exit_code=NOT_PYTHON, stderr="SyntaxError: x")

Script = Callable[["Session", Request], AsyncGenerator[Event, None]]


class Session:
    """Runs what the script says."""

    def __init__(self, script: Script, number: int) -> None:
        self.number = number
        self._script = script
        self._busy = False
        self.fed: list[bytes] = []

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def _feed(self, data: bytes) -> None:
        self.fed.append(data)

    async def _events(self, wanted: Request) -> AsyncGenerator[Event, None]:
        assert not self._busy, "a session runs one program at a time"
        self._busy = True
        try:
            yield Leased()
            async with aclosing(self._script(self, wanted)) as happening:
                async for event in happening:
                    yield event
        finally:
            self._busy = False


class Provider:
    """A sandbox whose programs are a script."""

    timeout_ms = 1_000.0
    max_containers = 8
    _judge_pairs: anyio.Semaphore | None = None

    def __init__(self, script: Script, **limits: Any) -> None:
        self.limits = Limits(**limits)
        self._script = script
        self._sessions = 0

    def session(self, **_: object) -> Any:
        self._sessions += 1
        return Session(self._script, self._sessions - 1)

    def _prepare(self, code: Job, _options: RunOptions, *, clean: bool) -> Request:
        return request(code, self.limits, timeout_ms=self.timeout_ms, python="3", clean=clean)


async def judge(
    script: Script, cases: list[Case], *, on_case: Any = None, limits: dict[str, Any] | None = None, **options: Any
) -> JudgeResult:
    with anyio.fail_after(20):
        return await Judging(Provider(script, **(limits or {})), "code", cases, **options).run(on_case)


def of(wanted: Request) -> str:
    """Return which program is asked for: `syntax`, `checker`, or the case's input."""
    files = dict(wanted.files)
    if files["main.py"] == SYNTAX_CHECK.encode():
        return "syntax"
    return "checker" if "checker.py" in files else wanted.stdin.decode()


def numbers(count: int) -> list[Case]:
    return [Case(stdin=str(number), expected="1", name=str(number)) for number in range(count)]


def verdicts(told: JudgeResult) -> list[str]:
    return [case.verdict.value for case in told.cases]


# Whether the submission is valid Python.


@pytest.mark.parametrize("stop", ["first", "group", None])
@pytest.mark.parametrize("slow", ["0", "1", "syntax"])
async def test_a_compile_error_is_one_for_any_order(stop: Any, slow: str) -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        await anyio.sleep(0.05 if of(wanted) == slow else 0.01 * session.number)
        yield NOT_VALID if of(wanted) == "syntax" else INVALID

    seen: list[CaseResult] = []
    told = await judge(script, numbers(3), concurrency=2, stop=stop, on_case=seen.append)
    assert (told.verdict, told.feedback, verdicts(told)) == (Verdict.COMPILE_ERROR, "SyntaxError: x", ["skipped"] * 3)
    assert [case.verdict for case in seen] == [case.verdict for case in told.cases]


async def test_the_syntax_is_checked_once() -> None:
    checks = 0

    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        nonlocal checks
        checks += of(wanted) == "syntax"
        await anyio.sleep(0.01)
        yield result() if of(wanted) == "syntax" else INVALID

    told = await judge(script, numbers(6), concurrency=3)
    assert (verdicts(told), checks) == (["runtime_error"] * 6, 1)


async def test_a_check_that_fails_is_made_again_for_the_next_case() -> None:
    checks = 0

    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        nonlocal checks
        if of(wanted) == "syntax":
            checks += 1
            if checks == 1:
                raise SessionLost("gone", delivered=True)
            yield NOT_VALID
        yield INVALID

    told = await judge(script, numbers(2))
    assert (told.verdict, checks) == (Verdict.COMPILE_ERROR, 2)


@pytest.mark.parametrize("ended", [Outcome.OUTPUT_LIMIT, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY])
async def test_limits_do_not_hide_a_compile_error(ended: Outcome) -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield NOT_VALID if of(wanted) == "syntax" else result(ended, stderr="  File", stderr_truncated=ended is Outcome.OUTPUT_LIMIT)

    assert (await judge(script, numbers(1))).verdict is Verdict.COMPILE_ERROR


# What is left of a case.


def decode(run: CaseRun) -> bool:
    json.loads(run.result.stdout)
    return True


def raise_it(run: CaseRun) -> bool:
    raise KeyError(run.result.stdout)


def misspell(run: CaseRun) -> bool:
    return bool(run.result.sdtout)  # type: ignore[attr-defined]


def enclose(run: CaseRun) -> bool:
    def inner() -> bool:
        raise ValueError(len(run.result.stdout))

    return inner()


def divide(run: CaseRun) -> bool:
    text = run.result.stdout  # noqa: F841 - a variable of the frame
    return bool(1 / 0)


@pytest.mark.parametrize(
    ("checker", "count"),
    [(Exact(), 1_000), (Program(code="x"), 1_000), *((check, 100) for check in (decode, raise_it, misspell, enclose, divide))],
)
async def test_a_report_holds_little_of_a_large_output(checker: Any, count: int) -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        if of(wanted) == "checker":
            raise SessionLost("gone", delivered=True)
        text = of(wanted).ljust(1_000_000, "x")
        yield result(stdout=text, combined=text)

    tracemalloc.start()
    try:
        told = await judge(script, numbers(count), checker=checker, concurrency=2)
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()  # trio leaves cycles
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert set(verdicts(told)) == {"wrong_answer" if checker == Exact() else "judge_error"}
    assert held < count * 20_000
    assert peak < 50_000_000 + held


async def test_a_judge_error_keeps_its_exception() -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield result(stdout="x" * 5_000)

    case = (await judge(script, numbers(1), checker=divide)).cases[0]
    assert (case.error, type(case.exception)) == ("ZeroDivisionError: division by zero", ZeroDivisionError)
    assert case.exception is not None
    assert "in divide\n    return bool(1 / 0)" in case.exception.__dict__["__notes__"][0]
    case = (await judge(script, numbers(1), checker=raise_it)).cases[0]
    assert type(case.exception) is RuntimeError
    assert case.error is not None
    assert str(case.exception) == case.error
    assert case.error.startswith("KeyError: ")
    kept = (await judge(script, numbers(1), checker=raise_it, keep_output=None)).cases[0]
    assert isinstance(kept.exception, KeyError)


class Odd(Checker, frozen=True):
    """A checker of somebody else's."""

    def check(self, _expected: bytes, _output: bytes) -> Answer:
        return Answer(2.0, "\x1b[2J")


@pytest.mark.parametrize(
    "said",
    [Answer(2.0), Answer(-0.1), Answer(float("nan")), Answer("1"), Answer(1.0, b"x"), "yes", None, 1.5],  # type: ignore[arg-type]
)
async def test_what_is_not_an_answer_is_a_judge_error(said: Any) -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield result(stdout="1")

    told = await judge(script, numbers(1), checker=lambda _: said)
    assert (verdicts(told), told.score) == (["judge_error"], 0.0)
    assert verdicts(await judge(script, numbers(1), checker=Odd())) == ["judge_error"]


async def test_feedback_of_a_function_is_bounded_and_visible() -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield result(stdout="1")

    case = (await judge(script, numbers(1), checker=lambda _: Answer(0.5, "\x1b\u202e" + "x" * 1_000))).cases[0]
    assert (case.verdict, case.feedback) == (Verdict.PARTIAL, "\ufffd\ufffd" + "x" * 254)


# Checkers that are programs.


async def test_a_long_output_does_not_count_as_a_checker_s_input() -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield result(stdout="" if of(wanted) == "checker" else "x" * 900_000)

    program = Program(code="x")
    told = await judge(script, [Case(stdin="y" * 900_000)], checker=program, limits={"input_bytes": 1_000_000})
    assert verdicts(told) == ["accepted"]
    with pytest.raises(ValueError, match="input_bytes"):
        await judge(script, [Case(expected="y" * 1_000_000)], checker=program, limits={"input_bytes": 1_000_000})
    with pytest.raises(ValueError, match=r"case 'a' .*tmpfs_bytes"):
        await judge(script, [Case(name="a")], checker=program, limits={"tmpfs_bytes": 1_000_000})
    small = [Case(limits=CaseLimits(output_bytes=10_000))]
    assert verdicts(await judge(script, small, checker=program, limits={"tmpfs_bytes": 1_000_000})) == ["accepted"]


@pytest.mark.parametrize("checker", [Program(code="x", protocol="kattis"), Interactor(code="x"), Interactor(code="x", protocol="kattis")])
async def test_an_output_that_is_no_file_takes_no_room_on_tmpfs(checker: Program) -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield Started(preloaded=False)
        yield result(Outcome.ERROR, exit_code=42) if of(wanted) == "checker" and checker.protocol == "kattis" else result()

    told = await judge(script, [Case()], checker=checker, limits={"tmpfs_bytes": 100_000})
    assert verdicts(told) == ["accepted"]
    with pytest.raises(ValueError, match="tmpfs_bytes"):
        await judge(script, [Case(stdin="x" * 100_000)], checker=checker, limits={"tmpfs_bytes": 100_000})


# Two programs that talk.


def talking(interactor: Script, submission: Script) -> Script:
    return lambda session, wanted: (interactor if of(wanted) == "checker" else submission)(session, wanted)


ACCEPTS: list[Event] = [Started(preloaded=False), result()]


async def test_a_truncated_interactor_is_a_judge_error() -> None:
    async def wordy(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield Started(preloaded=False)
        yield Output(stream="stdout", data=b"x")
        await anyio.sleep(0.05)
        yield result(Outcome.ERROR, stdout_truncated=True)

    async def hangs(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield Started(preloaded=False)
        yield result(Outcome.TIMEOUT)

    case = (await judge(talking(wordy, hangs), [Case()], checker=Interactor(code="x"))).cases[0]
    assert case.verdict is Verdict.JUDGE_ERROR
    assert "stdout_bytes" in str(case.error)


@pytest.mark.parametrize("lost", ["interactor", "submission"])
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_program_that_was_not_received_is_offered_again(lost: str, times: int) -> None:
    left, starts = times, 0

    async def fails(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        nonlocal left
        left -= 1
        if left >= 0:
            raise SessionLost("gone", delivered=False)
        for event in ACCEPTS:
            yield event

    async def counts(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        nonlocal starts
        starts += 1
        for event in ACCEPTS:
            yield event

    script = talking(fails, counts) if lost == "interactor" else talking(counts, fails)
    case = (await judge(script, [Case()], checker=Interactor(code="x"))).cases[0]
    assert case.verdict is (Verdict.ACCEPTED if times < 3 else Verdict.JUDGE_ERROR)
    assert case.retry_safe is (None if times < 3 else True)
    # A retry is safe since the submission has not run.
    assert starts == (0 if lost == "interactor" and times == 3 else 1)


async def test_an_interactor_that_is_lost_later_is_not_safe_to_retry() -> None:
    async def lost(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield Started(preloaded=False)
        await anyio.sleep(0.01)
        raise SessionLost("gone", delivered=True)

    async def silent(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        for event in ACCEPTS:
            yield event

    case = (await judge(talking(lost, silent), [Case()], checker=Interactor(code="x"))).cases[0]
    assert (case.verdict, case.retry_safe) == (Verdict.JUDGE_ERROR, False)


# Its time.


async def test_max_seconds_covers_the_wait_for_a_container() -> None:
    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        yield result()

    class Waiting(Session):
        async def __aenter__(self) -> Session:
            await anyio.sleep_forever()
            raise AssertionError

    class Full(Provider):
        def session(self, **_: object) -> Any:
            return Waiting(script, 0)

    with anyio.fail_after(20):
        told = await Judging(Full(script), "code", numbers(2), max_seconds=0.05).run()
    assert verdicts(told) == ["judge_error"] * 2
    assert "max_seconds" in str(told.cases[0].error)


async def test_it_says_when_there_is_a_container() -> None:
    said: list[str] = []

    async def script(session: Session, wanted: Request) -> AsyncGenerator[Event, None]:
        said.append("run")
        yield result(stdout="1")

    with anyio.fail_after(20):
        await Judging(Provider(script), "code", numbers(1)).run(on_start=lambda: said.append("start"))
    assert said == ["start", "run"]
