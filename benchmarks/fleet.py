"""What a Fleet costs, and how it grows: `python -m benchmarks.fleet`, after `pip install --group
frameworks`. Two minutes; with `--smoke` some seconds, whose numbers mean nothing."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import msgspec
import ray
from ray.cluster_utils import Cluster

from dayfly import Outcome, Result, Sandbox
from dayfly._names import DEFAULT_IMAGE
from dayfly.adapters.ray import Fleet, SandboxActor, _Answer, _Node

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
CANNED = msgspec.msgpack.encode(
    _Answer(
        result=Result(
            outcome=Outcome.OK,
            stdout="hi\n",
            stderr="",
            combined="hi\n",
            is_error=False,
            timed_out=False,
            exit_code=0,
            signal=None,
            stdout_truncated=False,
            stderr_truncated=False,
        )
    )
)


def overhead(rounds: int, image: str) -> None:
    """A warm run through Ray, and without it, in turns."""
    times: dict[str, list[float]] = {"Sandbox": [], "Fleet": []}
    with Sandbox(2, image=image) as sandbox, Fleet(pool_size=2, image=image) as fleet:
        for _ in range(rounds):
            for name, runs in (("Sandbox", sandbox), ("Fleet", fleet)):
                time.sleep(0.5)  # until there are warm containers again
                begun = time.perf_counter()
                assert runs.run("print('hi')").stdout == "hi\n"
                times[name].append((time.perf_counter() - begun) * 1_000)
    for name, taken in times.items():
        print(f"{name}: median {statistics.median(taken):.1f} ms, best {min(taken):.1f} ms")


def simulated(delay: float) -> type[Fleet]:
    """Return a Fleet whose runs take so long, and need no engine."""

    class Simulated(SandboxActor):
        def __init__(self, arguments: Any) -> None:
            pass

        async def start(self) -> bytes:
            return msgspec.msgpack.encode(_Answer())

        async def run(self, job: bytes) -> bytes:
            await asyncio.sleep(delay)
            return CANNED

        async def close(self) -> None:
            pass

    return type("SimulatedFleet", (Fleet,), {"actor": Simulated})


def rate(fleet: Fleet, runs: int) -> float:
    """Runs a second."""
    begun = time.perf_counter()
    assert sum(1 for _ in fleet.as_completed(["print('hi')"] * runs)) == runs
    return runs / (time.perf_counter() - begun)


def bookkeeping(nodes: int, runs: int) -> float:
    """Microseconds of a run in the driver, without Ray, on so many nodes whose runs end at once."""

    def remote(_: bytes) -> Any:
        answer: Future[bytes] = Future()
        answer.set_result(CANNED)
        return SimpleNamespace(future=lambda: answer)

    fleet = Fleet()
    fleet._open = True
    for number in range(nodes):
        node = fleet._nodes[str(number)] = _Node(str(number), SimpleNamespace(run=SimpleNamespace(remote=remote)))
        node.up = True
    return 1e6 / rate(fleet, runs)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description="What a Fleet costs, and how it grows.")
    parser.add_argument("--smoke", action="store_true", help="as little as it goes")
    parser.add_argument("--image", default=DEFAULT_IMAGE)
    given = parser.parse_args()
    part = 20 if given.smoke else 1
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE, resources={"dayfly": 1})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    overhead(40 // part, given.image)
    with simulated(0.2)(pool_size=8) as fleet:
        rate(fleet, 32)
        print(f"1 node of 16 runs of 0.2 s: {rate(fleet, 400 // part):.0f} runs a second, of 80")
    cluster.add_node(**NODE, resources={"dayfly": 1})
    with simulated(0.2)(pool_size=8) as fleet:
        rate(fleet, 64)
        print(f"2 nodes: {rate(fleet, 800 // part):.0f} runs a second, of 160")
    with simulated(0)(pool_size=64) as fleet:
        rate(fleet, 500)
        print(f"one driver, 2 nodes, runs of 0 s: {rate(fleet, 4_000 // part):.0f} runs a second")
    for nodes in (1, 10, 100, 1_000):
        print(f"{nodes} nodes: {bookkeeping(nodes, 5_000 // part):.0f} microseconds a run in the driver, without Ray")
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
