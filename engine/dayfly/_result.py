"""What a program did. Every field is a fact of the kernel or of the host, but for `messages`,
`displays` and `last_value`: these are claims of the program.

`Outcome` is decided in one place, `verdict`, by a table of priorities in which the host's own
observations come first.
"""

from __future__ import annotations

import base64
import codecs
import enum
import functools
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from ._messages import Display, Exit, File, Message, Output, Skipped, Started, Why

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
    """It was killed at its deadline, or at its limit of processor time."""
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
    """`data` decoded as UTF-8, a character that is cut by the piece's end being left to the next
    one. May be empty."""


OnOutput = Callable[[Piece], None]


NO_VALUE = msgspec.Raw(b"null")
"""The JSON text of a last value that there is not."""
SVG = "image/svg+xml"
IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp", SVG)
"""Media types of images, the first that a display has being its image."""


class SkippedFile(msgspec.Struct, frozen=True):
    """A file that `fetch` asked for and that is not in the result."""

    path: str
    """The path, or the pattern. What is not UTF-8 in it is written as `\\xNN`."""
    why: Why
    """`too_large`, `too_many`, `not_regular`, `name`, `unreadable` or `missing`."""


class Result(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=False, dict=True):
    """What one run gave. Its JSON form has the documented names: `stdout`, `stderr`, `combined`,
    `isError`, `timedOut`."""

    outcome: Outcome
    stdout: str
    """UTF-8; bytes that are none are decoded with "replace"."""
    stderr: str
    combined: str
    """Both, each in the order of its writing. Two writes to different streams with no pause between
    them may be in either order; `merge_stderr` keeps it exact."""
    is_error: bool
    """Anything but outcome `ok`."""
    timed_out: bool
    """It was killed at its deadline, or at its limit of processor time."""
    exit_code: int | None
    """0 to 255, or None where a signal ended it, or nothing is known of its end."""
    signal: int | None
    """Number of the signal that ended it, SIGKILL (9) where dayfly or the kernel killed it; else
    None."""
    stdout_truncated: bool | None
    """Whether output over the limit was dropped. None where that is not known: the host judged
    alone."""
    stderr_truncated: bool | None
    stdout_dropped: int = 0
    """Bytes over the limit, as far as they were counted."""
    stderr_dropped: int = 0
    messages_raw: list[msgspec.Raw] = msgspec.field(name="messages", default_factory=list)
    """The JSON text of each message, as the program wrote it. JSON encoders write it through."""
    messages_dropped: int = 0
    """Messages over a limit, cut off, nested deeper than 100, or not valid JSON."""
    displays_raw: list[msgspec.Raw] = msgspec.field(name="displays", default_factory=list)
    """The JSON text of each display, a MIME bundle: what the program claims to show."""
    displays_dropped: int = 0
    """Displays over a limit, cut off, nested deeper than 100, or not a JSON object."""
    last_value_raw: msgspec.Raw = msgspec.field(name="lastValue", default_factory=lambda: NO_VALUE)
    """The JSON text of `last_value`."""
    files: dict[str, bytes] = {}
    """Files that `fetch` asked for, by path; base64 in JSON."""
    files_skipped: list[SkippedFile] = []
    """What `fetch` asked for and was not sent, with the reason."""
    files_skipped_dropped: int = 0
    """Files that were skipped beyond those in `files_skipped`."""
    cpu_limited: bool = False
    """Whether it was killed at `cpu_limit_ms`."""
    preloaded: bool = False
    """Whether the program had the sandbox's preloaded modules."""
    wall_ms: float = 0.0
    """From the program's start to its end."""
    cpu_ms: float | None = None
    """Processor time of the whole container during the run; None where it is not known."""
    peak_memory_bytes: int | None = None
    """Largest memory use of the container, the runner's own included; None where it is not
    known: for a program of a session that stayed below an earlier one, say."""
    max_rss_bytes: int | None = None
    """Largest resident set of one process of the program; starts at what was preloaded. None where
    it is not known."""
    oom_kills: int | None = None
    """Processes that the kernel killed at the memory limit; the program may have survived some."""
    stdout_raw: bytes | None = None
    """The bytes of stdout where they are not UTF-8; else None. `stdout_bytes` has them in any
    case."""
    stderr_raw: bytes | None = None

    @functools.cached_property
    def messages(self) -> list[Any]:
        """What the program sent with `sandbox.send`, in order. Decoded when this is first read, and
        kept."""
        return [msgspec.json.decode(text) for text in self.messages_raw]

    @functools.cached_property
    def displays(self) -> list[Any]:
        """What the program showed, in order: MIME type to content. Decoded when this is first read,
        and kept."""
        return [msgspec.json.decode(text) for text in self.displays_raw]

    @functools.cached_property
    def last_value(self) -> dict[str, Any] | None:
        """What the program claims its last expression's value to be: `{"repr": "…", "json": …}`.

        Without "json" where the value has no JSON form. None where there is no value: `last_value`
        was not asked for, the last statement is not an expression, the program ended before it, or
        the value was over the limits of displays.
        """
        return msgspec.json.decode(self.last_value_raw, type=dict[str, Any] | None)

    def images(self) -> list[tuple[str, bytes]]:
        """Return the image of each display that has one: its MIME type and content, as claimed."""
        found = []
        for display in self.displays:
            kind = next((kind for kind in IMAGES if isinstance(display.get(kind), str)), None)
            if kind is not None:
                content = display[kind]
                try:
                    data = content.encode() if kind == SVG else base64.b64decode("".join(content.split()), validate=True)
                except ValueError:
                    continue
                found.append((kind, data))
        return found

    def to_json(self, *, combined: bool = True) -> bytes:
        """Return the JSON form. Without `combined` it is a third smaller: that text is stdout and
        stderr once more."""
        if combined:
            return msgspec.json.encode(self)
        fields = msgspec.structs.fields(Result)
        return msgspec.json.encode({field.encode_name: getattr(self, field.name) for field in fields if field.name != "combined"})

    @property
    def stdout_bytes(self) -> bytes:
        """The very bytes that were written to stdout, up to the limit."""
        return self.stdout.encode() if self.stdout_raw is None else self.stdout_raw

    @property
    def stderr_bytes(self) -> bytes:
        """The very bytes that were written to stderr, up to the limit."""
        return self.stderr.encode() if self.stderr_raw is None else self.stderr_raw


