"""The Docker Engine API: the few verbs that dayfly uses, and what is used of their answers.

Owns paths, queries, the agreement on the API's version and the shapes of answers. It decides
nothing: when to create, to kill or to try again is for those who call it. How a request gets there
and back, and in what time, is `connection`'s.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote, urlencode

import anyio
import anyio.to_thread
import msgspec

from ._endpoint import Endpoint, resolve
from ._errors import EngineError, EngineRefused, EngineUnreachable, ImageMissing

if TYPE_CHECKING:
    from ._connection import AttachedStream, Connection

OLDEST_API = (1, 41)
"""Docker 20.10: the first with private cgroup namespaces as a create option on both cgroup
versions."""
NEWEST_API = (1, 51)
"""Docker 28.5, the newest this was tried with. A newer engine is spoken to in this version."""
DEFAULT_DEADLINE = 30.0
"""Seconds. A healthy engine takes milliseconds; under a burst of fifty creations a single one was
seen to take five."""

_JSON = {"Content-Type": "application/json"}


class EngineAPI:
    """One engine. Use as an async context manager; entering it agrees on the API version.

    Entering raises EngineUnreachable, or EngineError for an engine older than API 1.41 (Docker
    20.10).
    """

    def __init__(self, where: str | Endpoint | None = None, *, deadline: float | None = None) -> None:
        self.endpoint = resolve(where)
        self._deadline = DEFAULT_DEADLINE if deadline is None else deadline
        self._prefix = ""
        self._open: Connection | None = None

    @property
    def address(self) -> str:
        """Where the engine is, as a person would write it."""
        return self.endpoint.address

    @property
    def local(self) -> bool:
        """True if the engine is reached over a Unix socket, and so shares this host's kernel as a
        rule."""
        return self.endpoint.socket is not None

    async def __aenter__(self) -> EngineAPI:
        try:
            # It brings httpx, half of what `import dayfly` would cost. In a thread, once: the event
            # loop goes on.
            if (name := f"{__package__}._connection") not in sys.modules:
                await anyio.to_thread.run_sync(importlib.import_module, name)
            from ._connection import Connection  # noqa: PLC0415
        except OSError as error:
            raise EngineUnreachable(
                f"what speaks to the engine cannot be loaded: {error}: raise the limit on open files (descriptors)", sent=False
            ) from error
        self._open = Connection(self.endpoint, self._deadline)
        try:
            self._prefix = "/v" + negotiate(await self.version(), self.address)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def hurry(self, seconds: float) -> None:
        """Let no call, under way or to come, last longer than this from now on: somebody is waiting
        for the end."""
        self._deadline = min(self._deadline, seconds)
        if self._open is not None:
            self._open.hurry(seconds)

    async def aclose(self) -> None:
        """Close all connections, attached streams too. Bounded in time; never raises."""
        connection, self._open = self._open, None
        if connection is not None:
            await connection.aclose()

    @property
    def _connection(self) -> Connection:
        if self._open is None:
            raise EngineUnreachable(f"the connection to {self.address} is closed", sent=False)
        return self._open

    # The verbs.

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        deadline: float | None = None,
        expect: tuple[int, ...] = (200, 201, 204),
    ) -> bytes:
        """Make one call and return the answer's body. `body` is sent as JSON, `content` as it is;
        `deadline` is in seconds.

        Raises EngineRefused for a status that is not expected, EngineUnreachable for no answer in
        time.
        """
        if body is not None:
            content, headers = msgspec.json.encode(body), {**_JSON, **(headers or {})}
        target = self._prefix + path + (f"?{urlencode(query)}" if query else "")
        return await self._connection.request(
            method, target, name=f"{method} {path}", content=content, headers=headers, deadline=deadline, expect=expect
        )

    async def ask(self, method: str, path: str, *, shape: Any = Any, **options: Any) -> Any:
        """Like `call`, and decode the answer as JSON. EngineError where it is none, or not of this
        shape."""
        return _decode(f"{method} {path}", await self.call(method, path, **options), shape)

    async def version(self) -> dict[str, Any]:
        """`GET /version`, without a version prefix."""
        return dict(await self.ask("GET", "/version", shape=dict[str, Any]))

    async def info(self) -> dict[str, Any]:
        """`GET /info`: what the daemon and its host can do."""
        return dict(await self.ask("GET", "/info", shape=_Info))

    async def create(self, name: str, body: Mapping[str, Any] | msgspec.Raw) -> str:
        """Create a container and return its id. ImageMissing if its image is not there;
        EngineRefused(409) if the name is taken."""
        try:
            answer = await self.ask("POST", "/containers/create", query={"name": name}, body=body, shape=_Row)
        except EngineRefused as error:
            if error.status == 404:
                raise ImageMissing(str(error)) from error
            raise
        return str(answer["Id"])

    async def start(self, container: str) -> None:
        """Start a container. 304 (it runs already) is success."""
        await self.call("POST", f"/containers/{container}/start", expect=(204, 304))

    async def inspect(self, container: str) -> dict[str, Any]:
        """`GET /containers/{id}/json`."""
        return dict(await self.ask("GET", f"/containers/{container}/json", shape=_Container))

    async def remove(self, container: str, *, deadline: float | None = None) -> bool:
        """Kill and remove a container. True if it is gone; False if another removal is on its way
        already."""
        query = {"force": "1", "v": "1"}
        try:
            await self.call("DELETE", f"/containers/{container}", query=query, deadline=deadline, expect=(204, 404))
        except EngineRefused as error:
            if error.status == 409:
                return False
            raise
        return True

    async def containers(self, label: str, *, deadline: float | None = None) -> list[dict[str, Any]]:
        """All containers, in any state, that carry a label (`key` or `key=value`)."""
        filters = msgspec.json.encode({"label": [label]}).decode()
        query = {"all": "1", "filters": filters}
        return list(await self.ask("GET", "/containers/json", query=query, deadline=deadline, shape=list[_Row]))

    @asynccontextmanager
    async def events(self, container: str) -> AsyncIterator[AsyncIterator[Happening]]:
        """What happened to one container, oldest first, and what happens from now on, without an
        end.

        The caller bounds it in time. The engine remembers its last 256 events only. No time is
        named: the clocks of host and engine may differ.
        """
        filters = msgspec.json.encode({"container": [container], "type": ["container"]}).decode()
        target = f"{self._prefix}/events?{urlencode({'since': '1', 'filters': filters})}"
        async with (
            self._connection.lines(target, name="GET /events") as lines,
            aclosing(_decode("GET /events", line, Happening) async for line in lines) as events,
        ):
            yield events

    async def inspect_image(self, name: str) -> dict[str, Any]:
        """`GET /images/{name}/json`. ImageMissing if there is none."""
        try:
            return dict(await self.ask("GET", f"/images/{quote(name, safe='/:@')}/json", shape=_Image))
        except EngineRefused as error:
            if error.status == 404:
                raise ImageMissing(f"the engine at {self.address} has no image {name!r}") from error
            raise

    async def list_images(self, label: str) -> list[dict[str, Any]]:
        """All images that carry a label."""
        filters = msgspec.json.encode({"label": [label]}).decode()
        return list(await self.ask("GET", "/images/json", query={"filters": filters}, shape=list[_Row]))

    async def remove_image(self, image: str) -> None:
        """Untag an image, and remove it if that was its last tag. One that is not there is
        success."""
        await self.call("DELETE", f"/images/{quote(image, safe='/:@')}", expect=(200, 404))

    async def attach(self, container: str) -> AttachedStream:
        """Attach to a container's stdin, stdout and stderr: one raw stream in both directions."""
        path = f"/containers/{container}/attach"
        target = f"{self._prefix}{path}?stream=1&stdin=1&stdout=1&stderr=1"
        return await self._connection.attach(target, name=f"POST {path}", container=container)


