"""The ledger: first any history by a state machine, then the races one by one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dayfly._errors import PoolClosed, PoolFull
from dayfly._ledger import BACKOFF_FIRST, BACKOFF_MOST, Ledger, Plan, State, Ticket

FOREVER = 1e9


def ledger(size: int = 1, *, max_alive: int = 8, max_creating: int = 4, max_waiting: int = 8, max_wait: float = 10.0) -> Ledger:
    return Ledger(size=size, max_alive=max_alive, max_creating=max_creating, max_waiting=max_waiting, max_wait=max_wait)


class Histories(RuleBasedStateMachine):
    """Keeps books of its own, by what it told the ledger and what the ledger planned, and
    compares."""

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
        max_creating=st.integers(1, 3),
        max_waiting=st.integers(0, 4),
        max_wait=st.sampled_from([0.05, 1.0, 5.0]),
    )
    def open(self, size: int, spare: int, max_creating: int, max_waiting: int, max_wait: float) -> None:
        self.ledger = ledger(size, max_alive=size + spare, max_creating=max_creating, max_waiting=max_waiting, max_wait=max_wait)

    def of(self, *states: State) -> list[int]:
        return [key for key, state in self.members.items() if state in states]

    def a_member(self, data: st.DataObject, *states: State) -> int:
        """Mostly one in such a state; now and then any, gone and unheard-of ones included: tales
        come late, and twice."""
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
        assert ticket.worker is None

    @precondition(lambda self: set(self.holders) - self.taken)
    @rule(data=st.data())
    def withdraw_before_taking(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(set(self.holders) - self.taken)))
        ticket = self.holders.pop(key)
        self.ledger.withdraw(ticket)
        assert ticket.worker is None
        if self.members.get(key) is State.LEASED:
            self.members[key] = State.WARM

    @precondition(lambda self: set(self.holders) - self.taken)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        self.taken.add(data.draw(st.sampled_from(sorted(set(self.holders) - self.taken))))

    @rule(data=st.data())
    def made(self, data: st.DataObject) -> None:
        key = self.a_member(data, State.CREATING)
        self.ledger.warm(key)
        if self.members.get(key) is State.CREATING:
            self.members[key] = State.WARM
            self.no_make_before = self.now
            assert not self.ledger.failing

    @rule(data=st.data())
    def ending(self, data: st.DataObject) -> None:
        key = self.a_member(data, State.LEASED)
        self.ledger.ending(key, self.now)
        state = self.members.get(key)
        if state is not None and state is not State.UNCERTAIN:
            self.members[key] = State.ENDING
        self.check_failure(state)

    def check_failure(self, state: State | None) -> None:
        if state in (State.CREATING, State.WARM) and not self.ledger.closed:
            assert self.ledger.failing
            self.no_make_before = max(self.no_make_before, self.ledger._resume_at)
            assert self.now < self.ledger._resume_at <= self.now + BACKOFF_MOST

    @rule(data=st.data())
    def over(self, data: st.DataObject) -> None:
        key = self.a_member(data, *State)
        self.ledger.over(key, self.now)
        if self.members.get(key) is not State.UNCERTAIN:
            self.check_failure(self.members.pop(key, None))

    @rule(data=st.data(), counts=st.booleans(), lost=st.booleans(), expected_in=st.sampled_from([0.0, 1.0]))
    def uncertain(self, data: st.DataObject, counts: bool, lost: bool, expected_in: float) -> None:
        """As a container ends: first `ending`, then what is not certain."""
        key = self.a_member(data, State.ENDING, State.LEASED)
        self.ledger.ending(key, self.now)
        suspect_for = 5.0 if lost else 0.0
        self.ledger.uncertain(key, self.now, expected_in=expected_in, suspect_for=suspect_for, counts=counts, lost=lost)
        if key in self.members:
            self.check_failure(self.members[key])
            self.members[key] = State.UNCERTAIN

    @rule(data=st.data())
    def listed(self, data: st.DataObject) -> None:
        """The engine lists some of the members, and a stranger with this sandbox's label."""
        for key, record in self.ledger._records.items():
            record.name, record.id = f"name {key}", f"id {key}" if key % 2 else ""
        shown = [key for key in self.members if data.draw(st.booleans())]
        rows = [(f"name {key}", f"id {key}") for key in shown] + [("stranger", "stranger")]
        records = {key: self.ledger._records[key] for key in self.of(State.UNCERTAIN)}
        until = {key: record.until for key, record in records.items()}
        check_at = {key: record.check_at for key, record in records.items()}
        remove, leaving = self.ledger.listed(self.now, rows)
        expected = [f"id {key}" for key in shown if key in records]
        assert sorted([*remove, *leaving]) == sorted([*expected, "stranger"]), "what nothing attends to"
        assert "stranger" in remove
        for key, record in records.items():
            if key in shown:
                assert (f"id {key}" in leaving) == (check_at[key] > self.now)
                assert not record.lost
            elif until[key] <= self.now:
                del self.members[key]
            else:
                assert not record.counts

    @rule()
    def unlisted(self) -> None:
        self.ledger.unlisted(self.now, 60.0)

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
            assert due.create or due.answered, "it woke up for nothing"
            self.follow(due)

    def follow(self, plan: Plan) -> None:
        """Carry the plan out in the books, and check that each step of it was right."""
        before, warm = list(self.queue), self.of(State.WARM)
        given = [ticket for ticket in plan.answered if ticket.worker is not None]
        expired = [ticket for ticket in plan.answered if ticket.expired]
        assert plan.answered == before[: len(plan.answered)], "answers go to the head of the queue, in order"
        assert len(given) == (0 if self.ledger.closed else min(len(before), len(warm)))
        for ticket in plan.answered:
            assert id(ticket) not in self.answered, "each is answered once"
            self.answered.add(id(ticket))
            assert ticket.worker is None or not ticket.expired
        if self.ledger.closed:
            assert plan.answered == before
            assert not expired
            assert plan.create == []
        else:
            assert plan.answered == given + expired
            assert all(ticket.deadline <= self.now for ticket in expired)
        self.queue = before[len(plan.answered) :]
        assert all(ticket.deadline > self.now for ticket in self.queue)

        for ticket in given:
            assert ticket.worker is not None
            assert self.members[ticket.worker] is State.WARM, "only a warm member is given, and to one waiter"
            self.members[ticket.worker] = State.LEASED
            self.taken.discard(ticket.worker)
            assert ticket.worker not in self.holders
            self.holders[ticket.worker] = ticket

        assert not self.seen.intersection(plan.create), "a key is never used again"
        assert not plan.create or self.now >= self.no_make_before, "backing off"
        if plan.create:
            making = len(self.of(State.CREATING)) + len(plan.create)
            assert making <= (1 if self.ledger.failing else self.ledger.max_creating)
            assert len(self.of(State.WARM)) + making <= self.ledger.size
        self.seen.update(plan.create)
        self.members |= dict.fromkeys(plan.create, State.CREATING)

    def nothing_is_due_before(self, wake_at: float | None) -> None:
        for seconds in (0.0, 0.04, 0.1, 1.0, FOREVER):
            if wake_at is None or self.now + seconds < wake_at:
                later = copy.deepcopy(self.ledger).plan(self.now + seconds)
                assert not later.create
                assert not later.answered

    @rule()
    def heal(self) -> None:
        """From anywhere: once members are left alone and makes succeed, the pool is full of warm
        ones, whatever went before."""
        if self.ledger.closed:
            return
        future, now = copy.deepcopy(self.ledger), self.now + FOREVER
        future.plan(now)
        for key in [key for key, record in future._records.items() if record.state in (State.LEASED, State.ENDING, State.UNCERTAIN)]:
            future.gone(key)
        for _ in range(3 * self.ledger.max_alive):
            future.plan(now)
            for key in [key for key, record in future._records.items() if record.state is State.CREATING]:
                future.warm(key)
        # More than its size only where members were given and came back unused.
        assert future.size <= future.count(State.WARM) == future.alive <= future.max_alive
        assert future.plan(now) == Plan()

    @invariant()
    def the_books_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        assert {key: record.state for key, record in self.ledger._records.items()} == self.members
        assert sorted(self.ledger._warm) == sorted(self.of(State.WARM)), "in one place, and once"
        assert list(map(id, self.ledger._waiting)) == list(map(id, self.queue))
        counted = [record for record in self.ledger._records.values() if record.counts]
        assert self.ledger.alive == len(counted) <= self.ledger.max_alive
        assert self.ledger.count(State.CREATING) <= self.ledger.max_creating
        assert {state: self.ledger.count(state) for state in State} == {state: len(self.of(state)) for state in State}
        assert self.ledger.waiting == len(self.queue) <= self.ledger.max_waiting + self.ledger.max_alive
        busy = self.of(State.LEASED)
        assert all(self.holders[key].worker == key for key in busy), "a leased worker has one user"