MESSAGE_DEPTH = 100
"""Arrays and objects inside each other, at most, in one message. A reader's own JSON decoder may
bear no more than some hundred."""

# A number that may be infinite, or have more digits than Python converts.
_HUGE = re.compile(rb"(?<![0-9.eE+])-?(?:[0-9]{200,}[0-9.eE+-]*|[0-9.]+[eE]\+?[0-9]{3,})")
_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}")
_DIGITS, _DIGIT_RUN = bytes.maketrans(b"123456789", b"0" * 9), b"0" * 200
_MOST_DIGITS = 4_300
_STEP = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_BLOCK = 32
SLICE = 131_072
"""Bytes that are handled in one call: other threads wait for as long as that takes."""
_ALL_BUT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def is_json(data: bytes) -> bool:
    """Whether `data` is one JSON value, nested at most MESSAGE_DEPTH deep, that `msgspec` decodes.

    It builds no value: a nested one takes a hundred times its bytes, and hostile programs send
    many. The parser that skips a value does not look at the size of numbers: that is done here.
    """
    try:
        data.decode()
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return not (data.count(b"[") + data.count(b"{") > MESSAGE_DEPTH and _is_deep(data)) and has_finite_numbers(data)


def has_finite_numbers(data: bytes) -> bool:
    """Whether Python can read each number of valid JSON. It builds no value."""
    bare = without_strings(data)
    # Searching for _HUGE is slow; what it needs is found fast.
    if _DIGIT_RUN in bare.translate(_DIGITS) or _EXPONENT.search(bare):
        return all(map(_is_finite, set(_HUGE.findall(bare))))
    return True


def without_strings(data: bytes) -> bytes:
    """JSON without its strings."""
    return b"".join(outside_strings(data))


def outside_strings(data: bytes) -> Iterator[bytes]:
    """Yield what JSON has outside of its strings, in pieces. Of invalid JSON, nothing is left out
    that a decoder reads before it stops."""
    # First without escapes, so that every quote is an end of a string.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    inside = 0
    for start in range(0, len(plain), SLICE):
        parts = plain[start : start + SLICE].split(b'"')
        yield b"".join(parts[inside::2])
        inside ^= (len(parts) - 1) & 1


def _is_deep(data: bytes) -> bool:
    """Whether valid JSON is nested deeper than MESSAGE_DEPTH.

    It counts the brackets of a block at once. Only a block that could pass the bound is looked at
    in detail.
    """
    brackets = without_strings(data).translate(_STEP, _ALL_BUT_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _BLOCK):
        block = brackets[start : start + _BLOCK]
        opened = block.count(1)
        if depth + opened > MESSAGE_DEPTH:
            steps = memoryview(block).cast("b")
            if max(itertools.accumulate(steps, initial=depth)) > MESSAGE_DEPTH:
                return True
        depth += 2 * opened - len(block)
    return False


def _is_finite(number: bytes) -> bool:
    return len(number) <= _MOST_DIGITS if number.lstrip(b"-").isdigit() else math.isfinite(float(number))


class _Value(msgspec.Struct):
    repr: str
    json: msgspec.Raw = msgspec.Raw()


