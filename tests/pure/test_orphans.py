"""Whose container is it, and is its host process dead? Judged from labels, name, image and
/proc."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dayfly import EngineError, EngineRefused, EngineUnreachable, ImageMissing
from dayfly import _orphans as orphans
from dayfly._names import PROTOCOL_LABEL as IMAGE_LABEL
from dayfly._orphans import LABEL, STRANGER_AGE, find, is_orphan, labels, reap, retire

NOW = 1_000_000_000.0
RUNNING, CREATED, EXITED, PAUSED = "running", "created", "exited", "paused"
STATES = [RUNNING, CREATED, EXITED, PAUSED]
IMAGE = "sha256:1"


def row(state: str = CREATED, *, age: float = 0.0, **changes: str | None) -> dict[str, Any]:
    """A row of the engine's list, of a sandbox of a dead process of this host.

    `changes` are labels; None takes one away.
    """
    label = {**MINE, IMAGE_LABEL: "1", LABEL: "f" * 32, "dayfly.pid": str(DEAD), "dayfly.started": "12345"}
    for name, value in changes.items():
        key = f"dayfly.{name}"
        label.pop(key, None)
        if value is not None:
            label[key] = value
    return {"Id": "c0ffee", "Names": ["/dayfly-1"], "ImageID": IMAGE, "Labels": label, "State": state, "Created": NOW - age}


def a_dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def started(pid: int) -> str:
    return orphans._started(pid)


MINE = labels()
retire(MINE[LABEL])
DEAD = a_dead_pid()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of this host that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


# The judgement of one row.


@pytest.mark.parametrize("state", [*STATES, "dead", ""])
@pytest.mark.parametrize("same_host", [True, False])
def test_a_container_without_our_label_is_not_ours(state: str, same_host: bool) -> None:
    without = row(state, instance=None, age=1e9)
    empty: list[dict[str, Any]] = [{"State": state, "Created": 0, "Labels": None}, {}, {"Labels": {"other": "x"}}]
    for container in (without, *empty):
        assert not is_orphan(container, same_host=same_host, now=NOW)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("same_host", [True, False])
def test_a_container_without_the_image_label_is_not_ours(state: str, same_host: bool) -> None:
    assert not is_orphan(row(state, protocol=None, age=1e9), same_host=same_host, now=NOW)


@pytest.mark.parametrize("names", [
    None, [], [""], ["/"], ["/web"], ["/dayfly"], ["/dayfly-"], ["/dayfly-x"], ["/dayfly-1x"], ["/x-dayfly-1"], ["/dayfly-1/y"],
    ["/dayfly-build-1"], ["/DAYFLY-1"], ["/dayfly-1\n"],
])  # fmt: skip
@pytest.mark.parametrize("same_host", [True, False])
def test_a_container_with_another_name_is_not_ours(names: Any, same_host: bool) -> None:
    assert not is_orphan({**row(age=1e9), "Names": names}, same_host=same_host, now=NOW)


@pytest.mark.parametrize("names", [["/dayfly-1"], ["dayfly-1999999999"], ["/other/alias", "/dayfly-7"]])
def test_one_of_its_names_must_be_ours(names: list[str]) -> None:
    assert is_orphan({**row(), "Names": names}, same_host=True, now=NOW)


@pytest.mark.parametrize("state", STATES)
def test_a_dead_process_of_this_host_leaves_orphans(state: str) -> None:
    assert is_orphan(row(state), same_host=True, now=NOW)


@pytest.mark.parametrize("state", STATES)
def test_a_live_sibling_is_never_touched(sleeper: Any, state: str) -> None:
    container = row(state, pid=str(sleeper.pid), started=started(sleeper.pid), age=1e9)
    assert not is_orphan(container, same_host=True, now=NOW)


def test_a_reused_pid_is_another_process(sleeper: Any) -> None:
    assert is_orphan(row(RUNNING, pid=str(sleeper.pid), started="1"), same_host=True, now=NOW)


def test_a_sandbox_of_this_process_lives_until_it_retires() -> None:
    mine = labels()
    container = {**row(RUNNING), "Labels": {**mine, IMAGE_LABEL: "1"}}
    assert not is_orphan(container, same_host=True, now=NOW)
    # Also where this process does not recognize its own host.
    assert not is_orphan({**container, "State": EXITED, "Created": 0}, same_host=False, now=NOW)
    retire(mine[LABEL])
    assert is_orphan(container, same_host=True, now=NOW)


def test_a_former_process_with_our_pid_is_dead() -> None:
    assert is_orphan(row(RUNNING, pid=str(os.getpid()), started="1"), same_host=True, now=NOW)


@pytest.mark.parametrize(("state", "left"), [(CREATED, True), (EXITED, True), (RUNNING, False), (PAUSED, False)])
def test_after_a_reboot_only_stopped_containers_are_orphans(state: str, left: bool) -> None:
    assert is_orphan(row(state, boot="another"), same_host=True, now=NOW) is left


@pytest.mark.parametrize("unknown", [
    pytest.param({"same_host": False}, id="another host"),
    pytest.param({"pidns": "pid:[1]"}, id="another pid namespace"),
    pytest.param({"pidns": None}, id="no pid namespace"),
    pytest.param({"boot": None}, id="no boot"),
    pytest.param({"boot": ""}, id="an empty boot"),
    pytest.param({"pid": None}, id="no pid"),
    pytest.param({"pid": ""}, id="an empty pid"),
    pytest.param({"pid": "-1"}, id="a negative pid"),
    pytest.param({"pid": "\u00b2"}, id="a digit that is not a decimal"),
    pytest.param({"pid": "1; rm"}, id="not a pid"),
])  # fmt: skip
@pytest.mark.parametrize(("state", "age", "left"), [
    (RUNNING, 1e9, False), (PAUSED, 1e9, False), (CREATED, 0.0, False), (CREATED, STRANGER_AGE, False), (CREATED, STRANGER_AGE + 1, True),
    (EXITED, STRANGER_AGE + 1, True), (EXITED, -1e9, False),
])  # fmt: skip
def test_an_unseen_process_leaves_only_old_stopped_orphans(unknown: dict[str, Any], state: str, age: float, left: bool) -> None:
    given = {"same_host": True, **unknown}
    same_host = given.pop("same_host")
    assert is_orphan(row(state, age=age, **given), same_host=same_host, now=NOW) is left


def test_what_cannot_be_read_of_this_process_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_read", lambda _: "")
    assert not is_orphan(row(CREATED), same_host=True, now=NOW)
    assert not is_orphan(row(CREATED, boot="another"), same_host=True, now=NOW)
    monkeypatch.undo()
    monkeypatch.setattr(orphans, "_namespace", lambda: "")
    assert not is_orphan(row(CREATED, pidns=""), same_host=True, now=NOW)


@pytest.mark.parametrize("pid", ["9" * 10, "9" * 19, "9" * 5_000])
def test_a_pid_beyond_every_kernel_is_dead(pid: str) -> None:
    assert is_orphan(row(CREATED, pid=pid), same_host=True, now=NOW)


@pytest.mark.parametrize("created", [None, 0])
def test_a_container_without_a_time_is_not_old(created: Any) -> None:
    assert not is_orphan({**row(CREATED), "Created": created}, same_host=False, now=NOW)


def test_labels_name_this_process_and_each_sandbox() -> None:
    one, other = labels(), labels()
    assert one[LABEL] != other[LABEL]
    assert {**one, LABEL: ""} == {**other, LABEL: ""}
    assert all(one.values())
    assert (one["dayfly.pid"], one["dayfly.started"]) == (str(os.getpid()), started(os.getpid()))
    assert IMAGE_LABEL not in one, "the image brings it"
    retire(one[LABEL])
    retire(one[LABEL])
    retire(other[LABEL])


def test_the_start_time_is_read_whatever_the_process_name() -> None:
    program = """
