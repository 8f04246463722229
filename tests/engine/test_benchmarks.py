"""The benchmark works: every section, as small as it goes. Nothing is asserted on its numbers,
which a busy machine makes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTIONS = ("warm", "cold", "throughput", "burst", "timeouts", "streams", "footprint", "growth", "preload", "files", "judging")


@pytest.mark.timeout(300)
def test_the_benchmark_runs_to_its_end(tmp_path: Path, image: str) -> None:
    # Without peers, which come from the package index.
    images = ["--image", image, "--science-image", image, "--no-newer"]
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--no-peers", "--out", str(tmp_path), *images]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert set(SECTIONS) <= found.keys()
    assert found["failures"].keys() <= {"static ceiling"}, found["failures"]
    assert (tmp_path / "table.md").read_text() == done.stdout.removesuffix("\n")
    for section in SECTIONS:
        assert found[section], section
