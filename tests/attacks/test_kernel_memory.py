"""What a program can make the kernel hold is charged to its container: each kind of object, up to its limit.

`programs/_kernel_objects.py` makes the objects in a container and holds them. Meanwhile this looks at the host's own counters: none
may have grown by more than 1.5 times what the container was charged, and 8 MB. The host does other things at the same time, so a kind
that grows too much is made again, and fails if it does so each time.
"""

from __future__ import annotations

import ast
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dayfly import Piece, Sandbox
from dayfly.spec import is_gvisor

from ..conftest import Engine
from .harness import CGROUPS, PROGRAMS

PROGRAM = PROGRAMS / "_kernel_objects.py"
FACTOR, ALLOWANCE = 1.5, 8_000_000
TRIES = 4
COUNTERS = ("SUnreclaim", "PageTables", "KernelStack", "VmallocUsed", "Percpu")
CHARGES = (
    ("memory.current",),
    ("memory.usage_in_bytes", "memory.kmem.tcp.usage_in_bytes"),  # of version 1, which counts the latter beside the former
)


def kinds() -> list[str]:
    """The functions of the program that are marked as a kind."""
    functions = [node for node in ast.parse(PROGRAM.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [function.name for function in functions if function.decorator_list]


def host() -> dict[str, int]:
    """Bytes of the host's that cannot be reclaimed, by what holds them, and all that is gone."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    meminfo = {name[:-1]: int(value) * 1024 for name, value, *_ in lines}
    found = {name: meminfo[name] for name in COUNTERS}
    sockets = [line.split() for line in Path("/proc/net/sockstat").read_text().splitlines()]
    pages = sum(int(words[words.index("mem") + 1]) for words in sockets if "mem" in words)
    found["sockets"] = pages * os.sysconf("SC_PAGESIZE")
    return {**found, "all": meminfo["MemTotal"] - meminfo["MemAvailable"]}


def charged(container: str) -> int:
    """Bytes that the container is charged for."""
    for shape in CGROUPS:
        for folder in Path("/sys/fs/cgroup").glob(shape.format(container)):
            for names in CHARGES:
                if (folder / names[0]).exists():
                    return sum(int((folder / name).read_text()) for name in names)
    raise AssertionError(f"no cgroup of memory for {container}")


@pytest.fixture(scope="module")
def sandbox(image: str, runtime: str) -> Iterator[Sandbox]:
    if is_gvisor(runtime):
        pytest.skip("the program's objects are those of gVisor's kernel, all of them in the container's memory")
    with Sandbox(1, runtime=runtime, max_containers=1) as sandbox:
        yield sandbox


def measure(sandbox: Sandbox, engine: Engine, kind: str) -> tuple[int, dict[str, int], int]:
    """How many were made, by how much the host's counters grew, and what the container was charged for in that time."""
    while sandbox.stats().warm == 0:
        time.sleep(0.02)
    (container,) = (row["Id"] for row in engine.containers() if row["Labels"]["dayfly.pid"] == str(os.getpid()))
    before, charged_before = host(), charged(container)
    with closing(sandbox.stream(PROGRAM.read_text(), args=[kind], timeout_ms=60_000)) as pieces:  # type: ignore[type-var]
        piece = next(pieces)  # type: ignore[call-overload]
        assert isinstance(piece, Piece) and piece.stream == "stdout", piece
        after = host()
        return int(piece.text.split()[1]), {name: after[name] - before[name] for name in after}, charged(container) - charged_before


@pytest.mark.parametrize("kind", kinds())
def test_what_the_kernel_holds_is_charged(sandbox: Sandbox, engine: Engine, kind: str) -> None:
    for _ in range(TRIES):
        count, grown, charge = measure(sandbox, engine, kind)
        over = {name: grown[name] for name in grown if grown[name] > FACTOR * charge + ALLOWANCE}
        print(f"{kind} | {count:,} | {charge / 1e6:.1f} | " + " | ".join(f"{value / 1e6:.1f}" for value in grown.values()))
        if not over:
            return
    pytest.fail(f"{count:,} {kind}: charged {charge:,} bytes, the host has {over} more")
