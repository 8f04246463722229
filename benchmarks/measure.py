"""The measurements. Each takes a `Stage` with the contenders on it, and returns plain numbers
for the report.

Contenders that are compared take turns, one run each and in an order that changes every round: what
disturbs the machine disturbs all.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import meters
from .contenders import OURS, PEERS

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Sizes:
    """How much of each is measured."""

    warm_rounds: int = 50
    peer_rounds: int = 16
    cold_rounds: int = 15
    openings: tuple[int, ...] = (10, 50)
    opening_rounds: int = 3
    modules: tuple[str, ...] = ("numpy", "pandas")
    preload_rounds: int = 30
    file_mb: int = 3
    file_rounds: int = 15
    cases: int = 1_000
    judge_rounds: int = 3
    verdicts_of_20: int = 15
    case_bytes: int = 1_000_000
    callers: tuple[int, ...] = (1, 4, 8, 16)
    peer_callers: int = 8
    throughput_rounds: int = 2
    throughput_seconds: float = 5.0
    throughput_warm_up: float = 2.0
    burst: int = 50
    bursts: int = 3
    timeouts: int = 15
    stream_mb: tuple[int, ...] = (64, 200)
    streams: int = 4
    footprint_pools: tuple[int, ...] = (1, 10, 50)
    imports: int = 11
    growth_pools: tuple[int, ...] = (1, 10, 50, 100)
    growth_runs: int = 30
    queued: int = 5_000
    queued_served: int = 60


SMOKE = Sizes(
    warm_rounds=2,
    peer_rounds=1,
    cold_rounds=1,
    openings=(2,),
    opening_rounds=1,
    modules=("json", "decimal"),
    preload_rounds=2,
    file_mb=1,
    file_rounds=1,
    cases=20,
    judge_rounds=1,
    verdicts_of_20=1,
    callers=(1, 2),
    peer_callers=2,
    throughput_rounds=1,
    throughput_seconds=1.0,
    throughput_warm_up=0.5,
    burst=3,
    bursts=1,
    timeouts=1,
    stream_mb=(2, 5),
    streams=1,
    footprint_pools=(1, 2),
    imports=1,
    growth_pools=(1, 2),
    growth_runs=2,
    queued=20,
    queued_served=2,
)


class Failed(Exception):
    """A contender did not do its work; its own words."""


class Worker:
    """A contender in its own process. Use as a context manager, with the number of callers that it
    gets ready for."""

    patience = 180.0

    def __init__(self, python: str, name: str, image: str) -> None:
        self.name = name
        command = [python, "-m", "benchmarks.contenders", name, image]
        pipe = subprocess.PIPE
        self._log = subprocess.DEVNULL if name in PEERS else None
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self._log, bufsize=0)

    def __call__(self, name: str, **options: Any) -> Any:
        """Let it do something; Failed if it cannot."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps([name, options]).encode() + b"\n")
        except BrokenPipeError:
            raise Failed(f"{self.name} has ended with status {self._process.wait()}") from None
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([stdout], [], [], self.patience)[0]:
                self._process.kill()
                raise Failed(f"{self.name}: no answer to {name} within {self.patience:g} s")
            piece = stdout.read(65_536)
            if not piece:
                raise Failed(f"{self.name} has ended with status {self._process.wait()}")
            line += piece
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.name}: {answer['error']}")
        return answer["ok"]

    def end(self) -> None:
        """End the process."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class Images:
    """Ids of images: the default one, the peers' form of it, one that has `Sizes.modules`, and one
    with a newer Python (None: not measured)."""

    default: str
    peers: str
    science: str
    newer: str | None = None


class Stage:
    """Who there is to measure, and how they are started. `failures` collects, by name, why a peer
    could not be measured. `host_modules` is where the bare host's interpreter finds
    `Sizes.modules`, None where it has them."""

    def __init__(self, *, images: Images, peers_python: str | None, host_modules: str | None, sizes: Sizes) -> None:
        self.sizes = sizes
        self.failures: dict[str, str] = {}
        self.images = images
        self.host_modules = host_modules
        self._peers_python = peers_python
        self.peers = list(PEERS) if peers_python else []

    @contextlib.contextmanager
    def on(self, name: str, size: int | None = 1, *, image: str | None = None, **program: Any) -> Iterator[Worker]:
        """A contender, opened for `size` callers (None: not opened), and closed at the end. `image`
        is another than the default, `program` what `Contender.prepare` takes."""
        kind, _, _ = name.partition(",")
        ours = kind in OURS
        default = self.images.default if ours else self.images.peers
        worker = Worker(sys.executable if ours else str(self._peers_python), kind, image or default)
        try:
            if program:
                worker("prepare", **program)
            if size is not None:
                worker("open", size=size)
            yield worker
            if size is not None:
                worker("close")
        finally:
            worker.end()

    def tolerant(self, stack: contextlib.ExitStack, name: str, size: int = 1) -> Worker | None:
        """Like `on` for a peer: one that cannot be started is noted, and left out."""
        try:
            return stack.enter_context(self.on(name, size))
        except Failed as error:
            self.failures[name] = str(error)
            return None


NEWER = "dayfly async, Python 3.13"


def warm(stage: Stage) -> dict[str, list[float]]:
    """Latency of one run, in ms, of everybody."""
    ours = ["dayfly", "dayfly async", "dayfly session", "bare host", "echo floor"]
    order = random.Random(5)
    found: dict[str, list[float]] = {name: [] for name in ours}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(stage.on(name)) for name in ours}
        if stage.images.newer:
            ours.append(NEWER)
            workers[NEWER] = stack.enter_context(stage.on(NEWER, image=stage.images.newer))
        workers |= {name: worker for name in stage.peers if (worker := stage.tolerant(stack, name))}
        for worker in workers.values():
            with contextlib.suppress(Failed):  # it will say so again
                worker("sample")
        every = max(1, stage.sizes.warm_rounds // stage.sizes.peer_rounds)
        for turn in range(stage.sizes.warm_rounds):
            names = [name for name in workers if name in ours or turn % every == 0]
            order.shuffle(names)
            for name in names:
                meters.settle()
                try:
                    found.setdefault(name, []).append(workers[name]("sample"))
                except Failed as error:
                    if name in ours:
                        raise
                    stage.failures[name] = str(error)
                    workers[name].end()
                    del workers[name]
    return found


def cold(stage: Stage) -> dict[str, list[float]]:
    """In ms: from `initialize` to the first result, "1", and how long `initialize` of larger pools
    takes, by their size."""
    sizes = stage.sizes
    with stage.on("dayfly", None) as worker:
        found = {"1": [_after_settling(worker, "cold") for _ in range(sizes.cold_rounds)]}
        for size in sizes.openings:
            found[str(size)] = [_after_settling(worker, "opening", size=size) for _ in range(sizes.opening_rounds)]
    return found


def preload(stage: Stage) -> dict[str, Any]:
    """A program that imports `Sizes.modules`: its latency in ms, in turns with one that does not;
    and the memory of an idle container with them and without."""
    sizes = stage.sizes
    importing = {"code": f"import {', '.join(sizes.modules)}\nprint('hi')", "says": "hi", "memory": SCIENCE_MEMORY}
    preloading = {**importing, "preload": sizes.modules}
    plain = {**importing, "code": "print('hi')"}
    ways = {
        "dayfly async, no import": plain,
        "dayfly async, preloaded": preloading,
        "dayfly session, no import": plain,
        "dayfly session, preloaded": preloading,
        "dayfly async, imported": importing,
        "bare host, imported": {**importing, "path": stage.host_modules},
    }
    order = random.Random(7)
    latency: dict[str, list[float]] = {name: [] for name in ways}
    with contextlib.ExitStack() as stack:
        workers = {name: stack.enter_context(stage.on(name, image=stage.images.science, **program)) for name, program in ways.items()}
        for worker in workers.values():
            worker("sample")
        for _ in range(sizes.preload_rounds):
            for name in order.sample([*ways], len(ways)):
                latency[name].append(_after_settling(workers[name], "sample"))
        idle = {name: workers[f"dayfly async, {name}"]("footprint") for name in ("no import", "preloaded")}
    return {"modules": sizes.modules, "latency": latency, "idle": idle}


SCIENCE_MEMORY = 256_000_000


def files(stage: Stage) -> dict[str, Any]:
    """Runs with a file of so many MB handed in, written, and fetched, in ms; and without."""
    found: dict[str, Any] = {"megabytes": stage.sizes.file_mb}
    with stage.on("dayfly") as worker:
        for _ in range(stage.sizes.file_rounds):
            for name, took in _after_settling(worker, "moving", megabytes=stage.sizes.file_mb).items():
                found.setdefault(name, []).append(took)
    return found


SHARE = {"dayfly": 10, "docker run": 50}
"""One case of so many is run where a container is made for each: it takes long."""


def judging(stage: Stage) -> dict[str, Any]:
    """Cases per second of one program with an input for each, in turns: plain, and importing the
    first of `Sizes.modules`, preloaded. How long a verdict of 20 cases takes, in ms. What the
    host's process grows by, in MB, where each case prints a lot."""
    sizes = stage.sizes
    module, processors = sizes.modules[0], os.cpu_count() or 1
    code = "print(int(input()) + 1)"
    names = ["dayfly judge", "bare host", "dayfly", *(["docker run"] if stage.peers else [])]
    found: dict[str, Any] = {"module": module}
    for kind, program in {
        "plain": {"code": code, "says": ""},
        "importing": {
            "code": f"import {module}\n{code}",
            "says": "",
            "preload": [module],
            "memory": SCIENCE_MEMORY,
            "path": stage.host_modules,
        },
    }.items():
        image = None if kind == "plain" else stage.images.science
        rates: dict[str, list[float]] = {name: [] for name in names}
        with contextlib.ExitStack() as stack:
            workers = {name: stack.enter_context(stage.on(name, processors, image=image, **program)) for name in names}
            for _ in range(sizes.judge_rounds):
                for name, worker in workers.items():
                    share = SHARE.get(name, 1 if kind == "plain" or name == "dayfly judge" else 10)
                    cases = max(2 * processors, sizes.cases // sizes.judge_rounds // share)
                    rates[name].append(_after_settling(worker, "judge", cases=cases))
            if kind == "plain":
                judge = workers["dayfly judge"]
                found["twenty_ms"] = [20_000 / _after_settling(judge, "judge", cases=20) for _ in range(sizes.verdicts_of_20)]
                found["hold_mb"] = judge("hold", cases=sizes.cases, size=sizes.case_bytes)
        found[kind] = rates
    return found


def throughput(stage: Stage) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Sustained runs per second, and what each costs the machine: by contender, then by number of
    callers."""
    sizes, order = stage.sizes, random.Random(6)
    turns = [(name, callers) for name in ("dayfly", "ceiling", "static ceiling") for callers in sizes.callers]
    turns += [(name, callers) for name in ("dayfly session", "bare host") for callers in (1, 2)]
    turns += [(name, sizes.peer_callers) for name in stage.peers]
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(sizes.throughput_rounds):
        order.shuffle(turns)
        for name, callers in turns:
            if name in stage.failures:
                continue
            meters.settle()
            try:
                with stage.on(name, callers) as worker:
                    window = worker("sustain", callers=callers, warm_up=sizes.throughput_warm_up, seconds=sizes.throughput_seconds)
            except Failed as error:
                if name in OURS and name != "static ceiling":  # which needs a compiler
                    raise
                stage.failures[name] = str(error)
                continue
            found.setdefault(name, {}).setdefault(str(callers), []).append(window)
    return found


def burst(stage: Stage) -> list[list[float]]:
    """When each of 50 runs that were started at once was done, in ms, for each burst."""
    with stage.on("dayfly async", stage.sizes.burst) as worker:
        return [_after_settling(worker, "burst", runs=stage.sizes.burst) for _ in range(stage.sizes.bursts)]


ENDLESS = {
    "spinning": "while True: pass",
    "sleeping": "import time; time.sleep(600)",
    "flooding": "import os\nwhile True: os.write(1, b'x' * 65536)",
}


def timeouts(stage: Stage) -> dict[str, list[float]]:
    """How late a run with a deadline of 500 ms returns, in ms, for three programs that do not
    end."""
    found: dict[str, list[float]] = {kind: [] for kind in ENDLESS}
    with stage.on("dayfly") as worker:
        for _ in range(stage.sizes.timeouts):
            for kind, code in ENDLESS.items():
                found[kind].append(_after_settling(worker, "late", code=code, timeout_ms=500))
    return found


def streams(stage: Stage) -> dict[str, list[dict[str, Any]]]:
    """Output within the cap of 64 MB, and far beyond it: its speed, and the memory of host and
    container."""
    found: dict[str, list[dict[str, Any]]] = {}
    with stage.on("dayfly async") as worker:
        for _ in range(stage.sizes.streams):
            for megabytes in stage.sizes.stream_mb:
                found.setdefault(str(megabytes), []).append(_after_settling(worker, "flood", megabytes=megabytes))
    return found


IMPORTS = [
    ("import_ms", "", "dayfly"),
    ("foundations_ms", "", "asyncio, anyio.from_thread, msgspec"),
    # As on a host that has only what dayfly needs: httpx would import trio too, if it is there.
    ("first_engine_ms", "import dayfly, sys; sys.modules['trio'] = None; ", "dayfly._connection"),
]
"""What is timed: a name, what goes before it, what is imported."""


def footprint(stage: Stage) -> dict[str, Any]:
    """Memory and descriptors with pools of several sizes; time of `import dayfly`."""
    found: dict[str, Any] = {}
    for size in stage.sizes.footprint_pools:
        meters.settle()
        before = meters.available_kb()
        with stage.on("dayfly async", size) as worker:
            meters.settle()
            found[str(size)] = {**worker("footprint"), "machine_kb": before - meters.available_kb()}
    for name, before, modules in IMPORTS:
        program = f"{before}import time; t = time.perf_counter(); import {modules}; print((time.perf_counter() - t) * 1e3)"
        found[name] = []
        for _ in range(stage.sizes.imports):
            meters.settle()
            done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
            found[name].append(float(done.stdout))
    return found


def growth(stage: Stage) -> dict[str, Any]:
    """Latency and the host's own processor time per run with pools of several sizes; and with
    thousands of runs in the queue."""
    found: dict[str, Any] = {}
    for size in stage.sizes.growth_pools:
        with stage.on("dayfly async", size) as worker:
            meters.settle()
            found[str(size)] = worker("cost", runs=stage.sizes.growth_runs)
    with stage.on("dayfly async", 8) as worker:
        found["queued"] = worker("queued", waiting=stage.sizes.queued, measured=stage.sizes.queued_served)
    return found


SECTIONS = {
    "warm": warm,
    "cold": cold,
    "throughput": throughput,
    "burst": burst,
    "timeouts": timeouts,
    "streams": streams,
    "footprint": footprint,
    "growth": growth,
    "preload": preload,
    "files": files,
    "judging": judging,
}


def _after_settling(worker: Worker, name: str, **options: Any) -> Any:
    meters.settle()
    return worker(name, **options)
