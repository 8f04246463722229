"""One record per worker, and the decisions of the pool. Pure: no event loop, no clock, no I/O.

Whatever happens is told to the ledger by one of its methods; `plan(now)` then returns what is to be
done about it. The same history always gives the same plan, so every race of the pool can be written
down as a list of calls.

    CREATING ──warm──► WARM ──assigned by plan──► LEASED ──ending──► ENDING ──over──► (no record)
       │                │                                              │                   ▲
       └────────────────┴────────── ending, a failure ───────────────►─┴─uncertain──► UNCERTAIN

A worker never goes back from LEASED to WARM, with one exception: a waiter that was assigned a
worker and was cancelled in the same moment, before it could use it.

UNCERTAIN is a worker that may still exist although nothing attends to it: its end was seen but not
confirmed, its removal failed, or the answer to its creation was lost. `listed` compares such
records with what the engine lists, and returns what is to be removed.

Times are seconds on any monotonic clock.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from ._errors import PoolClosed, PoolFull

BACKOFF_FIRST = 0.1
BACKOFF_MOST = 2.0
"""Seconds between tries while creation fails. An engine that recovers is noticed this much
later."""


class State(enum.Enum):
    """A worker's state."""

    CREATING = enum.auto()
    WARM = enum.auto()
    LEASED = enum.auto()
    ENDING = enum.auto()
    UNCERTAIN = enum.auto()


@dataclass(eq=False)
class Record:
    """What is known of one worker. `name` and `id` are its names in the engine, as far as known."""

    key: int
    state: State
    name: str = ""
    id: str = ""
    counts: bool = True
    """Whether it counts against `max_alive`."""
    check_at: float = 0.0
    """UNCERTAIN: it is not removed before this time, since it is expected to go by itself."""
    until: float = 0.0
    """UNCERTAIN: a listing without it is believed from this time on."""
    lost: bool = False
    """UNCERTAIN: the answer to its creation was lost, so it may appear later."""


@dataclass(eq=False)
class Ticket:
    """One waiter's place in the queue. `worker` is what it was assigned; `expired`: it timed
    out."""

    deadline: float
    worker: int | None = None
    expired: bool = False


@dataclass
class Plan:
    """Workers to create, tickets that were answered, and when to ask again (None: after an
    event)."""

    create: list[int] = field(default_factory=list)
    answered: list[Ticket] = field(default_factory=list)
    wake_at: float | None = None


