"""Whose container is it, and is its maker dead? Judged from labels and /proc alone; and that the Janitor never touches what lives."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from dayfly import EngineError, EngineRefused, EngineUnreachable, reaper
from dayfly.reaper import LABEL, STRANGER_AGE, SUSPECT_FOR, Janitor, is_left_over, labels, leftovers, reap, retire

NOW = 1_000_000_000.0
RUNNING, CREATED, EXITED, PAUSED = "running", "created", "exited", "paused"


def row(state: str = CREATED, *, age: float = 0.0, **changes: str | None) -> dict[str, Any]:
    """A row of the engine's list, of a sandbox of a dead process of this host; `changes` are labels, None takes one away."""
    label = {**MINE, LABEL: "f" * 32, "dayfly.pid": str(DEAD), "dayfly.started": "12345"}
    for name, value in changes.items():
        key = f"dayfly.{name}"
        label.pop(key, None)
        if value is not None:
            label[key] = value
    return {"Id": "c0ffee", "Names": ["/dayfly-1"], "Labels": label, "State": state, "Created": NOW - age}


def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def started(pid: int) -> str:
    return reaper._started(pid)


MINE = labels()
retire(MINE[LABEL])
DEAD = a_dead_pid()


@pytest.fixture
def sleeper() -> Any:
    """Another process of this host that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


# The judgement.


@pytest.mark.parametrize("state", [RUNNING, CREATED, EXITED, PAUSED, "dead", ""])
@pytest.mark.parametrize("same_host", [True, False])
def test_what_lacks_our_label_is_nobodys_business(state: str, same_host: bool) -> None:
    for container in (row(state, instance=None, age=1e9), {"State": state, "Created": 0, "Labels": None}, {}, {"Labels": {"other": "x"}}):
        assert not is_left_over(container, same_host=same_host, now=NOW)


@pytest.mark.parametrize("state", [RUNNING, CREATED, EXITED, PAUSED])
def test_a_dead_process_of_this_host_leaves_leftovers_whatever_their_state_and_age(state: str) -> None:
    assert is_left_over(row(state), same_host=True, now=NOW)


@pytest.mark.parametrize("state", [RUNNING, CREATED, EXITED, PAUSED])
def test_a_live_sibling_is_never_touched(sleeper: Any, state: str) -> None:
    container = row(state, pid=str(sleeper.pid), started=started(sleeper.pid), age=1e9)
    assert not is_left_over(container, same_host=True, now=NOW)


def test_a_pid_that_is_somebody_elses_by_now_is_dead(sleeper: Any) -> None:
    assert is_left_over(row(RUNNING, pid=str(sleeper.pid), started="1"), same_host=True, now=NOW)


def test_a_sandbox_of_this_process_lives_until_it_retires() -> None:
    mine = labels()
    container = {**row(RUNNING), "Labels": mine}
    assert not is_left_over(container, same_host=True, now=NOW)
    assert not is_left_over({**container, "State": EXITED, "Created": 0}, same_host=False, now=NOW), "wherever it seems to run"
    retire(mine[LABEL])
    assert is_left_over(container, same_host=True, now=NOW)


def test_a_former_process_with_the_pid_of_this_one_is_dead() -> None:
    assert is_left_over(row(RUNNING, pid=str(os.getpid()), started="1"), same_host=True, now=NOW)


@pytest.mark.parametrize(("state", "left"), [(CREATED, True), (EXITED, True), (RUNNING, False), (PAUSED, False)])
def test_of_an_earlier_boot_only_what_does_not_run_is_left(state: str, left: bool) -> None:
    assert is_left_over(row(state, boot="another"), same_host=True, now=NOW) is left


@pytest.mark.parametrize("unknown", [
    pytest.param({"same_host": False}, id="another host"),
    pytest.param({"pidns": "pid:[1]"}, id="another pid namespace"),
    pytest.param({"pidns": None}, id="no pid namespace"),
    pytest.param({"boot": None}, id="no boot"),
    pytest.param({"boot": ""}, id="an empty boot"),
    pytest.param({"pid": None}, id="no pid"),
    pytest.param({"pid": ""}, id="an empty pid"),
    pytest.param({"pid": "-1"}, id="a negative pid"),
    pytest.param({"pid": "\u00b2"}, id="a digit that is no number"),
    pytest.param({"pid": "1; rm"}, id="no pid at all"),
])  # fmt: skip
@pytest.mark.parametrize(("state", "age", "left"), [
    (RUNNING, 1e9, False), (PAUSED, 1e9, False), (CREATED, 0.0, False), (CREATED, STRANGER_AGE, False), (CREATED, STRANGER_AGE + 1, True),
    (EXITED, STRANGER_AGE + 1, True), (EXITED, -1e9, False),
])  # fmt: skip
def test_where_the_maker_cannot_be_seen_only_what_has_not_run_for_long_is_left(
    unknown: dict[str, Any], state: str, age: float, left: bool
) -> None:
    given = {"same_host": True, **unknown}
    same_host = given.pop("same_host")
    assert is_left_over(row(state, age=age, **given), same_host=same_host, now=NOW) is left


def test_what_this_process_cannot_read_of_itself_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "_read", lambda _: "")
    assert not is_left_over(row(CREATED), same_host=True, now=NOW)
    assert not is_left_over(row(CREATED, boot="another"), same_host=True, now=NOW)
    monkeypatch.undo()
    monkeypatch.setattr(reaper, "_namespace", lambda: "")
    assert not is_left_over(row(CREATED, pidns=""), same_host=True, now=NOW)


@pytest.mark.parametrize("pid", ["9" * 10, "9" * 19, "9" * 5_000])
def test_a_pid_that_no_kernel_gives_is_dead(pid: str) -> None:
    assert is_left_over(row(CREATED, pid=pid), same_host=True, now=NOW)


@pytest.mark.parametrize("created", [None, 0])
def test_a_container_without_a_time_is_not_old(created: Any) -> None:
    assert not is_left_over({**row(CREATED), "Created": created}, same_host=False, now=NOW)


def test_labels_name_this_process_and_each_sandbox_of_it() -> None:
    one, other = labels(), labels()
    assert one[LABEL] != other[LABEL]
    assert {**one, LABEL: ""} == {**other, LABEL: ""}
    assert all(one.values())
    assert (one["dayfly.pid"], one["dayfly.started"]) == (str(os.getpid()), started(os.getpid()))
    retire(one[LABEL])
    retire(one[LABEL])
    retire(other[LABEL])


def test_the_start_time_is_read_whatever_the_process_is_called() -> None:
    program = """
