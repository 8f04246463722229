"""The frames of the runner protocol as msgspec Structs, and their two codecs. conformance/PROTOCOL.md is the contract.

Decoding is strict: an unknown type or member, a missing one, a wrong type, a number out of range is a ProtocolViolation.
What the values mean, and when a frame may come, is `dialogue`'s.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from .errors import ProtocolViolation

PROTOCOL = 1
OUTPUT_SIZE = 65_536
FRAME_SIZE = 131_072
RUN_SIZE = 67_108_864

Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class Frame(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=str.lower):
    """Base of all frames: the member `type` is the class's name in lower case."""


class Hello(Frame, frozen=True):
    """Host: the first word."""

    protocol: int
    token: str


class Run(Frame, frozen=True):
    """Host: the one program."""

    code: str
    python: Literal["2", "3"]
    args: list[str]
    env: dict[str, str]
    stdin: bytes | None
    data: str | None
    timeout_ms: int
    open_files: int
    stdout_limit: int
    stderr_limit: int
    on_output_limit: Literal["truncate", "kill"]
    message_limit: int
    message_count: int


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


class Started(Frame, frozen=True):
    """Runner: the program begins."""


class Output(Frame, frozen=True):
    """Runner: a piece of what the program wrote."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class Message(Frame, frozen=True):
    """Runner: what the program sent; any bytes."""

    data: bytes


class Exit(Frame, frozen=True):
    """Runner: the program has ended, and all that it had started."""

    token: str
    exit_code: Annotated[int, msgspec.Meta(ge=0, le=255)] | None
    signal: Annotated[int, msgspec.Meta(ge=1, le=127)] | None
    timed_out: bool
    output_limit: bool
    stdout_dropped: Count
    stderr_dropped: Count
    messages_dropped: Count
    wall_ms: Milliseconds
    cpu_ms: Milliseconds | None
    peak_memory_bytes: Count | None
    oom_kills: Count | None


class Error(Frame, frozen=True):
    """Runner: it cannot go on."""

    message: Annotated[str, msgspec.Meta(max_length=4_096)]


RunnerFrame = Ready | Started | Output | Message | Exit | Error

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[RunnerFrame] = msgspec.json.Decoder(RunnerFrame)


def encode(message: Hello | Run) -> bytes:
    """Return the frame's body."""
    return _encoder.encode(message)


def decode(body: bytes) -> RunnerFrame:
    """Return what a body says; ProtocolViolation if it says nothing that the protocol knows."""
    try:
        return _decoder.decode(body)
    # Hostile nesting ends as RecursionError; bytes that are no UTF-8 as UnicodeDecodeError, which is a ValueError.
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        # The error quotes names out of the body, of any length and with any control characters in them.
        raise ProtocolViolation(f"a frame makes no sense ({str(error)[:200]!a}): {body[:120]!r}") from None