class Ledger:
    """The records of a pool that keeps `size` workers warm.

    `max_alive` bounds workers in any state, `max_creating` those being created, `max_waiting` the
    queue, `max_wait` (seconds) the time in it. `refill_delay`: seconds to wait before a leased
    worker is replaced while any is leased and nobody is queued, so that creation does not compete
    with a burst of short runs.
    """

    def __init__(
        self,
        *,
        size: int,
        max_alive: int,
        max_creating: int,
        max_waiting: int,
        max_wait: float,
        refill_delay: float = 0.0,
    ) -> None:
        self.size = size
        self.max_alive = max_alive
        self.max_creating = max_creating
        self.max_waiting = max_waiting
        self.max_wait = max_wait
        self.refill_delay = refill_delay
        self.closed = False
        self.closed_by: BaseException | None = None
        """The error that closed it, if it was one."""
        self.became_warm = 0
        """Workers that became warm."""
        self.failed = 0
        """Workers that never became warm, or died unused."""
        self._records: dict[int, Record] = {}
        self._names: dict[str, int] = {}
        self._counts = dict.fromkeys(State, 0)
        self._alive = 0
        self._warm: deque[int] = deque()
        self._waiting: deque[Ticket] = deque()
        self._refills: deque[float] = deque()  # when workers were leased that are not replaced yet
        self._next = 0
        self._failing = False
        self._failures = 0  # since a worker was last leased
        self._resume_at = float("-inf")

    # The queue.

    def ask(self, now: float) -> Ticket:
        """Enter the queue. PoolClosed or PoolFull if there is no place in it."""
        if self.closed:
            raise PoolClosed("the sandbox is closed") from self.closed_by
        # A caller that can be served at once takes no place in the queue.
        if len(self._waiting) >= self.max_waiting + len(self._warm):
            raise PoolFull(f"{self.max_waiting} callers are waiting for a container already (max_waiting)")
        ticket = Ticket(now + self.max_wait)
        self._waiting.append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """Cancel a waiter. A worker already assigned to it is unused and returns to WARM."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        key, ticket.worker = ticket.worker, None
        record = None if key is None else self._records.get(key)
        if record is not None and record.state is State.LEASED:
            self._move(record, State.WARM)
            self._warm.appendleft(record.key)

    def close(self, cause: BaseException | None = None) -> None:
        """Create and assign nothing any more. Every waiter is answered with nothing."""
        self.closed = True
        self.closed_by = self.closed_by or cause

    # A worker's life.

    def claim(self, key: int, name: str) -> bool:
        """Reserve a name for a worker that is about to be created. False if another worker has
        it."""
        if name in self._names:
            return False
        self.unclaim(key)
        self._names[name] = key
        self._records[key].name = name
        return True

    def unclaim(self, key: int) -> None:
        """Give the name back: nothing was created under it."""
        record = self._records[key]
        self._names.pop(record.name, None)
        record.name = ""

    def name(self, key: int) -> str:
        """Return the name that a worker has claimed, or ""."""
        record = self._records.get(key)
        return "" if record is None else record.name

    def id(self, key: int) -> str:
        """Return the id that the engine gave, or ""."""
        record = self._records.get(key)
        return "" if record is None else record.id

    def created(self, key: int, id: str) -> None:  # noqa: A002 - the engine's own word
        """Note the id that the engine gave."""
        self._records[key].id = id

    def warm(self, key: int) -> None:
        """Note that a worker is ready for use."""
        record = self._records.get(key)
        if record is not None and record.state is State.CREATING:
            self._move(record, State.WARM)
            self._warm.append(key)
            self.became_warm += 1
            self._failing = False
            self._resume_at = float("-inf")

    def ending(self, key: int, now: float) -> None:
        """Note that a worker is being ended. One that was never leased has failed.

        Failures slow creation down.
        """
        record = self._records.get(key)
        if record is None or record.state in (State.ENDING, State.UNCERTAIN):
            return
        unused = record.state is not State.LEASED
        self._leave_unused(record)
        self._move(record, State.ENDING)
        if unused and not self.closed:
            self._fail(now)

    def over(self, key: int, now: float) -> None:
        """Note that nothing attends to a worker any more. Unless it is uncertain, it is gone."""
        self.ending(key, now)
        record = self._records.get(key)
        if record is not None and record.state is State.ENDING:
            self.gone(key)

    def gone(self, key: int) -> None:
        """Note that a worker does not exist any more."""
        record = self._records.pop(key, None)
        if record is not None:
            self._leave_unused(record)
            self._count(record, -1)
            if record.name and self._names.get(record.name) == key:
                del self._names[record.name]

    def uncertain(self, key: int, now: float, *, expected_in: float, suspect_for: float = 0.0, counts: bool, lost: bool = False) -> None:
        """Note that a worker may still exist, and that nothing attends to it.

        It is expected to go by itself within `expected_in` seconds, and not removed before. A
        listing without it is believed after `suspect_for` seconds. `counts`: it counts against
        `max_alive` until a listing does not show it. `lost`: the answer to its creation was lost.
        """
        record = self._records.get(key)
        if record is None:
            return
        self._leave_unused(record)
        self._count(record, -1)
        record.state, record.counts, record.lost = State.UNCERTAIN, counts, lost
        record.check_at = now + expected_in
        record.until = now + suspect_for
        self._count(record, +1)

    def listed(self, asked_at: float, rows: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
        """Compare the records with a complete listing, (name, id) each, that was asked for at
        `asked_at`.

        Returns two lists of ids: what is to be removed, since nothing attends to it, and what is
        expected to go by itself.
        """
        attended = [record for record in self._records.values() if record.state is not State.UNCERTAIN]
        # A container may be renamed from outside, so its id is compared where it is known.
        ids = {record.id for record in attended if record.id}
        names = {record.name for record in attended if record.name and not record.id}
        uncertain = [record for record in self._records.values() if record.state is State.UNCERTAIN]
        by_id = {record.id: record for record in uncertain if record.id}
        by_name = {record.name: record for record in uncertain if record.name and not record.id}
        remove: list[str] = []
        leaving: list[str] = []
        seen = set()
        for name, container in rows:
            if container in ids or name in names:
                continue
            record = by_id.get(container) or by_name.get(name)
            if record is not None:
                seen.add(record.key)
                record.id = container
                if record.lost:  # its creation has succeeded, and will not do so again
                    record.lost, record.until = False, asked_at
            waits = record is not None and record.check_at > asked_at
            (leaving if waits else remove).append(container)
        for record in uncertain:
            if record.key in seen:
                continue
            if record.until <= asked_at:
                self.gone(record.key)
            elif record.counts:
                self._count(record, -1)
                record.counts = False
                self._count(record, +1)
        return remove, leaving

    def unlisted(self, now: float, suspect_for: float) -> None:
        """Note that the engine did not answer a listing. It made no progress with lost creations
        either."""
        for record in self._records.values():
            if record.lost and record.state is State.UNCERTAIN:
                record.until = now + suspect_for

    @property
    def uncertain_names(self) -> list[str]:
        """Names of the workers that may still exist, sorted."""
        return sorted(record.name or record.id[:12] for record in self._records.values() if record.state is State.UNCERTAIN)

    @property
    def lost_names(self) -> list[str]:
        """Of these, the names of those whose creation was lost."""
        return sorted(record.name for record in self._records.values() if record.state is State.UNCERTAIN and record.lost)

    # Decisions.

    def plan(self, now: float) -> Plan:
        """Return what is to be done now, and note it as done."""
        plan = Plan()
        while self._waiting and self._warm and not self.closed:
            ticket, key = self._waiting.popleft(), self._warm.popleft()
            ticket.worker = key
            self._move(self._records[key], State.LEASED)
            self._failures = 0
            self._refills.append(now)
            plan.answered.append(ticket)
        # All wait equally long, so the first in the queue is the first to expire.
        while self._waiting and (self.closed or self._waiting[0].deadline <= now):
            ticket = self._waiting.popleft()
            ticket.expired = not self.closed
            plan.answered.append(ticket)
        self._forget_refills(now)
        for _ in range(self._to_create(now)):
            self._next += 1
            self._records[self._next] = record = Record(self._next, State.CREATING)
            self._count(record, +1)
            plan.create.append(self._next)
        times = [self._waiting[0].deadline] if self._waiting else []
        if now < self._resume_at and self._wanted() > 0:
            times.append(self._resume_at)
        if self._refills:
            times.append(self._refills[0] + self.refill_delay)
        plan.wake_at = min(times, default=None)
        return plan

    def count(self, state: State) -> int:
        """Workers in a state."""
        return self._counts[state]

    @property
    def alive(self) -> int:
        """Workers that count against `max_alive`."""
        return self._alive

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiting)

    @property
    def failing(self) -> bool:
        """True from a worker that failed before it was leased to the next one that becomes warm."""
        return self._failing

    def _forget_refills(self, now: float) -> None:
        if self._waiting or self.closed or not self._counts[State.LEASED]:
            self._refills.clear()
        while self._refills and self._refills[0] + self.refill_delay <= now:
            self._refills.popleft()

    def _wanted(self) -> int:
        if self.closed:
            return 0
        creating = self._counts[State.CREATING]
        # While creation fails, one worker at a time tries whether it works again.
        at_once = 1 if self._failing else self.max_creating
        missing = self.size - len(self._warm) - len(self._refills) - creating
        return min(missing, self.max_alive - self._alive, at_once - creating)

    def _to_create(self, now: float) -> int:
        return max(0, self._wanted()) if now >= self._resume_at else 0

    def _fail(self, now: float) -> None:
        self.failed += 1
        # One failure per window: fifty workers that die of one cause are one failure.
        if now >= self._resume_at:
            # Only a lease resets the count. Where workers become warm and die at once, becoming
            # warm would reset it each time.
            self._resume_at = now + min(BACKOFF_FIRST * 2**self._failures, BACKOFF_MOST)
            self._failures = min(self._failures + 1, 16)
            self._failing = True

    def _move(self, record: Record, state: State) -> None:
        self._count(record, -1)
        record.state = state
        self._count(record, +1)

    def _count(self, record: Record, by: int) -> None:
        self._counts[record.state] += by
        self._alive += by * record.counts

    def _leave_unused(self, record: Record) -> None:
        if record.state is State.WARM:
            self._warm.remove(record.key)