import ctypes, os, sys
from dayfly import reaper
plain = reaper._started(os.getpid())
for name in (b"a) R 1 (b", b"\\xff\\xfe", "\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4".encode()[:15], b"", b"))))", b"\\n 1 2 3"):
    assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0
    assert reaper._started(os.getpid()) == plain != "", name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# The engine, as far as the reaper knows it.


class Engine:
    """A list of containers. `stuck` cannot be removed, `going` is being removed already, `deaf` is an engine that does not answer."""

    local = True

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = {one["Id"]: one for one in rows}
        self.name = os.uname().nodename
        self.stuck: set[str] = set()
        self.going: set[str] = set()
        self.deaf = False
        self.removed: list[str] = []
        self.listed: list[str] = []

    async def info(self) -> dict[str, Any]:
        return {"Name": self.name}

    async def containers(self, label: str, **_: Any) -> list[dict[str, Any]]:
        self.listed.append(label)
        if self.deaf:
            raise EngineUnreachable("no answer")
        key, value = [*label.split("=", 1), ""][:2]
        return [one for one in self.rows.values() if key in one["Labels"] and value in ("", one["Labels"][key])]

    async def remove(self, container: str, **_: Any) -> bool:
        if self.deaf:
            raise EngineUnreachable("no answer")
        key = next((id for id, one in self.rows.items() if container in (id, one["Names"][0][1:])), container)  # noqa: A001
        if key in self.stuck:
            raise EngineRefused("device or resource busy", status=500)
        self.removed.append(container)
        if key in self.going:
            return False
        self.rows.pop(key, None)
        return True


