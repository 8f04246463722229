"""The calls to the engine: nulls in its answers, deadlines, and what is known of a call that
failed."""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from hypothesis import given
from hypothesis import strategies as st

from dayfly import EngineError, EngineUnreachable
from dayfly._connection import Connection
from dayfly._endpoint import resolve
from dayfly._engine_api import EngineAPI, Happening, _Container, _decode, _Image, _Info, _without_nulls

# Nulls.

KEYS = st.sampled_from(["Action", "Actor", "Attributes", "Runtimes", "SecurityOptions", "NCPU", "Config", "Labels", "Names", "other"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


def members(value: Any) -> list[Any]:
    """The values of all members of all objects in a JSON value."""
    if isinstance(value, dict):
        return [*value.values(), *(one for item in value.values() for one in members(item))]
    return [one for item in value for one in members(item)] if isinstance(value, list) else []


@given(JSON)
def test_no_member_of_an_answer_is_null(value: Any) -> None:
    assert None not in members(_without_nulls(value))


@given(JSON)
def test_what_is_not_null_stays(value: Any) -> None:
    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            kept = {key: item for key, item in one.items() if item is not None}
            return kept.keys() == other.keys() and all(same(item, other[key]) for key, item in kept.items())
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        return bool(one == other)

    assert same(value, _without_nulls(value))


@pytest.mark.parametrize("shape", [_Info, _Container, Happening, dict[str, Any]])
@given(value=st.dictionaries(KEYS, JSON, max_size=5))
def test_an_answer_is_of_its_shape_or_an_engine_error(shape: Any, value: dict[str, Any]) -> None:
    try:
        answer = _decode("GET /x", json.dumps(value).encode(), shape)
    except EngineError:
        return
    assert None not in members(answer)


@pytest.mark.parametrize(("answer", "shape"), [
    (b'{"Runtimes":null,"SecurityOptions":null,"NCPU":null}', _Info),
    (b'{"Id":"x","Config":null}', _Image),
    (b'{"Id":"x","Config":{"Labels":null}}', _Image),
    (b'{"Config":null,"HostConfig":null,"Mounts":null}', _Container),
])  # fmt: skip
def test_a_null_is_as_good_as_no_member(answer: bytes, shape: Any) -> None:
    decoded = _decode("GET /x", answer, shape)
    assert decoded.get("Runtimes", {}) == {}
    assert (decoded.get("Config") or {}).get("Labels") is None


def test_a_null_for_what_is_needed_is_an_engine_error() -> None:
    with pytest.raises(EngineError, match="makes no sense"):
        _decode("GET /x", b'{"Id":null}', _Image)


@pytest.mark.parametrize("event", [
    {"Actor": "x"}, {"Actor": {"Attributes": "x"}}, {"Actor": {"Attributes": []}}, {"Action": 1}, {"status": {}}, [], "die", 1,
])  # fmt: skip
def test_an_event_of_another_shape_is_an_engine_error(event: Any) -> None:
    with pytest.raises(EngineError, match="makes no sense"):
        _decode("GET /events", json.dumps(event).encode(), Happening)


# Deadlines.


@pytest.fixture
async def silent(tmp_path: Path) -> AsyncIterator[str]:
    """An engine that tells its version and then answers nothing."""
    body = b'{"ApiVersion":"1.41"}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def serve(stream: SocketStream) -> None:
        async with stream:
            while True:
                try:
                    received = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                if b"/version" in received:
                    await stream.send(head + body)

    path = str(tmp_path / "engine.sock")
    listener = await anyio.create_unix_listener(path)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"unix://{path}"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("own", [None, 4.0])
async def test_hurry_bounds_every_call_to_come(silent: str, own: float | None) -> None:
    async with EngineAPI(silent) as engine:
        engine.hurry(0.2)
        begun = time.monotonic()
        with pytest.raises(EngineUnreachable, match=r"within 0\.2 s"):
            await engine.remove("x", deadline=own)
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize("own", [None, 30.0])
async def test_hurry_bounds_every_call_under_way(silent: str, own: float | None) -> None:
    async def call() -> None:
        with pytest.raises(EngineUnreachable, match="no answer"):
            await engine.remove("x", deadline=own)

    begun = time.monotonic()
    async with EngineAPI(silent) as engine, anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await anyio.sleep(0.1)
        engine.hurry(0.2)
    assert time.monotonic() - begun < 3


async def test_a_shorter_deadline_of_a_call_stays(silent: str) -> None:
    async with EngineAPI(silent) as engine:
        engine.hurry(60)
        begun = time.monotonic()
        with pytest.raises(EngineUnreachable, match=r"within 0\.1 s"):
            await engine.remove("x", deadline=0.1)
        assert time.monotonic() - begun < 2


async def test_an_etimedout_of_the_network_is_not_a_deadline() -> None:
    connection = Connection(resolve("tcp://engine"), 30)
    with pytest.raises(EngineUnreachable) as caught, connection._bounded("GET /x", 5):
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    assert "cannot be reached" in str(caught.value) and "Connection timed out" in str(caught.value)
    assert "within" not in str(caught.value)


# Whether a call may have reached the engine.


async def test_a_refused_connection_has_sent_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    for address in (f"unix://{path}", f"unix://{tmp_path}/none.sock"):
        with pytest.raises(EngineUnreachable) as caught:
            async with EngineAPI(address):
                pass
        assert caught.value.sent is False


async def test_a_call_without_an_answer_may_have_been_sent(silent: str) -> None:
    async with EngineAPI(silent) as engine:
        with pytest.raises(EngineUnreachable) as caught:
            await engine.remove("x", deadline=0.1)
        assert caught.value.sent is True


async def test_a_call_after_the_end_has_sent_nothing() -> None:
    with pytest.raises(EngineUnreachable) as caught:
        await EngineAPI("tcp://engine").info()
    assert caught.value.sent is False
