"""The Docker Engine API, raw, over httpx: the few verbs that dayfly uses, each with a deadline.

Owns the connections to the engine, the deadline of every call and the mapping of everything that can go wrong with one
to dayfly's own errors: nothing of httpx or httpcore gets past this file. It decides nothing: when to create, to kill or to
try again is for those who call it.

Two rules come from how the engine behaves. A deadline is wall time for the whole call, since an engine that answers
one byte a second would pass any per-read time-out. And an attached stream that nobody reads wedges every other call on its container
(moby #41827), so a stream can be shut down at any moment, without waiting.
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, TypedDict
from urllib.parse import quote, urlencode

import anyio
import httpcore
import httpx
import msgspec

from .endpoint import Endpoint, resolve
from .errors import EngineError, EngineRefused, EngineUnreachable, ImageMissing

OLDEST_API = (1, 41)
"""Docker 20.10: the first with private cgroup namespaces as a create option on both cgroup versions."""
NEWEST_API = (1, 51)
"""Docker 28.5, the newest this was tried with. A newer engine is spoken to in this version."""
DEFAULT_DEADLINE = 30.0
"""Seconds. A healthy engine takes milliseconds; under a burst of fifty creations a single one was seen to take five."""
MAX_ANSWER = 64_000_000
"""Bytes of one answer; a list of ten thousand containers is a tenth of that."""
SAID = 1_000
"""Characters of the engine's own words that an error repeats."""
READ_SIZE = 262_144

_JSON = {"Content-Type": "application/json"}
_streams: weakref.WeakSet[AttachedStream] = weakref.WeakSet()


