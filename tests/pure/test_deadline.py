"""The one rule of a deadline: the host ends silence, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly._deadline import LATE, LONGEST, Deadline

GRACE = 0.25
AT = 100.0


def test_before_the_deadline_nothing_has_passed() -> None:
    deadline = Deadline(AT, GRACE)
    for now in (0.0, AT - 1, AT - 1e-9):
        assert not deadline.has_passed(now, heard=False)
        assert deadline.at == AT


@pytest.mark.parametrize("late", [0.0, LATE / 2])
def test_a_punctual_host_ends_silence_at_the_deadline(late: float) -> None:
    assert Deadline(AT, GRACE).has_passed(AT + late, heard=False)


@pytest.mark.parametrize("late", [2 * LATE, 1.0, 3_600.0])
def test_a_late_host_listens_for_one_grace_first(late: float) -> None:
    deadline = Deadline(AT, GRACE)
    assert not deadline.has_passed(AT + late, heard=False)
    assert deadline.at == AT + late + GRACE
    assert deadline.has_passed(deadline.at, heard=False)


def test_a_runner_that_reports_is_read_on() -> None:
    deadline = Deadline(AT, GRACE)
    now = AT
    for _ in range(20):
        assert not deadline.has_passed(now, heard=True)
        assert deadline.at == now + GRACE
        now = deadline.at
    assert deadline.has_passed(now, heard=False)


def test_a_runner_that_never_stops_is_ended() -> None:
    deadline = Deadline(AT, GRACE)
    now = AT
    while not deadline.has_passed(now, heard=True):
        now = deadline.at
        assert now < AT + LONGEST + 2 * GRACE
    assert now >= AT + LONGEST


@pytest.mark.parametrize("lag", [0.5, 3.0, 60.0])
def test_time_in_which_the_host_was_late_does_not_count(lag: float) -> None:
    deadline = Deadline(AT, GRACE)
    now = AT + lag
    for _ in range(int(LONGEST / GRACE) - 2):
        assert not deadline.has_passed(now, heard=True)
        now = deadline.at + lag
    while not deadline.has_passed(now, heard=True):
        now = deadline.at + lag
        assert now < AT + (LONGEST / GRACE + 3) * (GRACE + lag)


ASKED = st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60)


@given(st.floats(0.01, 1), ASKED)
def test_the_rule_for_any_host_and_any_runner(grace: float, asked: list[tuple[float, bool]]) -> None:
    """`asked`: how late the host asks, and whether it has heard of the runner."""
    deadline, now, punctual = Deadline(AT, grace), AT, 0.0
    for lag, heard in asked:
        before = deadline.at
        now = before + lag
        if deadline.has_passed(now, heard=heard):
            # Silence that a punctual host has noticed, or all the time that there is.
            assert (not heard and now - before <= LATE) or punctual >= LONGEST - 1e-6
            assert deadline.at == before
            return
        assert heard or now - before > LATE
        assert deadline.at == now + grace
        punctual += grace + (lag if lag <= LATE else 0)
    assert punctual <= LONGEST + len(asked) * LATE + grace + 1


@given(st.floats(0, AT, exclude_max=True), st.booleans())
def test_asking_too_early_changes_nothing(now: float, heard: bool) -> None:
    deadline = Deadline(AT, GRACE)
    assert not deadline.has_passed(now, heard=heard)
    assert deadline.has_passed(AT, heard=False)