def negotiate(version: Mapping[str, Any], address: str) -> str:
    """The API version to speak, "1.43", from `GET /version`. EngineError if there is none that both
    sides know."""
    try:
        newest = _number(version["ApiVersion"])
        oldest = _number(version.get("MinAPIVersion") or version["ApiVersion"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise EngineError(f"the server at {address} is not a Docker Engine: {str(version)[:200]}") from None
    if newest < OLDEST_API:
        raise EngineError(f"the engine at {address} speaks API {version['ApiVersion']}; dayfly needs 1.41 (Docker 20.10) or newer")
    chosen = max(min(newest, NEWEST_API), oldest)
    return f"{chosen[0]}.{chosen[1]}"


def _number(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


# What is used of the engine's answers, so that nobody behind this file meets a type that cannot be.


class _Info(TypedDict, total=False):
    Runtimes: dict[str, Any]
    SecurityOptions: list[str]
    NCPU: int


class _Identified(TypedDict):
    Id: str


class _Row(_Identified, total=False):
    Names: list[str]
    Labels: dict[str, str]
    State: str
    Created: float
    Size: int
    RepoTags: list[str]


class _Actor(TypedDict, total=False):
    Attributes: dict[str, Any]


class Happening(TypedDict, total=False):
    """One event of a container. Engines before API 1.22, and Podman, say `status` for `Action`."""

    Action: str
    status: str
    Actor: _Actor


class _Container(TypedDict, total=False):
    Config: dict[str, Any]
    HostConfig: dict[str, Any]
    Mounts: list[dict[str, Any]]


class _Config(TypedDict, total=False):
    Labels: dict[str, str]


class _Image(_Identified, total=False):
    Config: _Config


def _decode(call: str, answer: bytes, shape: Any) -> Any:
    """Decode JSON, and return all of it if what `shape` names is of the type that it says."""
    try:
        decoded = _without_nulls(msgspec.json.decode(answer))
        msgspec.convert(decoded, shape)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineError(f"{call}: the engine's answer makes no sense ({error}): {answer[:80]!r}") from None
    return decoded


def _without_nulls(value: Any) -> Any:
    """Leave out members that are null. Engines write null, an empty value or nothing for one and
    the same."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
