"""A host side of the runner protocol, written from PROTOCOL.md alone: it speaks to any command, and
believes nothing that comes back.

    python -m conformance.driver CODE -- COMMAND...

says hello and run to the command and prints each frame. Standard library only; it must never import
the implementation, whose codec is judged by it. Every rule of PROTOCOL.md about a runner's frames
is checked here; a break of one is a ProtocolError.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

PROTOCOL = 2
TOKEN = "0123456789abcdef0123456789abcdef"
RUN_TOKEN = "fedcba9876543210fedcba9876543210"
HELLO: dict[str, Any] = {"type": "hello", "protocol": PROTOCOL, "token": TOKEN, "preload": []}
RUN: dict[str, Any] = {
    "type": "run",
    "token": RUN_TOKEN,
    "clean": False,
    "python": "3",
    "args": [],
    "env": {},
    "stdin": False,
    "merge_stderr": False,
    "seed": None,
    "timeout_ms": 20_000,
    "cpu_limit_ms": None,
    "open_files": 256,
    "stdout_limit": 100_000,
    "stderr_limit": 100_000,
    "on_output_limit": "truncate",
    "message_limit": 100_000,
    "message_count": 100,
    "display_limit": 100_000,
    "display_count": 100,
    "figures": False,
    "last_value": False,
    "fetch": [],
    "file_limit": 100_000,
    "file_count": 100,
}
FRAME_MOST, DATA_MOST, STDIN_FIRST, SKIPPED_MOST = 131_072, 65_536, 131_072, 100
PATH_MOST, PARTS_MOST, PART_MOST = 1_024, 16, 255


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


def _path(value: Any) -> bool:
    if type(value) is not str or "\0" in value or not 1 <= len(value.encode()) <= PATH_MOST:
        return False
    parts = value.split("/")
    return len(parts) <= PARTS_MOST and all(part not in ("", ".", "..") and len(part.encode()) <= PART_MOST for part in parts)


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
        "preloaded": _strings,
        "baseline_bytes": _or_null(_natural),
    },
    "started": {"preloaded": _is(bool)},
    "want": {"bytes": lambda value: _natural(value) and value > 0},
    "output": {"stream": lambda value: value in ("stdout", "stderr"), "data": _base64},
    "message": {"data": _base64},
    "display": {"data": _base64},
    "file": {"path": _path, "data": _base64, "last": _is(bool)},
    "skipped": {
        "path": _is(str),
        "why": lambda value: value in ("too_large", "too_many", "not_regular", "name", "unreadable", "missing"),
    },
    "exit": {
        "token": _is(str),
        "exit_code": _or_null(lambda value: type(value) is int and 0 <= value <= 255),
        "signal": _or_null(lambda value: type(value) is int and 1 <= value <= 64),
        "timed_out": _is(bool),
        "cpu_limited": _is(bool),
        "output_limit": _is(bool),
        "stdout_dropped": _natural,
        "stderr_dropped": _natural,
        "messages_dropped": _natural,
        "displays_dropped": _natural,
        "skipped_dropped": _natural,
        "wall_ms": _amount,
        "cpu_ms": _or_null(_amount),
        "peak_memory_bytes": _or_null(_natural),
        "max_rss_bytes": _or_null(_natural),
        "oom_kills": _or_null(_natural),
    },
    "next": {},
    "spent": {"reason": lambda value: type(value) is str and len(value) <= 4_096},
    "error": {"message": lambda value: type(value) is str and len(value) <= 4_096},
}

_FILES = {"file", "skipped", "exit", "error"}
_NEXT: dict[str | None, set[str]] = {
    "hello": {"ready", "error"},
    "ready": {"error"},
    "open": {"next", "error"},
    "run": {"started", "error"},
    "started": {"want", "output", "message", "display", *_FILES},
    "file": _FILES,
    "skipped": _FILES,
    "next": {"error"},
}
"""What may come after what was said last, by either side. After `error`, `spent` and the last
`exit`, nothing."""
_NO_STEP = {"want", "output", "message", "display"}


def _fits(frame: Mapping[str, Any], members: Mapping[str, Callable[[Any], bool]]) -> bool:
    return frame.keys() == members.keys() and all(check(frame[name]) for name, check in members.items())


class RunnerFrames:
    """The runner's bytes, checked and taken apart. `said` is what the host has said last; the
    limits are those of its run."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._state: str | None = None
        self._hello, self._limits = dict(HELLO), dict(RUN)
        self._session = False
        self._checks: dict[str, Callable[[dict[str, Any]], None]] = {
            "ready": self._ready,
            "output": self._output,
            "message": lambda frame: self._spend("message", 1, frame["data"]),
            "display": lambda frame: self._spend("display", 1, frame["data"]),
            "file": self._take_file,
            "skipped": self._skipped,
            "exit": self._exit,
        }
        self._begin()

    def _begin(self) -> None:
        """Nothing of a run has come yet."""
        self._sums = dict.fromkeys(("stdout", "stderr", "message", "display", "file"), 0)
        self._counts = dict.fromkeys(("message", "display", "file", "skipped"), 0)
        self._file: str | None = None
        self._names: set[str] = set()

    def said(self, frame: Mapping[str, Any]) -> None:
        """Note what the host says."""
        if frame["type"] in ("put", "stdin", "stop"):
            return
        self._state = frame["type"]
        if self._state == "hello":
            self._hello = {**HELLO, **frame}
        elif self._state == "open":
            self._session = True
        elif self._state == "run":
            self._limits = dict(frame)
            self._begin()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take in bytes, and yield the frames that are complete now. ProtocolError at the first
        break of a rule."""
        self._buffer += data
        self._check_end()
        while len(self._buffer) >= 4:
            (size,) = struct.unpack(">I", self._buffer[:4])
            if not 0 < size <= self._longest():
                raise ProtocolError(f"a frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                return
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            yield self._checked(body)
            self._check_end()

    def _check_end(self) -> None:
        if self._buffer and not self._following():
            raise ProtocolError(f"bytes come after {self._state}")

    def _following(self) -> set[str]:
        if self._state == "exit":
            return {"next", "spent", "error"} if self._session else set()
        return _NEXT.get(self._state, set())

    def _longest(self, *kinds: str) -> int:
        """The longest body that may come now; or, of these kinds, at all."""
        if not kinds and self._state != "started":
            return FRAME_MOST
        return max(FRAME_MOST, *(1_024 + -(-4 * int(self._limits[f"{kind}_limit"]) // 3) for kind in kinds or ("message", "display")))

    def _checked(self, body: bytes) -> dict[str, Any]:
        try:
            frame = json.loads(body.decode(), parse_constant=_no_constant)
            json.dumps(frame, ensure_ascii=False).encode()  # an escape can stand for half a character, which is not text
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"a body that is not valid JSON: {error}") from None
        if type(frame) is not dict or type(frame.get("type")) is not str or frame["type"] not in _MEMBERS:
            raise ProtocolError(f"no frame of the protocol: {str(frame)[:200]}")
        kind = frame["type"]
        if kind not in self._following():
            raise ProtocolError(f"{kind} after {self._state}")
        if not _fits({name: value for name, value in frame.items() if name != "type"}, _MEMBERS[kind]):
            raise ProtocolError(f"a {kind} that has not its members: {str(frame)[:300]}")
        if len(body) > (self._longest(kind) if kind in ("message", "display") else FRAME_MOST):
            raise ProtocolError(f"a {kind} of {len(body)} bytes")
        if self._file is not None and kind not in ("file", "error"):
            raise ProtocolError(f"{kind} in the middle of the file {self._file!r}")
        if kind in self._checks:
            self._checks[kind](frame)
        if kind not in _NO_STEP:
            self._state = kind
        return frame

    def _ready(self, frame: dict[str, Any]) -> None:
        if frame["protocol"] != PROTOCOL or frame["token"] != self._hello["token"]:
            raise ProtocolError(f"ready has protocol {frame['protocol']}, or another token")
        if frame["preloaded"] != self._hello["preload"]:
            raise ProtocolError(f"preloaded: {frame['preloaded']}")

    def _spend(self, kind: str, count: int, data: str) -> None:
        self._counts[kind] += count
        self._sums[kind] += len(base64.b64decode(data))
        if self._counts[kind] > self._limits[f"{kind}_count"] or self._sums[kind] > self._limits[f"{kind}_limit"]:
            raise ProtocolError(f"{self._counts[kind]} {kind} frames, {self._sums[kind]} bytes in sum")

    def _output(self, frame: dict[str, Any]) -> None:
        size, stream = len(base64.b64decode(frame["data"])), frame["stream"]
        self._sums[stream] += size
        if not 0 < size <= DATA_MOST or self._sums[stream] > self._limits[f"{stream}_limit"]:
            raise ProtocolError(f"{size} bytes of {stream}, {self._sums[stream]} in sum")

    def _take_file(self, frame: dict[str, Any]) -> None:
        path, new = frame["path"], self._file is None
        if path in self._names if new else path != self._file:
            raise ProtocolError(f"the file {path!r} comes twice, or in the middle of {self._file!r}")
        if len(base64.b64decode(frame["data"])) > DATA_MOST:
            raise ProtocolError(f"too large a piece of {path!r}")
        self._spend("file", int(new), frame["data"])
        self._names.add(path)
        self._file = None if frame["last"] else path

    def _skipped(self, _: dict[str, Any]) -> None:
        self._counts["skipped"] += 1
        if self._counts["skipped"] > SKIPPED_MOST:
            raise ProtocolError(f"{self._counts['skipped']} skipped frames")

    def _exit(self, frame: dict[str, Any]) -> None:
        if frame["token"] != self._limits["token"]:
            raise ProtocolError("exit with another token")
        if (frame["exit_code"] is None) == (frame["signal"] is None):
            raise ProtocolError("an exit with both or neither of exit_code and signal")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class Driver:
    """A host that runs programs. `read` returns the runner's next bytes, b"" at their end; `write`
    takes the host's, and `end` closes its side."""

    def __init__(self, read: Callable[[], bytes], write: Callable[[bytes], None], end: Callable[[], None]) -> None:
        self._read, self._write, self._end = read, write, end
        self._session = False
        self._frames = RunnerFrames()
        self._pending: list[dict[str, Any]] = []

    def say(self, frame: Mapping[str, Any]) -> None:
        """Say a frame."""
        self._frames.said(frame)
        self._write(encode(frame))

    def hello(self, **members: Any) -> dict[str, Any]:
        """Say hello, and return the answer."""
        self.say({**HELLO, **members})
        return self.next()

    def open(self, files: Sequence[str] = ("/sandbox", "/tmp"), scratch: Sequence[str] = ("/dev/shm",)) -> dict[str, Any]:
        """Open a session, and return the answer."""
        self.say({"type": "open", "files": [*files], "scratch": [*scratch]})
        self._session = True
        return self.next()

    def stop(self) -> None:
        """End the program that runs in a session."""
        self.say({"type": "stop"})

    def next(self) -> dict[str, Any]:
        """Return the next frame; EOFError if the runner has ended."""
        while not self._pending:
            data = self._read()
            if not data:
                raise EOFError("the runner has ended")
            self._pending += self._frames.feed(data)
        return self._pending.pop(0)

    def run(
        self, code: str | bytes, *, files: Mapping[str, bytes] | None = None, stdin: bytes = b"", **members: Any
    ) -> Iterator[dict[str, Any]]:
        """Say run, with its files and its standard input, and yield what comes, `want` included.

        Ends behind `next`, `spent` or `error`; without a session, at the end of the stream.
        """
        self.say({**RUN, "stdin": bool(stdin), **members})
        whole = {**(files or {}), "main.py": code.encode() if isinstance(code, str) else code}
        for index, (path, content) in enumerate(whole.items()):
            self._put(path, content, final=index == len(whole) - 1)
        credit, left = STDIN_FIRST, memoryview(stdin)
        while True:
            while credit and left:
                size = min(credit, DATA_MOST, len(left))
                self.say({"type": "stdin", "data": _text(left[:size]), "last": size == len(left)})
                credit, left = credit - size, left[size:]
            try:
                frame = self.next()
            except EOFError:
                return
            credit += frame["bytes"] if frame["type"] == "want" else 0
            if frame["type"] == "exit":
                left = memoryview(b"")
                if not self._session:
                    self._end()
            yield frame
            if frame["type"] in ("next", "spent", "error"):
                return

    def _put(self, path: str, content: bytes, *, final: bool) -> None:
        for start in range(0, len(content) or 1, DATA_MOST):
            last = final and start + DATA_MOST >= len(content)
            self.say({"type": "put", "path": path, "data": _text(content[start : start + DATA_MOST]), "last": last})


def _text(data: bytes | memoryview) -> str:
    return base64.b64encode(data).decode()


def data(frames: Sequence[Mapping[str, Any]], kind: str) -> list[bytes]:
    """Return what the frames of one kind carry."""
    return [base64.b64decode(frame["data"]) for frame in frames if frame["type"] == kind]


def files(frames: Sequence[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the files that came, put together."""
    found: dict[str, bytes] = {}
    for frame in frames:
        if frame["type"] == "file":
            found[frame["path"]] = found.get(frame["path"], b"") + base64.b64decode(frame["data"])
    return found


def content(frames: Sequence[Mapping[str, Any]], stream: str) -> bytes:
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

        driver = Driver(lambda: source.read1(65_536), write, sink.close)  # type: ignore[attr-defined]
        for frame in (driver.hello(), *driver.run(code)):
            print(re.sub(r"(.{300}).+", r"\1…", json.dumps(frame, ensure_ascii=False)))  # noqa: T201


if __name__ == "__main__":
    main()
