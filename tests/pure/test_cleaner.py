"""The cleaner removes what nothing attends to, by id, and touches nothing that is attended to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest

from dayfly import EngineRefused, EngineUnreachable
from dayfly import _cleaner as cleaner
from dayfly._cleaner import SUSPECT_FOR, Cleaner
from dayfly._ledger import Ledger, State
from dayfly._orphans import LABEL


class Engine:
    """A list of containers.

    `stuck` cannot be removed, `leaving` is being removed already, `silent` is an engine that does
    not answer.
    """

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = {one["Id"]: one for one in rows}
        self.stuck: set[str] = set()
        self.leaving: set[str] = set()
        self.silent = False
        self.removed: list[str] = []
        self.listed: list[str] = []

    async def containers(self, label: str, **_: Any) -> list[dict[str, Any]]:
        self.listed.append(label)
        if self.silent:
            raise EngineUnreachable("no answer")
        key, value = label.split("=")
        return [one for one in self.rows.values() if one["Labels"].get(key) == value]

    async def remove(self, container: str, **_: Any) -> bool:
        if self.silent:
            raise EngineUnreachable("no answer")
        if container in self.stuck:
            raise EngineRefused("device or resource busy", status=500)
        self.removed.append(container)
        if container in self.leaving:
            return False
        self.rows.pop(container, None)
        return True


def ours(number: int, instance: str = "mine", **changes: Any) -> dict[str, Any]:
    return {"Id": f"id{number}", "Names": [f"/dayfly-{number}"], "Labels": {LABEL: instance}, **changes}


class Fixture:
    """An engine, a ledger with workers, and the cleaner of both."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.engine = Engine(*rows)
        self.ledger = Ledger(size=8, max_alive=20, max_creating=8, max_waiting=0, max_wait=1)
        self._keys = iter(self.ledger.plan(0).create)
        like: Any = self.engine
        self.cleaner = Cleaner(like, self.ledger, "mine")

    def worker(self, number: int | None, *, created: bool = True) -> int:
        """A worker that is attended to; with `created` its id is known."""
        key = next(self._keys)
        if number is not None:
            assert self.ledger.claim(key, f"dayfly-{number}")
            if created:
                self.ledger.created(key, f"id{number}")
        return key


async def test_a_sweep_removes_only_what_nothing_attends_to() -> None:
    at = Fixture(ours(1), ours(2), ours(3, "another sandbox"))
    at.worker(1)
    assert await at.cleaner.sweep() == ([], True)
    assert at.engine.removed == ["id2"]
    assert at.engine.listed == [f"{LABEL}=mine"]


async def test_a_worker_whose_create_is_under_way_is_attended_to() -> None:
    at = Fixture(ours(1))
    at.worker(1, created=False)
    await at.cleaner.sweep()
    assert at.engine.removed == []


async def test_a_renamed_container_is_known_by_its_id() -> None:
    at = Fixture(ours(1, Names=["/renamed"]), ours(2, Names=None), ours(3, Names=["/dayfly-1"]))
    at.worker(1)
    await at.cleaner.sweep()
    assert sorted(at.engine.removed) == ["id2", "id3"]


async def test_a_removal_is_by_id_and_never_by_name() -> None:
    at = Fixture(ours(1, "a sibling"))
    at.cleaner.lose(at.worker(1, created=False))
    await at.cleaner.sweep()
    assert await at.cleaner.finish(0.2) == ["dayfly-1"]
    assert at.engine.removed == []
    assert set(at.engine.rows) == {"id1"}, "its name is a sibling's: the creation has not succeeded"


async def test_the_engine_has_time_to_remove_what_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "LOOK_AFTER", 0.2)
    at = Fixture(ours(1))
    at.cleaner.believe(at.worker(1), oom=False)
    assert await at.cleaner.sweep() == (["dayfly-1"], True)
    assert at.engine.removed == []
    await anyio.sleep(0.25)
    assert await at.cleaner.sweep() == ([], True)
    assert at.engine.removed == ["id1"]


async def test_after_an_oom_kill_the_engine_has_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "LOOK_AFTER", 0.0)
    monkeypatch.setattr(cleaner, "OOM_LOOK_AFTER", 0.3)
    at = Fixture(ours(1), ours(2))
    at.cleaner.believe(at.worker(1), oom=True)
    at.cleaner.believe(at.worker(2), oom=False)
    await at.cleaner.sweep()
    assert at.engine.removed == ["id2"]
    assert await at.cleaner.finish(5) == []
    assert at.engine.removed == ["id2", "id1"]


