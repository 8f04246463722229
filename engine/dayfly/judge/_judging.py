"""A judging: workers that share the cases of one submission, each with a session, and so a
container, of its own.

A case's process is fresh, its files are wiped before it, and its input is sent when it begins: no
case meets another. What is expected stays on the host. What the sandbox could not do is
`judge_error` for its case alone.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple, Protocol, TypedDict

import anyio
import anyio.to_thread
import msgspec

from dayfly import _events as events
from dayfly._errors import DayflyError, PoolClosed, PoolError, SandboxError
from dayfly._job import Job, RunOptions, request
from dayfly._limits import MAX_RUN_BYTES, MAX_SECONDS, MAX_SESSION_RUNS, MAX_TIMEOUT_MS, Limits, integer, number
from dayfly._messages import Request
from dayfly._result import NO_VALUE, Outcome, Result
from dayfly._session import AsyncSession

from ._cases import Case, CaseLimits, Group, check_cases, check_checker, check_checkers
from ._checkers import FEEDBACK, Answer, Checker, Json, Tokens, visible
from ._plan import Plan, Stop
from ._programs import NOT_PYTHON, Interactor, Program, may_be_invalid, returned, submission_job, syntax_job
from ._sources import Cases
from ._talk import Talk, offered
from ._verdicts import CaseResult, JudgeResult, Verdict, report, skipped, verdict_of

log = logging.getLogger("dayfly.judge")

KEPT_OUTPUT = 4_096
"""Characters of each stream that a report keeps of a case, unless asked otherwise."""
SHOWN_FRAMES = 3
"""Frames of a traceback that are noted."""
ERROR = 1_000
"""Characters of the text of a `judge_error`."""
MOST_WORKERS = 1_000
INLINE = 100_000
"""Bytes that are compared on the event loop; more in a thread."""


class CaseRun(msgspec.Struct, frozen=True):
    """What a checker that is a function of the host is called with."""

    case: Case
    result: Result
    value: Any = None
    """What the called function returned."""


HostChecker = Callable[[CaseRun], "bool | float | Answer"]
OnCase = Callable[[CaseResult], None]


class Containers(NamedTuple):
    """What a worker has."""

    submission: AsyncSession
    checker: AsyncSession | None
    """For a checker that is a program."""


class JudgeOptions(TypedDict, total=False):
    """The keyword parameters of a judging, beside its code and cases."""

    checker: Checker | HostChecker | None
    """A Checker, or a function of the host that takes a CaseRun. None: Tokens, and Json for
    calls."""
    groups: Sequence[Group]
    """How groups of cases score."""
    limits: CaseLimits | None
    """Limits of each case that has none of its own."""
    stop: Stop
    """"first": nothing runs behind the first case that is not accepted. "group": nothing of its
    group. None: all cases run."""
    concurrency: int
    """Containers that share the cases."""
    max_seconds: float | None
    """Time after which undecided cases are `judge_error`; the wait for the first container is part
    of it. None: no bound."""
    keep_output: int | None
    """Characters of each stream that the report keeps of a case. None: all."""


class Provider(Protocol):
    """What a judging needs of its sandbox."""

    limits: Limits
    timeout_ms: float
    max_containers: int
    _judge_pairs: anyio.Semaphore | None

    def session(self, *, max_runs: int, max_seconds: float, idle_seconds: float) -> AsyncSession:
        """Return a session."""

    def _prepare(self, code: Job, options: RunOptions, *, clean: bool) -> Request:
        """Check what `run` was called with, and return what is sent."""


class Judging:
    """One submission and its cases; see AsyncSandbox.judge for the arguments."""

    def __init__(
        self,
        sandbox: Provider,
        code: str | bytes,
        cases: Sequence[Case] | Cases,
        *,
        checker: Checker | HostChecker | None = None,
        groups: Sequence[Group] = (),
        limits: CaseLimits | None = None,
        stop: Stop = None,
        concurrency: int = 1,
        max_seconds: float | None = None,
        keep_output: int | None = KEPT_OUTPUT,
    ) -> None:
        if limits is not None and not isinstance(limits, CaseLimits):
            raise TypeError(f"limits must be CaseLimits or None, not {type(limits).__name__}")
        if isinstance(cases, Cases):
            checker = cases.checker if checker is None else checker
            groups, limits = groups or cases.groups, (limits or CaseLimits()).over(cases.limits or CaseLimits())
            cases = cases.cases
        check_cases(cases, groups)
        check_checker(checker)
        check_checkers(cases, checker if isinstance(checker, Checker) else None)
        if stop not in ("first", "group", None):
            raise ValueError(f"stop must be 'first', 'group' or None, not {stop!r:.80}")
        if keep_output is not None:
            integer("keep_output", keep_output, least=0, most=2**40)
        self.sandbox = sandbox
        self._source = Job(code=code).source
        self._cases, self._groups, self._checker = list(cases), list(groups), checker
        self._limits = limits or CaseLimits()
        self._stop, self._keep = stop, keep_output
        self._seconds = math.inf if max_seconds is None else number("max_seconds", max_seconds, least=0.001, most=MAX_SECONDS)
        self._plan = Plan(self._cases, self._groups, stop)
        self.workers = min(integer("concurrency", concurrency, least=1, most=MOST_WORKERS), len(self._cases), sandbox.max_containers)
        """Containers that share the cases; may be changed before `run`."""
        self._paired = any(isinstance(case.checker or checker, Program) for case in cases)
        if self._paired and sandbox.max_containers < 2:
            raise ValueError("a checker that is a program runs in a container of its own; set max_containers to 2 or more")
        # Whatever cannot be sent is refused before any container is touched.
        self._requests = [self._request(case) for case in self._cases]
        if self._paired:
            self._check_programs()
        self._found: dict[int, CaseResult] = {}
        self._scopes: dict[int, anyio.CancelScope] = {}
        self._told = 0
        self._changed: anyio.Event
        self._tasks: anyio.CancelScope | None = None
        self._error: Exception | None = None
        self._compile_error: str | None = None
        self._syntax: anyio.Lock
        """Held while it is found out whether the submission is valid Python."""
        self._syntax_checked = False

    async def run(self, on_case: OnCase | None = None, on_start: Callable[[], None] | None = None) -> JudgeResult:
        """Judge. `on_case` is called with each CaseResult in the order of the cases; what it raises
        ends the judging and is raised. `on_start` is called when there is a container.

        Raises what a run raises if there is no container for the first worker, or the sandbox is
        closed meanwhile.
        """
        begun = time.monotonic()
        # Not before: a judging may be made in a thread without an event loop.
        self._changed, self._syntax = anyio.Event(), anyio.Lock()
        with anyio.move_on_after(self._seconds) as budget:
            async with self._containers() as first:
                if on_start is not None:
                    on_start()
                async with anyio.create_task_group() as tasks:
                    self._tasks = tasks.cancel_scope
                    tasks.start_soon(self._work, first)
                    for _ in range(1, self.workers):
                        tasks.start_soon(self._join)
                    await self._tell(on_case)
                    self._tasks.cancel()
        if budget.cancelled_caught:
            late = TimeoutError(f"the judging was ended after {self._seconds:g} s (max_seconds)")
            for index, case in enumerate(self._cases):
                if not self._is_decided(index):
                    self._found[index] = self._judge_error(case, None, late)
            await self._tell(on_case)
        if self._error is not None:
            raise self._error
        found = {index: one for index, one in self._found.items() if not self._plan.is_skipped(index)}
        wall_ms = (time.monotonic() - begun) * 1_000
        return report(self._cases, self._groups, found, compile_error=self._compile_error, wall_ms=wall_ms)

    async def _tell(self, on_case: OnCase | None) -> None:
        while self._told < len(self._cases):
            index = self._told
            while not self._is_decided(index):
                await self._changed.wait()
            self._told += 1
            if on_case is None:
                continue
            hidden = self._compile_error is not None or self._plan.is_skipped(index)
            try:
                on_case(skipped(self._cases[index]) if hidden else self._found[index])
            except Exception as error:  # noqa: BLE001 - raised when the workers have ended
                self._fail(error)
                return

    def _is_decided(self, index: int) -> bool:
        return self._compile_error is not None or index in self._found or self._plan.is_skipped(index)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        if self._tasks is not None:
            self._tasks.cancel()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # The workers.

    @asynccontextmanager
    async def _containers(self) -> AsyncIterator[Containers]:
        async with AsyncExitStack() as stack:
            if self._paired:
                # Workers that hold one container and wait for another could wait for each other.
                if self.sandbox._judge_pairs is None:
                    self.sandbox._judge_pairs = anyio.Semaphore(self.sandbox.max_containers // 2)
                await stack.enter_async_context(self.sandbox._judge_pairs)
            sessions = []
            for _ in range(1 + self._paired):
                session = self.sandbox.session(max_runs=MAX_SESSION_RUNS, max_seconds=MAX_SECONDS, idle_seconds=MAX_SECONDS)
                sessions.append(await stack.enter_async_context(session))
            yield Containers(sessions[0], sessions[1] if self._paired else None)

    async def _join(self) -> None:
        """Work beside the first worker, as soon as there is a container; without one the others do
        the work."""
        try:
            async with self._containers() as containers:
                await self._work(containers)
        except PoolClosed as error:
            self._fail(error)
        except DayflyError as error:
            log.debug("a judging goes on with fewer workers: %s", error)

    async def _work(self, containers: Containers) -> None:
        try:
            while not self._plan.over:
                changed = self._changed
                index = self._plan.begin()
                if index is None:
                    self._notify()  # of what was skipped
                    if not self._plan.over:
                        await changed.wait()
                    continue
                with anyio.CancelScope() as scope:
                    self._scopes[index] = scope
                    self._found[index] = await self._judge(containers, index)
                self._scopes.pop(index, None)
                found = self._found.get(index)
                if found is not None and isinstance(found.exception, Exception) and self._keep is not None:
                    # Not before: the frames of what raised it were still there.
                    found.__dict__["exception_"] = _shortened(found.exception, max(self._keep, ERROR))
                # One that was cancelled is skipped for what an earlier one did: it decides nothing.
                accepted = found is None or self._plan.is_skipped(index) or found.verdict is Verdict.ACCEPTED
                for other in self._plan.decide(index, accepted=accepted) & self._scopes.keys():
                    self._scopes[other].cancel()
                self._notify()
        except Exception as error:  # noqa: BLE001 - raised when the other workers have ended
            self._fail(error)

    async def _judge(self, containers: Containers, index: int) -> CaseResult:
        case = self._cases[index]
        result: Result | None = None
        talk: Talk | None = None
        try:
            if isinstance(checker := case.checker or self._checker, Interactor):
                assert containers.checker is not None
                own, job = self._requests[index], checker.job(case)
                # It outlives a submission that says nothing: the submission's own limit decides.
                job = msgspec.structs.replace(job, timeout_ms=min((job.timeout_ms or 0) + own.run.timeout_ms, MAX_TIMEOUT_MS))
                talk = Talk(containers.submission, containers.checker)
                result = await talk.hold(own, self._checker_request(job))
            else:
                result = await self._run(containers.submission, self._requests[index])
            if may_be_invalid(result):
                # Others wait for this check too: an earlier case that fails does not cancel it.
                self._scopes.pop(index, None)
                await self._check_syntax(containers.submission)
            verdict, answer = await self._decide(containers, case, result, talk)
        except PoolClosed:
            raise
        except Exception as error:  # noqa: BLE001 - of the sandbox or the checker: nothing is known of the submission
            return self._judge_error(case, result, error)
        share = answer.score if answer is not None else 1.0
        feedback = answer.feedback if answer is not None else ""
        found = self._case_result(case, verdict, result, share=share, feedback=feedback)
        return found if talk is None else msgspec.structs.replace(found, transcript=talk.transcript)

    async def _decide(self, containers: Containers, case: Case, result: Result, talk: Talk | None) -> tuple[Verdict, Answer | None]:
        """Return the verdict, and the checker's answer where it was asked."""
        verdict = verdict_of(result, None)
        checker = case.checker or self._checker
        if talk is not None and isinstance(checker, Interactor):
            if talk.interactor_result.stdout_truncated:
                raise ValueError("the interactor wrote more to stdout than the limit (stdout_bytes) allows")
            if verdict is not Verdict.ACCEPTED and not talk.interactor_first:
                return verdict, None
            answer = checker.answer(case, talk.interactor_result)
            refused = answer.score == 0.0 and talk.interactor_first
            return Verdict.WRONG_ANSWER if refused else verdict_of(result, answer), answer
        if verdict is not Verdict.ACCEPTED:
            return verdict, None
        if case.harness is not None and returned(result) is None:
            if result.messages_dropped:
                return Verdict.OUTPUT_LIMIT, Answer(0.0, "the returned value is too large, or nested too deeply")
            return Verdict.RUNTIME_ERROR, Answer(0.0, "the program ended before the function returned")
        asked = await self._answer(containers, case, result)
        return verdict_of(result, asked), asked

    def _case_result(self, case: Case, verdict: Verdict, result: Result, *, share: float, feedback: str) -> CaseResult:
        kept = _kept(result, self._keep)
        return CaseResult(
            verdict=verdict,
            name=case.name,
            group=case.group,
            points=case.points * share if verdict in (Verdict.ACCEPTED, Verdict.PARTIAL) else 0.0,
            max_points=case.points,
            feedback=feedback,
            wall_ms=result.wall_ms,
            cpu_ms=result.cpu_ms,
            peak_memory_bytes=result.peak_memory_bytes,
            max_rss_bytes=result.max_rss_bytes,
            result=kept,
            cut=kept is not result,
        )

    def _judge_error(self, case: Case, result: Result | None, error: Exception) -> CaseResult:
        found = CaseResult(
            verdict=Verdict.JUDGE_ERROR,
            name=case.name,
            group=case.group,
            max_points=case.points,
            result=None if result is None else _kept(result, self._keep),
            error=_text(error),
            retry_safe=isinstance(error, (PoolError, SandboxError)) and not error.delivered and result is None,
        )
        found.__dict__["exception_"] = error
        return found

    # What runs in containers.

    def _request(self, case: Case) -> Request:
        limits = (case.limits or CaseLimits()).over(self._limits)
        job = submission_job(case, self._source, timeout_ms=limits.wall(self.sandbox.timeout_ms), cpu_limit_ms=limits.cpu_ms)
        wanted = self.sandbox._prepare(job, {}, clean=True)
        most = limits.output_bytes or 2**40
        run = msgspec.structs.replace(
            wanted.run,
            stdout_limit=min(most, wanted.run.stdout_limit),
            stderr_limit=min(most, wanted.run.stderr_limit),
            on_output_limit="kill",
        )
        return msgspec.structs.replace(wanted, run=run)

    def _check_programs(self) -> None:
        """ValueError for a checker that cannot be sent, however long the output is."""
        for case, own in zip(self._cases, self._requests, strict=True):
            checker = case.checker or self._checker
            if isinstance(checker, Program):
                wanted = self.sandbox._prepare(checker.job(case), {}, clean=True)
                files = dict(wanted.files)
                size = sum(map(len, files.values())) + (own.run.stdout_limit if "output" in files else 0)
                if size > self.sandbox.limits.tmpfs_bytes:
                    raise ValueError(
                        f"input, answer, checker and the longest output of the case {case.name!r:.80} are {size:,} bytes; "
                        f"the limit (tmpfs_bytes) is {self.sandbox.limits.tmpfs_bytes:,}"
                    )

    def _checker_request(self, job: Job) -> Request:
        """Return what runs a checker. The output it reads does not count as input: else a
        submission could write so much that nothing judges it."""
        limits = self.sandbox.limits
        most = min(limits.input_bytes + limits.stdout_bytes, MAX_RUN_BYTES)
        roomy = msgspec.structs.replace(limits, input_bytes=most)
        return request(job, roomy, timeout_ms=self.sandbox.timeout_ms, python="3", clean=True)

    async def _run(self, session: AsyncSession, wanted: Request) -> Result:
        return await events.run(offered(session, wanted), events.Fold())

    async def _check_syntax(self, session: AsyncSession) -> None:
        """Find out, once, whether the submission is valid Python. Whoever asks waits until it is
        known."""
        async with self._syntax:
            if self._syntax_checked:
                return
            found = await self._run(session, self.sandbox._prepare(syntax_job(self._source), {}, clean=True))
            self._syntax_checked = True
            if found.outcome is Outcome.ERROR and found.exit_code == NOT_PYTHON:
                self._compile_error = visible(found.stderr.strip()[:KEPT_OUTPUT])
                self._notify()
                # Nothing else is to be done; whoever tells of the cases is not cancelled.
                for scope in self._scopes.values():
                    scope.cancel()

    async def _answer(self, containers: Containers, case: Case, result: Result) -> Answer | None:
        checker = case.checker or self._checker
        output = result.stdout_bytes
        value = returned(result) if case.harness is not None else None
        if case.asserts is not None:
            return Answer(1.0 if value == (True,) else 0.0, "" if value == (True,) else "an assertion failed")
        if isinstance(checker, Program):  # no Interactor comes here
            assert containers.checker is not None
            return checker.answer(case, await self._run(containers.checker, self._checker_request(checker.job(case, output))))
        if checker is not None and not isinstance(checker, Checker):
            return await _asked(checker, CaseRun(case, result, value[0] if value else None))
        if not case.compares:
            return None
        if value is not None:
            chosen = checker or Json()
            return await _asked(chosen.check_value, case.expected, value[0], size=sum(map(len, map(bytes, result.messages_raw))))
        chosen, expected = checker or Tokens(), case.expected_output
        return await _asked(chosen.check, expected, output, size=len(expected) + len(output))


