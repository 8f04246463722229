"""The sessions that clients have open: whose they are, how many there may be, and why they ended.

A session holds one container of the pool while it is open. There are never as many sessions as
containers, so single runs go on. A session belongs to the key that opened it; for any other key
there is no such session. Nothing here knows HTTP but by its problems.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

import msgspec

from dayfly import AsyncSession, SessionLost
from dayfly._limits import SESSION_IDLE, SESSION_RUNS, SESSION_SECONDS

from .bodies import SessionRequest
from .config import Config
from .problems import Problem, invalid
from .service import Service

ID_BYTES = 24
"""Random bytes of an id."""
KEPT = 100
"""Ended sessions of a key that are still known, so that a client is told why."""


class SessionState(msgspec.Struct, rename="camel"):
    """A session as its key sees it."""

    id: str
    running: bool
    """A program is running in it."""
    runs: int
    """Programs that were handed over."""
    age_seconds: float
    max_runs: int
    max_seconds: float
    idle_seconds: float


class OpenSession:
    """One session of a client."""

    def __init__(self, key: str, session: AsyncSession) -> None:
        self.id = secrets.token_urlsafe(ID_BYTES)
        self.key = key
        self.session = session
        self.running = False
        self._opened = time.monotonic()

    @property
    def state(self) -> SessionState:
        """What its key may know."""
        own = self.session
        age = round(time.monotonic() - self._opened, 3)
        return SessionState(self.id, self.running, own.runs, age, own.max_runs, own.max_seconds, own.idle_seconds)


class Sessions:
    """All sessions of a server. `key_count`: how many keys there are now."""

    def __init__(self, config: Config, service: Service, key_count: Callable[[], int]) -> None:
        self._config = config
        self._service = service
        self._key_count = key_count
        self._open: dict[str, OpenSession] = {}
        self._held: Counter[str] = Counter()
        """Sessions of each key, those being opened among them."""
        self._ended: dict[str, deque[tuple[str, str]]] = {}
        """Ids and reasons of ended sessions, by key."""
        self._watches: set[asyncio.Task[None]] = set()

    async def open(self, key: str, wanted: SessionRequest) -> SessionState:
        """Open a session. Raises Problem, and what Service.open_session raises."""
        most = self._config
        runs = _bounded("maxRuns", wanted.max_runs, SESSION_RUNS, (1, most.session_runs), "session_runs")
        seconds = _bounded("maxSeconds", wanted.max_seconds, SESSION_SECONDS, (0.001, most.session_seconds), "session_seconds")
        idle = _bounded("idleSeconds", wanted.idle_seconds, SESSION_IDLE, (0.001, most.session_idle_seconds), "session_idle_seconds")
        with contextlib.ExitStack() as place:
            place.enter_context(self._place(key))
            session, give_back = await self._service.open_session(key, max_runs=int(runs), max_seconds=seconds, idle_seconds=idle)
            one = OpenSession(key, session)
            self._open[one.id] = one
            # The place and the container's slot are held until the session has ended, whatever ends
            # it.
            place.callback(give_back)
            held = place.pop_all()
        watch = asyncio.create_task(self._watch(one, held), name="dayfly server: session")
        self._watches.add(watch)
        watch.add_done_callback(self._watches.discard)
        return one.state

    @contextlib.contextmanager
    def _place(self, key: str) -> Iterator[None]:
        share, most = self._config.session_share(self._key_count()), self._config.session_slots
        if not most:
            raise Problem(404, "no-sessions", "There are no sessions here", "this server has no sessions (max_sessions is 0)")
        if self._held[key] >= share:
            detail = f"this key may have {share} sessions at once; close one"
            raise Problem(429, "sessions-exceeded", "Too many sessions for this key", detail, retry_after=5)
        if self._held.total() >= most:
            detail = f"{most} sessions are open already (max_sessions)"
            raise Problem(503, "sessions-full", "Too many sessions are open", detail, retry_after=5, delivered=False)
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    async def _watch(self, one: OpenSession, held: contextlib.ExitStack) -> None:
        with held:
            try:
                reason = await one.session.ended()
            finally:
                del self._open[one.id]
            self._ended.setdefault(one.key, deque(maxlen=KEPT)).append((one.id, reason))
            await one.session.close()  # a container that only ended must not be followed by another

    def find(self, key: str, id: str) -> OpenSession:  # noqa: A002 - the API's own word
        """Return a key's session. Problem 404 or 410 if there is none."""
        one = self._open.get(id)
        if one is not None and one.key == key and one.session.over is None:
            return one
        reasons = dict(self._ended.get(key, ()))
        if one is not None and one.key == key:
            reasons[id] = one.session.over or ""
        if id in reasons:
            raise _ended(reasons[id])
        raise Problem(404, "no-session", "There is no such session", "there is no session with this id")

    def list(self, key: str) -> list[SessionState]:
        """Return a key's sessions, oldest first."""
        return [one.state for one in self._open.values() if one.key == key and one.session.over is None]

    async def close(self, key: str, id: str) -> None:  # noqa: A002
        """End a session, and the program that runs in it. Problem 404 or 410 if there is none."""
        await self.find(key, id).session.close()

    @contextlib.contextmanager
    def use(self, key: str, id: str) -> Iterator[OpenSession]:  # noqa: A002
        """Hold a session for one run. Problem 404, 409 or 410."""
        one = self.find(key, id)
        if one.running:
            detail = "a session runs one program at a time; wait for the other, or open a second session"
            raise Problem(409, "session-busy", "The session is busy", detail, delivered=False)
        one.running = True
        try:
            yield one
        except SessionLost as error:
            if error.delivered:
                raise
            raise _ended(one.session.over or "its container has ended") from None
        finally:
            one.running = False

    def stop(self) -> None:
        """Forget all sessions: their containers end with the sandbox."""
        for watch in self._watches:
            watch.cancel()


def _bounded(name: str, given: float | None, default: float, bounds: tuple[float, float], setting: str) -> float:
    least, most = bounds
    if given is None:
        return min(default, most)
    if not least <= given <= most:
        raise invalid(f"{name} is {given:g}; this server takes {least:g} to {most:g} ({setting})")
    return given


def _ended(reason: str) -> Problem:
    return Problem(410, "session-ended", "The session has ended", f"the session has ended: {reason}", delivered=False)