TestHistories: Any = Histories.TestCase
TestHistories.settings = settings(max_examples=120, stateful_step_count=40)


# The races, one by one.


def warm(book: Ledger, now: float = 0.0) -> list[int]:
    """Make all that is planned until nothing is."""
    made = []
    while plan := book.plan(now).create:
        for key in plan:
            book.warm(key)
        made += plan
    return made


def test_a_withdrawing_waiter_leaves_its_member_to_the_next() -> None:
    book = ledger()
    (key,) = book.plan(0).create
    first, second = book.ask(0), book.ask(0)
    book.warm(key)
    assert book.plan(0).answered == [first]
    book.withdraw(first)
    assert (first.worker, first.expired) == (None, False)
    assert book.plan(0).answered == [second]
    assert second.worker == key


def test_what_was_given_back_is_the_first_to_be_given_again() -> None:
    book = ledger(2)
    oldest, _ = warm(book)
    ticket = book.ask(0)
    book.plan(0)
    assert ticket.worker == oldest
    book.withdraw(ticket)
    following = book.ask(0)
    book.plan(0)
    assert following.worker == oldest


@pytest.mark.parametrize("then", ["ending", "gone"])
def test_a_member_that_ended_before_a_withdrawal_stays_ended(then: str) -> None:
    book = ledger()
    (key,) = warm(book)
    ticket = book.ask(0)
    book.plan(0)
    if then == "ending":
        book.ending(key, 0)
    book.over(key, 0)
    book.withdraw(ticket)
    assert book.count(State.WARM) == 0
    assert key not in book._records


