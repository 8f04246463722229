"""One single-use container: create, attach, start, ready, run, gone.

Owns a container's life and the truth about its end. Everything the container's side says is checked by `dialogue`; where the host
knows better (its own clock, the engine's events) the host's word goes.

The order of things at an end is forced by the engine: an attached client that stops reading wedges every other call on its container,
so the stream is shut down before anything else is asked of it. Shutting it down is a clean-up by itself: the runner reads the end
of its stdin, exits, and the engine removes the container (StdinOnce, AutoRemove), with or without this process.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from . import spec
from .dialogue import Dialogue, State
from .engine_api import EngineAPI
from .errors import (
    ContainerLost,
    DayflyError,
    EngineError,
    EngineRefused,
    ImageMissing,
    PoolClosed,
    ProtocolViolation,
    RunnerMisbehaved,
    SandboxError,
    StartFailed,
)
from .messages import Error, Exit, Message, Output, Ready, Request, RunnerFrame, Started
from .reaper import Janitor
from .result import Outcome, Piece, Recorder, Result, verdict
from .stdcopy import STDERR, StreamDecoder

if TYPE_CHECKING:
    from .connection import AttachedStream

GRACE = 0.075
"""Seconds that the host gives the runner beyond the deadline to report a kill by itself, with its counters and the last output."""
START_GRACE = 5.0
"""Seconds from handing a program over to the runner's word that it has started. Beyond it the container is lost, not the program late."""
READY_DEADLINE = 30.0
REMOVE_DEADLINE = 10.0
LINGER = 1.0
"""Seconds from `exit` to the end of the stream, before the container is removed by force."""
AUTOPSY = 5.0
"""Seconds that the engine has to say what a container died of. It takes milliseconds, if it is not busy."""
OOM_NEWS = 0.5
"""Seconds from a container's death that the engine has to say that it was for want of memory: that news comes another way, and later."""
STDERR_KEPT = 2_000
UID_TRIES = 50

OnOutput = Callable[[Piece], None]


class Running:
    """One run in progress, between `Container.run`, which waits, and the container's own task, which reads."""

    def __init__(self, recorder: Recorder, on_output: OnOutput | None) -> None:
        self.recorder = recorder
        self.on_output = on_output
        self.started = anyio.Event()
        self.over = anyio.Event()
        self.judged = anyio.Event()
        self.exit: Exit | None = None
        self.error: BaseException | None = None

    def finish(self, error: Exception | None) -> None:
        """Nothing more will come."""
        if self.exit is None:
            self.error = self.error or error
        self.started.set()
        self.over.set()


