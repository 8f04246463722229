"""The benchmark of a Fleet works. Nothing is asserted on its numbers, which a busy machine
makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_the_benchmark_of_a_fleet_runs_to_its_end(image: str) -> None:
    command = [sys.executable, "-m", "benchmarks.fleet", "--smoke", "--image", image]
    own = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = [line.partition(":")[0] for line in done.stdout.splitlines()]
    for name in ("Sandbox", "Fleet", "1 node of 16 runs of 0.2 s", "2 nodes", "one driver, 2 nodes, runs of 0 s", "1000 nodes"):
        assert name in told