import ctypes, os, sys
from dayfly import _orphans as orphans
plain = orphans._started(os.getpid())
for name in (b"a) R 1 (b", b"\\xff\\xfe", "\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4".encode()[:15], b"", b"))))", b"\\n 1 2 3"):
    assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0
    assert orphans._started(os.getpid()) == plain != "", name
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# The engine, as far as this module knows it.


class Engine:
    """A list of containers. `stuck` cannot be removed; `silent` is an engine that does not answer.

    `images` are the images with the labels that each has itself.
    """

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = {one["Id"]: one for one in rows}
        self.images: dict[str, Any] = {IMAGE: {IMAGE_LABEL: "1"}}
        self.local = True
        self.name = os.uname().nodename
        self.stuck: set[str] = set()
        self.silent = False

    async def info(self) -> dict[str, Any]:
        return {"Name": self.name}

    async def containers(self, label: str, **_: Any) -> list[dict[str, Any]]:
        if self.silent:
            raise EngineUnreachable("no answer")
        return [one for one in self.rows.values() if label in one["Labels"]]

    async def inspect_image(self, name: str) -> dict[str, Any]:
        if name not in self.images:
            raise ImageMissing("no such image")
        return {"Id": name, "Config": {"Labels": self.images[name]}}

    async def remove(self, container: str, **_: Any) -> bool:
        if container in self.stuck:
            raise EngineRefused("device or resource busy", status=500)
        del self.rows[container]
        return True