def test_withdrawing_twice_changes_nothing_more() -> None:
    book = ledger()
    (key,) = warm(book)
    ticket = book.ask(0)
    book.plan(0)
    book.withdraw(ticket)
    book.withdraw(ticket)
    assert list(book._warm) == [key]


def test_a_member_at_the_deadline_is_a_member() -> None:
    book = ledger(max_wait=5)
    (key,) = book.plan(0).create
    ticket = book.ask(0)
    book.warm(key)
    assert book.plan(5).answered == [ticket]
    assert (ticket.worker, ticket.expired) == (key, False)


def test_who_waits_to_the_deadline_expires_at_it_and_not_before() -> None:
    book = ledger(max_wait=5)
    ticket = book.ask(1)
    assert book.plan(5.999).answered == []
    assert book.plan(5.999).wake_at == 6
    assert book.plan(6).answered == [ticket]
    assert (ticket.worker, ticket.expired) == (None, True)
    assert book.plan(6) == Plan()


def test_after_close_a_returned_member_is_not_given_again() -> None:
    book = ledger()
    (key,) = warm(book)
    given, waits = book.ask(0), book.ask(0)
    book.plan(0)
    book.close()
    book.withdraw(given)
    plan = book.plan(0)
    assert plan.answered == [waits]
    assert (waits.worker, waits.expired) == (None, False)
    assert plan.create == []
    assert list(book._warm) == [key]


def test_after_close_nothing_is_made_given_or_awaited() -> None:
    book = ledger(3)
    first, second, third = book.plan(0).create
    book.warm(first)
    book.close()
    book.close()
    book.warm(second)
    book.over(third, 0)
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


def test_reports_of_unknown_members_change_nothing() -> None:
    book = ledger()
    key = leased(book)
    book.over(key, 0)
    for stranger in (key, 99, -1):
        book.warm(stranger)
        book.ending(stranger, 0)
        book.uncertain(stranger, 0, expected_in=0, counts=True)
        book.over(stranger, 0)
        book.gone(stranger)
    assert (book.alive, book.failing) == (1, False), "its replacement is being created"
    assert key not in book._records


def test_made_twice_is_made_once() -> None:
    book = ledger()
    (key,) = warm(book)
    book.warm(key)
    assert list(book._warm) == [key]
    ticket = book.ask(0)
    book.plan(0)
    book.warm(key)
    assert ticket.worker == key
    assert book.count(State.LEASED) == 1
    assert list(book._warm) == []


def test_a_warm_member_that_dies_is_replaced_and_never_given() -> None:
    book = ledger()
    (key,) = warm(book)
    book.over(key, 0)
    ticket = book.ask(0)
    plan = book.plan(0)
    assert (plan.answered, plan.create, plan.wake_at) == ([], [], BACKOFF_FIRST)
    (following,) = book.plan(BACKOFF_FIRST).create
    book.warm(following)
    book.plan(BACKOFF_FIRST)
    assert ticket.worker == following


