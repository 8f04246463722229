"""Many cases for one program, side by side in one run.

    python -m benchmarks.judge [--cases N] [--image NAME] [--preload MODULE]

Each way is timed in turns, so that what else the machine does meets all of them alike. The bare
host is what a user without a sandbox would do: `python3 main.py` for each case, as many at once as
there are processors. `docker run` takes few cases, since it is slow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dayfly import Sandbox
from dayfly._names import DEFAULT_IMAGE
from dayfly.judge import Case

CODE = "print(int(input()) + 1)"
SHARE = {"docker run": 50, "dayfly, a container for each case": 10}
"""Of so many cases, one is run."""
ROUNDS = 3


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1_000)
    parser.add_argument("--image", default=DEFAULT_IMAGE)
    parser.add_argument("--python", default="/usr/bin/python3", help="the interpreter of the bare host, not a version manager's shim")
    parser.add_argument("--preload", default=None, help="a module that the program imports")
    options = parser.parse_args()
    workers = os.cpu_count() or 1
    code = (f"import {options.preload}\n" if options.preload else "") + CODE
    preload = (options.preload,) if options.preload else ()
    memory = 256 if options.preload else 64
    with (
        tempfile.TemporaryDirectory() as folder,
        Sandbox(workers, memory_limit_mb=memory, image=options.image, preload=preload, max_containers=3 * workers) as sandbox,
    ):
        program = Path(folder, "main.py")
        program.write_text(code)
        Path(folder).chmod(0o755)  # the image's user reads it

        def pooled(run: Callable[[int], str], numbers: range) -> None:
            def check(number: int) -> None:
                assert run(number) == f"{number + 1}\n"

            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(check, numbers))

        def bare(number: int) -> str:
            command = [options.python, str(program)]
            return subprocess.run(command, input=str(number), capture_output=True, text=True, check=True).stdout

        def docker(number: int) -> str:
            limits = ["--network", "none", "--memory", f"{memory}m", "--cpus", "1", "--volume", f"{folder}:/program:ro"]
            command = ["docker", "run", "--rm", "-i", *limits, "--entrypoint", "python3", options.image, "/program/main.py"]
            return subprocess.run(command, input=str(number), capture_output=True, text=True, check=True).stdout

        def settle() -> None:
            while (stats := sandbox.stats()).warm < workers or stats.ending:
                time.sleep(0.01)

        def judged(numbers: range) -> None:
            cases = [Case(stdin=str(number), expected=str(number + 1)) for number in numbers]
            told = sandbox.judge(code, cases, concurrency=workers)
            assert told.passed == len(numbers), told.counts

        ways: dict[str, Callable[[range], None]] = {
            "python3 main.py, no sandbox": lambda numbers: pooled(bare, numbers),
            "dayfly, judge": judged,
            "dayfly, a container for each case": lambda numbers: pooled(lambda n: sandbox.run(code, stdin=str(n)).stdout, numbers),
        }
        if shutil.which("docker"):
            ways["docker run"] = lambda numbers: pooled(docker, numbers)
        rates: dict[str, list[float]] = {name: [] for name in ways}
        judged(range(10))
        for _ in range(ROUNDS):
            for name, way in ways.items():
                settle()
                numbers = range(max(2 * workers, options.cases // ROUNDS // SHARE.get(name, 1)))
                begun = time.perf_counter()
                way(numbers)
                rates[name].append(len(numbers) / (time.perf_counter() - begun))
        twenty = []
        for _ in range(10):
            settle()
            begun = time.perf_counter()
            judged(range(20))
            twenty.append((time.perf_counter() - begun) * 1_000)
    first = statistics.median(next(iter(rates.values())))
    print(f"| {code.splitlines()[0] if options.preload else 'a case'} | cases a second | against the bare host |\n|---|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found):.0f} | {statistics.median(found) / first:.2f} |")
    print(f"\nA verdict of 20 cases: {statistics.median(twenty):.0f} ms.")
    print(json.dumps({"rates": rates, "twenty": twenty}))


if __name__ == "__main__":
    main()
