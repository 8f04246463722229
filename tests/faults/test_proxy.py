"""Every fault at every call to the engine (H16 to H19): our own errors only, in bounded time,
nothing left, and well again afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from tests.conftest import within

from dayfly import AsyncSandbox, ContainerLost, DayflyError, RunnerMisbehaved

from . import proxy as faults
from .conftest import Oracle, eventually
from .proxy import Fault, Proxy

BOUND = 20.0
"""Seconds that anything here may take at most, with the deadlines below, on a busy machine."""
ASKING = ("version", "info", "image", "list", "inspect", "events")
"""Sites whose calls change nothing: that the engine has done them before the fault makes no
difference."""
AT_FIRST = ("version", "info", "image", "list", "create", "inspect", "attach", "start")
"""Sites that `initialize` comes by."""
IN_USE = ("create", "attach", "start", "delete", "list", "events")
"""Sites that a warm sandbox comes by."""
OF_EACH_KIND = {"close_at_once", "cut_head", "hang", "404", "409", "429", "500", "200_html", "200_empty", "200_list", "no_http"}
"""What is enough where `initialize` has come by already, with every fault."""


@pytest.fixture(autouse=True)
def _short_deadlines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dayfly._engine_api.DEFAULT_DEADLINE", 2.0)
    monkeypatch.setattr("dayfly._connection.MAX_ANSWER", 10_000_000)
    monkeypatch.setattr("dayfly._container.READY_DEADLINE", 4.0)
    monkeypatch.setattr("dayfly._cleaner.REMOVE_DEADLINE", 2.0)
    monkeypatch.setattr("dayfly._sandbox.CLOSE_DEADLINE", 5.0)
    monkeypatch.setattr("dayfly._cleaner.LOOK_AFTER", 0.1)


def harmful(site: str) -> dict[str, Fault]:
    return {
        **faults.HARMFUL,
        **({} if site in ASKING else faults.HARMFUL_WHEN_DONE),
        **(faults.HARMFUL_STREAM if site == "attach" else {}),
    }


@pytest.mark.parametrize("site", AT_FIRST)
async def test_initialize_survives(site: str, proxy: Proxy, oracle: Oracle, subtests: pytest.Subtests) -> None:
    for name, fault in harmful(site).items():
        with subtests.test(name), anyio.fail_after(BOUND):
            proxy.fault(site, fault)
            before = proxy.hit[site]
            # An engine that is late at another site, with these short deadlines, keeps one from
            # coming to this one.
            while proxy.hit[site] == before:
                try:
                    async with AsyncSandbox(docker_host=proxy.address, queue_timeout_ms=3_000) as sandbox:
                        assert (await sandbox.run("print(1)")).stdout == "1\n"
                except DayflyError as error:
                    assert str(error)
            await eventually(lambda: not oracle.mine())
    assert set(proxy.seen) <= set(faults.SITES)


@pytest.mark.parametrize("site", AT_FIRST)
async def test_nobody_notices(site: str, proxy: Proxy, subtests: pytest.Subtests) -> None:
    for name, fault in {**faults.HARMLESS, **(faults.HARMLESS_STREAM if site == "attach" else {})}.items():
        with subtests.test(name), within(BOUND):
            proxy.fault(site, fault)
            async with AsyncSandbox(docker_host=proxy.address) as sandbox:
                result = await sandbox.run("print(input()); import sandbox; sandbox.send('é' * 1000)", stdin="ü\n")
                assert (result.stdout, result.messages) == ("ü\n", ["é" * 1000])
                assert sandbox.stats().failed == 0
            assert proxy.hit[site]


@pytest.mark.parametrize("site", IN_USE)
async def test_a_sandbox_in_use_survives_and_recovers(site: str, proxy: Proxy, oracle: Oracle, subtests: pytest.Subtests) -> None:
    """All faults in turn, on one sandbox."""
    async with AsyncSandbox(docker_host=proxy.address, queue_timeout_ms=500) as sandbox:
        for name, fault in harmful(site).items():
            if site in AT_FIRST and name in faults.HARMFUL and name not in OF_EACH_KIND:
                continue
            with subtests.test(name), anyio.fail_after(BOUND):
                proxy.fault(site, fault)
                before = proxy.hit[site]
                while proxy.hit[site] == before:
                    try:
                        await PROVOKE.get(site, use_up)(sandbox, oracle)
                    except DayflyError as error:
                        assert str(error)
                proxy.clear()
                # That it works is seen with the next fault: the program that provokes it must come
                # to its end.
                await eventually(lambda: sandbox.stats().warm == len(oracle.mine()) == 1)
        assert (await sandbox.run("print(1)")).stdout == "1\n"
    assert not oracle.mine()


async def use_up(sandbox: AsyncSandbox, oracle: Oracle) -> None:
    assert (await sandbox.run("print(1)")).stdout == "1\n"
    await anyio.sleep(0.1)


async def cancel(sandbox: AsyncSandbox, oracle: Oracle) -> None:
    """Such a container is removed by force."""
    with anyio.move_on_after(0.05):
        await sandbox.run("while True: pass")
    await anyio.sleep(0.05)


async def kill(sandbox: AsyncSandbox, oracle: Oracle) -> None:
    """The stream ends without a word: the engine is asked for its events."""
    async for _ in sandbox.stream("print(1, flush=True)\nwhile True: pass"):
        for row in oracle.mine():
            oracle.call("POST", f"/containers/{row['Id']}/kill")


PROVOKE: dict[str, Callable[[AsyncSandbox, Oracle], Awaitable[None]]] = {"delete": cancel, "events": kill}


async def test_a_stream_that_breaks_in_a_run_is_container_lost(proxy: Proxy, oracle: Oracle, subtests: pytest.Subtests) -> None:
    code = "import os, time\nos.write(1, b'begun')\ntime.sleep(0.1)\nos.write(1, b'more')\ntime.sleep(0.1)\nos.write(1, b'end')"
    async with AsyncSandbox(docker_host=proxy.address) as sandbox:
        for name, fault in faults.IN_MID_RUN.items():
            with subtests.test(name), anyio.fail_after(BOUND):
                pieces = []
                with pytest.raises((ContainerLost, RunnerMisbehaved)) as caught:
                    async for item in sandbox.stream(code, timeout_ms=2_000):
                        pieces.append(item)
                        proxy.stream_fault = fault
                assert caught.value.delivered
                assert pieces[0].text == "begun"  # type: ignore[union-attr]
                proxy.clear()
                await eventually(lambda: sandbox.stats().warm == len(oracle.mine()) == 1)
        assert (await sandbox.run("print(1)")).stdout == "1\n"


async def test_a_creation_whose_answer_is_lost_is_found_by_its_name(proxy: Proxy, oracle: Oracle) -> None:
    """H16: the container exists, and its id is known to nobody."""
    async with AsyncSandbox(docker_host=proxy.address) as sandbox:
        created = oracle.events("create")
        proxy.fault("create", faults.lose_answer)
        assert (await sandbox.run("print(1)")).stdout == "1\n"
        await eventually(lambda: proxy.hit["create"] >= 2)
        proxy.clear()
        await eventually(lambda: sandbox.stats().warm == len(oracle.mine()) == 1)
        assert len(oracle.events("create") - created) >= 3  # two at least whose ids were lost, and the one that is warm
    assert oracle.events("create") - created <= oracle.events("destroy")
