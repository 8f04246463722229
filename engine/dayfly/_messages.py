"""The frames of the runner protocol as msgspec Structs, and their two codecs.

conformance/PROTOCOL.md is the contract. Decoding is strict: an unknown type or member, a missing
one, a wrong type, a number out of range is a ProtocolViolation. What the values mean, and when a
frame may come, is `dialogue`'s.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from ._errors import ProtocolViolation

PROTOCOL = 2
OUTPUT_SIZE = 65_536
FRAME_SIZE = 131_072
RUN_SIZE = 1_048_576
PIECE_SIZE = 49_152
"""Bytes that this host puts into one `put` or `stdin`; the protocol allows 65,536."""
STDIN_WINDOW = 131_072
"""Bytes of standard input that may be sent before the runner has asked for more."""
PATH_BYTES, PATH_PARTS, PART_BYTES = 1_024, 16, 255
MAX_FILES, MAX_PATTERNS, MAX_SKIPPED, MAX_MODULES, MODULE_LENGTH = 1_024, 64, 100, 32, 255

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Base of all frames: the member `type` is the class's name in lower case."""


class Hello(Frame, frozen=True):
    """Host: the first frame."""

    protocol: int
    token: str
    preload: list[str]


class Open(Frame, frozen=True):
    """Host, before the first program: many will come. The folders are absolute paths."""

    files: list[str]
    """What is in these folders is wiped when a run says `clean`."""
    scratch: list[str]
    """What is in these folders is wiped after each run."""


class Run(Frame, frozen=True):
    """Host: a program is to be run. Its files follow as `put`, its standard input as `stdin`."""

    token: str
    clean: bool
    python: Literal["2", "3"]
    args: list[str]
    env: dict[str, str]
    stdin: bool
    merge_stderr: bool
    seed: int | None
    timeout_ms: int
    cpu_limit_ms: int | None
    open_files: int
    stdout_limit: int
    stderr_limit: int
    on_output_limit: Literal["truncate", "kill"]
    message_limit: int
    message_count: int
    display_limit: int
    display_count: int
    figures: bool
    last_value: bool
    fetch: list[str]
    file_limit: int
    file_count: int


class Put(Frame, frozen=True):
    """Host: a piece of a file. The program starts behind the last one."""

    path: str
    data: bytes
    last: bool


class Stdin(Frame, frozen=True):
    """Host: a piece of standard input."""

    data: bytes
    last: bool


class Stop(Frame, frozen=True):
    """Host, in a session: the program is to be ended."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """All that hands one program over. The dialogue fills in the run's token, and cuts the rest
    into frames."""

    run: Run
    files: tuple[tuple[str, bytes], ...]
    """Path and content, `main.py` among them."""
    stdin: bytes = b""
    live: bool = False
    """More standard input comes while the program runs, until it is closed."""


class Status(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the kernel says of the runner's own process."""

    uid: int
    gid: int
    no_new_privs: int
    seccomp: int
    cap_eff: str
    cap_bnd: str
    dumpable: int


class Ready(Frame, frozen=True):
    """Runner: set up, and waiting for a program."""

    protocol: int
    token: str
    version: str
    pythons: dict[str, str]
    status: Status
    cgroup: int
    problems: list[str]
    preloaded: list[str]
    baseline_bytes: Count | None


class Started(Frame, frozen=True):
    """Runner: the program begins."""

    preloaded: bool


class Want(Frame, frozen=True):
    """Runner: so many bytes of standard input more may be sent."""

    bytes: Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Output(Frame, frozen=True):
    """Runner: a piece of what the program wrote."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Message(Frame, frozen=True):
    """Runner: what the program sent; any bytes."""

    data: bytes


class Display(Frame, frozen=True):
    """Runner: what the program wants shown; any bytes."""

    data: bytes


class File(Frame, frozen=True):
    """Runner: a piece of a file that was asked for."""

    path: str
    data: bytes
    last: bool


Why = Literal["too_large", "too_many", "not_regular", "name", "unreadable", "missing"]


class Skipped(Frame, frozen=True):
    """Runner: what was asked for and is not sent."""

    path: str
    why: Why


class Exit(Frame, frozen=True):
    """Runner: the program has ended, and all that it had started."""

    token: str
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None
    signal: Annotated[int, msgspec.Meta(ge=1, le=127)] | None
    timed_out: bool
    cpu_limited: bool
    output_limit: bool
    stdout_dropped: Count
    stderr_dropped: Count
    messages_dropped: Count
    displays_dropped: Count
    skipped_dropped: Count
    wall_ms: Milliseconds
    cpu_ms: Milliseconds | None
    peak_memory_bytes: Count | None
    max_rss_bytes: Count | None
    oom_kills: Count | None


class Next(Frame, frozen=True):
    """Runner, in a session: cleaned up, and waiting for another program."""


class Spent(Frame, frozen=True):
    """Runner, in a session: it can take no other program."""

    reason: Annotated[str, msgspec.Meta(max_length=4_096)]


class Error(Frame, frozen=True):
    """Runner: it cannot go on."""

    message: Annotated[str, msgspec.Meta(max_length=4_096)]


HostFrame = Hello | Open | Run | Put | Stdin | Stop
RunnerFrame = Ready | Started | Want | Output | Message | Display | File | Skipped | Exit | Next | Spent | Error

_POSITION = re.compile(r"\(byte ([0-9]+)\)\Z")
"""How msgspec says where JSON is not valid."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[RunnerFrame] = msgspec.json.Decoder(RunnerFrame)


def encode(message: HostFrame) -> bytes:
    """Return the frame's body."""
    return _encoder.encode(message)


def decode(body: bytes) -> RunnerFrame:
    """Return what a body says; ProtocolViolation if it says nothing that the protocol knows.

    The error does not quote the body, nor does it keep msgspec's error, which does: the program may
    have written it.
    """
    try:
        return _decoder.decode(body)
    # Hostile nesting ends as RecursionError; bytes that are not UTF-8 as UnicodeDecodeError, which
    # is a ValueError.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        what = "does not follow the protocol" if isinstance(error, msgspec.ValidationError) else "is not valid JSON"
        where = _POSITION.search(str(error))
        raise ProtocolViolation(f"a frame of {len(body):,} bytes {what}{f', from byte {where[1]} on' if where else ''}") from None


def path_problem(path: str) -> str | None:
    """Return what is wrong with a path of `put` or `file`, or None: relative, POSIX, within the
    protocol's bounds."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return "has a lone surrogate, which is not text"
    parts = path.split("/")
    if not 1 <= size <= PATH_BYTES:
        return f"is {size:,} bytes long; from 1 to {PATH_BYTES:,} are allowed"
    if "\0" in path:
        return "has a NUL character"
    if path.startswith("/"):
        return "is absolute; it must be relative to the working directory"
    if any(part in {"", ".", ".."} for part in parts):
        return "has a part that is empty, '.' or '..'"
    if len(parts) > PATH_PARTS:
        return f"has {len(parts):,} parts; {PATH_PARTS} are allowed"
    if max(len(part.encode()) for part in parts) > PART_BYTES:
        return f"has a part of more than {PART_BYTES} bytes"
    return None
