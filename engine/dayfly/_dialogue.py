"""One container's dialogue with its runner, sans I/O: bytes in, frames out, or the one
ProtocolViolation.

Owns the order of frames and the bounds on their sizes and number, as conformance/PROTOCOL.md has
them. The other side is believed in nothing: it is a place where hostile code runs. What does not
fit the table ends the dialogue for good.

    state      hello() open()  run()  ready started output  file       exit     next spent error
    NEW        GREETED -       -      -     -       -       -          -        -    -     -
    GREETED    -       -       -      WARM  -       -       -          -        -    -     DONE
    WARM       -       OPENING HANDED -     -       -       -          -        -    -     DONE
    OPENING    -       -       -      -     -       -       -          -        IDLE -     DONE
    IDLE       -       -       HANDED -     -       -       -          -        -    -     DONE
    HANDED     -       -       -      -     RUNNING -       -          -        -    -     DONE
    RUNNING    -       -       -      -     -       RUNNING COLLECTING CLEANING -    -     DONE
    COLLECTING -       -       -      -     -       -       COLLECTING CLEANING -    -     DONE
    CLEANING   -       -       -      -     -       -       -          -        IDLE DONE  DONE
    DONE       -       -       -      -     -       -       -          -        -    -     -
    BROKEN     -       -       -      -     -       -       -          -        -    -     -

The column `output` is for message, display and want too, `file` for skipped.

stop() is for HANDED, RUNNING and COLLECTING in a session, and changes no state. Without a session,
which open() begins, `exit` leads to DONE. In the states before RUNNING no program has started since
`ready` or `next`; from HANDED on the container may have it.
"""

from __future__ import annotations

import enum
import hmac
from collections.abc import Iterator, Sequence

import msgspec

from ._errors import ProtocolViolation
from ._frames import FrameDecoder, frame
from ._messages import (
    FRAME_SIZE,
    MAX_SKIPPED,
    OUTPUT_SIZE,
    PIECE_SIZE,
    PROTOCOL,
    RUN_SIZE,
    STDIN_WINDOW,
    Display,
    Error,
    Exit,
    File,
    Hello,
    Message,
    Next,
    Open,
    Output,
    Put,
    Ready,
    Request,
    Run,
    RunnerFrame,
    Skipped,
    Spent,
    Started,
    Stdin,
    Stop,
    Want,
    decode,
    encode,
    path_problem,
)

WRITE_SIZE = 262_144
"""Bytes of frames that are put together for one write, roughly."""


class State(enum.Enum):
    """Where the dialogue stands."""

    NEW = enum.auto()
    GREETED = enum.auto()
    WARM = enum.auto()
    OPENING = enum.auto()
    IDLE = enum.auto()
    HANDED = enum.auto()
    RUNNING = enum.auto()
    COLLECTING = enum.auto()
    CLEANING = enum.auto()
    DONE = enum.auto()
    BROKEN = enum.auto()


NEXT: dict[tuple[State, type], State] = {
    (State.NEW, Hello): State.GREETED,
    (State.GREETED, Ready): State.WARM,
    (State.WARM, Open): State.OPENING,
    (State.OPENING, Next): State.IDLE,
    **{(state, Run): State.HANDED for state in (State.WARM, State.IDLE)},
    (State.HANDED, Started): State.RUNNING,
    **{(State.RUNNING, kind): State.RUNNING for kind in (Output, Message, Display, Want)},
    **{(state, kind): State.COLLECTING for state in (State.RUNNING, State.COLLECTING) for kind in (File, Skipped)},
    **{(state, Exit): State.CLEANING for state in (State.RUNNING, State.COLLECTING)},
    (State.CLEANING, Next): State.IDLE,
    (State.CLEANING, Spent): State.DONE,
    **{(state, Error): State.DONE for state in State if state not in (State.NEW, State.DONE, State.BROKEN)},
}
"""Who may say what when. What is not here is a violation."""