def test_a_used_member_that_goes_is_no_failure() -> None:
    book = ledger()
    (key,) = warm(book)
    book.ask(0)
    book.plan(0)
    book.ending(key, 0)
    book.over(key, 0)
    assert not book.failing


def test_members_on_their_way_out_count_as_alive() -> None:
    book = ledger(2, max_alive=3)
    keys = warm(book)
    for _ in keys:
        book.ask(0)
    (third,) = book.plan(0).create
    book.warm(third)
    for key in keys:
        book.ending(key, 0)
    assert book.plan(0).create == []
    book.over(keys[0], 0)
    assert len(book.plan(0).create) == 1


def test_failures_double_the_delay_up_to_a_bound() -> None:
    book, now, pauses = ledger(4), 0.0, []
    keys = book.plan(now).create
    assert len(keys) == 4
    for _ in range(8):
        for key in keys:
            book.over(key, now)
        plan = book.plan(now)
        assert plan.create == []
        assert plan.wake_at is not None
        assert book.plan(plan.wake_at - 1e-6).create == []
        pauses.append(round(plan.wake_at - now, 6))
        now = plan.wake_at
        keys = book.plan(now).create
        assert len(keys) == 1
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]
    assert pauses[0] == BACKOFF_FIRST
    assert pauses[-1] == BACKOFF_MOST


def test_one_success_ends_the_backing_off() -> None:
    book = ledger(3)
    keys = book.plan(0).create
    book.over(keys[0], 0)
    assert book.failing
    book.warm(keys[1])
    assert not book.failing
    assert len(book.plan(0).create) == 1


def test_members_that_die_when_ready_count_as_failures() -> None:
    book, now, pauses = ledger(1), 0.0, []

    def one_dies(plan: Plan) -> None:
        nonlocal now
        (key,) = plan.create
        book.warm(key)
        assert not book.failing
        book.over(key, now)
        wake_at = book.plan(now).wake_at
        assert wake_at is not None
        pauses.append(round(wake_at - now, 6))
        now = wake_at

    for _ in range(7):
        one_dies(book.plan(now))
    (key,) = book.plan(now).create
    book.warm(key)
    book.ask(now)
    plan = book.plan(now)
    assert plan.answered
    one_dies(plan)
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 0.1]


def test_fifty_members_that_die_of_one_cause_are_one_failure() -> None:
    book = ledger(50, max_alive=50, max_creating=50)
    for key in warm(book):
        book.over(key, 0)
    assert book.plan(0).wake_at == BACKOFF_FIRST
    assert len(book.plan(BACKOFF_FIRST).create) == 1


def test_it_does_not_wake_to_make_what_nobody_wants() -> None:
    book = ledger(1, max_alive=1)
    (key,) = warm(book)
    book.ask(0)
    book.plan(0)
    book.over(key, 0)
    book.warm(key)
    (following,) = book.plan(0).create
    book.over(following, 0)
    book.close()
    assert book.plan(0).wake_at is None


def test_a_thousand_waiters_are_served_in_order() -> None:
    book = ledger(3, max_alive=3, max_waiting=1_000)
    tickets = [book.ask(0) for _ in range(1_000)]
    served: list[Ticket] = []
    for _ in range(1_000):
        plan = book.plan(0)
        served += plan.answered
        for key in plan.create:
            book.warm(key)
        for ticket in plan.answered:
            assert ticket.worker is not None
            book.ending(ticket.worker, 0)
            book.over(ticket.worker, 0)
    assert list(map(id, served)) == list(map(id, tickets))


def paused(size: int = 2) -> Ledger:
    return Ledger(size=size, max_alive=8, max_creating=4, max_waiting=8, max_wait=10.0, refill_delay=0.2)


def test_what_was_given_away_is_replaced_after_the_pause() -> None:
    book = paused()
    warm(book)
    book.ask(1.0)
    plan = book.plan(1.0)
    assert (len(plan.answered), plan.create, plan.wake_at) == (1, [], 1.2)
    assert book.plan(1.19).create == []
    plan = book.plan(1.2)
    assert (len(plan.create), plan.wake_at) == (1, None)


def test_each_has_a_pause_of_its_own() -> None:
    book = paused()
    warm(book)
    for now in (1.0, 1.1):
        book.ask(now)
        assert book.plan(now).create == []
    assert (len(book.plan(1.2).create), book.plan(1.2).wake_at) == (1, 1.1 + 0.2)
    assert len(book.plan(1.1 + 0.2).create) == 1