class _Shown(msgspec.Struct):
    """A display, as far as this side looks into it: whether it is the last value."""

    value: msgspec.Raw = msgspec.field(name="application/vnd.dayfly.value+json", default=msgspec.Raw())


class _Claims:
    """What a program has sent of its own: the JSON texts that are kept, and how many were not."""

    def __init__(self) -> None:
        self.kept: list[msgspec.Raw] = []
        self.unreadable = 0


class Recorder:
    """Gathers one run's output and messages, and makes the Result of them."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders: dict[Stream, codecs.IncrementalDecoder] = {"stdout": decoder("replace"), "stderr": decoder("replace")}
        # One growing buffer each: a program may write its output byte by byte, and a million pieces
        # would be a hundred megabytes.
        self._text: dict[Stream, io.StringIO] = {"stdout": io.StringIO(), "stderr": io.StringIO()}
        self._combined: io.StringIO | None = None  # from the moment when both streams have something in them
        self._raw: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._messages = _Claims()
        self._displays = _Claims()
        self._value = NO_VALUE
        self._files: dict[str, bytearray] = {}
        self._skipped: list[SkippedFile] = []
        self._preloaded = False

    def output(self, frame: Output) -> Piece:
        """Keep a piece of output, and return it for whoever is listening."""
        self._raw[frame.stream] += frame.data
        return Piece(frame.stream, frame.data, self._decode(frame.stream, frame.data))

    def take(self, event: object) -> list[Piece]:
        """Keep what an event brings, and return the Piece if it is output."""
        match event:
            case Output():
                return [self.output(event)]
            case Message(data=data):
                self._keep(self._messages, data)
            case Display(data=data):
                self._show(data)
            case File(path=path, data=data):
                self._files.setdefault(path, bytearray()).extend(data)
            case Skipped(path=path, why=why):
                self._skipped.append(SkippedFile(path, why))
            case Started(preloaded=preloaded):
                self._preloaded = preloaded
        return []

    def rest(self) -> list[Piece]:
        """No more output comes: return what the cut characters at the ends of the streams become,
        U+FFFD."""
        pieces = [Piece(stream, b"", self._decode(stream, b"", final=True)) for stream in self._decoders]
        return [piece for piece in pieces if piece.text]

    def _keep(self, claims: _Claims, data: bytes) -> None:
        # The bytes may be anything: a program can write to the pipe itself.
        if is_json(data):
            claims.kept.append(msgspec.Raw(data))
        else:
            claims.unreadable += 1

    def _show(self, data: bytes) -> None:
        try:
            value = msgspec.json.decode(data, type=_Shown).value if is_json(data) else None
            if value:
                msgspec.json.decode(value, type=_Value)
                self._value = msgspec.Raw(value)
            elif value is not None:
                self._displays.kept.append(msgspec.Raw(data))
        except msgspec.DecodeError:
            value = None
        self._displays.unreadable += value is None

    def result(self, end: Exit | None, outcome: Outcome, *, wall_ms: float) -> Result:
        """Return the Result. `end` is None where the host ended the run by itself; `wall_ms` is
        what it measured then."""
        self.rest()
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
            messages_raw=self._messages.kept,
            messages_dropped=self._messages.unreadable + (end.messages_dropped if end else 0),
            displays_raw=self._displays.kept,
            displays_dropped=self._displays.unreadable + (end.displays_dropped if end else 0),
            last_value_raw=self._value,
            files={path: bytes(content) for path, content in self._files.items()},
            files_skipped=self._skipped,
            files_skipped_dropped=end.skipped_dropped if end else 0,
            cpu_limited=end.cpu_limited if end else False,
            preloaded=self._preloaded,
            wall_ms=end.wall_ms if end else wall_ms,
            cpu_ms=end.cpu_ms if end else None,
            peak_memory_bytes=end.peak_memory_bytes if end else None,
            max_rss_bytes=end.max_rss_bytes if end else None,
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
    """The bytes, unless they are what the text was decoded from without a loss: what was replaced
    is U+FFFD now."""
    return bytes(raw) if "\N{REPLACEMENT CHARACTER}" in text and raw != text.encode() else None


def verdict(end: Exit) -> Outcome:
    """Return the outcome for an `exit` frame. Kills come first: what the program's status says
    after one is the kill's doing."""
    if end.timed_out or end.cpu_limited:
        return Outcome.TIMEOUT
    if end.signal == 9 and end.oom_kills:
        return Outcome.OUT_OF_MEMORY
    if end.output_limit:
        return Outcome.OUTPUT_LIMIT
    if end.signal is not None:
        return Outcome.SIGNAL
    return Outcome.OK if end.exit_code == 0 else Outcome.ERROR