class Dialogue:
    """The host's side of one container's life.

    `token` is a secret of this dialogue, 32 hexadecimal digits. `preload` names modules.
    """

    def __init__(self, token: str, *, preload: Sequence[str] = ()) -> None:
        self.state = State.NEW
        self._token = token
        self._preload = list(preload)
        self._in_session = False
        self._frames = FrameDecoder(FRAME_SIZE)
        # Of the run.
        self._run_token = ""
        self._left = {"stdout": 0, "stderr": 0}
        self._budgets: dict[type, list[int]] = {}
        self._skips_left = 0
        self._file: str | None = None
        self._names: set[str] = set()
        self._stdin = memoryview(b"")
        self._stdin_open = self._stdin_live = False
        self._credit = 0
        self._stop = False

    # What the host says.

    def hello(self) -> bytes:
        """Return the first bytes to send."""
        self._step(Hello)
        return frame(encode(Hello(protocol=PROTOCOL, token=self._token, preload=self._preload)))

    def open(self, files: Sequence[str], scratch: Sequence[str]) -> bytes:
        """Return the bytes that open a session: many programs instead of one. Both are absolute
        paths of folders."""
        self._step(Open)
        self._in_session = True
        return frame(encode(Open(files=list(files), scratch=list(scratch))))

    def run(self, request: Request, token: str) -> Iterator[bytes]:
        """Return the bytes that hand the program over, in pieces for one write each; `token` is a
        fresh secret as above.

        All of them must be written, in order. ValueError if the `run` frame would be over the
        protocol's bound.
        """
        body = encode(msgspec.structs.replace(request.run, token=token))
        if len(body) > RUN_SIZE:
            raise ValueError(f"args, env and fetch are {len(body):,} bytes as a frame; the protocol allows {RUN_SIZE:,}")
        self._step(Run)
        run = request.run
        self._run_token = token
        self._left = {"stdout": run.stdout_limit, "stderr": run.stderr_limit}
        self._budgets = {
            Message: [run.message_count, run.message_limit],
            Display: [run.display_count, run.display_limit],
            File: [run.file_count, run.file_limit],
        }
        self._skips_left = MAX_SKIPPED
        self._file = None
        self._names = set()
        self._frames.limit = max(FRAME_SIZE, 1_024 + -(-max(run.message_limit, run.display_limit) * 4 // 3))
        self._stdin = memoryview(request.stdin)
        self._stdin_open = False
        self._stdin_live = request.live
        self._credit = STDIN_WINDOW
        self._stop = False
        return self._handing_over(frame(body), request)

    def _handing_over(self, head: bytes, request: Request) -> Iterator[bytes]:
        ready = bytearray(head)
        final = len(request.files) - 1
        for index, (path, content) in enumerate(request.files):
            view = memoryview(content)
            for start in range(0, len(view) or 1, PIECE_SIZE):
                last = index == final and start + PIECE_SIZE >= len(view)
                ready += frame(encode(Put(path=path, data=bytes(view[start : start + PIECE_SIZE]), last=last)))
                if len(ready) >= WRITE_SIZE:
                    yield bytes(ready)
                    ready.clear()
        self._stdin_open = request.run.stdin
        yield bytes(ready) + self.outgoing()

    def stop(self) -> None:
        """In a session: have the program ended, if it has not ended yet. `outgoing` returns the
        bytes."""
        self._stop = self._in_session and self.state in (State.HANDED, State.RUNNING, State.COLLECTING)

    def feed(self, data: bytes) -> None:
        """Add standard input to a program whose request is live; b"" is its end.

        `outgoing` returns the bytes.
        """
        if data:
            self._stdin = memoryview(bytes(self._stdin) + data)
        else:
            self._stdin_live = False

    def outgoing(self) -> bytes:
        """Return the next bytes to send beside `run`: standard input that the runner has asked for,
        and `stop`. b"" where there are none.

        To be asked again after each write, and when frames were received.
        """
        if self._stop:
            self._stop = self._stdin_open = False
            return frame(encode(Stop()))
        ready = bytearray()
        while self._stdin_open and self._credit and len(ready) < WRITE_SIZE and (self._stdin or not self._stdin_live):
            size = min(PIECE_SIZE, self._credit)
            piece, self._stdin = self._stdin[:size], self._stdin[size:]
            self._credit -= len(piece)
            self._stdin_open = len(self._stdin) > 0 or self._stdin_live
            ready += frame(encode(Stdin(data=bytes(piece), last=not self._stdin_open)))
        return bytes(ready)

    # What the runner says.

    def receive(self, data: bytes | memoryview) -> Iterator[RunnerFrame]:
        """Take the runner's bytes and yield the frames that are complete, each before the next is
        looked at.

        ProtocolViolation comes in its place in this order, so that how bytes were cut into reads
        never changes what is seen.
        """
        if self.state is not State.BROKEN:
            self._frames.feed(data)
        return self._complete()

    def _complete(self) -> Iterator[RunnerFrame]:
        if self.state is State.BROKEN:
            raise ProtocolViolation("the dialogue is broken already")
        try:
            while (body := self._frames.next()) is not None:
                said = decode(body)
                self._check(said, len(body))
                # What the runner wants is answered by `outgoing`, and is nobody else's business.
                if not isinstance(said, Want):
                    yield said
        except ProtocolViolation:
            self.state = State.BROKEN
            raise

    def _check(self, said: RunnerFrame, size: int) -> None:
        self._step(type(said))
        if self._file is not None and not isinstance(said, File | Error):
            raise ProtocolViolation("a file ends in the middle")
        if size > FRAME_SIZE and not isinstance(said, Message | Display):
            raise ProtocolViolation(f"a frame of {size:,} bytes that is not a message; {FRAME_SIZE:,} are allowed")
        match said:
            case Output():
                self._check_output(said)
            case Message(data=data) | Display(data=data):
                self._spend(type(said), 1, len(data))
            case File():
                self._check_file(said)
            case Skipped():
                self._skips_left -= 1
                if self._skips_left < 0:
                    raise ProtocolViolation(f"more than {MAX_SKIPPED} files are skipped one by one")
            case Want(bytes=count):
                self._credit += count
            case Ready():
                self._check_token(said.token, self._token)
                if said.protocol != PROTOCOL or "3" not in said.pythons or said.preloaded != self._preload:
                    raise ProtocolViolation(
                        f"ready names protocol {said.protocol}, interpreters {sorted(said.pythons)}, modules {said.preloaded}"
                    )
            case Exit():
                self._check_exit(said)

    def _check_output(self, said: Output) -> None:
        self._left[said.stream] -= len(said.data)
        if not 0 < len(said.data) <= OUTPUT_SIZE or self._left[said.stream] < 0:
            raise ProtocolViolation(f"an output frame of {len(said.data):,} bytes is empty, too large, or over the limit of {said.stream}")

    def _check_exit(self, said: Exit) -> None:
        self._check_token(said.token, self._run_token)
        if (said.exit_code is None) == (said.signal is None):
            raise ProtocolViolation(f"exit names exit code {said.exit_code} and signal {said.signal}; it must be one of the two")
        self._stdin_open = self._stop = False
        if not self._in_session:
            self.state = State.DONE

    def _check_file(self, said: File) -> None:
        new = said.path != self._file
        if new and self._file is not None:
            raise ProtocolViolation("a file ends in the middle")
        if new and (said.path in self._names or path_problem(said.path)):
            raise ProtocolViolation(f"the path of a file {path_problem(said.path) or 'comes twice'}")
        if len(said.data) > OUTPUT_SIZE:
            raise ProtocolViolation(f"a piece of a file of {len(said.data):,} bytes; {OUTPUT_SIZE:,} are allowed")
        self._spend(File, int(new), len(said.data))
        self._names.add(said.path)
        self._file = None if said.last else said.path

    def _spend(self, kind: type, count: int, size: int) -> None:
        budget = self._budgets[kind]
        budget[0] -= count
        budget[1] -= size
        if min(budget) < 0:
            raise ProtocolViolation(f"more {kind.__name__.lower()} frames, or more bytes in them, than the run allows")

    def _check_token(self, token: str, expected: str) -> None:
        if not hmac.compare_digest(token.encode(), expected.encode()):
            raise ProtocolViolation("a frame with a forged token")

    def _step(self, kind: type) -> None:
        following = NEXT.get((self.state, kind))
        if following is None:
            raise ProtocolViolation(f"{kind.__name__.lower()} in state {self.state.name}")
        self.state = following
