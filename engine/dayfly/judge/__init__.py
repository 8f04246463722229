"""dayfly.judge: one submission, many cases, and a verdict.

`Sandbox.judge` takes them:

    from dayfly.judge import Case, Tokens

    cases = [Case(stdin="1", expected="2")]
    told = sandbox.judge("print(int(input()) + 1)", cases, checker=Tokens())
    print(told.verdict, told.passed, told.score)
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
