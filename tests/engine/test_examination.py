"""The doctor at the bedside of the real engine and its host, and of engines that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from dayfly import _doctor as doctor
from dayfly._engine_api import EngineAPI

LOOKED_AT = {
    *("engine", "cgroups", "memory limit", "process limit", "processor limit", "seccomp", "security module", "user namespace"),
    *("live restore", "runtimes", "containerd version", "kernel", "swap", "storage", "image"),
}


async def test_the_real_engine_is_examined() -> None:
    async with EngineAPI() as engine:
        found = {finding.name: finding for finding in await doctor.examine(engine)}
        info = await engine.info()
    assert found.keys() >= LOOKED_AT
    assert found["image"].level == "ok"
    assert info["KernelVersion"] in found["kernel"].found
    if engine.local:
        assert {"socket", "core dumps"} <= found.keys()
    # The tests of the sandbox run on this engine, so it must be one that a sandbox works with.
    assert {name: finding for name, finding in found.items() if finding.level == "failure"} == {}


async def test_an_image_or_a_runtime_that_is_not_there_is_a_finding() -> None:
    found = {finding.name: finding.level for finding in await doctor.consult(image="dayfly/none:1", runtime="none")}
    assert (found["image"], found["runtimes"]) == ("failure", "failure")


@pytest.mark.parametrize("address", ["unix://{}/none.sock", "tcp://127.0.0.1:1", "nonsense://x"])
async def test_no_engine_is_a_finding(address: str, tmp_path: Path) -> None:
    (finding,) = await doctor.consult(address.format(tmp_path))
    assert (finding.name, finding.level) == ("engine", "failure")
    assert finding.found
    assert "DOCKER_HOST" in finding.advice
