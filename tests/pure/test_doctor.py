"""Every finding of the doctor, from faked answers of an engine and faked facts of its host."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dayfly import _doctor as doctor
from dayfly._doctor import Finding, HostFacts

VERSION: dict[str, Any] = {
    "Version": "28.5.2",
    "ApiVersion": "1.51",
    "Components": [
        {"Name": "Engine", "Version": "28.5.2"},
        {"Name": "containerd", "Version": "2.1.5"},
        {"Name": "runc", "Version": "1.3.3"},
    ],
}
INFO: dict[str, Any] = {
    "CgroupVersion": "2",
    "CgroupDriver": "systemd",
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=userns", "name=cgroupns"],
    "Runtimes": {"crun": {"path": "crun"}, "runc": {"path": "runc"}, "runsc": {"path": "runsc"}},
    "DefaultRuntime": "crun",
    "KernelVersion": "6.12.41+deb13-amd64",
    "Driver": "overlay2",
    "DockerRootDir": "/var/lib/docker",
    "LiveRestoreEnabled": False,
}
HOST = HostFacts(
    address="unix:///var/run/docker.sock",
    socket_mode=0o660,
    docker_group=(),
    core_pattern="core",
    swap_bytes=0,
    free_disk_bytes=50_000_000_000,
    data_root_on="tmpfs",
    runtime_versions={"crun": "crun version 1.21", "runc": "runc version 1.3.3", "runsc": "runsc version release-20250707.0"},
    image_protocol="2",
)


def judged(
    name: str, *, version: dict[str, Any] | None = None, info: dict[str, Any] | None = None, runtime: str | None = None, **host: Any
) -> Finding:
    """The one finding of that name, in a world that is well but for what is given."""
    found = doctor.judge(VERSION | (version or {}), INFO | (info or {}), msgspec.structs.replace(HOST, **host), runtime=runtime)
    (finding,) = [finding for finding in found if finding.name == name]
    return finding


def test_a_host_that_is_well() -> None:
    found = doctor.judge(VERSION, INFO, HOST)
    assert {finding.level for finding in found} == {"ok"}
    assert {finding.advice for finding in found} == {""}
    assert len({finding.name for finding in found}) == len(found)


SICK: list[tuple[str, str, dict[str, Any], str]] = [
    ("engine", "failure", {"version": {"ApiVersion": "1.40"}}, "1.40"),
    ("engine", "failure", {"version": {"ApiVersion": ""}}, "API"),
    ("engine", "failure", {"version": {"Components": [{"Name": "Podman Engine", "Version": "5.8.6"}]}}, "Podman"),
    ("socket", "failure", {"socket_mode": 0o666}, "0666"),
    ("socket", "failure", {"socket_mode": 0o662}, "0662"),
    ("socket group", "warning", {"docker_group": ("alice", "bob")}, "alice, bob"),
    ("cgroups", "warning", {"info": {"CgroupVersion": "1", "CgroupDriver": "cgroupfs"}}, "version 1, driver cgroupfs"),
    ("cgroups", "warning", {"info": {"CgroupVersion": None}}, "version 1"),
    ("cgroups", "failure", {"info": {"CgroupDriver": "none"}}, "no limit has any effect"),
    ("memory limit", "failure", {"info": {"MemoryLimit": False}}, "MemoryLimit is false"),
    ("process limit", "failure", {"info": {"PidsLimit": False}}, "PidsLimit is false"),
    ("processor limit", "failure", {"info": {"CpuCfsQuota": None}}, "CpuCfsQuota is false"),
    ("swap", "failure", {"info": {"SwapLimit": False}, "swap_bytes": 2**30}, "1,073,741,824 bytes"),
    ("swap", "failure", {"info": {"SwapLimit": False}}, "none"),
    ("swap", "failure", {"info": {"SwapLimit": False}, "swap_bytes": None}, "an unknown amount"),
    ("seccomp", "failure", {"info": {"SecurityOptions": []}}, "filters no system calls"),
    ("security module", "warning", {"info": {"SecurityOptions": ["name=seccomp"]}}, "neither AppArmor nor SELinux"),
    ("user namespace", "warning", {"info": {"SecurityOptions": None}}, "share the host's user ids"),
    ("live restore", "warning", {"info": {"LiveRestoreEnabled": True}}, "#46308"),
    ("runtimes", "warning", {"info": {"Runtimes": {"runc": {}}, "DefaultRuntime": "runc"}}, "used is runc"),
    ("runtimes", "warning", {"runtime": "runc"}, "crun, runc, runsc; used is runc"),
    ("runtimes", "warning", {"info": {"DefaultRuntime": "io.containerd.runc.v2"}}, "used is io.containerd.runc.v2"),
    ("runtimes", "failure", {"runtime": "kata"}, "there is no kata: crun, runc, runsc"),
    ("gvisor", "warning", {"runtime": "runsc"}, "runsc"),
    ("kernel", "warning", {"info": {"KernelVersion": "5.4.0-200-generic"}}, "5.4.0"),
    ("kernel", "warning", {"info": {"KernelVersion": ""}}, "unknown"),
    ("core dumps", "warning", {"core_pattern": "|/usr/lib/systemd/systemd-coredump %P"}, "systemd-coredump"),
    ("storage", "warning", {"info": {"Driver": "vfs"}}, "copies the whole image"),
    ("storage", "warning", {"info": {"Driver": "aufs"}}, "aufs"),
    ("disk", "warning", {"free_disk_bytes": 999_999_999}, "999,999,999 bytes free in /var/lib/docker"),
    ("image", "failure", {"image_protocol": None, "image_missing": True}, "the engine has no dayfly/python:"),
    ("image", "failure", {"image_protocol": ""}, "is not a runner image"),
    ("image", "failure", {"image_protocol": "1"}, "speaks protocol 1"),
]


@pytest.mark.parametrize(("name", "level", "world", "said"), SICK)
def test_what_is_not_well_is_found(name: str, level: str, world: dict[str, Any], said: str) -> None:
    finding = judged(name, **world)
    assert finding.level == level
    assert said in finding.found
    assert finding.advice.endswith((".", "`dayfly image build`."))


@pytest.mark.parametrize(
    ("name", "world", "said", "advice"),
    [
        ("runtimes", {"runtime": "runc"}, "used is runc", 'runtime="crun"'),
        ("runtimes", {"info": {"Runtimes": {"runc": {}}, "DefaultRuntime": "runc"}}, "used is runc", "Install crun"),
        ("runtimes", {"runtime": "runsc"}, "used is runsc", ""),
        ("storage", {"data_root_on": "ext4"}, "overlay2 in /var/lib/docker, on ext4", '"data-root" on a tmpfs'),
        ("storage", {"data_root_on": None}, "overlay2 in /var/lib/docker", ""),
        ("kernel", {"info": {"KernelVersion": "5.10.0-33-amd64"}}, "5.10.0", "5.14 or newer"),
        ("kernel", {"info": {"KernelVersion": "5.14.0"}}, "5.14.0", ""),
    ],
)
def test_what_would_be_faster_is_said(name: str, world: dict[str, Any], said: str, advice: str) -> None:
    finding = judged(name, **world)
    assert finding.level == ("warning" if name == "runtimes" and advice else "ok")
    assert said in finding.found
    assert (advice in finding.advice) if advice else finding.advice == ""


MOUNTS = """\
overlay / overlay rw,relatime 0 0
tmpfs /var tmpfs rw 0 0
/dev/sda1 /var/lib ext4 rw 0 0
tmpfs /var/library tmpfs rw 0 0
tmpfs /srv tmpfs rw 0 0
/dev/sdb1 /srv xfs rw 0 0"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/docker", "ext4"),
        ("/var/lib", "ext4"),
        ("/var/library/docker", "tmpfs"),
        ("/srv/docker", "xfs"),
        ("/x", "overlay"),
        ("", None),
    ],
)
def test_the_file_system_below_a_path(path: str, kind: str | None) -> None:
    assert doctor._file_system(MOUNTS, path) == kind
    assert doctor._file_system(None, path) is None


