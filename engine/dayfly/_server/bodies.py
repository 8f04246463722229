"""Request bodies: bounded by Content-Length, while they are read, and all together; then decoded.

What is only passed on (`data`) stays JSON text: it is checked and compacted, never built. A large
body is decoded in a thread, so that other requests are served meanwhile.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, TypeVar, get_type_hints

import msgspec
from litestar.types import Receive, Scope
from msgspec import UNSET

from dayfly import Job
from dayfly._limits import MAX_TIMEOUT_MS
from dayfly._result import SLICE, outside_strings
from dayfly.judge import Case, CaseLimits, Cases

from .problems import ClientGone, Problem, invalid

T = TypeVar("T")

THREAD_ABOVE = 262_144
"""Bytes of JSON above which decoding and encoding happen in a thread."""
MANY_VALUES = 1_000
"""Values in a short body above which they do, where each may be a case that is checked."""

_LONE = re.compile(
    rb"(?<!\\)(?:\\\\)*(\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2}))"
)
"""An escape for half of a surrogate pair whose other half is not beside it."""
SEARCHED = 2_000_000
"""Bytes of a body that are searched for a lone surrogate."""
MOST_MEMBERS = 4_096
"""Members of `args`, `env`, `files`, `filesText` and `fetch`: each is checked by itself."""
MOST_VALUES = 8 * MOST_MEMBERS
"""JSON values in a request that has no cases: each takes a hundred bytes of memory, whatever its
size as text."""
PAUSE = 0.05
"""Seconds between two tries where memory for a body is waited for."""


Take = Callable[[int], Awaitable[None]]
"""Takes bytes of memory for a body."""


class BodyMemory:
    """Bytes of all request bodies that the server holds at once. One key may take half of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @contextlib.contextmanager
    def hold(self, key: str, *, wait_seconds: float = 0) -> Iterator[Take]:
        """Yield a function that takes more bytes for this request; Problem if there are none, nor
        within `wait_seconds`."""
        own = 0
        until = time.monotonic() + wait_seconds

        async def take(size: int) -> None:
            nonlocal own
            while self._held.total() + size > self._most or self._held[key] + size > self._most // 2:
                if time.monotonic() >= until:
                    raise Problem(
                        503,
                        "overloaded",
                        "The server is overloaded",
                        f"request bodies take too much memory (max_bodies_bytes is {self._most:,})",
                        retry_after=1,
                        delivered=False,
                    )
                await asyncio.sleep(PAUSE)
            own += size
            self._held[key] += size

        try:
            yield take
        finally:
            self._held[key] -= own
            if not self._held[key]:
                del self._held[key]


async def read(scope: Scope, receive: Receive, most: int, take: Take) -> bytes:
    """Return the body. Problem 413 over `most` bytes, before they are read; ClientGone."""
    length = dict(scope["headers"]).get(b"content-length", b"")
    declared = int(length) if length.isdigit() else None
    if declared is not None:
        if declared > most:
            raise _too_large(f"the body is {declared:,} bytes", most)
        await take(declared)
    body = bytearray()
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        if len(body) + len(chunk) > most:
            raise _too_large("the body is larger", most)
        if declared is None:
            await take(len(chunk))
        body += chunk
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(fact: str, most: int) -> Problem:
    detail = f"{fact}; the limit (request_bytes) is {most:,}"
    return Problem(413, "too-large", "The request is too large", detail)


class CompileRequest(msgspec.Struct, rename="camel"):
    """The body that code-execution-api-demo documents. Other members are ignored, as there."""

    code: str = ""
    v3: bool | None = None
    timeout_ms: float | None = None
    data: msgspec.Raw = UNSET  # type: ignore[assignment]  # absent


class SessionRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What a session may use. None: the default, or the server's bound if that is less."""

    max_runs: int | None = None
    """Programs at most: 100."""
    max_seconds: float | None = None
    """Age from which no program is started: 600."""
    idle_seconds: float | None = None
    """Time without a program after which it ends: 60."""


class _Data(msgspec.Struct):
    data: msgspec.Raw = UNSET  # type: ignore[assignment]  # absent


def _job_request() -> Any:
    """Job's own JSON form, with `data` left as text. Fields that Job gains are here by
    themselves."""
    hints = get_type_hints(Job)
    fields: list[Any] = []
    for field in msgspec.structs.fields(Job):
        kind: Any = msgspec.Raw if field.name == "data" else hints[field.name]
        if field.name in ("args", "env", "files", "files_text", "fetch"):
            kind = Annotated[kind, msgspec.Meta(max_length=MOST_MEMBERS)]
        if field.required:
            fields.append((field.name, kind))
        elif field.default is not msgspec.NODEFAULT:
            fields.append((field.name, kind, field.default))
        else:
            fields.append((field.name, kind, msgspec.field(default_factory=field.default_factory)))
    return msgspec.defstruct("JobRequest", fields, rename="camel", forbid_unknown_fields=True, kw_only=True)


