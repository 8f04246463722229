"""The pool's brain: whatever happens, in whatever order, its promises hold. First any history, then the races one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dayfly.errors import PoolClosed, PoolFull
from dayfly.ledger import BACKOFF_FIRST, BACKOFF_MOST, Ledger, Plan, State, Ticket

FOREVER = 1e9


def ledger(size: int = 1, *, max_alive: int = 8, max_making: int = 4, max_waiting: int = 8, max_wait: float = 10.0) -> Ledger:
    return Ledger(size=size, max_alive=max_alive, max_making=max_making, max_waiting=max_waiting, max_wait=max_wait)


class Histories(RuleBasedStateMachine):
    """Keeps books of its own, by what it told the ledger and what the ledger planned, and compares."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.members: dict[int, State] = {}
        self.seen: set[int] = set()
        self.queue: list[Ticket] = []
        self.holders: dict[int, Ticket] = {}  # who was given a member and has neither withdrawn nor finished
        self.taken: set[int] = set()
        self.answered: set[int] = set()
        self.no_make_before = self.now
        self.kept: list[Ticket] = []  # so that no id is used twice

    @initialize(
        size=st.integers(1, 4),
        spare=st.integers(0, 3),
        max_making=st.integers(1, 3),
        max_waiting=st.integers(0, 4),
        max_wait=st.sampled_from([0.05, 1.0, 5.0]),
    )
    def open(self, size: int, spare: int, max_making: int, max_waiting: int, max_wait: float) -> None:
        self.ledger = ledger(size, max_alive=size + spare, max_making=max_making, max_waiting=max_waiting, max_wait=max_wait)

    def of(self, *states: State) -> list[int]:
        return [key for key, state in self.members.items() if state in states]

    def a_member(self, data: st.DataObject, *states: State) -> int:
        """Mostly one in such a state; now and then any, gone and unheard-of ones included: tales come late, and twice."""
        keys = self.of(*states)
        strangers = [*sorted(self.seen), -1]
        some: st.SearchStrategy[int] = st.one_of(*[st.sampled_from(each) for each in (keys,) * 5 if each], st.sampled_from(strangers))
        return data.draw(some)

    @rule()
    def ask(self) -> None:
        warm = len(self.of(State.WARM))
        try:
            ticket = self.ledger.ask(self.now)
        except PoolClosed:
            assert self.ledger.closed
        except PoolFull:
            assert not self.ledger.closed
            assert len(self.queue) >= self.ledger.max_waiting + warm
        else:
            assert not self.ledger.closed
            assert len(self.queue) < self.ledger.max_waiting + warm
            assert ticket.deadline == self.now + self.ledger.max_wait
            self.queue.append(ticket)
            self.kept.append(ticket)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def withdraw_while_waiting(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.queue))
        self.ledger.withdraw(ticket)
        self.queue.remove(ticket)
        assert ticket.member is None

    @precondition(lambda self: set(self.holders) - self.taken)
    @rule(data=st.data())
    def withdraw_before_taking(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(set(self.holders) - self.taken)))
        ticket = self.holders.pop(key)
        self.ledger.withdraw(ticket)
        assert ticket.member is None
        if self.members.get(key) is State.BUSY:
            self.members[key] = State.WARM

    @precondition(lambda self: set(self.holders) - self.taken)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        self.taken.add(data.draw(st.sampled_from(sorted(set(self.holders) - self.taken))))

    @rule(data=st.data())
    def made(self, data: st.DataObject) -> None:
        key = self.a_member(data, State.MAKING)
        self.ledger.made(key)
        if self.members.get(key) is State.MAKING:
            self.members[key] = State.WARM
            self.no_make_before = self.now
            assert not self.ledger.failing

    @rule(data=st.data())
    def ending(self, data: st.DataObject) -> None:
        key = self.a_member(data, State.BUSY)
        self.ledger.ending(key)
        if key in self.members:
            self.members[key] = State.ENDING

    @rule(data=st.data())
    def gone(self, data: st.DataObject) -> None:
        key = self.a_member(data, *State)
        self.ledger.gone(key, self.now)
        if self.members.pop(key, None) in (State.MAKING, State.WARM):
            assert self.ledger.failing
            self.no_make_before = max(self.no_make_before, self.ledger._resume_at)
            assert self.now < self.ledger._resume_at <= self.now + BACKOFF_MOST

    @precondition(lambda self: self.queue or self.members)
    @rule()
    def close(self) -> None:
        self.ledger.close()

    @rule(seconds=st.sampled_from([0.01, 0.09, 0.1, 0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def plan(self) -> None:
        plan = self.ledger.plan(self.now)
        self.follow(plan)
        self.nothing_is_due_before(plan.wake_at)

    @rule()
    def sleep_as_planned(self) -> None:
        plan = self.ledger.plan(self.now)
        self.follow(plan)
        if plan.wake_at is not None:
            assert plan.wake_at > self.now
            self.now = plan.wake_at
            due = self.ledger.plan(self.now)
            assert due.make or due.answered, "it woke up for nothing"
            self.follow(due)

    def follow(self, plan: Plan) -> None:
        """Carry the plan out in the books, and check that each step of it was right."""
        before, warm = list(self.queue), self.of(State.WARM)
        given = [ticket for ticket in plan.answered if ticket.member is not None]
        expired = [ticket for ticket in plan.answered if ticket.expired]
        assert plan.answered == before[: len(plan.answered)], "answers go to the head of the queue, in order"
        assert len(given) == (0 if self.ledger.closed else min(len(before), len(warm)))
        for ticket in plan.answered:
            assert id(ticket) not in self.answered, "each is answered once"
            self.answered.add(id(ticket))
            assert ticket.member is None or not ticket.expired
        if self.ledger.closed:
            assert plan.answered == before
            assert not expired
            assert plan.make == []
        else:
            assert plan.answered == given + expired
            assert all(ticket.deadline <= self.now for ticket in expired)
        self.queue = before[len(plan.answered) :]
        assert all(ticket.deadline > self.now for ticket in self.queue)

        for ticket in given:
            assert ticket.member is not None
            assert self.members[ticket.member] is State.WARM, "only a warm member is given, and to one waiter"
            self.members[ticket.member] = State.BUSY
            self.taken.discard(ticket.member)
            assert ticket.member not in self.holders
            self.holders[ticket.member] = ticket

        assert not self.seen.intersection(plan.make), "a key is never used again"
        assert not plan.make or self.now >= self.no_make_before, "backing off"
        if plan.make:
            making = len(self.of(State.MAKING)) + len(plan.make)
            assert making <= (1 if self.ledger.failing else self.ledger.max_making)
            assert len(self.of(State.WARM)) + making <= self.ledger.size
        self.seen.update(plan.make)
        self.members |= dict.fromkeys(plan.make, State.MAKING)

    def nothing_is_due_before(self, wake_at: float | None) -> None:
        for seconds in (0.0, 0.04, 0.1, 1.0, FOREVER):
            if wake_at is None or self.now + seconds < wake_at:
                later = copy.deepcopy(self.ledger).plan(self.now + seconds)
                assert not later.make
                assert not later.answered

    @rule()
    def heal(self) -> None:
        """From anywhere: once members are left alone and makes succeed, the pool is full of warm ones, whatever went before."""
        if self.ledger.closed:
            return
        future, now = copy.deepcopy(self.ledger), self.now + FOREVER
        future.plan(now)
        for key in [key for key, state in future._members.items() if state in (State.BUSY, State.ENDING)]:
            future.ending(key)
            future.gone(key, now)
        for _ in range(3 * self.ledger.max_alive):
            future.plan(now)
            for key in [key for key, state in future._members.items() if state is State.MAKING]:
                future.made(key)
        # More than its size only where members were given and came back unused.
        assert future.size <= future.count(State.WARM) == future.alive <= future.max_alive
        assert future.plan(now) == Plan()

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert self.ledger._members == self.members
        assert sorted(self.ledger._warm) == sorted(self.of(State.WARM)), "in one place, and once"
        assert list(map(id, self.ledger._waiting)) == list(map(id, self.queue))
        assert self.ledger.alive == len(self.members) <= self.ledger.max_alive
        assert self.ledger.count(State.MAKING) <= self.ledger.max_making
        assert {state: self.ledger.count(state) for state in State} == {state: len(self.of(state)) for state in State}
        assert self.ledger.waiting == len(self.queue) <= self.ledger.max_waiting + self.ledger.max_alive
        busy = self.of(State.BUSY)
        assert all(self.holders[key].member == key for key in busy), "who is busy has one user"


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=40)


# The races, one by one.


def warm(book: Ledger, now: float = 0.0) -> list[int]:
    """Make all that is planned until nothing is."""
    made = []
    while plan := book.plan(now).make:
        for key in plan:
            book.made(key)
        made += plan
    return made


def test_a_waiter_that_withdraws_in_the_tick_of_its_answer_leaves_the_member_to_the_next() -> None:
    book = ledger()
    (key,) = book.plan(0).make
    first, second = book.ask(0), book.ask(0)
    book.made(key)
    assert book.plan(0).answered == [first]
    book.withdraw(first)
    assert (first.member, first.expired) == (None, False)
    assert book.plan(0).answered == [second]
    assert second.member == key


def test_what_was_given_back_is_the_first_to_be_given_again() -> None:
    book = ledger(2)
    oldest, _ = warm(book)
    ticket = book.ask(0)
    book.plan(0)
    assert ticket.member == oldest
    book.withdraw(ticket)
    following = book.ask(0)
    book.plan(0)
    assert following.member == oldest


@pytest.mark.parametrize("then", ["ending", "gone"])
def test_a_member_that_ended_between_its_hand_over_and_the_withdrawal_does_not_rise_again(then: str) -> None:
    book = ledger()
    (key,) = warm(book)
    ticket = book.ask(0)
    book.plan(0)
    if then == "ending":
        book.ending(key)
    book.gone(key, 0)
    book.withdraw(ticket)
    assert book.count(State.WARM) == 0
    assert key not in book._members


def test_withdrawing_twice_changes_nothing_more() -> None:
    book = ledger()
    (key,) = warm(book)
    ticket = book.ask(0)
    book.plan(0)
    book.withdraw(ticket)
    book.withdraw(ticket)
    assert list(book._warm) == [key]


def test_a_member_and_the_deadline_that_come_together_are_a_member() -> None:
    book = ledger(max_wait=5)
    (key,) = book.plan(0).make
    ticket = book.ask(0)
    book.made(key)
    assert book.plan(5).answered == [ticket]
    assert (ticket.member, ticket.expired) == (key, False)


def test_who_waits_to_the_deadline_expires_at_it_and_not_before() -> None:
    book = ledger(max_wait=5)
    ticket = book.ask(1)
    assert book.plan(5.999).answered == []
    assert book.plan(5.999).wake_at == 6
    assert book.plan(6).answered == [ticket]
    assert (ticket.member, ticket.expired) == (None, True)
    assert book.plan(6) == Plan()


def test_after_close_a_given_member_that_comes_back_is_given_to_nobody() -> None:
    book = ledger()
    (key,) = warm(book)
    given, waits = book.ask(0), book.ask(0)
    book.plan(0)
    book.close()
    book.withdraw(given)
    plan = book.plan(0)
    assert plan.answered == [waits]
    assert (waits.member, waits.expired) == (None, False)
    assert plan.make == []
    assert list(book._warm) == [key]


def test_after_close_nothing_is_made_given_or_waited_for_whatever_happens() -> None:
    book = ledger(3)
    first, second, third = book.plan(0).make
    book.made(first)
    book.close()
    book.close()
    book.made(second)
    book.gone(third, 0)
    with pytest.raises(PoolClosed):
        book.ask(0)
    assert book.plan(0) == book.plan(FOREVER) == Plan()


def test_closed_and_expired_at_once_is_closed() -> None:
    book = ledger(max_wait=1)
    ticket = book.ask(0)
    book.close()
    assert book.plan(FOREVER).answered == [ticket]
    assert not ticket.expired


def test_who_can_be_served_at_once_takes_no_place_in_the_queue() -> None:
    book = ledger(2, max_waiting=0)
    with pytest.raises(PoolFull, match="max_waiting"):
        book.ask(0)
    warm(book)
    served = [book.ask(0), book.ask(0)]
    with pytest.raises(PoolFull):
        book.ask(0)
    assert book.plan(0).answered == served
    with pytest.raises(PoolFull):
        book.ask(0)


def test_tales_of_members_that_are_gone_or_never_were_change_nothing() -> None:
    book = ledger()
    (key,) = warm(book)
    book.ending(key)
    book.gone(key, 0)
    for stranger in (key, 99, -1):
        book.made(stranger)
        book.ending(stranger)
        book.gone(stranger, 0)
    assert (book.alive, book.failing) == (0, False)
    (following,) = book.plan(0).make
    assert following != key


def test_made_twice_is_made_once() -> None:
    book = ledger()
    (key,) = warm(book)
    book.made(key)
    assert list(book._warm) == [key]
    ticket = book.ask(0)
    book.plan(0)
    book.made(key)
    assert ticket.member == key
    assert book.count(State.BUSY) == 1
    assert list(book._warm) == []


def test_a_warm_member_that_dies_is_replaced_and_never_given() -> None:
    book = ledger()
    (key,) = warm(book)
    book.gone(key, 0)
    ticket = book.ask(0)
    plan = book.plan(0)
    assert (plan.answered, plan.make, plan.wake_at) == ([], [], BACKOFF_FIRST)
    (following,) = book.plan(BACKOFF_FIRST).make
    book.made(following)
    book.plan(BACKOFF_FIRST)
    assert ticket.member == following


def test_a_used_member_that_goes_is_no_failure() -> None:
    book = ledger()
    (key,) = warm(book)
    book.ask(0)
    book.plan(0)
    book.ending(key)
    book.gone(key, 0)
    assert not book.failing


def test_members_on_their_way_out_count_as_alive() -> None:
    book = ledger(2, max_alive=3)
    keys = warm(book)
    for _ in keys:
        book.ask(0)
    (third,) = book.plan(0).make
    book.made(third)
    for key in keys:
        book.ending(key)
    assert book.plan(0).make == []
    book.gone(keys[0], 0)
    assert len(book.plan(0).make) == 1


def test_failures_back_off_twice_as_long_each_time_up_to_a_bound_and_one_try_at_a_time() -> None:
    book, now, pauses = ledger(4), 0.0, []
    keys = book.plan(now).make
    assert len(keys) == 4
    for _ in range(8):
        for key in keys:
            book.gone(key, now)
        plan = book.plan(now)
        assert plan.make == []
        assert plan.wake_at is not None
        assert book.plan(plan.wake_at - 1e-6).make == []
        pauses.append(round(plan.wake_at - now, 6))
        now = plan.wake_at
        keys = book.plan(now).make
        assert len(keys) == 1
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert pauses[0] == BACKOFF_FIRST
    assert pauses[-1] == BACKOFF_MOST


def test_one_success_ends_the_backing_off() -> None:
    book = ledger(3)
    keys = book.plan(0).make
    book.gone(keys[0], 0)
    assert book.failing
    book.made(keys[1])
    assert not book.failing
    assert len(book.plan(0).make) == 1


def test_members_that_die_as_soon_as_they_are_ready_are_made_ever_more_seldom_until_one_is_used() -> None:
    book, now, pauses = ledger(1), 0.0, []

    def one_dies(plan: Plan) -> None:
        nonlocal now
        (key,) = plan.make
        book.made(key)
        assert not book.failing
        book.gone(key, now)
        wake_at = book.plan(now).wake_at
        assert wake_at is not None
        pauses.append(round(wake_at - now, 6))
        now = wake_at

    for _ in range(7):
        one_dies(book.plan(now))
    (key,) = book.plan(now).make
    book.made(key)
    book.ask(now)
    plan = book.plan(now)
    assert plan.answered
    one_dies(plan)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]


def test_fifty_members_that_die_of_one_cause_are_one_failure() -> None:
    book = ledger(50, max_alive=50, max_making=50)
    for key in warm(book):
        book.gone(key, 0)
    assert book.plan(0).wake_at == BACKOFF_FIRST
    assert len(book.plan(BACKOFF_FIRST).make) == 1


def test_it_does_not_wake_to_make_what_nobody_wants() -> None:
    book = ledger(1, max_alive=1)
    (key,) = warm(book)
    book.ask(0)
    book.plan(0)
    book.gone(key, 0)
    book.made(key)
    (following,) = book.plan(0).make
    book.gone(following, 0)
    book.close()
    assert book.plan(0).wake_at is None


def test_a_thousand_waiters_are_served_in_the_order_of_their_coming() -> None:
    book = ledger(3, max_alive=3, max_waiting=1_000)
    tickets = [book.ask(0) for _ in range(1_000)]
    served: list[Ticket] = []
    for _ in range(1_000):
        plan = book.plan(0)
        served += plan.answered
        for key in plan.make:
            book.made(key)
        for ticket in plan.answered:
            assert ticket.member is not None
            book.ending(ticket.member)
            book.gone(ticket.member, 0)
    assert list(map(id, served)) == list(map(id, tickets))


def paused(size: int = 2) -> Ledger:
    return Ledger(size=size, max_alive=8, max_making=4, max_waiting=8, max_wait=10.0, pause=0.2)


def test_what_was_given_away_is_replaced_after_the_pause() -> None:
    book = paused()
    warm(book)
    book.ask(1.0)
    plan = book.plan(1.0)
    assert (len(plan.answered), plan.make, plan.wake_at) == (1, [], 1.2)
    assert book.plan(1.19).make == []
    plan = book.plan(1.2)
    assert (len(plan.make), plan.wake_at) == (1, None)


def test_each_has_a_pause_of_its_own() -> None:
    book = paused()
    warm(book)
    for now in (1.0, 1.1):
        book.ask(now)
        assert book.plan(now).make == []
    assert (len(book.plan(1.2).make), book.plan(1.2).wake_at) == (1, 1.1 + 0.2)
    assert len(book.plan(1.1 + 0.2).make) == 1


def test_the_pause_is_over_when_nothing_is_in_use_any_more() -> None:
    book = paused()
    warm(book)
    tickets = [book.ask(1.0), book.ask(1.0)]
    book.plan(1.0)
    keys = [ticket.member for ticket in tickets if ticket.member is not None]
    book.ending(keys[0])
    assert book.plan(1.01).make == []
    book.ending(keys[1])
    assert len(book.plan(1.02).make) == 2


def test_nobody_waits_for_the_pause() -> None:
    book = paused()
    warm(book)
    for _ in range(3):
        book.ask(1.0)
    assert len(book.plan(1.0).make) == 2


def test_close_ends_the_pause() -> None:
    book = paused()
    warm(book)
    book.ask(1.0)
    book.plan(1.0)
    book.close()
    assert book.plan(1.0) == Plan()