async def test_a_failed_removal_does_not_keep_the_others() -> None:
    at = Fixture(*(ours(number) for number in range(4)))
    at.engine.stuck = {"id0", "id2"}
    left, complete = await at.cleaner.sweep()
    assert (sorted(left), complete) == (["dayfly-0", "dayfly-2"], True)
    assert set(at.engine.rows) == at.engine.stuck


async def test_a_removal_in_progress_is_watched_to_its_end() -> None:
    at = Fixture(ours(1))
    at.engine.leaving = {"id1"}
    assert await at.cleaner.sweep() == (["dayfly-1"], True)
    at.engine.rows.clear()
    assert await at.cleaner.sweep() == ([], True)


async def test_a_silent_engine_is_no_error_and_nothing_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "LOOK_AFTER", 0.0)
    at = Fixture(ours(1))
    key = at.worker(1)
    at.engine.silent = True
    await at.cleaner.remove(key, "id1")
    assert await at.cleaner.sweep() == ([], False)
    assert at.ledger.count(State.UNCERTAIN) == 1
    assert at.ledger.alive == at.ledger.max_creating, "what may exist counts"
    at.engine.silent = False
    assert await at.cleaner.sweep() == ([], True)
    assert at.engine.removed == ["id1"]
    await at.cleaner.sweep()
    assert at.ledger.count(State.UNCERTAIN) == 0


async def test_a_silent_engine_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    at = Fixture()
    at.engine.silent = True
    for _ in range(3):
        await at.cleaner.sweep()
    assert [record.message for record in caplog.records] == ["containers cannot be listed, which will be tried again: no answer"]
    at.engine.silent = False
    await at.cleaner.sweep()
    at.engine.silent = True
    await at.cleaner.sweep()
    assert len(caplog.records) == 2


async def test_a_lost_creation_that_succeeds_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "LOOK_AFTER", 0.01)
    at = Fixture()
    at.cleaner.lose(at.worker(1, created=False))
    async with working(at.cleaner):
        await until(lambda: len(at.engine.listed) > 3)
        at.engine.rows["late"] = ours(1, Id="late")
        await until(lambda: "late" in at.engine.removed)
        await until(lambda: at.ledger.count(State.UNCERTAIN) == 0)


async def test_a_name_in_doubt_is_not_claimed_again() -> None:
    at = Fixture()
    at.cleaner.lose(at.worker(1, created=False))
    assert not at.ledger.claim(at.worker(None), "dayfly-1")


async def test_work_rests_while_nothing_is_uncertain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleaner, "LOOK_AFTER", 0.01)
    at = Fixture()
    async with working(at.cleaner):
        await anyio.sleep(0.05)
        assert at.engine.listed == []
        at.cleaner.believe(at.worker(1), oom=False)
        await until(lambda: at.ledger.count(State.UNCERTAIN) == 0)
        looked = len(at.engine.listed)
        assert 1 <= looked <= 3
        await anyio.sleep(0.05)
        assert len(at.engine.listed) == looked


async def test_forced_removals_are_counted() -> None:
    at = Fixture(ours(1))
    at.cleaner.believe(at.worker(2), oom=False)
    await at.cleaner.remove(at.worker(1), "id1")
    assert at.cleaner.forced == 1


async def test_finish_waits_for_all_and_names_what_is_left() -> None:
    at = Fixture(ours(1), ours(2))
    at.engine.stuck = {"id2"}
    assert await at.cleaner.finish(0.3) == ["dayfly-2"]
    at.engine.stuck.clear()
    assert await at.cleaner.finish(5) == []
    assert at.engine.rows == {}


async def test_finish_names_a_lost_creation() -> None:
    at = Fixture()
    at.cleaner.lose(at.worker(1, created=False))
    assert await at.cleaner.finish(0.3) == ["dayfly-1"]
    assert SUSPECT_FOR > 1


async def test_finish_is_bounded_where_the_engine_is_silent() -> None:
    at = Fixture(ours(1))
    at.engine.silent = True
    await at.cleaner.remove(at.worker(1), "id1")
    begun = time.monotonic()
    assert await at.cleaner.finish(0.3) == ["dayfly-1"]
    assert time.monotonic() - begun < 2


@contextlib.asynccontextmanager
async def working(of: Cleaner) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(of.work)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)
