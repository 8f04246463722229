"""One container's life against an engine and a runner that are scripted: what its caller is told of
what goes wrong inside of dayfly, on the wire and on a late host."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from dayfly import ContainerLost, Limits, Outcome, PoolClosed, RunnerMisbehaved
from dayfly import _container as module
from dayfly import _post_mortem as post_mortem
from dayfly import _spec as spec
from dayfly._cleaner import Cleaner
from dayfly._container import Container
from dayfly._events import Ended, Event
from dayfly._execution import Execution
from dayfly._ledger import Ledger, State
from dayfly._messages import Output, Request, Started
from dayfly._pool import Pool

from .test_dialogue import REQUEST, display, file, leave, message, output, ready, skipped, wire

PROFILE = spec.Profile(
    image_id="sha256:0",
    memory_bytes=50_000_000,
    limits=Limits(),
    runtime=None,
    cgroup_parent=None,
    labels={},
    socket_limit=True,
    udp=True,
)
STATUS = {
    name: min(allowed) if not name.startswith("cap_") else f"{min(allowed):x}" for name, allowed in spec.expected_status(None).items()
}
CANARY = "Zr4x_CANARY_c0de"
FOREVER = 3_600.0


class Runner:
    """The stream of one attached container, and the runner at its other end."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.token = self.run_token = ""
        self.shut = False
        self._unread = bytearray()
        self._over = False
        self._changed = anyio.Event()
        self._host = bytearray()

    def say(self, data: bytes, stream: int = 1) -> None:
        self._unread += bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data
        self._changed.set()

    def end(self) -> None:
        self._over = True
        self._changed.set()

    async def read(self) -> bytes:
        await checkpoint()
        while not self._unread and not self._over:
            self._changed = anyio.Event()
            await self._changed.wait()
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def readable(self) -> bool:
        return bool(self._unread) or self._over

    async def write(self, data: bytes) -> None:
        await checkpoint()
        self._host += data
        while len(self._host) >= 4 and len(self._host) >= (size := 4 + int.from_bytes(self._host[:4], "big")):
            said = json.loads(self._host[4:size])
            del self._host[:size]
            if said["type"] == "hello":
                self.token = said["token"]
                self.say(ready(token=self.token, status={**STATUS, "uid": self.uid, "gid": self.uid}))
            elif said["type"] == "open":
                self.say(wire("next"))
            elif said["type"] == "run":
                self.run_token = said["token"]
                self.say(wire("started", preloaded=False))

    def shut_down(self) -> None:
        self.shut = True
        self.end()

    def end_writing(self) -> None:
        """Nothing: this runner ends by itself."""

    async def aclose(self) -> None:
        self.shut_down()


class Engine:
    """As much of an engine as a container needs. `history`: the events of every container."""

    def __init__(self) -> None:
        self.runners: list[Runner] = []
        self.removed: list[str] = []
        self.history: list[dict[str, Any]] = []
        self.asked: Callable[[], None] = lambda: None
        """Called when somebody has begun to ask for events."""

    async def create(self, name: str, _body: Any) -> str:
        self.runners.append(Runner(int(name.removeprefix("dayfly-"))))
        return f"{len(self.runners):064x}"

    async def inspect(self, _container: str) -> dict[str, Any]:
        raise NotImplementedError

    async def attach(self, _container: str) -> Runner:
        return self.runners[-1]

    async def start(self, _container: str) -> None:
        await checkpoint()

    async def remove(self, container: str, **_: Any) -> bool:
        self.removed.append(container)
        return True

    @asynccontextmanager
    async def events(self, _container: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        async def lines() -> AsyncIterator[dict[str, Any]]:
            self.asked()
            for event in list(self.history):
                await anyio.sleep(0.001)  # a read of a socket alone need not be a checkpoint
                yield event
            await anyio.sleep_forever()

        source = lines()
        try:
            yield source
        finally:
            await source.aclose()  # type: ignore[attr-defined]


class House:
    """A pool of one container, as a sandbox has it."""

    def __init__(self) -> None:
        self.engine = Engine()
        engine: Any = self.engine
        self.ledger = Ledger(size=1, max_alive=2, max_creating=1, max_waiting=10, max_wait=60, refill_delay=FOREVER)
        self.cleaner = Cleaner(engine, self.ledger, "x")
        self.pool: Pool[Container] = Pool(self.ledger, self.live)

    async def live(self, key: int, on_warm: Callable[[Container], None]) -> None:
        parts: Any = {"engine": self.engine, "ledger": self.ledger, "cleaner": self.cleaner}
        await Container(key, spec.Blueprint(PROFILE), range(20_000, 60_000), **parts).live(on_warm)

    @property
    def runner(self) -> Runner:
        return self.engine.runners[-1]


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(module, "LINGER", 0.2)
    house = House()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.pool.serve)
        yield house
        tasks.cancel_scope.cancel()
    assert house.ledger.count(State.LEASED) == house.ledger.count(State.ENDING) == 0