def ours(name: str, instance: str = "mine") -> dict[str, Any]:
    return {"Id": f"id of {name}", "Names": [f"/{name}"], "Labels": {LABEL: instance}, "State": EXITED, "Created": 0}


def janitor(engine: Engine) -> Janitor:
    like: Any = engine
    return Janitor(like, "mine")


async def test_reap_removes_leftovers_and_goes_on_where_one_cannot_be_removed() -> None:
    left = [{**row(), "Id": str(number)} for number in range(3)]
    engine: Any = Engine(*left, {**row(instance=None), "Id": "foreign"})
    engine.stuck = {"1"}
    assert [one["Id"] for one in await leftovers(engine)] == ["0", "1", "2"]
    assert [one["Id"] for one in await reap(engine)] == ["0", "2"]
    assert set(engine.rows) == {"1", "foreign"}


@pytest.mark.parametrize(("local", "name"), [(True, "another host"), (False, os.uname().nodename), (True, "")])
async def test_over_a_forwarded_socket_the_live_containers_of_another_host_are_left_alone(local: bool, name: str) -> None:
    engine: Any = Engine(*({**row(state, boot="theirs"), "Id": state, "Created": time.time()} for state in (RUNNING, CREATED, EXITED)))
    engine.local, engine.name = local, name
    assert await reap(engine) == []


async def test_a_failing_list_is_the_callers_to_hear() -> None:
    engine: Any = Engine()
    engine.deaf = True
    with pytest.raises(EngineError):
        await leftovers(engine)


# The Janitor.


async def test_a_sweep_removes_what_is_ours_and_not_live_and_nothing_else() -> None:
    engine = Engine(ours("dayfly-1"), ours("dayfly-2"), ours("dayfly-3", "another sandbox"))
    keeper = janitor(engine)
    keeper.expect("dayfly-1")
    await keeper.sweep()
    assert engine.removed == ["id of dayfly-2"]
    assert engine.listed == [f"{LABEL}=mine"]


async def test_a_name_is_expected_once_and_a_second_draw_does_not_disown_the_first() -> None:
    engine = Engine(ours("dayfly-1"))
    keeper = janitor(engine)
    assert keeper.expect("dayfly-1")
    assert not keeper.expect("dayfly-1")
    await keeper.sweep()
    assert engine.removed == []
    keeper.disown("dayfly-1")
    assert keeper.expect("dayfly-1")


async def test_a_container_that_has_just_ended_is_left_to_the_engine_for_a_while_and_not_by_the_last_sweep() -> None:
    engine = Engine(ours("dayfly-1"))
    keeper = janitor(engine)
    keeper.expect("dayfly-1")
    keeper.leave("dayfly-1")
    await keeper.sweep()
    assert engine.removed == []
    await keeper.sweep(patient=False)
    assert engine.removed == ["id of dayfly-1"]


async def test_the_engine_has_longer_for_one_in_which_the_kernel_has_killed_and_the_last_sweep_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reaper, "LOOK_AFTER", 0.0)
    monkeypatch.setattr(reaper, "OOM_LOOK_AFTER", 0.3)
    engine = Engine(ours("dayfly-1"), ours("dayfly-2"))
    keeper = janitor(engine)
    keeper.leave("dayfly-1", oom=True)
    keeper.leave("dayfly-2")
    await keeper.sweep()
    assert engine.removed == ["id of dayfly-2"]
    assert await keeper.finish(5) == []
    assert engine.removed == ["id of dayfly-2", "id of dayfly-1"]


async def test_one_that_cannot_be_removed_keeps_nobody_else() -> None:
    engine = Engine(*(ours(f"dayfly-{number}") for number in range(4)))
    engine.stuck = {"id of dayfly-0", "id of dayfly-2"}
    left, sure = await janitor(engine).sweep()
    assert (sorted(left), sure) == (["dayfly-0", "dayfly-2"], True)
    assert set(engine.rows) == engine.stuck