_compile_decoder = msgspec.json.Decoder(CompileRequest)
session_decoder = msgspec.json.Decoder(SessionRequest)
_job_decoder: Any = msgspec.json.Decoder(_job_request())
_data_decoder = msgspec.json.Decoder(_Data)
_JOB_FIELDS = tuple(field.name for field in msgspec.structs.fields(Job))
_JSON_NAMES = {
    field.name: field.encode_name
    for kind in (Job, Cases, Case, CaseLimits)
    for field in msgspec.structs.fields(kind)
    if field.name != field.encode_name
}
_PYTHON_NAMES = re.compile(rf"\b({'|'.join(_JSON_NAMES)})\b")


async def decode_job(body: bytes, max_timeout_ms: float) -> Job:
    """Return the Job that a body of /v1/run stands for. Problem if there is none."""

    def decode(text: bytes) -> Job:
        if _values(text) > MOST_VALUES:  # of which those of `data` are never built
            data = _decoded(_data_decoder, text).data
            _count(text, MOST_VALUES, free=0 if data is UNSET else _values(bytes(data)))
        return _job(_decoded(_job_decoder, text), max_timeout_ms)

    return await _off_loop(body, decode)


async def decode_compile(body: bytes, max_timeout_ms: float) -> Job | None:
    """Return the Job that a body of /compile stands for, None without code. Problem for the
    rest."""

    def decode(text: bytes) -> Job | None:
        request = _decoded(_compile_decoder, text)
        return _job(request, max_timeout_ms) if request.code else None

    return await _off_loop(body, decode)


async def decode(
    decoder: Any,
    body: bytes,
    *,
    most_values: int = MOST_VALUES,
    max_timeout_ms: float = MAX_TIMEOUT_MS,
    make: Callable[[Any], T] | None = None,
) -> T | Any:
    """Return what a decoder of msgspec's makes of a body, or what `make` makes of that. Problem if
    that is nothing, or if the body has more than `most_values` JSON values, before any of them is
    built. `max_timeout_ms` is what it says of times that are none."""

    def decode(text: bytes) -> Any:
        _count(text, most_values)
        decoded = _decoded(decoder, text, max_timeout_ms)
        return decoded if make is None else make(decoded)

    return await _off_loop(body, decode, costly=len(body) <= THREAD_ABOVE and _values(body) > MANY_VALUES)


async def count(body: bytes, most_values: int) -> None:
    """Check a body for a decoder of somebody else's. Problem if it has more JSON values."""
    await _off_loop(body, lambda text: _count(text, most_values))


def _count(body: bytes, most: int, *, free: int = 0) -> None:
    if (values := _values(body) - free) > most:
        raise invalid(f"the request has {values:,} JSON values; {most:,} are allowed")


def _values(body: bytes) -> int:
    """Return how many values JSON has at most, from what begins or separates them outside of
    strings. Of invalid JSON, those are counted that a decoder builds before it stops."""
    return sum(bare.count(b",") + bare.count(b"[") + bare.count(b"{") for bare in outside_strings(body))


async def _off_loop(body: bytes, decode: Callable[[bytes], T], *, costly: bool = False) -> T:
    body = body.removeprefix(codecs.BOM_UTF8)
    if len(body) <= THREAD_ABOVE and not costly:
        return decode(body)
    return await asyncio.to_thread(decode, body)


def _job(request: Any, max_timeout_ms: float) -> Job:
    check_time("timeoutMs", request.timeout_ms, max_timeout_ms)
    check_time("cpuLimitMs", getattr(request, "cpu_limit_ms", None), max_timeout_ms)
    values = {name: getattr(request, name) for name in _JOB_FIELDS if hasattr(request, name)}
    if values.get("code") is None and values.get("code_bytes") is None:
        raise Problem(400, "no-code", "There is no code", "give one of code and codeBytes")
    if values["data"] is not UNSET:
        values["data"] = msgspec.Raw(_compacted(bytes(values["data"])))
    try:
        return Job(**values)
    except (TypeError, ValueError) as error:
        raise invalid(_in_json(str(error))) from None