async def events_of(execution: Execution) -> list[Event]:
    with anyio.fail_after(20):
        return [event async for event in execution]


async def start(house: House, container: Container, request: Request = REQUEST) -> Execution:
    execution = await container.run(request)
    with anyio.fail_after(20):
        while not any(isinstance(event, Started) for event in execution._events):
            await anyio.sleep(0.001)
    return execution


# An internal error.


def fail() -> None:
    raise KeyError("a fault of ours")


async def failing() -> None:
    raise KeyError("a fault of ours")


@pytest.mark.parametrize("place", ["_take", "_keep_time", "_feed"])
async def test_an_internal_error_is_not_called_a_close(
    house: House, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with house.pool.lease() as container:
        working: Any = getattr(container, place)

        def broken(*arguments: Any) -> Any:
            if place == "_take" and not isinstance(arguments[0], Output):
                return working(*arguments)
            return failing() if place != "_take" else fail()

        monkeypatch.setattr(container, place, broken)
        execution = await (start(house, container) if place == "_take" else container.run(REQUEST))
        house.runner.say(output(b"x"))
        with pytest.raises(ContainerLost, match="internal error") as caught:
            await events_of(execution)
    assert caught.value.delivered
    assert "KeyError('a fault of ours')" in repr(caught.value.__cause__)
    assert not house.ledger.closed
    with anyio.fail_after(20):
        while "Traceback" not in caplog.text:
            await anyio.sleep(0.001)
    assert "a fault of ours" in caplog.text
    async with house.pool.lease() as container:  # the others are well
        execution = await start(house, container)
        house.runner.say(leave(token=house.runner.run_token))
        assert isinstance((await events_of(execution))[-1], Ended)


async def test_a_run_that_a_close_ends_is_told_so_with_the_cause(house: House) -> None:
    fault = KeyError("a fault of ours")
    async with house.pool.lease() as container:
        execution = await start(house, container)
        house.pool.close(fault)
        assert house.pool._tasks is not None
        house.pool._tasks.cancel_scope.cancel()
        with pytest.raises(PoolClosed, match="while the program was running") as caught:
            await events_of(execution)
    assert caught.value.__cause__ is fault


# What the program may have written is in no error and in no log.


HOSTILE = {
    "no JSON": CANARY.encode(),
    "an unknown frame": wire(CANARY)[4:],
    "an unknown member": wire("next", **{CANARY: 1})[4:],
    "a member of the wrong type": wire("started", preloaded=CANARY)[4:],
    "an unknown value": wire("output", stream=CANARY, data="")[4:],
    "no base64": wire("output", stream="stdout", data=CANARY)[4:],
    "no UTF-8": b'{"type":"' + CANARY.encode() + b'\xff"}',
    "a path that leads out": file(b"x", f"../{CANARY}")[4:],
    "a forged token": leave(token=CANARY)[4:],
    "a frame out of order": ready(version=CANARY)[4:],
    "an error": wire("error", message=CANARY)[4:],
    "too much output": output(CANARY.encode() * 20)[4:],
    "too large a message": message(CANARY.encode() * 20)[4:],
    "too large a display": display(CANARY.encode() * 20)[4:],
    "a file that comes twice": file(b"x", CANARY)[4:],
    "a name of what is not sent": skipped(f"{CANARY}\0" * 2)[4:],
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("session", [False, True], ids=["single", "session"])
async def test_no_error_or_log_repeats_what_a_program_wrote(
    house: House, kind: str, session: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setattr(post_mortem, "POST_MORTEM", 0.1)
    body = HOSTILE[kind]
    async with house.pool.lease() as container:
        if session:
            await container.open_session([], [])
        execution = await start(house, container)
        house.runner.say(CANARY.encode(), stream=2)
        house.runner.say(len(body).to_bytes(4, "big") + body)
        house.runner.say(len(body).to_bytes(4, "big") + body)
        house.runner.end()
        with pytest.raises((RunnerMisbehaved, ContainerLost)) as caught:
            await events_of(execution)
    error: BaseException | None = caught.value
    while error is not None:
        assert CANARY not in f"{error!r}"
        error = error.__cause__
    assert CANARY not in caplog.text


async def test_the_stderr_of_a_runner_that_no_program_has_met_is_told(house: House) -> None:
    await house.pool.filled()
    house.runner.say(b"Fatal Python error", stream=2)
    house.runner.end()
    with anyio.fail_after(20):
        while house.pool.last_error is None:
            await anyio.sleep(0.001)
    assert "Fatal Python error" in str(house.pool.last_error)


# A host that is late.


def died(code: str) -> dict[str, Any]:
    return {"Action": "die", "Actor": {"Attributes": {"exitCode": code}}}


OOM = [died("137"), {"Action": "oom"}]


@pytest.mark.parametrize("delayed", [0, 1, 2], ids=["before the events", "between them", "after them"])
async def test_a_lag_in_the_post_mortem_changes_no_verdict(house: House, delayed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine has said all of it meanwhile."""
    monkeypatch.setattr(post_mortem, "POST_MORTEM", 0.4)
    monkeypatch.setattr(post_mortem, "OOM_DELAY", 0.2)
    engine = house.engine
    engine.history = OOM[:delayed]

    async def lag() -> None:
        time.sleep(0.7)  # noqa: ASYNC251 - it is what is tested
        engine.history = OOM

    async with anyio.create_task_group() as tasks, house.pool.lease() as container:
        execution = await start(house, container)

        def asked() -> None:
            engine.asked = lambda: None
            tasks.start_soon(lag)

        engine.asked = asked
        house.runner.end()
        (*_, ended) = await events_of(execution)
    assert isinstance(ended, Ended)
    assert (ended.outcome, ended.exit) == (Outcome.OUT_OF_MEMORY, None)


async def test_an_engine_that_says_nothing_is_not_waited_for_for_ever(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_mortem, "POST_MORTEM", 0.1)
    async with house.pool.lease() as container:
        execution = await start(house, container)
        house.runner.end()
        with pytest.raises(ContainerLost, match="gone"):
            await events_of(execution)


async def test_an_engine_that_says_no_oom_is_believed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_mortem, "OOM_DELAY", 0.1)
    house.engine.history = [died("137")]
    async with house.pool.lease() as container:
        execution = await start(house, container)
        house.runner.end()
        with pytest.raises(ContainerLost, match="exit status 137"):
            await events_of(execution)


async def test_a_report_that_the_engine_has_dropped_is_told(house: House) -> None:
    house.engine.history = [died("0")]
    async with house.pool.lease() as container:
        execution = await start(house, container)
        house.runner.end()
        with pytest.raises(ContainerLost, match="its report is lost") as caught:
            await events_of(execution)
    assert caught.value.delivered


@pytest.mark.parametrize("oom", [0, 1])
async def test_a_lag_at_the_end_forces_no_removal(house: House, oom: int) -> None:
    async with house.pool.lease() as container:
        execution = await start(house, container)
        runner = house.runner
        runner.say(leave(token=runner.run_token, signal=9, exit_code=None, oom_kills=oom))
        assert isinstance((await events_of(execution))[-1], Ended)
        await anyio.sleep(0.02)
    time.sleep(0.5)  # noqa: ASYNC251
    await anyio.sleep(0.02)
    runner.end()
    with anyio.fail_after(20):
        while not house.ledger.count(State.UNCERTAIN):
            await anyio.sleep(0.001)
    assert house.engine.removed == []


async def test_a_runner_that_does_not_end_is_removed(house: House) -> None:
    async with house.pool.lease() as container:
        execution = await start(house, container)
        house.runner.say(leave(token=house.runner.run_token))
        assert isinstance((await events_of(execution))[-1], Ended)
    with anyio.fail_after(20):
        while not house.engine.removed:
            await anyio.sleep(0.001)


def test_the_canary_would_be_found() -> None:
    """What the frames hold is what is looked for."""
    for kind, body in HOSTILE.items():
        assert CANARY.encode() in body or base64.b64encode(CANARY.encode())[:16] in body, kind