class Container:
    """One container. `live` is its life, in a task of its own; `run` is its one use, from any task of the same event loop."""

    def __init__(self, engine: EngineAPI, blueprint: spec.Blueprint, janitor: Janitor, uids: range) -> None:
        self._engine = engine
        self._blueprint = blueprint
        self._janitor = janitor
        self._uids = uids
        self._dialogue = Dialogue(secrets.token_hex(16))
        self._demux = StreamDecoder()
        self._stream: AttachedStream | None = None
        self._stderr = bytearray()
        self._running: Running | None = None
        self._frames: list[RunnerFrame] = []
        self._violation: ProtocolViolation | None = None
        self._ended = False
        self.uid = 0
        self.name = ""
        self.id = ""
        self.ready: Ready | None = None

    # Its life.

    async def live(self, on_warm: Callable[[Container], None], *, inspect: bool = False) -> None:
        """Make the container, call `on_warm` when it can take a program, and return when it is gone.

        Raises StartFailed, RunnerMisbehaved or an EngineError if it never became warm, and ContainerLost or RunnerMisbehaved if
        it ended unused.
        With `inspect`, what the engine made is read back and compared with what was asked for.
        """
        try:
            await self._create()
            if inspect:
                await self._compare()
            await self._start()
            on_warm(self)
            await self._serve()
        finally:
            await self._end()

    async def _create(self) -> None:
        for _ in range(UID_TRIES):
            # The engine keeps names unique, and so it keeps the uids of all live containers apart, whoever made them.
            self.uid = self._uids[secrets.randbelow(len(self._uids))]
            self.name = f"dayfly-{self.uid}"
            if not self._janitor.expect(self.name):  # one of this sandbox's own, which must not be disowned
                self.name = ""
                continue
            try:
                # Not to be cancelled, only bounded: the engine would go on, and whether there is a container would not be known.
                with anyio.CancelScope(shield=True):
                    self.id = await self._engine.create(self.name, self._blueprint.body(self.uid))
                return
            except (EngineRefused, ImageMissing) as error:
                self._janitor.disown(self.name)
                self.name = ""
                if not isinstance(error, EngineRefused) or error.status != 409:
                    raise
        raise StartFailed(
            f"no free uid was found in {self._uids.start}..{self._uids.stop - 1} in {UID_TRIES} tries; give a wider range (uids=)"
        )

    async def _compare(self) -> None:
        found = spec.differences(self._blueprint.body(self.uid), await self._engine.inspect(self.id))
        if found:
            raise StartFailed(f"the engine did not take over what was asked for: {'; '.join(found)}")

    async def _start(self) -> None:
        deadline = time.monotonic() + READY_DEADLINE
        started = False
        try:
            self._stream = await self._engine.attach(self.id)
        except EngineRefused as error:
            if error.status != 409:  # Podman attaches to a container that runs, and to no other
                raise
            await self._engine.start(self.id)
            started = True
            self._stream = await self._engine.attach(self.id)
        await self._stream.write(self._dialogue.hello())
        if not started:
            try:
                await self._engine.start(self.id)
            except EngineRefused as error:
                raise StartFailed(f"the container could not be started: {error}") from error
        try:
            with anyio.fail_after(max(0.0, deadline - time.monotonic())):
                frame = await self._first_frame()
        except TimeoutError:
            raise StartFailed(f"the runner was not ready within {READY_DEADLINE:g} s{self._said()}") from None
        except ProtocolViolation as error:
            raise RunnerMisbehaved(f"before it was ready: {error}", delivered=False) from error
        if not isinstance(frame, Ready):
            said = f": {frame.message!r}" if isinstance(frame, Error) else ""
            raise StartFailed(f"the runner could not set itself up{said}")
        wrong = spec.check_status(msgspec.structs.asdict(frame.status), self.uid, self._blueprint.profile.runtime) + frame.problems
        if wrong:
            raise StartFailed(f"the container is not what was asked for: {'; '.join(wrong)}")
        self.ready = frame

    async def _first_frame(self) -> RunnerFrame:
        while not self._frames:
            if not await self._read():
                raise StartFailed(f"the container ended before its runner was ready{self._said()}")
        return self._frames.pop(0)

    async def _serve(self) -> None:
        """Read until the end, handing on what comes. The errors of a container in use go to its user."""
        failure: Exception | None = PoolClosed("the sandbox was closed while the program was running", delivered=True)
        try:
            while self._dialogue.state is not State.DONE and await self._read():
                self._dispatch()
                await self._feed()
            failure = None
        except ProtocolViolation as error:
            failure = RunnerMisbehaved(str(error), delivered=self._running is not None)
        except EngineError as error:
            failure = ContainerLost(str(error), delivered=self._running is not None)
        finally:
            if self._running is not None:
                self._running.finish(failure)
        if self._running is None and not self._ended:
            raise failure or ContainerLost(f"a warm container ended{self._said()}", delivered=False)

    def _dispatch(self) -> None:
        frames, self._frames = self._frames, []
        running = self._running
        for frame in frames:
            match frame:
                case Error(message=message) if running is None:
                    raise ProtocolViolation(f"the runner cannot go on: {message!r}")
                case _ if running is None:  # the dialogue's table has refused everything else already
                    raise AssertionError(frame)
                case Started():
                    running.started.set()
                case Output():
                    piece = running.recorder.output(frame)
                    if running.on_output is not None and running.error is None:
                        try:
                            running.on_output(piece)
                        except BaseException as error:  # noqa: BLE001 - the caller's own: it gets it back from `run`
                            running.error = error
                            self.end()
                case Message(data=data):
                    running.recorder.message(data)
                case Exit():
                    running.exit = frame
                case Error(message=message):
                    running.error = running.error or ContainerLost(f"the runner cannot go on: {message!r}", delivered=True)

    async def _read(self) -> bool:
        """Take in the next bytes; False at the end of the stream."""
        assert self._stream is not None
        if self._violation is not None:
            raise self._violation
        data = await self._stream.read()
        try:
            pieces = self._demux.feed(data)
        except ProtocolViolation as error:  # the header is the engine's own: its fault, not the container's
            raise EngineError(str(error)) from error
        for kind, payload in pieces:
            if kind == STDERR:
                self._stderr += payload[: STDERR_KEPT - len(self._stderr)]
            else:
                self._receive(payload)
        return bool(data)

    def _receive(self, payload: memoryview) -> None:
        try:
            for frame in self._dialogue.receive(payload):
                self._frames.append(frame)
        except ProtocolViolation as error:
            # What came before it counts, as if it had come in a read of its own.
            self._violation = error

    async def _feed(self) -> None:
        """Send the standard input that the runner has asked for."""
        while data := self._dialogue.outgoing():
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        assert self._stream is not None
        # A program may have ended with its input unread, and the runner with it: what is to be read tells.
        with contextlib.suppress(EngineError):
            await self._stream.write(data)

    def _said(self) -> str:
        text = self._stderr.decode(errors="replace").strip()
        return f"; its stderr says: {text!r}" if text else ""

    # Its one use.

    async def run(self, request: Request, on_output: OnOutput | None = None) -> Result:
        """Run the one program. SandboxError if the container fails; what `on_output` raises. Cancelling it ends the container."""
        if self._running is not None:
            raise RuntimeError("a container serves one run")
        running = Running(Recorder(stdout_limit=request.run.stdout_limit, stderr_limit=request.run.stderr_limit), on_output)
        begun = time.monotonic()
        try:
            if self._ended or self._stream is None:
                raise ContainerLost("the container ended just before its use", delivered=False)
            pieces = self._dialogue.run(request, secrets.token_hex(16))
            self._running = running
            with anyio.move_on_after(START_GRACE + request.run.timeout_ms / 1_000) as scope:
                for piece in pieces:
                    await self._write(piece)
                await self._started(running, request, scope)
                await running.over.wait()
            return await self._judge(running, begun)
        except EngineError as error:
            raise ContainerLost(str(error), delivered=True) from error
        finally:
            running.judged.set()
            self.end()

    async def _started(self, running: Running, request: Request, scope: anyio.CancelScope) -> None:
        with anyio.move_on_after(START_GRACE):
            await running.started.wait()
            # The program's time begins with its start, on this clock too: what its container waited for before is not billed to it.
            scope.deadline = anyio.current_time() + request.run.timeout_ms / 1_000 + GRACE
            return
        raise ContainerLost(f"the runner did not start the program within {START_GRACE:g} s", delivered=True)

    async def _judge(self, running: Running, begun: float) -> Result:
        wall_ms = (time.monotonic() - begun) * 1_000
        if running.error is not None:
            raise running.error
        if running.exit is not None:
            return running.recorder.result(running.exit, verdict(running.exit), wall_ms=wall_ms)
        if not running.started.is_set():
            raise ContainerLost("the program could not be handed over in time", delivered=True)
        if not running.over.is_set():
            return running.recorder.result(None, Outcome.TIMEOUT, wall_ms=wall_ms)
        return await self._autopsy(running, wall_ms)

    async def _autopsy(self, running: Running, wall_ms: float) -> Result:
        """The stream ended without an `exit`: ask the engine's memory of events what became of the container."""
        happened: dict[str, Any] = {}
        code = ""
        deadline = time.monotonic() + AUTOPSY
        # A program that runs out of memory again and again keeps the engine busy with the news of it; the death is the last of them.
        while time.monotonic() < deadline:
            try:
                for event in await self._engine.events(self.id, since=1, until=time.time()):
                    happened.setdefault(str(event.get("Action", event.get("status"))), event)
            except EngineError:
                break
            if "die" in happened and not code:
                code = msgspec.json.encode(happened["die"].get("Actor", {}).get("Attributes", {}).get("exitCode")).decode().strip('"')
                deadline = min(deadline, time.monotonic() + OOM_NEWS)
            if code and (code != "137" or "oom" in happened or "kill" in happened):
                break
            await anyio.sleep(0.02)
        if "oom" in happened and "kill" not in happened and code == "137":
            # The kernel had nothing left to kill but the runner: the program had filled tmpfs, say.
            return running.recorder.result(None, Outcome.OUT_OF_MEMORY, wall_ms=wall_ms)
        why = "killed or removed from outside" if "kill" in happened else f"dead with exit status {code}" if "die" in happened else "gone"
        raise ContainerLost(f"the container is {why}, in the middle of the run{self._said()}", delivered=True)

    # Its end.

    def end(self) -> None:
        """Let the container end now, if it has not already: no more is read, its stdin closes. Never waits; its own task does the rest."""
        self._ended = True
        done = self._running is not None and self._running.exit is not None
        if self._stream is not None and not done:
            self._stream.shut_down()

    async def _end(self) -> None:
        self._ended = True  # before the first await: who comes now must not be handed over to a container on its way out
        natural: Exit | None = None
        if self._stream is not None:
            if self._running is not None and self._running.exit is not None and await self._linger():
                natural = self._running.exit
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()
        if not self.name:
            return
        if natural is not None:
            self._janitor.leave(self.name, oom=bool(natural.oom_kills))
            return
        with anyio.CancelScope(shield=True):
            if self._running is not None:
                # An autopsy comes before the burial: a removal leaves a kill among the events, and it would look like one from outside.
                with anyio.move_on_after(AUTOPSY):
                    await self._running.judged.wait()
            await self._janitor.remove(self.name, created=bool(self.id), deadline=REMOVE_DEADLINE)

    async def _linger(self) -> bool:
        """After `exit` the runner ends by itself, and the engine removes the container: cheaper than a removal by force."""
        assert self._stream is not None
        with anyio.move_on_after(LINGER, shield=True):
            try:
                while await self._stream.read():
                    pass
            except DayflyError:
                return False
            return True
        return False


__all__ = ["Container", "OnOutput", "SandboxError"]
