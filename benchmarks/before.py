"""`python -m benchmarks.before REVISION`: what a container costs with today's create body, and with
that of an older revision of this repository, in turns.

All of the hardening is in the create body: the filter, the mounts, the limits. The container does
nothing: see `raw`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dayfly import _names as names

from . import measure, meters, raw

ROUNDS = 40
BODIES = """
import importlib, json, sys
from dayfly import Limits
try:
    spec = importlib.import_module("dayfly._spec")
except ImportError:
    spec = importlib.import_module("dayfly.spec")
image, label, first, count = sys.argv[1:]
profile = spec.Profile(image_id=image, limits=Limits(), labels={label: "1"})
print(json.dumps([spec.create_body(profile, uid=int(first) + number) for number in range(int(count))]))
"""


def bodies(source: Path, image: str, first: int) -> list[dict[str, Any]]:
    """The create bodies of a source tree, each for another uid."""
    command = [sys.executable, "-c", BODIES, image, raw.LABEL, str(first), str(ROUNDS)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(source / "engine")}, check=True, capture_output=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def main(revision: str) -> None:
    """Measure and print."""
    path = raw.engine_socket()
    image = raw.image_id(path, names.DEFAULT_IMAGE)
    engine = raw.Engine(path)
    with tempfile.TemporaryDirectory() as folder:
        tar = subprocess.run(["git", "archive", revision, "engine"], cwd=measure.ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=tar, check=True)
        contenders = {
            revision: bodies(Path(folder), image, 1_700_000_000),
            "today": bodies(measure.ROOT, image, 1_710_000_000),
        }
    for name, made in contenders.items():
        profile = next(option for option in made[0]["HostConfig"]["SecurityOpt"] if option.startswith("seccomp="))
        print(f"{name}: {len(json.loads(profile.removeprefix('seccomp='))['syscalls'])} entries in the filter")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS):
        order = list(contenders) if number % 2 else list(contenders)[::-1]
        for name in order:
            meters.settle()
            body = {**contenders[name][number], "Entrypoint": raw.ECHO}
            begun = time.perf_counter()
            raw.use(raw.make(engine, body))
            times[name].append((time.perf_counter() - begun) * 1_000)
    for name, each in times.items():
        print(f"{name}: median {statistics.median(each):.1f} ms, fastest {min(each):.1f} ms")
    first, last = times.values()
    ratios = [after / before for before, after in zip(first, last, strict=True)]
    print(f"ratio, median of {ROUNDS} pairs: {statistics.median(ratios):.3f}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1])
