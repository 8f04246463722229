"""What a program did. Every field is a fact of the kernel or of the host, none a claim of the program.

`Outcome` is decided in one place, `verdict`, by a table of priorities in which the host's own observations come first.
"""

from __future__ import annotations

import codecs
import enum
import io
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from .messages import Exit, Message, Output

Stream = Literal["stdout", "stderr"]


class Outcome(str, enum.Enum):
    """How a program ended."""

    OK = "ok"
    """Exit code 0."""
    ERROR = "error"
    """Another exit code: an uncaught exception, a syntax error, `sys.exit(n)`."""
    SIGNAL = "signal"
    """A signal ended it, from itself or the kernel (SIGSEGV, SIGXFSZ)."""
    TIMEOUT = "timeout"
    """It was killed at its deadline."""
    OUT_OF_MEMORY = "out_of_memory"
    """The kernel killed it at the container's memory limit."""
    OUTPUT_LIMIT = "output_limit"
    """It was killed for its output, by `on_output_limit="kill"`."""

    def __str__(self) -> str:
        return self.value


class Piece(msgspec.Struct, frozen=True):
    """A piece of output as it was written, for `on_output` and `stream`."""

    stream: Stream
    data: bytes
    text: str
    """`data` decoded as UTF-8, a character that is cut by the piece's end being left to the next one. May be empty."""


OnOutput = Callable[[Piece], None]


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=False):
    """What one run gave. Its JSON form has the documented names: `stdout`, `stderr`, `combined`, `isError`, `timedOut`."""

    outcome: Outcome
    stdout: str
    """UTF-8; bytes that are none are decoded with "replace"."""
    stderr: str
    combined: str
    """Both, in the order in which they arrived."""
    is_error: bool
    """Anything but outcome `ok`."""
    timed_out: bool
    exit_code: int | None
    """0 to 255, or None where a signal ended it, or nothing is known of its end."""
    signal: int | None
    """Number of the signal that ended it, SIGKILL (9) where dayfly or the kernel killed it; else None."""
    stdout_truncated: bool | None
    """Whether output over the limit was dropped. None where that is not known: the host judged alone."""
    stderr_truncated: bool | None
    stdout_dropped: int = 0
    """Bytes over the limit, as far as they were counted."""
    stderr_dropped: int = 0
    messages: list[Any] = []
    """What the program sent with `sandbox.send`, in order."""
    messages_dropped: int = 0
    """Messages over a limit, cut off, or no JSON."""
    wall_ms: float = 0.0
    """From the program's start to its end."""
    cpu_ms: float | None = None
    """Processor time of the whole container during the run; None where it is not known."""
    peak_memory_bytes: int | None = None
    """Largest memory use of the container, the runner's own included; None where it is not known."""
    oom_kills: int | None = None
    """Processes that the kernel killed for want of memory; the program may have survived some."""
    stdout_raw: bytes | None = None
    """The bytes of stdout where they are no UTF-8; else None. `stdout_bytes` has them in any case."""
    stderr_raw: bytes | None = None

    @property
    def stdout_bytes(self) -> bytes:
        """The very bytes that were written to stdout, up to the limit."""
        return self.stdout.encode() if self.stdout_raw is None else self.stdout_raw

    @property
    def stderr_bytes(self) -> bytes:
        """The very bytes that were written to stderr, up to the limit."""
        return self.stderr.encode() if self.stderr_raw is None else self.stderr_raw


class Recorder:
    """Gathers one run's output and messages, and makes the Result of them."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {"stdout": decoder("replace"), "stderr": decoder("replace")}
        # One growing buffer each: a program may write its output byte by byte, and a million pieces would be a hundred megabytes.
        self._text: dict[Stream, io.StringIO] = {"stdout": io.StringIO(), "stderr": io.StringIO()}
        self._combined: io.StringIO | None = None  # from the moment when both streams have something in them
        self._raw: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._messages: list[Any] = []
        self._unreadable = 0

    def output(self, frame: Output) -> Piece:
        """Keep a piece of output, and return it for whoever is listening."""
        self._raw[frame.stream] += frame.data
        return Piece(frame.stream, frame.data, self._decode(frame.stream, frame.data))

    def take(self, event: object) -> Piece | None:
        """Keep what an event brings, and return the Piece if it is output."""
        if isinstance(event, Output):
            return self.output(event)
        if isinstance(event, Message):
            self.message(event.data)
        return None

    def message(self, data: bytes) -> None:
        """Keep what the program sent, if it is JSON. The bytes may be anything: a program can write to the pipe itself."""
        try:
            self._messages.append(msgspec.json.decode(data))
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._unreadable += 1

    def result(self, end: Exit | None, outcome: Outcome, *, wall_ms: float) -> Result:
        """Return the Result. `end` is None where the host ended the run by itself; `wall_ms` is what it measured then."""
        for stream in self._decoders:
            self._decode(stream, b"", final=True)
        text = {stream: buffer.getvalue() for stream, buffer in self._text.items()}
        dropped: dict[Stream, int] = {"stdout": end.stdout_dropped if end else 0, "stderr": end.stderr_dropped if end else 0}
        killed = outcome in (Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY, Outcome.OUTPUT_LIMIT)
        return Result(
            outcome=outcome,
            stdout=text["stdout"],
            stderr=text["stderr"],
            combined=self._combined.getvalue() if self._combined else text["stdout"] or text["stderr"],
            is_error=outcome is not Outcome.OK,
            timed_out=outcome is Outcome.TIMEOUT,
            exit_code=None if end is None else end.exit_code,
            signal=(9 if killed else None) if end is None else end.signal,
            stdout_truncated=dropped["stdout"] > 0 if end else None,
            stderr_truncated=dropped["stderr"] > 0 if end else None,
            stdout_dropped=dropped["stdout"],
            stderr_dropped=dropped["stderr"],
            messages=self._messages,
            messages_dropped=self._unreadable + (end.messages_dropped if end else 0),
            wall_ms=end.wall_ms if end else wall_ms,
            cpu_ms=end.cpu_ms if end else None,
            peak_memory_bytes=end.peak_memory_bytes if end else None,
            oom_kills=end.oom_kills if end else None,
            stdout_raw=_unless_same(self._raw["stdout"], text["stdout"]),
            stderr_raw=_unless_same(self._raw["stderr"], text["stderr"]),
        )

    def _decode(self, stream: Stream, data: bytes, *, final: bool = False) -> str:
        text = self._decoders[stream].decode(data, final)
        if self._combined is None and text and (before := self._text["stdout" if stream == "stderr" else "stderr"].getvalue()):
            self._combined = io.StringIO()
            self._combined.write(before)
        self._text[stream].write(text)
        if self._combined is not None:
            self._combined.write(text)
        return text


def _unless_same(raw: bytearray, text: str) -> bytes | None:
    """The bytes, unless they are what the text was decoded from without a loss: what was replaced is U+FFFD now."""
    return bytes(raw) if "\N{REPLACEMENT CHARACTER}" in text and raw != text.encode() else None


def verdict(end: Exit) -> Outcome:
    """Return the outcome for an `exit` frame. Kills come first: what the program's status says after one is the kill's doing."""
    if end.timed_out:
        return Outcome.TIMEOUT
    if end.signal == 9 and end.oom_kills:
        return Outcome.OUT_OF_MEMORY
    if end.output_limit:
        return Outcome.OUTPUT_LIMIT
    if end.signal is not None:
        return Outcome.SIGNAL
    return Outcome.OK if end.exit_code == 0 else Outcome.ERROR