async def test_one_whose_removal_is_under_way_is_looked_after_until_it_is_gone() -> None:
    engine = Engine(ours("dayfly-1"))
    engine.going = {"id of dayfly-1"}
    keeper = janitor(engine)
    assert await keeper.sweep() == (["dayfly-1"], True)
    engine.rows.clear()
    assert await keeper.sweep() == ([], True)


async def test_an_engine_that_does_not_answer_is_no_error_and_nothing_is_forgotten() -> None:
    engine = Engine(ours("dayfly-1"))
    keeper = janitor(engine)
    keeper.expect("dayfly-1")
    engine.deaf = True
    await keeper.remove("dayfly-1", created=True, deadline=1)
    assert await keeper.sweep() == ([], False)
    engine.deaf = False
    await keeper.sweep(patient=False)
    assert engine.removed == ["id of dayfly-1"]


async def test_a_lost_creation_that_succeeds_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "LOOK_AFTER", 0.01)
    engine = Engine()
    keeper = janitor(engine)
    keeper.expect("dayfly-1")
    await keeper.remove("dayfly-1", created=False, deadline=1)
    async with working(keeper):
        await until(lambda: len(engine.listed) > 3)
        engine.rows["late"] = {**ours("dayfly-1"), "Id": "late"}
        await until(lambda: "late" in engine.removed)


async def test_a_name_that_is_used_again_is_safe_though_it_was_in_doubt() -> None:
    engine = Engine(ours("dayfly-1"))
    keeper = janitor(engine)
    await keeper.remove("dayfly-1", created=False, deadline=1)
    engine.rows["new"] = {**ours("dayfly-1"), "Id": "new"}
    assert keeper.expect("dayfly-1")
    await keeper.sweep(patient=False)
    assert set(engine.rows) == {"new"}


async def test_work_looks_once_after_an_end_and_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaper, "LOOK_AFTER", 0.01)
    engine = Engine()
    keeper = janitor(engine)
    async with working(keeper):
        await anyio.sleep(0.05)
        assert engine.listed == []
        keeper.leave("dayfly-1")
        await until(lambda: not keeper._doubtful)
        looked = len(engine.listed)
        assert looked <= 3
        await anyio.sleep(0.05)
        assert len(engine.listed) == looked


async def test_removals_by_force_are_counted() -> None:
    keeper = janitor(Engine(ours("dayfly-1")))
    keeper.leave("dayfly-2")
    await keeper.remove("dayfly-1", created=True, deadline=1)
    assert keeper.forced == 1


async def test_finish_waits_for_what_goes_and_names_what_does_not() -> None:
    engine = Engine(ours("dayfly-1"), ours("dayfly-2"))
    engine.stuck = {"id of dayfly-2"}
    assert await janitor(engine).finish(0.3) == ["dayfly-2"]
    engine.stuck.clear()
    assert await janitor(engine).finish(5) == []
    assert engine.rows == {}


async def test_finish_names_a_creation_whose_answer_was_lost() -> None:
    engine = Engine()
    keeper = janitor(engine)
    await keeper.remove("dayfly-1", created=False, deadline=1)
    assert await keeper.finish(0.3) == ["dayfly-1"]
    assert SUSPECT_FOR > 1


async def test_finish_ends_in_time_though_the_engine_does_not_answer() -> None:
    engine = Engine(ours("dayfly-1"))
    engine.deaf = True
    keeper = janitor(engine)
    keeper.expect("dayfly-1")
    await keeper.remove("dayfly-1", created=True, deadline=1)
    with anyio.fail_after(10):
        assert await keeper.finish(0.3) == ["dayfly-1"]


@contextlib.asynccontextmanager
async def working(keeper: Janitor) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.work)
        await anyio.wait_all_tasks_blocked()
        yield
        tasks.cancel_scope.cancel()


async def until(condition: Any) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)
