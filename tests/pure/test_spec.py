"""The create body as a whole (snapshot), and the two readers of what came of it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import _seccomp as seccomp
from dayfly import _spec as spec
from dayfly._limits import Limits

SNAPSHOTS = Path(__file__).parent / "snapshots"
IMAGE = "sha256:" + "0123456789abcdef" * 4
LABELS = {"dayfly.instance": "f" * 32, "dayfly.version": "0.1.0"}
PROFILE = spec.Profile(image_id=IMAGE, labels=LABELS)
UID = 200_001


def inspect_of(body: dict[str, Any]) -> dict[str, Any]:
    """What an engine that took over everything would show."""
    shown = copy.deepcopy(body)
    return {"Image": shown.get("Image"), "HostConfig": shown.pop("HostConfig"), "Config": shown, "Mounts": []}


def compare_with_snapshot(name: str, text: str) -> None:
    """To change a snapshot on purpose: run once with DAYFLY_WRITE_SNAPSHOTS=1 and read the
    difference before committing it."""
    path = SNAPSHOTS / name
    if os.environ.get("DAYFLY_WRITE_SNAPSHOTS"):
        path.write_text(text)
        pytest.fail(f"{name} is written; run again without DAYFLY_WRITE_SNAPSHOTS")
    assert text == path.read_text()


# The body


def test_the_body_is_the_one_on_record() -> None:
    body = spec.create_body(PROFILE, uid=UID)
    options = body["HostConfig"]["SecurityOpt"]
    body["HostConfig"]["SecurityOpt"] = [option.replace(seccomp.profile(), "(see seccomp.txt)") for option in options]
    compare_with_snapshot("create_body.json", json.dumps(body, indent=1) + "\n")


def test_the_seccomp_profile_is_the_one_on_record() -> None:
    profile = json.loads(seccomp.profile())
    calls = profile.pop("syscalls")
    lines = [json.dumps(profile), *(f"{' '.join(call.pop('names'))}: {json.dumps(call)}" for call in calls)]
    compare_with_snapshot("seccomp.txt", "\n".join(lines) + "\n")


def test_every_limit_reaches_the_body() -> None:
    limits = Limits(
        cpus=0.125, pids=9, tmpfs_bytes=1_000_001, tmpfs_inodes=101, shm_bytes=1_000_002, open_files=3_000, file_size_bytes=1_000_003
    )
    profile = spec.Profile(image_id=IMAGE, memory_bytes=44_444_444, limits=limits, runtime="crun", cgroup_parent="box.slice")
    host = spec.create_body(profile, uid=UID)["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == 44_444_444
    assert host["NanoCpus"] == 125_000_000
    assert host["PidsLimit"] == 9
    assert host["ShmSize"] == 1_000_002
    assert host["Runtime"] == "crun"
    assert host["CgroupParent"] == "box.slice"
    assert {"Name": "nofile", "Soft": 3_032, "Hard": 3_032} in host["Ulimits"]
    assert {"Name": "fsize", "Soft": 1_000_003, "Hard": 1_000_003} in host["Ulimits"]
    assert host["Tmpfs"].keys() == {"/sandbox", "/tmp", "/dev/shm", "/sys/devices/system/cpu"}
    for path in ("/sandbox", "/tmp", "/dev/shm"):
        size = 1_000_002 if path == "/dev/shm" else 1_000_001
        assert {f"size={size}", "nr_inodes=101", "noexec", "nosuid", "nodev"} <= set(host["Tmpfs"][path].split(","))


def test_sockets_are_limited_where_the_engine_can() -> None:
    profile = spec.Profile(image_id=IMAGE, memory_bytes=80_000_000, socket_limit=True)
    assert spec.create_body(profile, uid=UID)["HostConfig"]["KernelMemoryTCP"] == 10_000_000
    assert "KernelMemoryTCP" not in spec.create_body(PROFILE, uid=UID)["HostConfig"]


V1 = {"CgroupVersion": "1", "KernelMemoryTCP": True, "DefaultRuntime": "runc"}
ACCOUNTING = [
    (V1, None, (False, False)),
    (V1, "runc", (False, False)),
    (V1, "crun", (True, True)),
    (V1, "runsc", (False, True)),
    ({**V1, "DefaultRuntime": "crun"}, None, (True, True)),
    ({**V1, "KernelMemoryTCP": False}, "crun", (False, False)),
    ({"KernelMemoryTCP": True, "DefaultRuntime": "runc"}, None, (False, False)),
    ({**V1, "CgroupVersion": "2", "KernelMemoryTCP": False}, "runc", (False, True)),
    ({**V1, "CgroupVersion": "2"}, "crun", (False, True)),
    ({}, None, (False, False)),
]


@pytest.mark.parametrize(("info", "runtime", "expected"), ACCOUNTING)
def test_udp_where_its_memory_is_charged(info: dict[str, Any], runtime: str | None, expected: tuple[bool, bool]) -> None:
    assert spec.accounting(info, runtime) == expected


def test_the_filter_is_the_one_without_udp() -> None:
    body = spec.create_body(spec.Profile(image_id=IMAGE, udp=False), uid=UID)
    assert f"seccomp={seccomp.profile(udp=False)}" in body["HostConfig"]["SecurityOpt"]


@pytest.mark.parametrize(
    ("cpus", "pids", "seen"),
    [(0.01, 64, 1), (1.0, 64, 1), (1.5, 64, 2), (8.0, 64, 8), (128.0, 64, 56), (128.0, 8, 1)],
)
def test_a_program_sees_its_own_processors(cpus: float, pids: int, seen: int) -> None:
    profile = spec.Profile(image_id=IMAGE, limits=Limits(cpus=cpus, pids=pids))
    body = spec.create_body(profile, uid=UID)
    assert f"PYTHON_CPU_COUNT={seen}" in body["Env"]
    assert "nr_inodes=5" in body["HostConfig"]["Tmpfs"]["/sys/devices/system/cpu"]


def test_gvisor_keeps_its_own_processors() -> None:
    profile = spec.Profile(image_id=IMAGE, runtime="runsc")
    assert spec.create_body(profile, uid=UID)["HostConfig"]["Tmpfs"].keys() == {"/sandbox", "/tmp", "/dev/shm"}


@pytest.mark.parametrize(("pids", "data"), [(64, 50_000_000 + 2**30), (256, 50_000_000 + 2**31)])
def test_stack_and_data_have_no_hard_limit(pids: int, data: int) -> None:
    profile = spec.Profile(image_id=IMAGE, limits=Limits(pids=pids))
    host = spec.create_body(profile, uid=UID)["HostConfig"]
    assert {"Name": "data", "Soft": data, "Hard": -1} in host["Ulimits"]
    assert {"Name": "stack", "Soft": 8 * 2**20, "Hard": -1} in host["Ulimits"]
    assert {"Name": "core", "Soft": 1, "Hard": 1} in host["Ulimits"]


def test_gvisor_gets_room_for_its_own_threads() -> None:
    profile = spec.Profile(image_id=IMAGE, runtime="runsc-systrap")
    assert spec.create_body(profile, uid=UID)["HostConfig"]["PidsLimit"] == 64 + 1_024


def test_only_the_uid_differs_between_two_containers() -> None:
    blueprint = spec.Blueprint(PROFILE)
    one, other = (json.dumps(blueprint.body(uid)) for uid in (UID, UID + 1))
    assert one != other
    assert one.replace(str(UID), str(UID + 1)) == other
    assert blueprint.body(UID) == spec.create_body(PROFILE, uid=UID)


def test_a_body_is_the_callers_to_change() -> None:
    spec.create_body(PROFILE, uid=UID)["HostConfig"]["CapDrop"].clear()
    assert spec.create_body(PROFILE, uid=UID)["HostConfig"]["CapDrop"] == ["ALL"]


def test_labels_of_the_caller_are_copied() -> None:
    labels = {"a": "b"}
    blueprint = spec.Blueprint(spec.Profile(image_id=IMAGE, labels=labels))
    labels["c"] = "d"
    assert blueprint.body(UID)["Labels"] == {"a": "b"}


@pytest.mark.parametrize("uid", [-1, 0, 2**31, 2**32, True, "200001"])
def test_root_and_what_is_no_uid_are_refused(uid: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="uid"):
        spec.create_body(PROFILE, uid=uid)


@pytest.mark.parametrize("memory", [0, -1, 15_999_999, 1.5e8, True, "50m"])
def test_memory_is_never_unlimited(memory: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="memory_bytes"):
        spec.Profile(image_id=IMAGE, memory_bytes=memory)


def test_without_loopback_the_profile_is_the_closed_one() -> None:
    body = spec.create_body(spec.Profile(image_id=IMAGE, limits=Limits(loopback=False)), uid=UID)
    assert f"seccomp={seccomp.profile(loopback=False)}" in body["HostConfig"]["SecurityOpt"]


def test_an_image_is_named() -> None:
    with pytest.raises(ValueError, match="image_id"):
        spec.Profile(image_id="")


# Reading it back

BODY = spec.create_body(PROFILE, uid=UID)
UNCOMPARED = {("NetworkDisabled",), ("HostConfig", "Runtime"), ("HostConfig", "RestartPolicy", "MaximumRetryCount")}


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in the body that holds no other."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not children:
        yield path
        return
    for key, child in children:
        yield from leaves(child, (*path, key))


LEAVES = [path for path in leaves(BODY) if path not in UNCOMPARED and path != ("HostConfig", "LogConfig", "Config")]


def at(body: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        body = body[key]
    return body


def changed(path: tuple[Any, ...], change: Any) -> dict[str, Any]:
    """What the engine would show if it had changed that leaf; `change` gets the parent and the
    key."""
    body = copy.deepcopy(BODY)
    change(at(body, path[:-1]), path[-1])
    return inspect_of(body)


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return f"{value}x" if isinstance(value, str) else ["x"] if isinstance(value, list) else {"x": "x"}


def test_there_are_leaves_to_change() -> None:
    assert len(LEAVES) > 90


def test_nothing_is_missing_where_all_was_taken() -> None:
    assert spec.differences(BODY, inspect_of(BODY)) == []


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_any_change_is_reported(path: tuple[Any, ...]) -> None:
    found = spec.differences(BODY, changed(path, lambda parent, key: parent.__setitem__(key, other(parent[key]))))
    assert len(found) == 1
    assert found[0].startswith(".".join(path[:2] if path[0] == "HostConfig" else path[:1]) + ": asked for")
    assert len(found[0]) < 400


@pytest.mark.parametrize("path", [path for path in LEAVES if at(BODY, path)], ids=lambda path: ".".join(map(str, path)))
def test_anything_dropped_is_reported(path: tuple[Any, ...]) -> None:
    assert spec.differences(BODY, changed(path, lambda parent, key: parent.pop(key)))


@pytest.mark.parametrize("path", [("HostConfig", name) for name in BODY["HostConfig"]], ids=lambda path: str(path[1]))
def test_a_field_unknown_to_the_engine_is_reported(path: tuple[Any, ...]) -> None:
    found = spec.differences(BODY, changed(path, lambda parent, key: parent.pop(key)))
    assert bool(found) == (bool(at(BODY, path)))


@given(options=st.permutations(BODY["HostConfig"]["Tmpfs"]["/tmp"].split(",")), dropped=st.integers(0, 6))
def test_mount_options_may_be_in_any_order_but_none_may_lack(options: list[str], dropped: int) -> None:
    inspect = inspect_of(BODY)
    inspect["HostConfig"]["Tmpfs"]["/tmp"] = ",".join(options)
    assert spec.differences(BODY, inspect) == []
    inspect["HostConfig"]["Tmpfs"]["/tmp"] = ",".join(options[:dropped] + options[dropped + 1 :])
    assert len(spec.differences(BODY, inspect)) == 1


@pytest.mark.parametrize("taken_back", ["exec", "suid", "dev", "size=1g", "ro", "nr_inodes=0"])
def test_no_mount_option_may_be_taken_back(taken_back: str) -> None:
    inspect = inspect_of(BODY)
    inspect["HostConfig"]["Tmpfs"]["/tmp"] += f",{taken_back}"
    assert len(spec.differences(BODY, inspect)) == 1


def test_spellings_of_other_engines_are_understood() -> None:
    inspect = inspect_of(BODY)
    host, config = inspect["HostConfig"], inspect["Config"]
    host["SecurityOpt"] = list(reversed(host["SecurityOpt"]))
    host["SecurityOpt"][1] = "no-new-privileges=true"
    host["Ulimits"] = [limit | {"Name": f"RLIMIT_{limit['Name'].upper()}"} for limit in reversed(host["Ulimits"])]
    host["Ulimits"].append({"Name": "RLIMIT_NPROC", "Soft": 1_000, "Hard": 1_000})
    host["CapDrop"] = ["CAP_ALL"]
    host["Runtime"] = "oci"
    host["PidMode"] = host["UTSMode"] = "private"
    host["RestartPolicy"] = {"Name": ""}
    host["LogConfig"] = {"Type": "none", "Config": None, "Path": ""}
    host["MaskedPaths"].append("/proc/new")
    host["ReadonlyPaths"].append("/proc/new")
    host["NanoCpus"] = 0
    host["CpuPeriod"], host["CpuQuota"] = 100_000, 100_000
    for empty in ("Binds", "Devices", "CapAdd", "GroupAdd", "CgroupParent", "Privileged", "Init", "OomKillDisable"):
        host[empty] = None
    config["Env"].append("container=podman")
    config["Labels"]["of.the.image"] = "x"
    config["Cmd"] = None
    del config["NetworkDisabled"]
    inspect["Mounts"] = [{"Type": "tmpfs", "Destination": "/tmp"}]
    assert spec.differences(BODY, inspect) == []


def test_a_processor_limit_in_another_unit_is_compared() -> None:
    inspect = inspect_of(BODY)
    inspect["HostConfig"] |= {"NanoCpus": 0, "CpuPeriod": 100_000, "CpuQuota": -1}
    assert spec.differences(BODY, inspect)[0].startswith("HostConfig.NanoCpus: asked for 1000000000")


def test_true_is_not_one() -> None:
    inspect = inspect_of(BODY)
    inspect["HostConfig"]["ReadonlyRootfs"] = 1
    assert len(spec.differences(BODY, inspect)) == 1


def test_a_runtime_that_was_asked_for_must_be_it() -> None:
    body = spec.create_body(spec.Profile(image_id=IMAGE, runtime="runsc"), uid=UID)
    inspect = inspect_of(body)
    assert spec.differences(body, inspect) == []
    inspect["HostConfig"]["Runtime"] = "runc"
    assert spec.differences(body, inspect) == ["HostConfig.Runtime: asked for 'runsc', the engine has 'runc'"]


def test_an_added_security_option_is_reported() -> None:
    inspect = inspect_of(BODY)
    inspect["HostConfig"]["SecurityOpt"].append("apparmor=unconfined")
    assert len(spec.differences(BODY, inspect)) == 1


@pytest.mark.parametrize("mount", [{"Type": "volume", "Destination": "/tmp"}, {"Type": "tmpfs", "Destination": "/data"}])
def test_a_mount_that_was_not_asked_for_is_reported(mount: dict[str, str]) -> None:
    inspect = inspect_of(BODY) | {"Mounts": [mount]}
    assert len(spec.differences(BODY, inspect)) == 1


@pytest.mark.parametrize("shape", ["text", 7, [7], ["text"], {"x": "y"}, [{"x": "y"}]])
def test_an_answer_of_any_shape_is_only_a_difference(shape: Any) -> None:
    inspect = inspect_of(BODY)
    asked = [(group, name) for group in ("HostConfig", "Config") for name, value in inspect[group].items() if value]
    for group, name in asked:
        if name not in {"NetworkDisabled", "Image"}:
            assert len(spec.differences(BODY, {**inspect, group: {**inspect[group], name: shape}})) == 1


def test_an_empty_answer_lacks_everything() -> None:
    found = spec.differences(BODY, {})
    assert len(found) > 30
    assert "HostConfig.Memory: asked for 50000000, the engine has None" in found


# What the runner says

STATUS = {
    "uid": UID,
    "gid": UID,
    "no_new_privs": 1,
    "seccomp": 2,
    "dumpable": 0,
    "cap_eff": "0000000000000000",
    "cap_bnd": "0000000000000000",
}


@pytest.mark.parametrize("runtime", [None, "runc", "crun", "runsc"])
def test_a_safe_status_holds(runtime: str | None) -> None:
    assert spec.check_status(STATUS, UID, runtime) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("uid", 0), ("gid", 0), ("no_new_privs", 0), ("no_new_privs", -1), ("seccomp", 0), ("seccomp", 1), ("seccomp", -1)),
        *(("dumpable", 1), ("dumpable", 2), ("dumpable", False), ("uid", str(UID)), ("seccomp", None), ("seccomp", 2.0)),
        *(("cap_eff", "0000000000000001"), ("cap_bnd", "00000000a80425fb"), ("cap_bnd", ""), ("cap_eff", "none"), ("cap_eff", None)),
    ],
)
def test_an_unsafe_status_is_reported(name: str, value: Any) -> None:
    found = spec.check_status({**STATUS, name: value}, UID, None)
    assert len(found) == 1
    assert found[0].startswith(f"{name} is {value!r} in the container, where only ")


def test_a_missing_member_is_reported() -> None:
    assert len(spec.check_status({}, UID, None)) == 7


def test_gvisor_has_no_filter_of_ours_but_the_rest_holds() -> None:
    status = {**STATUS, "seccomp": 0, "no_new_privs": -1}
    assert spec.check_status(status, UID, "runsc") == []
    assert len(spec.check_status({**status, "cap_bnd": "1", "dumpable": 1}, UID, "runsc")) == 2
    assert len(spec.check_status(status, UID, "runc")) == 2
