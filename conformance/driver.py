"""A host side of the runner protocol, written from PROTOCOL.md alone: it speaks to any command, and believes nothing that comes back.

    python -m conformance.driver CODE -- COMMAND...

says hello and run to the command and prints each frame. Standard library only; it must never import the implementation, whose codec
is judged by it. Every rule of PROTOCOL.md about a runner's frames is checked here; a break of one is a ProtocolError.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

PROTOCOL = 1
TOKEN = "0123456789abcdef0123456789abcdef"
RUN: dict[str, Any] = {
    "type": "run",
    "code": "",
    "python": "3",
    "args": [],
    "env": {},
    "stdin": None,
    "data": None,
    "timeout_ms": 20_000,
    "open_files": 256,
    "stdout_limit": 100_000,
    "stderr_limit": 100_000,
    "on_output_limit": "truncate",
    "message_limit": 100_000,
    "message_count": 100,
}
FRAME_MOST, OUTPUT_MOST = 131_072, 65_536


class ProtocolError(Exception):
    """The runner broke the protocol."""


def encode(frame: Mapping[str, Any]) -> bytes:
    """Return a frame's bytes."""
    body = json.dumps(frame, ensure_ascii=False).encode()
    return struct.pack(">I", len(body)) + body


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: type(value) is kind


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _or_null(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


def _amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _base64(value: Any) -> bool:
    try:
        return type(value) is str and value.isascii() and base64.b64decode(value, validate=True) is not None
    except binascii.Error:
        return False


def _strings(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def _pythons(value: Any) -> bool:
    return type(value) is dict and "3" in value and all(key in ("2", "3") and type(item) is str for key, item in value.items())


_STATUS: dict[str, Callable[[Any], bool]] = {
    "uid": _is(int),
    "gid": _is(int),
    "no_new_privs": _is(int),
    "seccomp": _is(int),
    "cap_eff": _is(str),
    "cap_bnd": _is(str),
    "dumpable": lambda value: type(value) is int and value in (0, 1),
}

_MEMBERS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "ready": {
        "protocol": _is(int),
        "token": _is(str),
        "version": _is(str),
        "pythons": _pythons,
        "status": lambda value: type(value) is dict and _fits(value, _STATUS),
        "cgroup": lambda value: type(value) is int and value in (0, 1, 2),
        "problems": _strings,
    },
    "started": {},
    "output": {"stream": lambda value: value in ("stdout", "stderr"), "data": _base64},
    "message": {"data": _base64},
    "exit": {
        "token": _is(str),
        "exit_code": _or_null(lambda value: type(value) is int and 0 <= value <= 255),
        "signal": _or_null(lambda value: type(value) is int and 1 <= value <= 64),
        "timed_out": _is(bool),
        "output_limit": _is(bool),
        "stdout_dropped": _natural,
        "stderr_dropped": _natural,
        "messages_dropped": _natural,
        "wall_ms": _amount,
        "cpu_ms": _or_null(_amount),
        "peak_memory_bytes": _or_null(_natural),
        "oom_kills": _or_null(_natural),
    },
    "error": {"message": lambda value: type(value) is str and len(value) <= 4_096},
}

_NEXT = {"hello": {"ready", "error"}, "ready": {"error"}, "run": {"started", "error"}, "started": {"output", "message", "exit", "error"}}
"""What may come after what was said last, by either side. After `exit` and `error`, nothing."""


def _fits(frame: Mapping[str, Any], members: Mapping[str, Callable[[Any], bool]]) -> bool:
    return frame.keys() == members.keys() and all(check(frame[name]) for name, check in members.items())


class RunnerFrames:
    """The runner's bytes, checked and taken apart. `said` is what the host has said last; the limits are those of its run."""

    def __init__(self, token: str = TOKEN) -> None:
        self._token = token
        self._buffer = bytearray()
        self._state: str | None = None
        self._limits = dict(RUN)
        self._sums = {"stdout": 0, "stderr": 0, "message": 0}
        self._messages = 0

    def said(self, frame: Mapping[str, Any]) -> None:
        """Note what the host says."""
        self._state = frame["type"]
        if self._state == "run":
            self._limits = dict(frame)

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take in bytes, and yield the frames that are complete now. ProtocolError at the first break of a rule."""
        self._buffer += data
        if self._buffer and not _NEXT.get(self._state or "", set()):
            raise ProtocolError(f"bytes come after {self._state}")
        while len(self._buffer) >= 4:
            (size,) = struct.unpack(">I", self._buffer[:4])
            if not 0 < size <= self._longest():
                raise ProtocolError(f"a frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield self._checked(body)
            if self._buffer and not _NEXT.get(self._state or "", set()):
                raise ProtocolError(f"bytes come after {self._state}")

    def _longest(self) -> int:
        if self._state != "started":
            return FRAME_MOST
        return max(FRAME_MOST, 1_024 + -(-4 * int(self._limits["message_limit"]) // 3))

    def _checked(self, body: bytes) -> dict[str, Any]:
        try:
            frame = json.loads(body.decode(), parse_constant=_no_constant)
            json.dumps(frame, ensure_ascii=False).encode()  # an escape can stand for half a character, which is no text
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a body that is no JSON: {error}") from None
        if type(frame) is not dict or type(frame.get("type")) is not str or frame["type"] not in _MEMBERS:
            raise ProtocolError(f"no frame of the protocol: {str(frame)[:200]}")
        kind = frame["type"]
        if kind not in _NEXT[self._state or ""]:
            raise ProtocolError(f"{kind} after {self._state}")
        if not _fits({name: value for name, value in frame.items() if name != "type"}, _MEMBERS[kind]):
            raise ProtocolError(f"a {kind} that has not its members: {str(frame)[:300]}")
        if kind != "message" and len(body) > FRAME_MOST:
            raise ProtocolError(f"a {kind} of {len(body)} bytes")
        if frame.get("token", self._token) != self._token:
            raise ProtocolError(f"a {kind} with another token")
        getattr(self, f"_{kind}", lambda _: None)(frame)
        if kind not in ("output", "message"):
            self._state = kind
        return frame

    def _ready(self, frame: dict[str, Any]) -> None:
        if frame["protocol"] != PROTOCOL:
            raise ProtocolError(f"protocol {frame['protocol']}")

    def _output(self, frame: dict[str, Any]) -> None:
        size, stream = len(base64.b64decode(frame["data"])), frame["stream"]
        self._sums[stream] += size
        if not 0 < size <= OUTPUT_MOST or self._sums[stream] > self._limits[f"{stream}_limit"]:
            raise ProtocolError(f"{size} bytes of {stream}, {self._sums[stream]} in sum")

    def _message(self, frame: dict[str, Any]) -> None:
        self._messages += 1
        self._sums["message"] += len(base64.b64decode(frame["data"]))
        if self._messages > self._limits["message_count"] or self._sums["message"] > self._limits["message_limit"]:
            raise ProtocolError(f"{self._messages} messages, {self._sums['message']} bytes in sum")

    def _exit(self, frame: dict[str, Any]) -> None:
        if (frame["exit_code"] is None) == (frame["signal"] is None):
            raise ProtocolError("an exit with both or neither of exit_code and signal")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class Driver:
    """A host that runs one program. `read` returns the runner's next bytes, b"" at their end; `write` takes the host's."""

    def __init__(self, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        self._read, self._write = read, write
        self._frames = RunnerFrames()
        self._pending: list[dict[str, Any]] = []

    def say(self, frame: Mapping[str, Any]) -> None:
        """Say a frame."""
        self._frames.said(frame)
        self._write(encode(frame))

    def hello(self) -> dict[str, Any]:
        """Say hello, and return the answer."""
        self.say({"type": "hello", "protocol": PROTOCOL, "token": TOKEN})
        return self.next()

    def next(self) -> dict[str, Any]:
        """Return the next frame; EOFError if the runner has ended."""
        while not self._pending:
            data = self._read()
            if not data:
                raise EOFError("the runner has ended")
            self._pending += self._frames.feed(data)
        return self._pending.pop(0)

    def run(self, code: str, **members: Any) -> Iterator[dict[str, Any]]:
        """Say run, and yield what comes, up to `exit` or `error` and the end of the stream behind it."""
        self.say({**RUN, "code": code, **members})
        while True:
            try:
                yield self.next()
            except EOFError:
                return


def content(frames: list[dict[str, Any]], stream: str) -> bytes:
    """Return the bytes of one stream, put together."""
    return b"".join(base64.b64decode(frame["data"]) for frame in frames if frame.get("stream") == stream)


def main() -> None:
    """Run one program by a command, and print the frames."""
    code, separator, *command = sys.argv[1:]
    if separator != "--" or not command:
        sys.exit(__doc__)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdout, process.stdin

        def write(data: bytes) -> None:
            sink.write(data)
            sink.flush()

        driver = Driver(lambda: source.read1(65_536), write)  # type: ignore[attr-defined]
        for frame in (driver.hello(), *driver.run(code)):
            print(re.sub(r"(.{300}).+", r"\1…", json.dumps(frame, ensure_ascii=False)))  # noqa: T201


if __name__ == "__main__":
    main()
