"""One container: create, attach, start, ready, run, gone.

Owns a container's life and the truth about its end. Everything that the container's side says is
checked by `dialogue`; where the host knows better (the engine's events) the host's word counts.

The order of things at an end is forced by the engine: an attached client that stops reading wedges
every other call on its container, so the stream is shut down before anything else is asked of it.
Shutting it down is a clean-up by itself: the runner reads the end of its stdin and exits, and the
engine removes the container (StdinOnce, AutoRemove), with or without this process.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import anyio
import msgspec

from . import _spec as spec
from ._cleaner import Cleaner
from ._deadline import Deadline
from ._dialogue import Dialogue, State
from ._engine_api import EngineAPI
from ._errors import (
    ContainerLost,
    DayflyError,
    EngineError,
    EngineRefused,
    EngineUnreachable,
    ImageMissing,
    PoolClosed,
    ProtocolViolation,
    RunnerMisbehaved,
    StartFailed,
)
from ._events import Ended
from ._execution import Execution
from ._ledger import Ledger
from ._messages import Error, Exit, Next, Ready, Request, RunnerFrame, Spent, Started, Want
from ._owner import in_cancelled_scope, single
from ._post_mortem import post_mortem
from ._result import Outcome, verdict
from ._stdcopy import STDERR, StreamDecoder

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ._connection import AttachedStream

log = logging.getLogger("dayfly.container")

GRACE = 0.25
"""Seconds of silence beyond a deadline after which the host judges alone. The runner needs two
periods of the CFS quota (0.1 s each) to report where the program's children compete with it."""
GRACE_OF_A_QUOTA = 0.05
"""Seconds, divided by `Limits.cpus`, that come on top: what the runner needs to report, at that
quota."""
START_GRACE = 5.0
"""Seconds from handing a program over to `started`. Beyond it the container is lost, not the
program late."""
WIPE_WITHIN = 10.0
"""Seconds on top where the files of earlier programs are wiped first: the runner gives each of the
two folders half of it."""
READY_DEADLINE = 30.0
"""Seconds from attach to `ready`."""
ROOM_FOR_A_PROGRAM = 16_000_000
"""Bytes that preloaded modules must leave to a program."""
MEASURED_WITHIN = 2_000_000
"""Bytes by which two containers with the same modules may differ: the kernel charges in batches."""
CLEAN_WITHIN = 10.0
"""Seconds from `exit` to `next` in a session. Wiping a full tmpfs takes milliseconds; a container
whose processor time is used up may take longer."""
LINGER = 1.0
"""Seconds from `exit` to the end of the stream, before the container is removed by force."""
STDERR_KEPT = 2_000
UID_TRIES = 50


