"""dayfly.judge: one submission, many cases, and a verdict. See `Sandbox.judge`.

from dayfly.judge import Case, Tokens

verdict = sandbox.judge("print(int(input()) + 1)", [Case(stdin="1", expected="2")],
checker=Tokens()) verdict.verdict, verdict.passed, verdict.score
"""

from ._cases import Call, Case, CaseLimits, Group
from ._checkers import Answer, Checker, Exact, Floats, Json, Lines, SetEq, Tokens, dmoj, kattis, lcb, sandbox_fusion
from ._judging import CaseRun
from ._programs import Interactor, Program
from ._sources import Cases
from ._verdicts import CaseResult, JudgeResult, Verdict

__all__ = [
    "Answer",
    "Call",
    "Case",
    "CaseLimits",
    "CaseResult",
    "CaseRun",
    "Cases",
    "Checker",
    "Exact",
    "Floats",
    "Group",
    "Interactor",
    "Json",
    "JudgeResult",
    "Lines",
    "Program",
    "SetEq",
    "Tokens",
    "Verdict",
    "dmoj",
    "kattis",
    "lcb",
    "sandbox_fusion",
]