class EngineAPI:
    """One engine. Use as an async context manager; entering it agrees on the API version.

    Entering raises EngineUnreachable, or EngineError for an engine older than API 1.41 (Docker 20.10).
    """

    def __init__(self, docker_host: str | None = None, *, deadline: float | None = None) -> None:
        self._endpoint: Endpoint = resolve(docker_host)
        self._deadline = DEFAULT_DEADLINE if deadline is None else deadline
        self._prefix = ""
        self._under_way: set[anyio.CancelScope] = set()
        self._transport: httpx.AsyncHTTPTransport | None = None

    @property
    def address(self) -> str:
        """Where the engine is, as a person would write it."""
        return self._endpoint.address

    @property
    def local(self) -> bool:
        """True if the engine is reached over a Unix socket, and so shares this host's kernel as a rule."""
        return self._endpoint.socket is not None

    async def __aenter__(self) -> EngineAPI:
        verify = self._endpoint.ssl_context() or False
        # No bound on connections: each attached stream holds one for its container's life.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=8, keepalive_expiry=30.0)
        # The transport without a client: what that adds (cookies, redirects, the merging of settings) is a third of a call's cost.
        self._transport = httpx.AsyncHTTPTransport(verify=verify, uds=self._endpoint.socket, trust_env=False, limits=limits)
        try:
            self._prefix = "/v" + negotiate(await self.version(), self.address)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    def hurry(self, seconds: float) -> None:
        """Let no call, under way or to come, last longer than this from now on: somebody is waiting for the end."""
        self._deadline = min(self._deadline, seconds)
        for scope in self._under_way:
            scope.deadline = min(scope.deadline, anyio.current_time() + seconds)

    async def aclose(self) -> None:
        """Close all connections, attached streams too. Bounded in time; never raises."""
        transport, self._transport = self._transport, None
        if transport is not None:
            with anyio.move_on_after(1, shield=True):
                await transport.aclose()

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
        """Make one call and return the answer's body. `body` is sent as JSON, `content` as it is; `deadline` is in seconds.

        Raises EngineRefused for a status that is not expected, EngineUnreachable for no answer in time.
        """
        if body is not None:
            content, headers = msgspec.json.encode(body), {**_JSON, **(headers or {})}
        with self._bounded(f"{method} {path}", self._deadline if deadline is None else deadline):
            response = await self._send(method, path, query, content, headers)
            try:
                answer = await self._read(response)
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        if response.status_code not in expect:
            raise _refusal(f"{method} {path}", response.status_code, answer)
        return answer

    async def ask(self, method: str, path: str, *, shape: Any = Any, **options: Any) -> Any:
        """Like `call`, and decode the answer as JSON. EngineError where it is none, or not of this shape."""
        return _decode(f"{method} {path}", await self.call(method, path, **options), shape)

    async def version(self) -> dict[str, Any]:
        """`GET /version`, without a version prefix."""
        return dict(await self.ask("GET", "/version", shape=dict[str, Any]))

    async def info(self) -> dict[str, Any]:
        """`GET /info`: what the daemon and its host can do."""
        return dict(await self.ask("GET", "/info", shape=_Info))

    async def create(self, name: str, body: Mapping[str, Any] | msgspec.Raw) -> str:
        """Create a container and return its id. ImageMissing if its image is not there; EngineRefused(409) if the name is taken."""
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
        """Kill and remove a container. True if it is gone; False if another removal is on its way already."""
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

    async def events(self, container: str, *, since: float, until: float) -> list[dict[str, Any]]:
        """What happened to one container between two times (seconds since the epoch, the engine's clock), oldest first.

        The engine remembers its last 256 events only.
        """
        filters = msgspec.json.encode({"container": [container], "type": ["container"]}).decode()
        query = {"since": f"{since:.9f}", "until": f"{until:.9f}", "filters": filters}
        answer = await self.call("GET", "/events", query=query, deadline=min(5.0, self._deadline))
        return [_decode("GET /events", line, dict[str, Any]) for line in answer.splitlines() if line]

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
        """Untag an image, and remove it if that was its last tag. One that is not there is success."""
        await self.call("DELETE", f"/images/{quote(image, safe='/:@')}", expect=(200, 404))

    async def attach(self, container: str) -> AttachedStream:
        """Attach to a container's stdin, stdout and stderr: one raw stream in both directions."""
        path = f"/containers/{container}/attach"
        with self._bounded(f"POST {path}", self._deadline):
            query = {"stream": "1", "stdin": "1", "stdout": "1", "stderr": "1"}
            response = await self._send("POST", path, query, None, {"Connection": "Upgrade", "Upgrade": "tcp"})
            # 101 is today's answer; engines before 1.21 of the API, and some proxies, upgrade under a plain 200.
            if response.status_code not in (101, 200):
                try:
                    raise _refusal(f"POST {path}", response.status_code, await self._read(response))
                finally:
                    with anyio.CancelScope(shield=True):
                        await response.aclose()
            return AttachedStream(response, container)

    # What all verbs share.

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        content: bytes | AsyncIterable[bytes] | None,
        headers: Mapping[str, str] | None,
    ) -> httpx.Response:
        """Return the answer's head; its body is still to be read. No deadline but `_bounded`'s."""
        if self._transport is None:
            raise EngineUnreachable(f"the connection to {self.address} is closed")
        url = self._endpoint.base_url + self._prefix + path + (f"?{urlencode(query)}" if query else "")
        return await self._transport.handle_async_request(httpx.Request(method, url, content=content, headers=headers))

    @contextmanager
    def _bounded(self, call: str, deadline: float) -> Any:
        try:
            with anyio.fail_after(deadline) as scope:
                self._under_way.add(scope)
                try:
                    yield
                finally:
                    self._under_way.discard(scope)
        except TimeoutError:
            raise EngineUnreachable(f"{call}: no answer from the engine at {self.address} within {deadline:g} s") from None
        except _FOREIGN as error:
            raise EngineUnreachable(f"{call}: {self._why(error)}") from error

    def _why(self, error: Exception) -> str:
        text = f"the engine at {self.address} cannot be reached: {_text(error)}"
        path = self._endpoint.socket
        if path is None or not isinstance(error, (httpx.ConnectError, httpcore.ConnectError)):
            return text
        match _number_of(error):
            case errno.ENOENT:
                return f"{text}; there is no socket {path}: is Docker installed and running?"
            case errno.EACCES:
                return f"{text}; this user may not write to {path}: add it to the socket's group, often 'docker'"
            case errno.ECONNREFUSED:
                return f"{text}; the socket exists, but no daemon answers on it"
            case errno.EMFILE | errno.ENFILE:
                return f"{text}; no descriptor is left to reach it with: raise the limit on open files"
        return text

    @staticmethod
    async def _read(response: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_raw():
            parts.append(part)
            size += len(part)
            if size > MAX_ANSWER:
                raise EngineError(f"the engine's answer is larger than {MAX_ANSWER:,} bytes")
        return b"".join(parts)


class _NetworkStream(Protocol):
    """httpx's documented extension for the raw connection under a response."""

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...
    async def write(self, buffer: bytes, timeout: float | None = None) -> None: ...
    def get_extra_info(self, info: str) -> Any: ...


class AttachedStream:
    """The raw stream of one attached container. One task may read while another writes.

    `read` and `write` raise EngineUnreachable when the connection breaks.
    """

    def __init__(self, response: httpx.Response, container: str) -> None:
        self._response = response
        self._container = container
        self._network: _NetworkStream = response.extensions["network_stream"]
        # Under a plain 200 the first bytes may already be in the HTTP parser's buffer, so they must come through it.
        self._body: AsyncIterator[bytes] | None = response.aiter_raw() if response.status_code == 200 else None
        self._socket: socket.socket | None = self._network.get_extra_info("socket")
        _streams.add(self)

    async def read(self) -> bytes:
        """The next bytes; empty at the end of the stream."""
        try:
            if self._body is not None:
                return await anext(self._body, b"")
            return await self._network.read(READ_SIZE)
        except _FOREIGN as error:
            raise EngineUnreachable(f"the attached stream of {self._container} broke: {_text(error)}") from error

    async def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            await self._network.write(data)
        except _FOREIGN as error:
            raise EngineUnreachable(f"the attached stream of {self._container} broke: {_text(error)}") from error

    def shut_down(self) -> None:
        """End both directions now, without waiting: the container reads the end of its stdin, and a pending `read` returns."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more: that is what was wanted

    async def aclose(self) -> None:
        """Close the connection. Bounded in time; never raises."""
        _streams.discard(self)
        self.shut_down()
        with anyio.move_on_after(1, shield=True):
            try:
                await self._response.aclose()
            except _FOREIGN:
                pass

    def forget(self) -> None:
        """In a fork of this process: let go of its copy of the socket, and leave the connection itself alone."""
        if self._socket is not None:
            let_go(self._socket.fileno())


def negotiate(version: Mapping[str, Any], address: str) -> str:
    """The API version to speak, "1.43", from `GET /version`. EngineError if there is none that both sides know."""
    try:
        newest = _number(version["ApiVersion"])
        oldest = _number(version.get("MinAPIVersion") or version["ApiVersion"])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise EngineError(f"what answers at {address} is no Docker Engine: {str(version)[:200]}") from None
    if newest < OLDEST_API:
        raise EngineError(f"the engine at {address} speaks API {version['ApiVersion']}; dayfly needs 1.41 (Docker 20.10) or newer")
    chosen = max(min(newest, NEWEST_API), oldest)
    return f"{chosen[0]}.{chosen[1]}"


def _number(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


# Everything that httpx, httpcore or the event loop may raise for a broken or senseless connection.
_FOREIGN = (
    *(httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, httpx.CookieConflict),
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, httpcore.ProxyError),
    *(httpcore.ConnectionNotAvailable, httpcore.UnsupportedProtocol, OSError),
    *(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream),
)


# What is used of the engine's answers, so that nobody behind this file meets a type that cannot be.


class _Info(TypedDict, total=False):
    Runtimes: dict[str, Any] | None
    SecurityOptions: list[str] | None
    NCPU: int | None


class _Identified(TypedDict):
    Id: str


class _Row(_Identified, total=False):
    Names: list[str] | None
    Labels: dict[str, str] | None
    State: str
    Created: float
    Size: int
    RepoTags: list[str] | None


class _Container(TypedDict, total=False):
    Config: dict[str, Any] | None
    HostConfig: dict[str, Any] | None
    Mounts: list[dict[str, Any]] | None


class _Config(TypedDict, total=False):
    Labels: dict[str, str] | None


class _Image(_Identified, total=False):
    Config: _Config | None


def _decode(call: str, answer: bytes, shape: Any) -> Any:
    """Decode JSON, and return all of it if what `shape` names is of the type that it says."""
    try:
        decoded = msgspec.json.decode(answer)
        msgspec.convert(decoded, shape)
    except (msgspec.DecodeError, RecursionError) as error:
        raise EngineError(f"{call}: the engine's answer makes no sense ({error}): {answer[:80]!r}") from None
    return decoded


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _number_of(error: BaseException | None) -> int | None:
    """The errno at the bottom of an error, if there is one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.errno


def _refusal(call: str, status: int, answer: bytes) -> EngineRefused:
    try:
        said = str(msgspec.json.decode(answer, type=dict[str, Any])["message"])
    except (msgspec.DecodeError, RecursionError, KeyError):
        said = answer[:200].decode(errors="replace")
    said = said.strip()
    if len(said) > SAID:  # an engine may repeat all that it was sent
        said = f"{said[: SAID // 2]} … {said[-SAID // 2 :]}"
    return EngineRefused(f"{call}: the engine answered {status}: {said or 'nothing more'}", status=status)


def let_go(descriptor: int) -> None:
    """Close what is behind a descriptor and keep its number taken, by /dev/null: its owner may close it later, and closes nothing else."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _forget_streams_after_fork() -> None:
    # A forked child holds the streams too: its containers would outlive the parent, whose death is what ends them.
    for stream in list(_streams):
        try:
            stream.forget()
        except (OSError, ValueError):
            pass
    _streams.clear()


os.register_at_fork(after_in_child=_forget_streams_after_fork)
