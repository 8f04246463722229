"""What runs in containers beside the submission itself: the harness of a call, the syntax check,
and checkers that are programs.

Each is Python source that the host sends as `main.py`. What comes back from the harness is the
submission's claim: it may claim any value, but does not know which one is expected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from dayfly._job import Job
from dayfly._result import Outcome, Result

from ._checkers import FEEDBACK, Answer, BuiltIn, Checker, visible

if TYPE_CHECKING:
    from ._cases import Case

SUBMISSION = "submission.py"
"""The file that the harness imports."""

CHECKER_TIMEOUT_MS = 10_000
NOT_PYTHON = 65
"""Exit code of the syntax check."""
CRASHED = 70
"""Exit code of a checker that raised: 1 would mean that the answer is wrong."""

# Python 3.8 and newer. What the submission could replace is looked up before it is imported.
HARNESS = """\
import sandbox, sys

def plain(value):
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        value = float(value)
        return value if value - value == 0 else {"$float": repr(value)}
    if isinstance(value, str):
        value = str.__str__(value)
        value.encode()
        return value
    if isinstance(value, dict):
        keys = [key for key in value if not isinstance(key, (str, int, float, type(None)))]
        if keys:
            raise TypeError("the function returned a dict with a key of type " + type(keys[0]).__name__)
        return {key: plain(item) for key, item in value.items()}
    kind = type(value)
    if isinstance(value, (list, tuple, set, frozenset)) or (kind.__module__, kind.__name__) == ("collections", "deque"):
        return [plain(item) for item in value]
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError("the function returned a value of type " + kind.__name__ + ", which has no JSON form")

def call(send=sandbox.send, call=sandbox.data, plain=plain):
    sys.dont_write_bytecode = True
    import submission
    if "asserts" in call:
        try:
            exec(compile(call["asserts"], "asserts.py", "exec", dont_inherit=True), vars(submission))
        except AssertionError:
            import traceback
            traceback.print_exc()
            return send({"returned": False})
        return send({"returned": True})
    name = call["function"]
    if hasattr(getattr(submission, "Solution", None), name):  # first: an imported name may be the same
        function = getattr(submission.Solution(), name)
    elif hasattr(submission, name):
        function = getattr(submission, name)
    else:
        raise AttributeError("the submission defines no function " + name + ", and no class Solution that has it")
    send({"returned": plain(function(*call["args"], **call["kwargs"]))})

try:
    call()
except Exception as error:
    trace = error.__traceback__.tb_next.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
    sys.exit(1)
"""

SYNTAX_CHECK = f"""\
import sys, traceback
try:
    compile(open({SUBMISSION!r}, "rb").read(), {SUBMISSION!r}, "exec", dont_inherit=True)
except (SyntaxError, ValueError) as error:
    sys.stderr.write("".join(traceback.format_exception_only(type(error), error)))
    sys.exit({NOT_PYTHON})
"""

CHECKER = f"""\
import os, sys, traceback
def crashed(kind, error, trace):
    traceback.print_exception(kind, error, trace)
    sys.stdout.flush()
    os._exit({CRASHED})