async def _asked(check: Callable[..., Any], *values: Any, size: float = math.inf) -> Answer:
    """Return what a checker says. A long comparison, and what is not ours, takes place in a
    thread."""
    return _as_answer(check(*values) if size <= INLINE else await anyio.to_thread.run_sync(check, *values))


def _as_answer(said: Any) -> Answer:
    """Return what a checker said, bounded. TypeError for what is not an answer."""
    score, feedback = said if isinstance(said, Answer) else (said, "")
    if not isinstance(score, (bool, int, float)) or not 0.0 <= score <= 1.0 or not isinstance(feedback, str):
        raise TypeError(f"a checker returns True, False, a number from 0 to 1, or an Answer of these and a str, not {said!r:.80}")
    return Answer(float(score), visible(feedback[:FEEDBACK]))


def _chain(error: BaseException) -> list[BaseException]:
    """Return an exception and those that led to it."""
    found = [error]
    for one in found:
        found += [other for other in (one.__cause__, one.__context__) if other is not None and other not in found]
    return found


def _shortened(error: Exception, most: int) -> Exception:
    """Return an exception that keeps no more than `most` characters of what a program wrote: itself
    without its traceback, whose frames hold whole outputs, or one that has its text only. The
    traceback becomes a note."""
    ours = isinstance(error, DayflyError)  # these quote nothing of a program
    where = "" if ours else visible("".join(traceback.format_tb(error.__traceback__, limit=-SHOWN_FRAMES)))[-most:]
    held: float = 0
    for one in _chain(error):
        one.__traceback__ = None
        if isinstance(one, AttributeError):
            one.obj = None
        for value in (*one.args, *vars(one).values()):
            held += len(value) if isinstance(value, (str, bytes)) else 0 if isinstance(value, (int, float, type(None))) else math.inf
    if ours:
        return error
    kept = error if held <= most else RuntimeError(_text(error))
    kept.__dict__["__notes__"] = [where]
    return kept


def _text(error: Exception) -> str:
    return visible(f"{type(error).__name__}: {error}"[:ERROR])


def _kept(result: Result, keep: int | None) -> Result:
    """Return the result with its output cut to `keep` characters a stream; the very object if
    nothing is cut."""
    if keep is None:
        return result
    shown = [text for text in (*result.displays_raw, result.last_value_raw) if bytes(text) != bytes(NO_VALUE)]
    messages, displays = (sum(len(bytes(text)) for text in texts) for texts in (result.messages_raw, shown))
    if max(len(result.stdout), len(result.stderr), len(result.combined), messages, displays) <= keep:
        return result
    return msgspec.structs.replace(
        result,
        stdout=result.stdout[:keep],
        stderr=result.stderr[:keep],
        combined=result.combined[:keep],
        stdout_raw=result.stdout_raw and result.stdout_raw[:keep],
        stderr_raw=result.stderr_raw and result.stderr_raw[:keep],
        messages_raw=result.messages_raw if messages <= keep else [],
        displays_raw=result.displays_raw if displays <= keep else [],
        last_value_raw=result.last_value_raw if displays <= keep else NO_VALUE,
    )
