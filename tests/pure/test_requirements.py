"""What an engine must enforce: one list for doctor and for initialize."""

from __future__ import annotations

from typing import Any

import pytest

from dayfly import _doctor as doctor
from dayfly._doctor import HostFacts
from dayfly._requirements import REQUIREMENTS, missing, security_options

GOOD: dict[str, Any] = {
    "CgroupDriver": "systemd",
    "CgroupVersion": "2",
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "SecurityOptions": ["name=seccomp,profile=builtin"],
}


def test_a_good_engine_misses_nothing() -> None:
    assert missing(GOOD) == []


@pytest.mark.parametrize("value", [False, None, "absent"])
@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("MemoryLimit", "memory limits"),
        ("SwapLimit", "limits on swap"),
        ("PidsLimit", "limits on processes"),
        ("CpuCfsQuota", "processor quotas"),
    ],
)
def test_a_missing_limit_is_named(key: str, what: str, value: Any) -> None:
    info = {name: given for name, given in GOOD.items() if name != key}
    assert missing(info if value == "absent" else {**info, key: value}) == [what]


@pytest.mark.parametrize("options", [None, [], ["name=apparmor"], ["name=cgroupns", None]])
def test_missing_seccomp_is_named(options: Any) -> None:
    assert missing({**GOOD, "SecurityOptions": options}) == ["seccomp filters"]


def test_an_engine_without_cgroups_is_named() -> None:
    found = missing({**GOOD, "CgroupDriver": "none"})
    assert found == ["any limit, since it has no cgroup driver"]


def test_an_empty_answer_misses_all_but_the_driver() -> None:
    assert len(missing({})) == len(REQUIREMENTS) - 1


def test_security_options_are_split() -> None:
    options = {"SecurityOptions": ["name=seccomp,profile=default", "apparmor"]}
    assert security_options(options) == {"seccomp": "profile=default", "apparmor": ""}
    assert security_options({"SecurityOptions": None}) == security_options({}) == {}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_doctor_fails_for_each_requirement(requirement: Any) -> None:
    bad: dict[str, Any] = {"CgroupDriver": "none"}
    judged = doctor.judge({}, bad, HostFacts(address="unix:///x"))
    (finding,) = [finding for finding in judged if finding.name == requirement.name]
    assert (finding.level, finding.advice) == ("failure", requirement.advice)
    judged = doctor.judge({}, GOOD, HostFacts(address="unix:///x"))
    levels = [finding.level for finding in judged if finding.name == requirement.name]
    assert levels == ["ok"]