async def test_reap_removes_orphans_and_goes_on_after_a_failure() -> None:
    orphaned = [{**row(), "Id": str(number)} for number in range(3)]
    engine: Any = Engine(*orphaned, {**row(instance=None), "Id": "foreign"})
    engine.stuck = {"1"}
    assert [one["Id"] for one in await find(engine)] == ["0", "1", "2"]
    assert [one["Id"] for one in await reap(engine)] == ["0", "2"]
    assert set(engine.rows) == {"1", "foreign"}


@pytest.mark.parametrize("stranger", [
    pytest.param({"Names": ["/web"]}, id="another name"),
    pytest.param({"Names": ["/dayfly-db"]}, id="a name that only begins like ours"),
    pytest.param({"ImageID": "inherits"}, id="an image that has the instance label itself"),
    pytest.param({"ImageID": "gone"}, id="an image that was removed"),
    pytest.param({"ImageID": ""}, id="an empty image id"),
    pytest.param({"ImageID": None}, id="a null for an image id"),
])  # fmt: skip
@pytest.mark.parametrize("state", STATES)
async def test_a_stranger_with_our_labels_is_never_touched(stranger: dict[str, Any], state: str) -> None:
    engine: Any = Engine({**row(state, age=1e9), **stranger}, {**row(state), "Id": "orphan"})
    engine.images["inherits"] = {IMAGE_LABEL: "1", LABEL: "x", "dayfly.boot": "x"}
    assert [one["Id"] for one in await reap(engine)] == ["orphan"]
    assert set(engine.rows) == {"c0ffee"}


@pytest.mark.parametrize("state", STATES)
async def test_a_stranger_without_the_image_label_is_not_touched(state: str) -> None:
    engine: Any = Engine(row(state, protocol=None, age=1e9))
    assert await reap(engine) == []


@pytest.mark.parametrize("labels_of_image", [None, {}])
async def test_an_image_without_labels_is_no_reason_to_spare(labels_of_image: Any) -> None:
    engine: Any = Engine(row())
    engine.images[IMAGE] = labels_of_image
    assert len(await reap(engine)) == 1


@pytest.mark.parametrize(("local", "name"), [(True, "another host"), (False, os.uname().nodename), (True, "")])
async def test_recent_containers_of_another_host_are_left_alone(local: bool, name: str) -> None:
    rows = ({**row(state, boot="theirs"), "Id": state, "Created": time.time()} for state in (RUNNING, CREATED, EXITED))
    engine: Any = Engine(*rows)
    engine.local, engine.name = local, name
    assert await reap(engine) == []


async def test_a_listing_that_fails_is_raised_to_the_caller() -> None:
    engine: Any = Engine()
    engine.silent = True
    with pytest.raises(EngineError):
        await find(engine)
    with pytest.raises(EngineError):
        await reap(engine)
