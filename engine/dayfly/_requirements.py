"""What an engine must enforce before a sandbox uses it: one list for `doctor` and for `initialize`.

Pure: it reads the answer to `GET /info`, in which every member may be absent or null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec


class Requirement(msgspec.Struct, frozen=True):
    """One thing that the engine must enforce."""

    name: str
    """How `doctor` calls it."""
    what: str
    """How an error calls it: "the engine does not enforce {what}"."""
    holds: Callable[[Mapping[str, Any]], bool]
    """Whether an answer to `GET /info` says that it is enforced."""
    missing: str
    """What `doctor` found where it is not."""
    advice: str


def security_options(info: Mapping[str, Any]) -> dict[str, str]:
    """Return `["name=seccomp,profile=default"]` as `{"seccomp": "profile=default"}`."""
    split = (str(option).removeprefix("name=").partition(",") for option in info.get("SecurityOptions") or [])
    return {name: rest for name, _, rest in split}


def _flag(name: str, what: str, key: str, advice: str) -> Requirement:
    missing = f"not enforced ({key} is false)"
    return Requirement(name, what, lambda info: bool(info.get(key)), missing, advice)


REQUIREMENTS = (
    Requirement(
        "cgroups",
        "any limit, since it has no cgroup driver",
        lambda info: info.get("CgroupDriver") != "none",
        "the engine has no cgroup driver: no limit has any effect",
        "On a rootless engine, switch to cgroup v2 with systemd.",
    ),
    _flag("memory limit", "memory limits", "MemoryLimit", "Boot with `cgroup_enable=memory`."),
    _flag(
        "swap",
        "limits on swap",
        "SwapLimit",
        "Boot with `swapaccount=1` or cgroup v2. The engine drops the limit with a mere warning; dayfly refuses the container.",
    ),
    _flag(
        "process limit",
        "limits on processes",
        "PidsLimit",
        "The kernel needs CONFIG_CGROUP_PIDS, and the engine the pids controller.",
    ),
    _flag(
        "processor limit",
        "processor quotas",
        "CpuCfsQuota",
        "The kernel needs CONFIG_CFS_BANDWIDTH, and the engine the cpu controller.",
    ),
    Requirement(
        "seccomp",
        "seccomp filters",
        lambda info: "seccomp" in security_options(info),
        "the engine filters no system calls",
        "The kernel needs CONFIG_SECCOMP_FILTER, and the engine to be built with it.",
    ),
)


def missing(info: Mapping[str, Any]) -> list[str]:
    """Return what the engine does not enforce, for an error; empty if it enforces everything."""
    return [requirement.what for requirement in REQUIREMENTS if not requirement.holds(info)]
