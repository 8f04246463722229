"""Problems with solutions, each solution with its one right verdict, judged on a real engine.

`problems/*.toml` has them by kind: a table for each problem, with `Cases` as in JSON and then, by
verdict and name, the solutions. `score` has what some of them earn.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from dayfly import Sandbox
from dayfly.judge import Cases, Verdict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = (Path(__file__).parent / "problems").glob("*.toml")
PROBLEMS: dict[str, Any] = {name: problem for file in FILES for name, problem in tomllib.loads(file.read_text("utf-8")).items()}


def test_every_solution_gets_its_one_right_verdict() -> None:
    with Sandbox(pool_size=2, max_containers=4) as sandbox, ThreadPoolExecutor(2) as threads:

        def surprise(name: str, problem: dict[str, Any], verdict: Verdict, solution: str, code: str) -> str | None:
            wanted = msgspec.convert({key: problem[key] for key in ("cases", "checker", "groups", "limits") if key in problem}, Cases)
            told = sandbox.judge(code, wanted, stop=problem.get("stop", "first"))
            score = problem.get("score", {}).get(solution, told.score)
            return None if (told.verdict, told.score) == (verdict, score) else f"{name}.{verdict}.{solution}: {told}"

        judged = [
            threads.submit(surprise, name, problem, verdict, solution, code)
            for name, problem in PROBLEMS.items()
            for verdict in Verdict
            for solution, code in problem.get(verdict.value, {}).items()
        ]
        assert len(judged) > 150
        surprises = [found for one in judged if (found := one.result())]
        assert surprises == [], "\n".join(surprises)