def test_each_thing_that_is_looked_at_can_be_found_unwell() -> None:
    names = {finding.name for finding in doctor.judge(VERSION, INFO, HOST)}
    assert names - {name for name, *_ in SICK} == {"crun version", "containerd version"}  # below


@pytest.mark.parametrize(
    ("said", "cves"),
    [
        ("runc version 1.0.0-rc10", ("CVE-2024-21626", "CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881")),
        ("runc version 1.1.5+ds1", ("CVE-2024-21626", "CVE-2025-31133")),
        ("1.1.12", ("CVE-2025-31133",)),
        ("1.2.7", ("CVE-2025-52881",)),
        ("1.3.2", ("CVE-2025-52881",)),
        ("1.4.0-rc.2", ("CVE-2025-52881",)),
        *((good, ()) for good in ("1.2.8", "runc version 1.3.3", "1.3.10", "1.4.0", "1.4.1", "2.0.0")),
    ],
)
def test_holes_of_runc_are_named_until_their_release(said: str, cves: tuple[str, ...]) -> None:
    finding = judged("runc version", version={"Components": []}, info={"DefaultRuntime": "runc"}, runtime_versions={"runc": said})
    assert finding.level == ("warning" if cves else "ok")
    assert all(cve in finding.found for cve in cves)
    assert said in finding.found


