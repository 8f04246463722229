"""What the fault tests share: the engine as it is, asked past every proxy, and only for what this
process made."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from tests.conftest import Engine

from .proxy import Proxy


class Oracle(Engine):
    """An engine, and what it says of the containers of one host process."""

    def mine(self, pid: int | None = None) -> list[dict[str, Any]]:
        """The containers, in any state, that this process or another one has made."""
        return self.containers(pid or os.getpid())

    def events(self, action: str, pid: int | None = None) -> set[str]:
        """Ids of the containers of a process to which this has happened, as far as the engine
        remembers: its last 256 events."""
        filters = {"event": [action], "type": ["container"], "label": [f"dayfly.pid={pid or os.getpid()}"]}
        status, answer = self.call("GET", "/events", since="0", until=f"{time.time():.9f}", filters=filters)
        assert status == 200, answer
        lines = answer.splitlines() if isinstance(answer, bytes) else [json.dumps(answer)]
        return {json.loads(line)["id"] for line in lines}


@pytest.fixture(scope="session")
def oracle(docker_host: str) -> Oracle:
    return Oracle(docker_host.removeprefix("unix://"))


@pytest.fixture
def proxy(oracle: Oracle) -> Iterator[Proxy]:
    with Proxy(oracle.path) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop will do where the subject is the engine; the races of tests/engine run on
    both."""
    return "asyncio"


@pytest.fixture(autouse=True)
async def _anyio_sets_results_of_cancelled_futures(anyio_backend: str) -> None:
    """See `tests.upstream`: an error that is logged, no more."""
    if anyio_backend != "asyncio":
        return
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        expected = isinstance(context.get("exception"), asyncio.InvalidStateError) and "Future.set_result" in context["message"]
        if handler is not None and not expected:
            handler(loop, context)

    loop.set_exception_handler(handle)


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until it is so, and fail if it never is."""
    with anyio.fail_after(seconds):
        while not condition():
            await anyio.sleep(0.02)
