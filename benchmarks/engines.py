"""`python -m benchmarks.engines NAME=SOCKET[,RUNTIME] ...`: what a container costs on several
engines or runtimes of this machine, which take turns.

The container has dayfly's settings and the runner's image, which each engine must have, and answers
one frame: see `raw`. So this is the price of what an operator chooses, without dayfly's own part.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from dayfly import _names as names

from . import meters, raw

ROUNDS = 15
PHASES = ("create", "start", "answer", "gone")
"""Milliseconds until the container exists, until its start is acknowledged, from there until its
program has answered, and from its end until the engine knows it no more."""
PATIENCE = 30.0


class Choice:
    """One engine with one runtime."""

    def __init__(self, name: str, path: str, runtime: str | None) -> None:
        self.name = name
        self._engine = raw.Engine(path)
        self._maker = raw.DoNothing(path, raw.image_id(path, names.DEFAULT_IMAGE), raw.ECHO, runtime=runtime)

    def measure(self) -> list[float]:
        """One container's life: the milliseconds of each phase, of all, and of processor time."""
        meters.settle(3.0)
        busy, marks = meters.machine_cpu_ms(), [time.perf_counter()]
        container = self._maker.create(self._engine)
        marks.append(time.perf_counter())
        stream = raw.start(self._engine, container)
        marks.append(time.perf_counter())
        with stream:
            raw.echo(stream)
            marks.append(time.perf_counter())
        end = time.monotonic() + PATIENCE
        while self._engine.call("GET", f"/containers/{container}/json")[0] == 200:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name}: {container} is still there after {PATIENCE:.0f} s")
            time.sleep(0.002)
        marks.append(time.perf_counter())
        meters.settle(3.0)
        begun, ended = [*marks[:-1], marks[0]], [*marks[1:], marks[-1]]
        times = [(last - first) * 1_000 for first, last in zip(begun, ended, strict=True)]
        return [*times, meters.machine_cpu_ms() - busy]


def choice(argument: str) -> Choice:
    """Return the engine that an argument names. SystemExit if none answers there."""
    name, _, where = argument.partition("=")
    path, _, runtime = where.partition(",")
    try:
        return Choice(name, path.removeprefix("unix://"), runtime or None)
    except OSError as error:
        raise SystemExit(f"{argument}: no engine answers at {path!r}: {error.strerror}; give NAME=SOCKET or NAME=SOCKET,RUNTIME") from None


def main(arguments: list[str]) -> None:
    """Measure and print: medians, in brackets the fastest."""
    if not arguments:
        raise SystemExit(__doc__)
    choices = [choice(argument) for argument in arguments]
    lives: dict[Choice, list[list[float]]] = {each: [] for each in choices}
    for each in choices:
        each.measure()  # whose first container is slower
    for number in range(ROUNDS):
        for each in choices if number % 2 else choices[::-1]:
            lives[each].append(each.measure())
    print(f"| engine | {' | '.join(PHASES)} | all | processor |")
    print("|---" * (len(PHASES) + 3) + "|")
    for each, measured in lives.items():
        cells = [f"{statistics.median(times):.0f} ({min(times):.0f})" for times in zip(*measured, strict=True)]
        print(f"| {each.name} | {' | '.join(cells)} |")
    print(f"{ROUNDS} containers each, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