@pytest.mark.parametrize("of_this_host", [{}, {"runc": "runc version 1.3.3"}])
def test_the_engine_tells_the_version_of_its_runc(of_this_host: dict[str, str]) -> None:
    version = {"Components": [{"Name": "runc", "Version": "1.1.11"}]}
    finding = judged("runc version", version=version, runtime="runc", runtime_versions=of_this_host)
    assert "1.1.11" in finding.found
    assert finding.level == "warning"


@pytest.mark.parametrize("components", [[{"Name": "runc"}], [{"Name": "runc", "Version": ""}]])
def test_where_the_engine_does_not_tell_the_host_s_own_is_taken(components: list[dict[str, str]]) -> None:
    finding = judged("runc version", version={"Components": components}, runtime="runc", runtime_versions={"runc": "runc version 1.1.11"})
    assert "1.1.11" in finding.found


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("1.3.8", "warning"),
        ("1.6.20~ds1", "warning"),
        ("1.7.29", "ok"),
        ("v2.0.6", "warning"),
        ("v2.1.5", "ok"),
        ("v2.2.0", "ok"),
        ("?", "warning"),
    ],
)
def test_containerd(said: str, level: str) -> None:
    assert judged("containerd version", version={"Components": [{"Name": "containerd", "Version": said}]}).level == level


@pytest.mark.parametrize(("said", "level"), [("crun version 1.4.3", "warning"), ("crun version 1.8.1", "ok"), ("", "warning")])
def test_crun(said: str, level: str) -> None:
    name = "crun version"
    assert judged(name, runtime_versions={"crun": said}).level == level


def test_a_runtime_that_is_not_used_is_not_judged() -> None:
    found = doctor.judge(VERSION, INFO, msgspec.structs.replace(HOST, runtime_versions={"crun": "1.21", "runc": "1.0.0"}))
    assert "runc version" not in {finding.name for finding in found}


def test_a_renamed_runtime_is_known_by_what_it_says() -> None:
    info = {"Runtimes": {"fast": {}}, "DefaultRuntime": "fast"}
    assert judged("crun version", info=info, runtime_versions={"fast": "crun version 1.4.1"}).level == "warning"


def test_nothing_is_said_of_a_host_that_cannot_be_looked_at() -> None:
    found = doctor.judge(VERSION, INFO, HostFacts(address="tcp://far:2376", image_protocol="2"))
    assert {"socket", "socket group", "core dumps", "disk"} & {finding.name for finding in found} == set()
    assert {finding.level for finding in found} == {"ok"}


def test_empty_answers_are_findings_and_no_crash() -> None:
    found = doctor.judge({}, {}, HostFacts(address="unix:///x"))
    assert "failure" in {finding.level for finding in found}


@pytest.mark.parametrize("options", [["name=rootless", "name=seccomp"], ["name=userns"]])
def test_mapped_users(options: list[str]) -> None:
    assert judged("user namespace", info={"SecurityOptions": options}).level == "ok"


def test_the_group_of_a_rootless_engines_socket_is_no_root() -> None:
    assert judged("socket group", info={"SecurityOptions": ["name=rootless"]}, docker_group=("alice",)).level == "ok"


def test_what_the_host_says() -> None:
    assert doctor._swap_bytes("MemTotal: 10 kB\nSwapTotal:       2048 kB\n") == 2_097_152
    assert doctor._swap_bytes("nonsense") is doctor._swap_bytes(None) is None
    assert doctor._read("/nonexistent/file") is None
    assert doctor._free_bytes("/nonexistent/folder") is None
    assert doctor._members(0) == ()
    assert doctor._members(2**31 - 7) is None


def test_a_runtime_may_fail_to_tell_its_version() -> None:
    asked: dict[str, Any] = {
        "python": {"path": "python3"},
        "gone": {"path": "/nonexistent/runtime"},
        "fails": {"path": "false"},
        "none": None,
        "empty": {},
    }
    versions = doctor._runtime_versions(asked)
    assert versions.keys() == {"python"}
    assert versions["python"].startswith("Python 3")
