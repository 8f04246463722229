"""verl: a reward function that judges an answer by one request to `dayfly serve`, in place of one
for each case.

    reward.custom_reward_function.path=/where/it/is/dayfly/adapters/verl.py
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.url=http://sandbox.example:8000

Older versions of verl have `custom_reward_function` at the top, without `reward`.

Nothing of verl is imported: it calls a function of these parameters.
"""

from __future__ import annotations

import functools
import json
import os
import re
import threading
from typing import Any

from dayfly import SandboxError
from dayfly.judge import CaseLimits, Cases, Verdict
from dayfly.remote import RemoteSandbox

__all__ = ["compute_score"]

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)

_making = threading.Lock()
os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)


@functools.lru_cache(maxsize=8)
def _made(url: str, key: str | None, process: int) -> RemoteSandbox:  # noqa: ARG001 - one for each process
    made = RemoteSandbox(url, key)
    made.initialize()
    return made


def _sandbox(url: str, key: str | None) -> RemoteSandbox:
    with _making:  # the first calls come at once
        return _made(url, key, os.getpid())


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

    A container that is lost does not count as a wrong answer: the answer is judged again, `tries`
    times in all, and then the loss is raised. An answer has no effect but its verdict, so it may
    run twice. What RemoteSandbox raises where the server is not there, or stays full, is raised at
    once.
    """
    code = code_of(solution_str)
    if code is None:
        return 0.0
    cases, sandbox = cases_of(ground_truth), _sandbox(url, key)
    options: Any = {"limits": CaseLimits(wall_ms=wall_ms, cpu_ms=cpu_ms), "concurrency": concurrency, "keep_output": 0}
    failed: list[str | None] = []
    for left in reversed(range(tries)):
        try:
            told = sandbox.judge(code, cases, stop=None if continuous else "first", **options)
        except SandboxError:
            if not left:
                raise
            continue
        failed = [one.error for one in told.cases if one.verdict is Verdict.JUDGE_ERROR]
        if not failed:
            return told.passed / told.total if continuous else float(told.verdict is Verdict.ACCEPTED)
    raise RuntimeError(f"the answer could not be judged: {failed[0] if failed else 'tries is 0'}")
