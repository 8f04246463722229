"""The pool's brain: who is warm, who waits, what to do next. Pure: no event loop, no clock, no I/O.

Whatever happens is told to the ledger by one of its verbs; then `plan(now)` returns what there is to do about it. The same history
always gives the same plan, so every race of the pool can be written down as a list of calls.

    a member:   MAKING ──made──► WARM ──given to a waiter──► BUSY ──ending──► ENDING ──gone──► (nothing)
                   └─────────────┴───────────── gone ──────────┘
    There is no way back from BUSY to WARM but one: a waiter that had been given a member and withdrew before it took it.

Times are seconds on any monotonic clock.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field

from .errors import PoolClosed, PoolFull

BACKOFF_FIRST = 0.1
BACKOFF_MOST = 2.0
"""Seconds between tries while members cannot be made: an engine that is back is noticed this much later at the most."""


class State(enum.Enum):
    """A member's state."""

    MAKING = enum.auto()
    WARM = enum.auto()
    BUSY = enum.auto()
    ENDING = enum.auto()


@dataclass(eq=False)
class Ticket:
    """One waiter's place in the queue. `member` is what it was given; `expired` that it waited in vain."""

    deadline: float
    member: int | None = None
    expired: bool = False


@dataclass
class Plan:
    """What there is to do: members to make, tickets that were answered, and when to ask again (None: when something happens)."""

    make: list[int] = field(default_factory=list)
    answered: list[Ticket] = field(default_factory=list)
    wake_at: float | None = None


class Ledger:
    """The books of a pool that keeps `size` members warm, each good for one use.

    `max_alive` bounds members in any state, `max_making` those being made, `max_waiting` the queue, `max_wait` (seconds) the time in it.
    `pause` is how long (seconds) a member that was given away is not replaced while any is in use and nobody waits: making costs
    processor time, which short programs, and bursts of them, are served faster without.
    """

    def __init__(self, *, size: int, max_alive: int, max_making: int, max_waiting: int, max_wait: float, pause: float = 0.0) -> None:
        self.size = size
        self.max_alive = max_alive
        self.max_making = max_making
        self.max_waiting = max_waiting
        self.max_wait = max_wait
        self.pause = pause
        self.closed = False
        self._members: dict[int, State] = {}
        self._warm: deque[int] = deque()
        self._waiting: deque[Ticket] = deque()
        self._given: deque[float] = deque()  # when members were given away that are not to be replaced yet
        self._next = 0
        self._failing = False
        self._patience = 0  # failures since a member was last of use to anybody
        self._resume_at = float("-inf")

    def ask(self, now: float) -> Ticket:
        """Enter the queue. PoolClosed or PoolFull if there is no place in it."""
        if self.closed:
            raise PoolClosed("the sandbox is closed")
        # A caller that can be served at once takes no place in the queue.
        if len(self._waiting) >= self.max_waiting + len(self._warm):
            raise PoolFull(f"{self.max_waiting} callers are waiting for a container already (max_waiting)")
        ticket = Ticket(now + self.max_wait)
        self._waiting.append(ticket)
        return ticket

    def withdraw(self, ticket: Ticket) -> None:
        """The waiter is gone. What it had been given, and cannot have touched, is warm still."""
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        key, ticket.member = ticket.member, None
        if key is not None and self._members.get(key) is State.BUSY:
            self._members[key] = State.WARM
            self._warm.appendleft(key)

    def made(self, key: int) -> None:
        """A member is ready for use."""
        if self._members.get(key) is State.MAKING:
            self._members[key] = State.WARM
            self._warm.append(key)
            self._failing = False
            self._resume_at = float("-inf")

    def ending(self, key: int) -> None:
        """A member is used up, and on its way out."""
        self._drop_warm(key)
        if key in self._members:
            self._members[key] = State.ENDING

    def gone(self, key: int, now: float) -> None:
        """A member is no more. One that was not used up counts as a failure, and failures slow the making down."""
        self._drop_warm(key)
        state = self._members.pop(key, State.ENDING)
        # One failure per window: fifty members that die of one cause are one failure.
        if state in (State.MAKING, State.WARM) and now >= self._resume_at:
            # Where members become ready and die at once, each `made` ends the failures: it is their use that says all is well.
            self._resume_at = now + min(BACKOFF_FIRST * 2**self._patience, BACKOFF_MOST)
            self._patience = min(self._patience + 1, 16)
            self._failing = True

    def close(self) -> None:
        """Nothing is made or given any more; every waiter is answered with nothing."""
        self.closed = True

    def plan(self, now: float) -> Plan:
        """Return what there is to do now, and note it as done."""
        plan = Plan()
        while self._waiting and self._warm and not self.closed:
            ticket, key = self._waiting.popleft(), self._warm.popleft()
            ticket.member = key
            self._members[key] = State.BUSY
            self._patience = 0
            self._given.append(now)
            plan.answered.append(ticket)
        # All wait equally long, so the first in the queue is the first to expire.
        while self._waiting and (self.closed or self._waiting[0].deadline <= now):
            ticket = self._waiting.popleft()
            ticket.expired = not self.closed
            plan.answered.append(ticket)
        self._replace(now)
        for _ in range(self._to_make(now)):
            self._next += 1
            self._members[self._next] = State.MAKING
            plan.make.append(self._next)
        times = [self._waiting[0].deadline] if self._waiting else []
        if now < self._resume_at and self._wanted() > 0:
            times.append(self._resume_at)
        if self._given:
            times.append(self._given[0] + self.pause)
        plan.wake_at = min(times, default=None)
        return plan

    def count(self, state: State) -> int:
        """Members in a state."""
        return sum(held is state for held in self._members.values())

    @property
    def alive(self) -> int:
        """Members in any state."""
        return len(self._members)

    @property
    def waiting(self) -> int:
        """Callers in the queue."""
        return len(self._waiting)

    @property
    def failing(self) -> bool:
        """True from a member that could not be made, or died unused, to the next one that was made."""
        return self._failing

    def _replace(self, now: float) -> None:
        """Forget the hand-overs whose members may be replaced."""
        if self._waiting or self.closed or not self.count(State.BUSY):
            self._given.clear()
        while self._given and self._given[0] + self.pause <= now:
            self._given.popleft()

    def _wanted(self) -> int:
        if self.closed:
            return 0
        making = self.count(State.MAKING)
        # While making fails, one at a time tries whether it works again.
        at_once = 1 if self._failing else self.max_making
        return min(self.size - len(self._warm) - len(self._given) - making, self.max_alive - self.alive, at_once - making)

    def _to_make(self, now: float) -> int:
        return max(0, self._wanted()) if now >= self._resume_at else 0

    def _drop_warm(self, key: int) -> None:
        if self._members.get(key) is State.WARM:
            self._warm.remove(key)