def check_time(name: str, given: float | None, max_timeout_ms: float) -> None:
    """Problem if a time in milliseconds is not what this server takes."""
    if given is not None and not 1 <= given <= max_timeout_ms:
        raise invalid(f"{name} is {given:g}; this server takes 1 to {max_timeout_ms:g} (max_timeout_ms)")


def _compacted(data: bytes) -> bytes:
    """Return JSON without white space, and with UTF-8 in place of escapes where both mean the
    same."""
    data = msgspec.json.format(data, indent=-1)
    if b"\\u" not in data:
        return data
    # Control characters stand for what must stay: valid JSON has none. Every escaped backslash is
    # taken out first, so that each one left begins an escape.
    data = data.replace(b"\\\\", b"\x00")
    for escape in (b"000", b"001", b"0022", b"005c", b"005C"):
        data = data.replace(b"\\u" + escape, b"\x01" + escape)
    parts: list[bytes] = []
    start = 0
    while start < len(data):
        end = _boundary(data, start + SLICE)
        parts.append(_unescaped(data[start:end]))
        start = end
    return b"".join(parts).replace(b"\x01", b"\\u").replace(b"\x00", b"\\\\")


def _boundary(data: bytes, near: int) -> int:
    """Return where to cut: not within a character, an escape, or a pair of surrogates."""
    if near >= len(data):
        return len(data)
    escape = data.rfind(b"\\", near - 6, near)
    if escape >= 0:
        low = data[escape : escape + 4].lower() in (b"\\udc", b"\\udd", b"\\ude", b"\\udf")
        return escape - 6 if low else escape
    while data[near] & 0xC0 == 0x80:
        near -= 1
    if data[near : near + 4].lower() in (b"\\udc", b"\\udd", b"\\ude", b"\\udf"):
        near -= 6
    return near


def _unescaped(text: bytes) -> bytes:
    decoded = text.decode().encode("raw_unicode_escape").decode("raw_unicode_escape")
    # An escaped pair is two surrogates by now; UTF-16 makes one character of them.
    return decoded.encode("utf-16-le", "surrogatepass").decode("utf-16-le").encode()


def _decoded(decoder: Any, body: bytes, max_timeout_ms: float = MAX_TIMEOUT_MS) -> Any:
    if not body.strip(b" \t\r\n"):
        raise malformed("the body is empty")
    try:
        return _with_text(decoder.decode(body), body)
    except msgspec.ValidationError as error:
        most = f"{max_timeout_ms:g} (max_timeout_ms)"
        raise invalid(_in_json(_reason(str(error))).replace(f"{MAX_TIMEOUT_MS:,}", most)) from None
    except UnicodeDecodeError:
        raise _not_utf8(body) from None
    except msgspec.DecodeError as error:
        if "UTF-8" in str(error):  # from msgspec 0.23 on, instead of a UnicodeDecodeError
            raise _not_utf8(body) from None
        raise (_lone_surrogate(str(error), body) or malformed(str(error))) from None
    except RecursionError:
        raise malformed("the JSON is nested too deeply") from None


def _with_text(request: Any, body: bytes) -> Any:
    if getattr(request, "data", UNSET) is not UNSET and not body.isascii():
        body.decode()  # `data` was not decoded, so nothing has looked at its UTF-8 yet
    return request


def _lone_surrogate(said: str, body: bytes) -> Problem | None:
    """Return the problem if that is what msgspec calls truncated, or an invalid pair."""
    if "truncated" not in said and "surrogate" not in said:
        return None
    for start in range(0, min(len(body), SEARCHED), SLICE):
        end = start + SLICE
        found = _LONE.search(body, start, end + 16)
        if found and found.start(1) < end:  # after that, its other half may be out of sight
            at, escape = found.start(1), found[1][:6].decode()
            return malformed(f"the escape {escape} at byte {at} is a lone surrogate, not text")
    return None


def _not_utf8(body: bytes) -> Problem:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return malformed(f"the body is not valid UTF-8: {error.reason} at byte {error.start}")
    return malformed("the body is not valid UTF-8")


def _in_json(text: str) -> str:
    """Return a message of the library's with the members of bodies named as in JSON."""
    return _PYTHON_NAMES.sub(lambda name: _JSON_NAMES[name[0]], text)


def malformed(detail: str) -> Problem:
    """A request that cannot be read."""
    return Problem(400, "malformed", "The request cannot be read", detail)


def _reason(text: str) -> str:
    """`Expected `str` - at `$.code`` as `code: Expected `str``."""
    message, _, place = text.partition(" - at `$")
    place = place.rstrip("`").removeprefix(".")
    return f"{place}: {message}" if place else message
