"""From outcomes and answers to verdicts and scores: pure functions, and the report that they
make."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from dayfly._result import Outcome, Result

from ._cases import Case, Group
from ._checkers import Answer


class Verdict(str, enum.Enum):
    """What is said of one case, and of a submission."""

    ACCEPTED = "accepted"
    WRONG_ANSWER = "wrong_answer"
    PARTIAL = "partial"
    """The checker gave a share of the points."""
    RUNTIME_ERROR = "runtime_error"
    """An exit code other than 0, or a signal; a called function that raised, or returned what is
    not a value."""
    TIME_LIMIT = "time_limit"
    MEMORY_LIMIT = "memory_limit"
    OUTPUT_LIMIT = "output_limit"
    COMPILE_ERROR = "compile_error"
    """The submission is not valid Python. No case was run to its end."""
    SKIPPED = "skipped"
    """Not judged, for what was found before."""
    JUDGE_ERROR = "judge_error"
    """The sandbox, or the checker, failed: nothing is known of the submission."""

    def __str__(self) -> str:
        return self.value


_BY_OUTCOME = {
    Outcome.ERROR: Verdict.RUNTIME_ERROR,
    Outcome.SIGNAL: Verdict.RUNTIME_ERROR,
    Outcome.TIMEOUT: Verdict.TIME_LIMIT,
    Outcome.OUT_OF_MEMORY: Verdict.MEMORY_LIMIT,
    Outcome.OUTPUT_LIMIT: Verdict.OUTPUT_LIMIT,
}


class CaseResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel", dict=True):
    """What is known of one case."""

    verdict: Verdict
    name: str
    group: str
    points: float = 0.0
    """What it earned; None of the group's own scoring is in it."""
    max_points: float = 1.0
    feedback: str = ""
    """Of the checker. It may quote what is expected."""
    wall_ms: float | None = None
    cpu_ms: float | None = None
    peak_memory_bytes: int | None = None
    """Largest memory of the container so far; cases share containers. None where an earlier case
    took as much."""
    max_rss_bytes: int | None = None
    """Largest resident set of one process of this case."""
    result: Result | None = None
    """What the program did; its output is cut to `keep_output` bytes a stream. None if it was not
    run to its end."""
    cut: bool = False
    """Whether output was cut from `result`."""
    transcript: str = ""
    """With an Interactor: the beginning of what was said, `>` before the submission's lines and `<`
    before its own."""
    error: str | None = None
    """With `judge_error`: the exception's name and text. `exception` is the exception, where the
    case was judged here."""
    retry_safe: bool | None = None
    """With `judge_error`: True if the program cannot have run."""

    @property
    def exception(self) -> BaseException | None:
        """The exception of a `judge_error`, its traceback as a note. None for one that was judged
        on another machine."""
        found: BaseException | None = self.__dict__.get("exception_")
        return found


class JudgeResult(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of a submission."""

    verdict: Verdict
    """That of the first case, in their order, that was not accepted; accepted if all were."""
    passed: int
    """Accepted cases."""
    total: int
    score: float
    max_score: float
    counts: dict[str, int]
    """Cases by verdict."""
    cases: list[CaseResult]
    feedback: str = ""
    """With `compile_error`: what Python says."""
    wall_ms: float = 0.0

    def to_json(self) -> bytes:
        """Return the JSON form."""
        return msgspec.json.encode(self)


def verdict_of(result: Result, answer: Answer | None) -> Verdict:
    """Return the verdict for a program that ended. `answer` is the checker's, where it was asked:
    of a program that ended well."""
    if result.outcome is not Outcome.OK:
        return _BY_OUTCOME[result.outcome]
    if result.stdout_truncated or result.stderr_truncated:
        return Verdict.OUTPUT_LIMIT
    if answer is None or answer.score >= 1.0:
        return Verdict.ACCEPTED
    return Verdict.PARTIAL if answer.score > 0.0 else Verdict.WRONG_ANSWER


def report(
    cases: Sequence[Case],
    groups: Sequence[Group],
    found: Mapping[int, CaseResult],
    *,
    compile_error: str | None = None,
    wall_ms: float = 0.0,
) -> JudgeResult:
    """Return the report. `found` has the cases that were judged, by index; the others are
    skipped."""
    results = [found.get(index) or skipped(case) for index, case in enumerate(cases)]
    if compile_error is not None:
        results = [skipped(case) for case in cases]
    failures = [one.verdict for one in results if one.verdict not in (Verdict.ACCEPTED, Verdict.SKIPPED)]
    score, most = _score(results, groups)
    return JudgeResult(
        verdict=Verdict.COMPILE_ERROR if compile_error is not None else failures[0] if failures else Verdict.ACCEPTED,
        passed=sum(one.verdict is Verdict.ACCEPTED for one in results),
        total=len(results),
        score=score,
        max_score=most,
        counts=dict(Counter(one.verdict.value for one in results)),
        cases=results,
        feedback=compile_error or "",
        wall_ms=wall_ms,
    )


def skipped(case: Case) -> CaseResult:
    """Return what is known of a case that was not judged."""
    return CaseResult(verdict=Verdict.SKIPPED, name=case.name, group=case.group, max_points=case.points)


def _score(results: Sequence[CaseResult], groups: Sequence[Group]) -> tuple[float, float]:
    score = most = 0.0
    named = {group.name: group for group in groups}
    members: dict[str, list[CaseResult]] = {}
    for one in results:
        members.setdefault(one.group, []).append(one)
    for name, cases in members.items():
        group = named.get(name)
        possible = sum(case.max_points for case in cases)
        if group is None or group.score == "sum":
            score += sum(case.points for case in cases)
            most += possible
            continue
        points = possible if group.points is None else group.points
        most += points
        if group.score == "all":
            score += points if all(case.verdict is Verdict.ACCEPTED for case in cases) else 0.0
        else:
            score += points * min(_share(case) for case in cases)
    return score, most


def _share(case: CaseResult) -> float:
    if case.verdict is Verdict.ACCEPTED:
        return 1.0
    return case.points / case.max_points if case.max_points else 0.0
