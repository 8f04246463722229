"""verl: a reward function that judges an answer by one request to `dayfly serve`, in place of one
for each case.

    custom_reward_function.path=$(python -c 'import dayfly.adapters.verl as v; print(v.__file__)')
    custom_reward_function.name=compute_score
    +custom_reward_function.reward_kwargs.url=http://sandbox.example:8000

Nothing of verl is imported: it calls a function of these parameters.
"""

from __future__ import annotations

import functools
import json
import os
import re
from typing import Any

from dayfly import SandboxError
from dayfly.judge import CaseLimits, Cases, JudgeResult, Verdict
from dayfly.remote import RemoteSandbox

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


@functools.lru_cache(maxsize=8)
def _sandbox(url: str, key: str | None, process: int) -> RemoteSandbox:  # noqa: ARG001 - one for each process
    made = RemoteSandbox(url, key)
    made.initialize()
    return made


def code_of(answer: str) -> str | None:
    """Return the last block of code in a model's answer, None if it has none."""
    blocks = _BLOCK.findall(answer)
    return blocks[-1] if blocks else None


def cases_of(ground_truth: Any) -> Cases:
    """Return the cases of verl's datasets: LiveCodeBench's shape or SandboxFusion's, or the JSON of
    one."""
    given = json.loads(ground_truth) if isinstance(ground_truth, str) else ground_truth
    return Cases.from_lcb(given) if isinstance(given, dict) else Cases.from_sandbox_fusion(given)


def compute_score(
    data_source: Any,  # noqa: ARG001 - verl gives it
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,  # noqa: ARG001
    *,
    url: str,
    key: str | None = None,
    continuous: bool = False,
    wall_ms: float = 10_000,
    cpu_ms: float | None = None,
    concurrency: int = 1,
    tries: int = 3,
    **_: Any,
) -> float:
    """Return 1.0 if the answer's code passes all cases, else 0.0; with `continuous` the share that
    it passes.

    A failure of the sandbox is no wrong answer: the answer is judged again, `tries` times in all,
    and then the failure is raised. An answer has no effect but its verdict, so it may run twice.
    """
    code = code_of(solution_str)
    if code is None:
        return 0.0
    cases = cases_of(ground_truth)
    for left in reversed(range(tries)):
        told = _judged(
            _sandbox(url, key, os.getpid()),
            left,
            code,
            cases,
            limits=CaseLimits(wall_ms=wall_ms, cpu_ms=cpu_ms),
            stop=None if continuous else "first",
            concurrency=concurrency,
            keep_output=0,
        )
        if told is not None:
            return told.passed / told.total if continuous else float(told.verdict is Verdict.ACCEPTED)
    raise AssertionError("the last try returns or raises")


def _judged(sandbox: RemoteSandbox, left: int, code: str, cases: Cases, **options: Any) -> JudgeResult | None:
    try:
        told = sandbox.judge(code, cases, **options)
    except SandboxError:
        if left:
            return None
        raise
    failed = next((one.error for one in told.cases if one.verdict is Verdict.JUDGE_ERROR), None)
    if failed is None:
        return told
    if left:
        return None
    raise RuntimeError(f"the answer could not be judged: {failed}")
