"""The runtimes that attacks are run on."""

from __future__ import annotations

import os

import pytest

from ..conftest import Engine

RUNTIMES = os.environ.get("DAYFLY_TEST_RUNTIMES", "runc crun").split()


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, engine: Engine) -> str:
    """The name of a runtime that the engine has."""
    name = str(request.param)
    status, info = engine.call("GET", "/info")
    assert status == 200
    if name not in info["Runtimes"]:
        pytest.fail(f"the engine has no runtime {name}: run  tools/runtimes,  or name those that it has in DAYFLY_TEST_RUNTIMES")
    return name