class Container:
    """One container. `live` is its life, in a task of its own; `run` may be called from any
    other."""

    def __init__(
        self,
        key: int,
        blueprint: spec.Blueprint,
        uids: range,
        *,
        engine: EngineAPI,
        ledger: Ledger,
        cleaner: Cleaner,
        preload: Sequence[str] = (),
    ) -> None:
        self._key = key
        self._engine = engine
        self._blueprint = blueprint
        self._preload = preload
        self._uids = uids
        self._ledger = ledger
        self._cleaner = cleaner
        self._dialogue = Dialogue(secrets.token_hex(16), preload=preload)
        self._demux = StreamDecoder()
        self._stream: AttachedStream | None = None
        self._tasks: TaskGroup | None = None
        self._stderr = bytearray()
        self._ran = False
        """Whether a program has begun in it."""
        self._frames: deque[RunnerFrame] = deque()
        self._ending = False
        self._session = False
        self._end_at = float("inf")
        self._end_moved = anyio.Event()
        self.expired = False
        """Whether `end_at` has ended it."""
        self.on_end: Callable[[], None] | None = None
        """Called once, when it takes no program any more."""
        self.spent: str | None = None
        """Why it can take no other program, if the runner has said so."""
        self._free = anyio.Event()
        # The run in progress, or the last one.
        self._execution: Execution | None = None
        self._deadline: Deadline | None = None
        self._deadline_moved = anyio.Event()
        self._request: Request | None = None
        self._writing = False
        self._sent = False
        self._started_at: float | None = None
        self._exit: Exit | None = None
        self._heard_at = 0.0
        self._keeps_time = False
        self._silent = False
        self.uid = 0
        self.id = ""
        self.ready: Ready | None = None
        self.failure: Exception | None = None
        """Why it has ended, if that was a failure."""

    # Its life.

    async def live(self, on_warm: Callable[[Container], None], *, first: bool = False) -> None:
        """Create the container, call `on_warm` when it can take a program, return when it has
        ended.

        Raises StartFailed, RunnerMisbehaved or an EngineError if it never became warm, and
        ContainerLost or RunnerMisbehaved if it ended before it was used.
        With `first`, what the engine made is read back and compared with what was asked for, and
        the memory that preloaded modules leave is looked at: both are the same for all that follow.
        """
        try:
            await self._create()
            if first:
                await self._compare()
            self.ready = ready = await self._start()
            if first:
                self._check_memory(ready)
            on_warm(self)
            await self._serve()
        finally:
            await self._end()

    async def _create(self) -> None:
        begun = time.monotonic()
        for _ in range(UID_TRIES):
            # The engine keeps names unique, and so it keeps the uids of all live containers apart,
            # whichever process made them.
            self.uid = self._uids[secrets.randbelow(len(self._uids))]
            name = f"dayfly-{self.uid}"
            if not self._ledger.claim(self._key, name):
                continue
            try:
                # Bounded, but not cancelled: the engine would go on, and whether there is a
                # container would not be known.
                with anyio.CancelScope(shield=True):
                    self.id = await self._engine.create(name, self._blueprint.body(self.uid))
            except (EngineRefused, ImageMissing) as error:
                self._ledger.unclaim(self._key)
                if not isinstance(error, EngineRefused) or error.status != 409:
                    raise
                continue
            except EngineUnreachable as error:
                if not error.sent:
                    self._ledger.unclaim(self._key)
                raise
            self._ledger.created(self._key, self.id)
            log.debug("%s: created as %s in %.0f ms", self.id[:12], name, (time.monotonic() - begun) * 1_000)
            return
        raise StartFailed(
            f"no free uid was found in {self._uids.start}..{self._uids.stop - 1} in {UID_TRIES} tries; give a wider range (uids=)"
        )

    async def _compare(self) -> None:
        found = spec.differences(self._blueprint.body(self.uid), await self._engine.inspect(self.id))
        if found:
            raise StartFailed(f"the engine ignored or changed what was asked for: {'; '.join(found)}")

    async def _start(self) -> Ready:
        begun = time.monotonic()
        deadline = begun + READY_DEADLINE
        started = False
        try:
            self._stream = await self._engine.attach(self.id)
        except EngineRefused as error:
            if error.status != 409:  # Podman attaches to a container that runs, and to no other
                raise
            await self._engine.start(self.id)
            started = True
            self._stream = await self._engine.attach(self.id)
        log.debug("%s: attached after %.0f ms", self.id[:12], (time.monotonic() - begun) * 1_000)
        await self._stream.write(self._dialogue.hello())
        if not started:
            try:
                await self._engine.start(self.id)
            except EngineRefused as error:
                raise StartFailed(f"the container could not be started: {error}") from error
        try:
            with anyio.move_on_after(max(0.0, deadline - time.monotonic())):
                ready = self._checked(await self._first_frame())
                log.debug("%s: ready after %.0f ms", self.id[:12], (time.monotonic() - begun) * 1_000)
                return ready
        except ProtocolViolation as error:
            raise RunnerMisbehaved(f"before it was ready: {error}", delivered=False) from error
        raise StartFailed(f"the runner was not ready within {READY_DEADLINE:g} s{self._said()}")

    async def _first_frame(self) -> RunnerFrame:
        while not self._frames:
            if not await self._read(self._frames.append):
                raise StartFailed(f"the container ended before its runner was ready{self._said()}")
        return self._frames.popleft()

    def _checked(self, frame: RunnerFrame) -> Ready:
        if not isinstance(frame, Ready):
            said = f": {frame.message!r}" if isinstance(frame, Error) else ""
            raise StartFailed(f"the runner could not set itself up{said}")
        wrong = spec.check_status(msgspec.structs.asdict(frame.status), self.uid, self._blueprint.profile.runtime) + frame.problems
        if wrong:
            raise StartFailed(f"the container is not what was asked for: {'; '.join(wrong)}")
        return frame

    def _check_memory(self, ready: Ready) -> None:
        memory = self._blueprint.profile.memory_bytes
        baseline = ready.baseline_bytes or 0
        if self._preload and memory - baseline < ROOM_FOR_A_PROGRAM:
            needed = -(-(baseline + ROOM_FOR_A_PROGRAM + MEASURED_WITHIN) // 1_000_000)
            raise StartFailed(
                f"with {', '.join(self._preload)} preloaded a container uses {baseline / 1e6:.1f} MB of its {memory / 1e6:g} MB, which "
                f"leaves a program less than {ROOM_FOR_A_PROGRAM / 1e6:g} MB; set memory_limit_mb to {needed} or more"
            )

    async def _serve(self) -> None:
        """Read until the end, and turn what comes into events. The errors of a run go to its
        caller."""
        failure: Exception | None = None
        read = False
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                try:
                    failure, read = await self._read_to_end(), True
                finally:
                    self._tasks = None  # before the next await: nobody reads any more, so it takes no program
                    tasks.cancel_scope.cancel()
        except Exception as error:
            failure, read = ContainerLost("dayfly has failed with an internal error", delivered=self._delivered()), True
            failure.__cause__ = single(error)
            raise  # to the log
        finally:
            if not read:
                failure = self._why_cancelled()
            self.failure = failure
            self._free.set()
            if self._execution is not None:
                self._execution.finish(failure)
            if self.on_end is not None:
                self.on_end()
        if self._execution is None and not self._session and not self._ending:
            raise failure or ContainerLost(f"a warm container ended{self._said()}", delivered=False)

    def _why_cancelled(self) -> Exception:
        if not in_cancelled_scope():
            return ContainerLost("a task of the sandbox was cancelled, by something other than dayfly", delivered=self._delivered())
        closed = PoolClosed("the sandbox was closed while the program was running", delivered=True)
        closed.__cause__ = self._ledger.closed_by
        return closed

    async def _read_to_end(self) -> Exception | None:
        try:
            for frame in self._frames:  # behind `ready` in the same bytes
                self._take(frame)
            while self._dialogue.state is not State.DONE and await self._read(self._take):
                await self._feed()
        except ProtocolViolation as error:
            return RunnerMisbehaved(str(error), delivered=self._delivered())
        except EngineError as error:
            return ContainerLost(str(error), delivered=self._delivered())
        if self._execution is None or self._execution.over or self._dialogue.state is State.DONE:
            return None
        try:
            self._execution.put(await self._judge())
        except ContainerLost as error:
            return error
        return None

    def _take(self, frame: RunnerFrame) -> None:
        run = self._execution
        match frame:
            case Next():
                self._move_deadline(None)
                self._free.set()
            case Spent(reason=reason):
                # The reason may name what the program has left. It is said to the session's owner
                # alone.
                self.spent = reason
            case Error() if run is None or run.over:
                raise ProtocolViolation("the runner cannot go on")
            case _ if run is None:  # the dialogue's table has refused everything else already
                raise AssertionError(frame)
            case Error() if self._started_at is None:
                # As with `spent`: a program of the same owner may have had a hand in it, on gVisor.
                run.finish(ContainerLost(f"the program could not be started: {frame.message!a:.300}", delivered=False))
            case Error():
                # Its text may be the program's, on gVisor. It is not repeated.
                run.finish(ContainerLost("the runner reported that it cannot go on", delivered=True))
            case Exit():
                self._exit = frame
                self._move_deadline(Deadline(time.monotonic() + CLEAN_WITHIN, GRACE) if self._session else None)
                run.put(Ended(frame, verdict(frame), frame.wall_ms))
                run.finish()
            case Started():
                self._started_at = time.monotonic()
                self._ran = True
                assert self._request is not None
                # Queueing and start-up do not count towards the time-out, on this clock either.
                grace = GRACE + GRACE_OF_A_QUOTA / self._blueprint.profile.limits.cpus
                self._move_deadline(Deadline(self._started_at + self._request.run.timeout_ms / 1_000 + grace, grace))
                run.put(frame)
            case Ready() | Want():  # the dialogue does not pass them on
                raise AssertionError(frame)
            case _:
                run.put(frame)

    async def _read(self, take: Callable[[RunnerFrame], None]) -> bool:
        """Take in the next bytes; False at the end of the stream."""
        assert self._stream is not None
        data = await self._stream.read()
        self._heard_at = time.monotonic()
        for kind, payload in self._pieces(data):
            if kind == STDERR:
                self._stderr += payload[: STDERR_KEPT - len(self._stderr)]
                continue
            for frame in self._dialogue.receive(payload):
                take(frame)
        return bool(data)

    def _pieces(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        try:
            yield from self._demux.feed(data)
        except ProtocolViolation as error:  # the header is the engine's own: its fault, not the container's
            raise EngineError(str(error)) from error

    def _said(self) -> str:
        """What the runner, or the interpreter before it, wrote to stderr. It is quoted as long as
        no program has run: on gVisor a program can write there too."""
        text = self._stderr.decode(errors="replace").strip()
        if not text:
            return ""
        return "; it wrote to its stderr" if self._ran else f"; its stderr says: {text!r}"

    # Its use.

    @property
    def usable(self) -> bool:
        """Whether it may take a program, now or when it has cleaned up behind the last one."""
        return not self._ending and self._stream is not None and self._tasks is not None and self.spent is None

    def end_at(self, when: float) -> None:
        """End the container at a time (seconds, monotonic), unless that is moved before."""
        self._end_at = when
        self._end_moved.set()

    async def _expire(self) -> None:
        while True:
            self._end_moved = anyio.Event()
            with anyio.move_on_after(max(0.0, self._end_at - time.monotonic())):
                await self._end_moved.wait()
                continue
            self.expired = True
            self.end()
            return

    async def open_session(self, files: Sequence[str], scratch: Sequence[str]) -> None:
        """Make it run many programs, one after the other. `files`: folders that are kept from one
        to the next.

        `scratch`: folders that are wiped. Raises ContainerLost(delivered=False) if it cannot.
        """
        if not self.usable:
            raise ContainerLost("the container ended just before its use", delivered=False)
        assert self._stream is not None
        assert self._tasks is not None
        self._session = True
        self._tasks.start_soon(self._expire)
        self._move_deadline(Deadline(time.monotonic() + CLEAN_WITHIN, GRACE))
        self._start_keeping_time()
        try:
            await self._stream.write(self._dialogue.open(files, scratch))
        except EngineError as error:
            raise ContainerLost(str(error), delivered=False) from error
        await self.until_free()
        if not self.usable:
            raise ContainerLost("the container ended before its session began", delivered=False)

    async def until_free(self) -> None:
        """In a session: wait until the runner has cleaned up, or the container has ended."""
        await self._free.wait()

    async def run(self, request: Request) -> Execution:
        """Hand one program over, and return its events. In a session, call `until_free` before.

        Raises ContainerLost(delivered=False) if the container has ended already, and ValueError for
        a program that no frame can hold.
        """
        if self._execution is not None and not (self._session and self._execution.over):
            raise RuntimeError("a container runs one program at a time")
        if not self.usable:
            raise ContainerLost("the container ended just before its use", delivered=False)
        assert self._stream is not None
        assert self._tasks is not None
        pieces = self._dialogue.run(request, secrets.token_hex(16))
        self._execution, self._request, self._writing = Execution(), request, True
        self._sent, self._started_at, self._exit = False, None, None
        self._free = anyio.Event()
        self._expect_start()
        self._start_keeping_time()
        try:
            for piece in pieces:
                await self._stream.write(piece)
                self._expect_start()
            self._sent = True
        except EngineError:
            pass  # the task that reads meets the end of the stream, and says why
        finally:
            self._writing = False
        if request.run.stdin and self._tasks is not None:
            self._tasks.start_soon(self._feed)
        return self._execution

    def feed(self, data: bytes) -> None:
        """Give a program whose request is live more standard input; b"" is its end. Never waits."""
        self._dialogue.feed(data)
        if self._tasks is not None and self._execution is not None and not self._execution.over:
            self._tasks.start_soon(self._feed)

    def stop(self) -> None:
        """In a session: end the program that runs, and keep the container. Never waits."""
        if self._execution is None or self._execution.over or self._tasks is None:
            return
        self._dialogue.stop()
        self._move_deadline(Deadline(time.monotonic() + CLEAN_WITHIN, GRACE))
        self._tasks.start_soon(self._feed)

    def _expect_start(self) -> None:
        if self._started_at is None:
            self._move_deadline(Deadline(time.monotonic() + self._start_within(), GRACE))

    def _start_within(self) -> float:
        assert self._request is not None
        return START_GRACE + WIPE_WITHIN * (self._session and self._request.run.clean)

    async def _feed(self) -> None:
        """Send the standard input that the runner has asked for. One task at a time writes."""
        assert self._stream is not None
        if self._writing:
            return  # the task that does will look
        self._writing = True
        try:
            while data := self._dialogue.outgoing():
                await self._stream.write(data)
        except EngineError:
            pass  # as above; a program may end with its input unread, and the runner with it
        finally:
            self._writing = False

    def _move_deadline(self, deadline: Deadline | None) -> None:
        self._deadline = deadline
        self._deadline_moved.set()

    def _start_keeping_time(self) -> None:
        assert self._tasks is not None
        if not self._keeps_time:
            self._keeps_time = True
            self._tasks.start_soon(self._keep_time)

    async def _keep_time(self) -> None:
        """End a container whose runner is silent beyond the deadline. Return where there is
        none."""
        while (deadline := self._deadline) is not None:
            assert self._stream is not None
            self._deadline_moved = anyio.Event()
            with anyio.move_on_after(max(0.0, deadline.at - time.monotonic())):
                await self._deadline_moved.wait()
                continue
            heard = self._heard_at >= deadline.at or self._stream.readable()
            if deadline.has_passed(time.monotonic(), heard=heard):
                self._silent = True
                self._stream.shut_down()  # the task that reads meets the end, and judges
                break
        self._keeps_time = False

    def _delivered(self) -> bool:
        """Whether the program may have begun: it cannot before all of its input was sent."""
        return self._sent or self._started_at is not None

    async def _judge(self) -> Ended:
        """The stream has ended without an `exit`: find out why."""
        if self._silent:
            if self._started_at is None:
                raise ContainerLost(f"the runner did not start the program within {self._start_within():g} s", delivered=self._delivered())
            return Ended(None, Outcome.TIMEOUT, (time.monotonic() - self._started_at) * 1_000)
        if self._ending:
            raise ContainerLost("the run was abandoned", delivered=True)
        return await self._post_mortem()

    async def _post_mortem(self) -> Ended:
        """Ask the engine what became of the container, and say what that means for the run."""
        death = await post_mortem(self._engine, self.id, abandoned=lambda: self._ending)
        if self._started_at is None:
            why = "of an OOM kill " if death.oom else ""
            raise ContainerLost(f"the runner died {why}before the program began{self._said()}", delivered=self._delivered())
        if death.oom and not death.killed and death.code == "137":
            # The kernel had nothing left to kill but the runner: the program had filled tmpfs, say.
            return Ended(None, Outcome.OUT_OF_MEMORY, (time.monotonic() - self._started_at) * 1_000)
        if death.code == "0":  # the runner ends so when it has sent its report
            raise ContainerLost("the run has ended, but its report is lost: the connection broke", delivered=True)
        why = "killed or removed from outside" if death.killed else f"dead with exit status {death.code}" if death.code else "gone"
        raise ContainerLost(f"the container is {why}, in the middle of the run{self._said()}", delivered=True)

    # Its end.

    def end(self) -> None:
        """Let the container end now, if it has not already. Never waits; its own task does the
        rest."""
        self._ending = True
        if self._stream is not None and (self._exit is None or self._session):
            self._stream.shut_down()

    async def _end(self) -> None:
        begun = time.monotonic()
        self._ending = True  # before the first await: from now on it takes no program
        self._ledger.ending(self._key, begun)
        done = self._stream is not None and self._dialogue.state is State.DONE and self._exit is not None
        natural = self._exit if done and await self._linger() else None
        with anyio.CancelScope(shield=True):
            if self._stream is not None:
                await self._stream.aclose()
            if natural is not None:
                self._cleaner.believe(self._key, oom=bool(natural.oom_kills))
            elif self.id:
                await self._cleaner.remove(self._key, self.id)
            elif self._ledger.name(self._key):
                self._cleaner.lose(self._key)
        if self.id:
            how = "by itself" if natural is not None else "by force"
            log.debug("%s: ended %s in %.0f ms", self.id[:12], how, (time.monotonic() - begun) * 1_000)

    async def _linger(self) -> bool:
        """After `exit` the runner ends, and the engine removes the container: cheaper than by
        force. With much output it waits for the end of its stdin."""
        assert self._stream is not None
        self._stream.end_writing()
        deadline = Deadline(time.monotonic() + LINGER, LINGER)
        while True:
            with anyio.move_on_after(max(0.0, deadline.at - time.monotonic()), shield=True):
                try:
                    while await self._stream.read():
                        pass
                except DayflyError:
                    return False
                return True
            if deadline.has_passed(time.monotonic(), heard=False):
                return False


__all__ = ["Container", "Execution"]
