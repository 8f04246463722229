"""One container's dialogue with its runner, sans I/O: bytes in, frames out, or the one ProtocolViolation.

Owns the order of frames and the bounds on their sizes and number, as conformance/PROTOCOL.md has them. The other side
is believed in nothing: it is a place where hostile code runs. What does not fit the table ends the dialogue for good.

    state     hello()   run()    ready   started   output, message   exit   error
    NEW       GREETED   -        -       -         -                 -      -
    GREETED   -         -        WARM    -         -                 -      DONE
    WARM      -         HANDED   -       -         -                 -      DONE
    HANDED    -         -        -       RUNNING   -                 -      DONE
    RUNNING   -         -        -       -         RUNNING           DONE   DONE
    DONE      -         -        -       -         -                 -      -
    BROKEN    -         -        -       -         -                 -      -
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterator

from .errors import ProtocolViolation
from .frames import FrameDecoder, frame
from .messages import (
    FRAME_SIZE,
    OUTPUT_SIZE,
    PROTOCOL,
    RUN_SIZE,
    Error,
    Exit,
    Hello,
    Message,
    Output,
    Ready,
    Run,
    RunnerFrame,
    Started,
    decode,
    encode,
)


class State(enum.Enum):
    """Where the dialogue stands."""

    NEW = enum.auto()
    GREETED = enum.auto()
    WARM = enum.auto()
    HANDED = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()
    BROKEN = enum.auto()


NEXT: dict[tuple[State, type], State] = {
    (State.NEW, Hello): State.GREETED,
    (State.GREETED, Ready): State.WARM,
    (State.GREETED, Error): State.DONE,
    (State.WARM, Run): State.HANDED,
    (State.WARM, Error): State.DONE,
    (State.HANDED, Started): State.RUNNING,
    (State.HANDED, Error): State.DONE,
    (State.RUNNING, Output): State.RUNNING,
    (State.RUNNING, Message): State.RUNNING,
    (State.RUNNING, Exit): State.DONE,
    (State.RUNNING, Error): State.DONE,
}
"""Who may say what when. What is not here is a violation."""


class Dialogue:
    """The host's side of one container's life. `token` is a secret of this dialogue: 32 hexadecimal digits."""

    def __init__(self, token: str) -> None:
        self.state = State.NEW
        self._token = token
        self._frames = FrameDecoder(FRAME_SIZE)
        self._left = {"stdout": 0, "stderr": 0}
        self._messages_left = 0
        self._message_bytes_left = 0

    def hello(self) -> bytes:
        """Return the first bytes to send."""
        self._step(Hello)
        return frame(encode(Hello(protocol=PROTOCOL, token=self._token)))

    def run(self, run: Run) -> bytes:
        """Return the bytes that hand the program over. ValueError if they would be over the protocol's bound."""
        body = encode(run)
        if len(body) > RUN_SIZE:
            raise ValueError(f"the program with its input is {len(body):,} bytes as a frame; the protocol allows {RUN_SIZE:,}")
        self._step(Run)
        self._left = {"stdout": run.stdout_limit, "stderr": run.stderr_limit}
        self._messages_left = run.message_count
        self._message_bytes_left = run.message_limit
        self._frames.limit = max(FRAME_SIZE, 1_024 + -(-run.message_limit * 4 // 3))
        return frame(body)

    def receive(self, data: bytes | memoryview) -> Iterator[RunnerFrame]:
        """Take the runner's bytes and yield the frames that are complete.

        What stands before a violation is yielded first: how bytes were cut into reads changes nothing.
        """
        if self.state is State.BROKEN:
            raise ProtocolViolation("the dialogue is broken already")
        self._frames.feed(data)
        try:
            while (body := self._frames.next()) is not None:
                said = decode(body)
                self._check(said, len(body))
                yield said
        except ProtocolViolation:
            self.state = State.BROKEN
            raise

    def _check(self, said: RunnerFrame, size: int) -> None:
        self._step(type(said))
        match said:
            case Output(stream=stream, data=data):
                self._left[stream] -= len(data)
                if not 0 < len(data) <= OUTPUT_SIZE or self._left[stream] < 0:
                    raise ProtocolViolation(f"an output frame of {len(data):,} bytes is empty, too large, or over the limit of {stream}")
            case Message(data=data):
                self._messages_left -= 1
                self._message_bytes_left -= len(data)
                if self._messages_left < 0 or self._message_bytes_left < 0:
                    raise ProtocolViolation("more messages, or more bytes in them, than the run allows")
            case Ready(protocol=protocol, token=token, pythons=pythons):
                self._check_token(token)
                if protocol != PROTOCOL or "3" not in pythons:
                    raise ProtocolViolation(f"ready names protocol {protocol} and interpreters {sorted(pythons)}")
            case Exit(token=token, exit_code=code, signal=signal):
                self._check_token(token)
                if (code is None) == (signal is None):
                    raise ProtocolViolation(f"exit names exit code {code} and signal {signal}; it must be one of the two")
        if not isinstance(said, Message) and size > FRAME_SIZE:
            raise ProtocolViolation(f"a frame of {size:,} bytes that is no message; {FRAME_SIZE:,} are allowed")

    def _check_token(self, token: str) -> None:
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise ProtocolViolation("a frame with a forged token")

    def _step(self, kind: type) -> None:
        following = NEXT.get((self.state, kind))
        if following is None:
            raise ProtocolViolation(f"{kind.__name__.lower()} in state {self.state.name}")
        self.state = following