def test_the_pause_is_over_when_nothing_is_in_use_any_more() -> None:
    book = paused()
    warm(book)
    tickets = [book.ask(1.0), book.ask(1.0)]
    book.plan(1.0)
    keys = [ticket.worker for ticket in tickets if ticket.worker is not None]
    book.ending(keys[0], 0)
    assert book.plan(1.01).create == []
    book.ending(keys[1], 0)
    assert len(book.plan(1.02).create) == 2


def test_nobody_waits_for_the_pause() -> None:
    book = paused()
    warm(book)
    for _ in range(3):
        book.ask(1.0)
    assert len(book.plan(1.0).create) == 2


def test_close_ends_the_pause() -> None:
    book = paused()
    warm(book)
    book.ask(1.0)
    book.plan(1.0)
    book.close()
    assert book.plan(1.0) == Plan()


# Records of containers that are uncertain.


def leased(book: Ledger) -> int:
    """Lease one worker, and let it end."""
    (key,) = warm(book)
    book.ask(0)
    book.plan(0)
    book.ending(key, 0)
    return key


def test_a_name_is_claimed_by_one_worker_only() -> None:
    book = ledger(2)
    first, second = book.plan(0).create
    assert book.claim(first, "dayfly-1")
    assert not book.claim(second, "dayfly-1")
    assert book.claim(second, "dayfly-2")
    assert (book.name(first), book.name(second), book.name(99)) == ("dayfly-1", "dayfly-2", "")
    book.unclaim(first)
    assert book.name(first) == ""
    assert book.claim(first, "dayfly-3")
    assert book.claim(first, "dayfly-1"), "a second claim gives the first name back"
    book.gone(second)
    assert book.claim(first, "dayfly-2")


def test_an_uncertain_name_stays_claimed() -> None:
    book = ledger(1)
    (key,) = book.plan(0).create
    assert book.claim(key, "dayfly-1")
    book.ending(key, 0)
    book.uncertain(key, 0, expected_in=0, suspect_for=60, counts=True, lost=True)
    book.over(key, 0)
    (following,) = book.plan(1).create
    assert not book.claim(following, "dayfly-1")
    assert book.lost_names == book.uncertain_names == ["dayfly-1"]


def test_a_lost_creation_counts_until_a_listing_lacks_it() -> None:
    book = ledger(1, max_alive=1)
    (key,) = book.plan(0).create
    book.claim(key, "dayfly-1")
    book.uncertain(key, 0, expected_in=0, suspect_for=60, counts=True, lost=True)
    assert (book.alive, book.plan(1).create) == (1, [])
    assert book.listed(1, []) == ([], [])
    assert book.alive == 0
    assert len(book.plan(1).create) == 1
    assert book.listed(59, [("dayfly-1", "late")]) == (["late"], []), "it may still appear"
    assert book.lost_names == []
    assert book.listed(60, []) == ([], [])
    assert book.count(State.UNCERTAIN) == 0


def test_an_engine_that_does_not_answer_keeps_lost_creations() -> None:
    book = ledger(2)
    lost, ended = book.plan(0).create
    book.uncertain(lost, 0, expected_in=0, suspect_for=60, counts=True, lost=True)
    book.uncertain(ended, 0, expected_in=0, counts=False)
    book.unlisted(50, 60)
    book.listed(100, [])
    assert list(book._records) == [lost]
    book.listed(110, [])
    assert not book._records


def test_a_natural_end_counts_no_more_and_is_left_alone() -> None:
    book = ledger(1, max_alive=1)
    key = leased(book)
    book.created(key, "id")
    book.uncertain(key, 0, expected_in=1, counts=False)
    book.over(key, 0)
    assert book.alive == 0
    assert book.listed(0.5, [("dayfly-1", "id")]) == ([], ["id"])
    assert book.listed(1, [("dayfly-1", "id")]) == (["id"], [])
    book.listed(1, [])
    assert book.count(State.UNCERTAIN) == 0


def test_an_attended_container_is_left_alone_whatever_its_name() -> None:
    book = ledger(2)
    named, identified = book.plan(0).create
    book.claim(named, "dayfly-1")
    book.claim(identified, "dayfly-2")
    book.created(identified, "id 2")
    rows = [("dayfly-1", "id 1"), ("renamed", "id 2"), ("dayfly-2", "a stranger of that name")]
    assert book.listed(0, rows) == (["a stranger of that name"], [])


def test_names_of_uncertain_containers_fall_back_to_ids() -> None:
    book = ledger(1)
    key = leased(book)
    book.created(key, "0123456789abcdef")
    book.uncertain(key, 0, expected_in=0, counts=True)
    assert book.uncertain_names == ["0123456789ab"]