sys.excepthook = crashed
exec(compile(open("checker.py", "rb").read(), "checker.py", "exec"), {{"__name__": "__main__", "__file__": "checker.py"}})
"""

_SYNTAX_ERRORS = ("SyntaxError", "IndentationError", "TabError", "ValueError: source code")
_POINTS = re.compile(r"\s*points\s+([0-9.eE+-]{1,30})")


class Program(Checker, frozen=True, tag="program"):
    """A checker that is a Python program, and no more trusted than the submission: it runs in a
    container of its own.

    It is started with the names of three files as arguments: `input`, `output` and `answer`; with
    protocol "kattis" `input`, `answer` and the folder `feedback/`, and the output on its stdin;
    then come `args`.

    protocol "exit01": exit code 0 is right, 1 is wrong. "testlib": 0 right, 1 and 2 wrong, 7
    partial with `points N` at the beginning of stderr. "kattis": 42 right, 43 wrong;
    `feedback/score.txt` and `feedback/score_multiplier.txt` are read. Anything else, a crash and a
    time-out among it, is `judge_error`.
    """

    code: str
    protocol: Literal["exit01", "testlib", "kattis"] = "exit01"
    args: Sequence[str] = ()

    def __post_init__(self) -> None:
        if type(self.code) is not str:
            raise TypeError(f"a checker's code must be a str, not {type(self.code).__name__}")
        if self.protocol not in ("exit01", "testlib", "kattis"):
            raise ValueError(f"a checker's protocol must be 'exit01', 'testlib' or 'kattis', not {self.protocol!r:.80}")

    def job(self, case: Case, output: bytes = b"") -> Job:
        """Return the job that checks the output of a case."""
        kattis = self.protocol == "kattis"
        files: dict[str, str | bytes] = {"checker.py": self.code, "input": case.input, "answer": case.expected_output}
        files["feedback/judgemessage.txt" if kattis else "output"] = b"" if kattis else output
        return Job(
            code=CHECKER,
            v3=True,
            files=files,
            stdin_bytes=output if kattis else None,
            args=(*(("input", "answer", "feedback/") if kattis else ("input", "output", "answer")), *self.args),
            fetch=("feedback/*.txt",) if kattis else (),
            timeout_ms=CHECKER_TIMEOUT_MS,
        )

    def answer(self, case: Case, result: Result) -> Answer:
        """Return what the checker says. ValueError if it says nothing that its protocol knows."""
        said = result.stdout or result.stderr
        if self.protocol == "kattis" and (message := result.files.get("feedback/judgemessage.txt")):
            said = message.decode("utf-8", "replace")
        said = visible(said.strip()[:FEEDBACK])
        code = result.exit_code if result.outcome in (Outcome.OK, Outcome.ERROR) else None
        if self.protocol == "exit01" and code in (0, 1):
            return Answer(1.0 - code, said)
        if self.protocol == "testlib" and code in (0, 1, 2):
            return Answer(0.0 if code else 1.0, said)
        if self.protocol == "testlib" and code == 7 and (points := _POINTS.match(result.stderr)):
            return Answer(_share(points[1], case.points), said)
        if self.protocol == "kattis" and code == 43:
            return Answer(0.0, said)
        if self.protocol == "kattis" and code == 42:
            multiplier, score = (result.files.get(f"feedback/{name}.txt") for name in ("score_multiplier", "score"))
            if multiplier:
                return Answer(_share(multiplier.decode("ascii"), 1.0), said)
            return Answer(_share(score.decode("ascii"), case.points) if score else 1.0, said)
        ended = f"exit code {code}" if code is not None else str(result.outcome)
        crash = result.stderr.strip().rpartition("\n")[2][:FEEDBACK] if code == CRASHED else ""
        raise ValueError(
            f"the checker ended with {ended}, which the protocol {self.protocol!r} does not know{f': {crash}' if crash else ''}"
        )


def _share(text: str, most: float) -> float:
    """Return points as a share of the most. ValueError if they are none."""
    value = float(text)
    if not 0.0 <= value <= most:
        raise ValueError(f"the checker gave {value:g} points; from 0 to {most:g} are allowed")
    return value / most if most else 0.0


class Interactor(Program, frozen=True, tag="interactor"):
    """A checker that talks to the submission: each reads what the other writes to stdout.

    It is a Program, but there is no output to read: its arguments are `input` and `answer`, and
    with protocol "kattis" `feedback/`. What it writes to stderr is its message. A submission that
    fails after the interactor has said no is a wrong answer.
    """

    def job(self, case: Case, output: bytes = b"") -> Job:
        """Return the job that talks to the submission."""
        job = super().job(case, output)
        if self.protocol == "kattis":
            return job
        files = {path: content for path, content in job.files.items() if path != "output"}
        changed: Job = msgspec.structs.replace(job, files=files, args=("input", "answer", *self.args))
        return changed

    def answer(self, case: Case, result: Result) -> Answer:
        """See Program. What it wrote to stdout was for the submission."""
        return super().answer(case, msgspec.structs.replace(result, stdout=""))


AnyChecker = BuiltIn | Program | Interactor
"""What JSON may name."""


def submission_job(case: Case, source: bytes, *, timeout_ms: float, cpu_limit_ms: float | None) -> Job:
    """Return the job that runs the submission for a case."""
    harness = case.harness
    if harness is None:
        return case.job(source, v3=True, timeout_ms=timeout_ms, cpu_limit_ms=cpu_limit_ms)
    files = {**case.files, SUBMISSION: source}
    return case.job(HARNESS, v3=True, timeout_ms=timeout_ms, cpu_limit_ms=cpu_limit_ms, files=files, data=harness)


def syntax_job(source: bytes) -> Job:
    """Return the job that says whether the submission is valid Python. It runs nothing of it."""
    return Job(code=SYNTAX_CHECK, v3=True, files={SUBMISSION: source}, timeout_ms=CHECKER_TIMEOUT_MS)


def may_be_invalid(result: Result) -> bool:
    """Whether a run may have ended because the code is not valid Python. A cheap sign, which the
    program could give too: `syntax_job` decides."""
    if result.stdout or result.outcome in (Outcome.OK, Outcome.SIGNAL):
        return False
    if result.outcome is not Outcome.ERROR:  # it was killed: at its limits, what Python says may be missing
        return True
    last = result.stderr.rstrip().rpartition("\n")[2]
    return result.exit_code == 1 and (bool(result.stderr_truncated) or last.startswith(_SYNTAX_ERRORS))


def returned(result: Result) -> tuple[Any] | None:
    """Return what the called function returned, in a tuple; None if it did not return."""
    for message in reversed(result.messages):
        if isinstance(message, dict) and message.keys() == {"returned"}:
            return (message["returned"],)
    return None
