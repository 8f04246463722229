"""What this host can and cannot enforce, and what to do about it.

Two halves: `examine` asks the engine, the host's files and the runtimes for facts; `judge` is pure
and turns facts into findings, so that every one of them can be tested without a broken host at
hand. Nothing is changed, started or pulled.

A failure is what a sandbox refuses to work with, or what leaves a limit without effect. A warning
is a layer of isolation that is missing or has a known vulnerability, or a runtime that is slow. An
advice beside `ok` is for speed alone. The versions with fixes are
those of the upstream projects. A distribution may have fixed an older one, so such a finding is a
warning that says how to find out, never a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

from ._engine_api import OLDEST_API, EngineAPI
from ._errors import DayflyError, ImageMissing
from ._messages import PROTOCOL
from ._names import DEFAULT_IMAGE, PROTOCOL_LABEL
from ._requirements import REQUIREMENTS, Requirement, security_options

Level = Literal["ok", "warning", "failure"]

FREE_DISK_BYTES = 1_000_000_000
"""Below it, containers soon cannot be created: each needs a few hundred kB of the engine's disk, an
image a few hundred MB."""
OLDEST_KERNEL = (5, 10)
"""The oldest line that kernel.org still maintained when this was written."""
FAST_KERNEL = (5, 14)
"""The first with MADV_POPULATE_WRITE: the runner copies what a fork shares before the program needs
it."""
ASK_DEADLINE = 5.0
"""Seconds for `runtime --version`."""

HOLES_AS_OF = "2025-11"
"""The month in which KNOWN_HOLES was last compared with the advisories of the projects."""
# Program -> holes: what it is, and the first good release of each maintained line, oldest first.
# github.com/opencontainers/runc, containers/crun, containerd/containerd, each under
# /security/advisories.
KNOWN_HOLES: dict[str, list[tuple[str, list[tuple[int, ...]]]]] = {
    "runc": [
        ("CVE-2024-21626, an escape through the working directory", [(1, 1, 12)]),
        (
            "CVE-2025-31133, CVE-2025-52565 and CVE-2025-52881, escapes through races of its mounts",
            [(1, 2, 8), (1, 3, 3), (1, 4, 0)],
        ),
    ],
    "crun": [("CVE-2022-27650, capabilities that are inherited", [(1, 4, 4)])],
    "containerd": [
        ("CVE-2020-15257, an escape through its abstract socket", [(1, 3, 9), (1, 4, 3)]),
        ("CVE-2024-25621, directories of its own that all users can read", [(1, 7, 29), (2, 0, 7), (2, 1, 5), (2, 2, 0)]),
    ],
}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: its name, how it stands, what was found, and what to do where
    it is not ok, or could be faster."""

    name: str
    level: Level
    found: str
    advice: str = ""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's own answers do not tell. None is always "could not be found out", as with
    an engine elsewhere."""

    address: str
    socket_mode: int | None = None
    """Permission bits of the engine's socket."""
    docker_group: tuple[str, ...] | None = None
    """Who is in the group that owns the socket."""
    core_pattern: str | None = None
    swap_bytes: int | None = None
    free_disk_bytes: int | None = None
    """Of the file system with the engine's data."""
    data_root_on: str | None = None
    """The type of that file system: `ext4`, `tmpfs`."""
    runtime_versions: Mapping[str, str] = {}
    """Runtime's name -> first line of what it says of its version."""
    image: str = DEFAULT_IMAGE
    """Name of the runner image."""
    image_protocol: str | None = None
    """Its label `dayfly.protocol`; "" where it has none."""
    image_missing: bool = False


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at, and what their texts name: `{driver}`."""

    host: HostFacts
    info: Mapping[str, Any]
    options: Mapping[str, str]
    """Of security: `{"seccomp": "profile=default"}`."""
    engine: str
    api: tuple[int, ...]
    podman: bool
    mode: str
    members: str
    cgroup_version: str
    cgroup_driver: str
    swap: str
    modules: str
    mapping: str
    runtimes: str
    wanted: str
    """The runtime that was asked for, if it is missing."""
    used: str
    kernel: str
    core_pattern: str
    driver: str
    root: str
    root_on: str
    free: str
    image: str
    protocol: str


class Check(msgspec.Struct, frozen=True):
    """One way for a thing to stand. Of the checks of one name, the first that holds is the finding;
    without any, there is none."""

    name: str
    level: Level
    found: str
    holds: Callable[[Seen], Any] = bool
    """`bool` of it is True: the last of its name."""
    advice: str = ""


_CRUN = '(`runtime="crun"`): a container starts faster (on a busy machine in half the time), with a sixth less processor time.'
_BUILD = "Build it: `dayfly image build`."
_KNOWN_DRIVERS = {"overlay2", "overlayfs", "overlay", "fuse-overlayfs", "btrfs", "zfs"}


def _failure(requirement: Requirement) -> Check:
    """What a sandbox refuses to start without."""
    found = requirement.missing + ("; the host has {swap}" if requirement.name == "swap" else "")
    return Check(requirement.name, "failure", found, lambda seen: not requirement.holds(seen.info), requirement.advice)


CHECKS = (
    Check(
        "engine",
        "failure",
        "{engine}: Podman",
        lambda seen: seen.podman,
        "Use the Docker Engine: Podman takes neither a seccomp profile as text nor a tmpfs with an owner and an inode limit.",
    ),
    Check(
        "engine",
        "failure",
        "{engine}",
        lambda seen: seen.api < OLDEST_API,
        f"dayfly needs API {OLDEST_API[0]}.{OLDEST_API[1]}, which Docker 20.10 has; update the engine.",
    ),
    Check("engine", "ok", "{engine}"),
    Check(
        "socket",
        "failure",
        "mode {mode}: every user of this host may use it",
        lambda seen: (seen.host.socket_mode or 0) & 0o006,
        "Whoever may use it is root. Run `chmod o-rw` on it.",
    ),
    Check("socket", "ok", "mode {mode}", lambda seen: seen.host.socket_mode is not None),
    Check(
        "socket group",
        "warning",
        "its members: {members}",
        lambda seen: seen.host.socket_mode is not None and seen.host.docker_group and "rootless" not in seen.options,
        "Each of them is root on this host. Keep only those who are meant to be; better, let dayfly use a rootless engine.",
    ),
    Check(
        "socket group",
        "ok",
        "its members: {members}",
        lambda seen: seen.host.socket_mode is not None and seen.host.docker_group is not None,
    ),
    *map(_failure, REQUIREMENTS),
    Check(
        "cgroups",
        "warning",
        "version 1, driver {cgroup_driver}",
        lambda seen: seen.cgroup_version == "1",
        "Boot with cgroup v2. Version 1 charges what lies in socket buffers to nobody, and runc and systemd are giving it up.",
    ),
    Check("cgroups", "ok", "version {cgroup_version}, driver {cgroup_driver}"),
    Check("swap", "ok", "limited; the host has {swap}"),
    *(Check(requirement.name, "ok", "enforced") for requirement in REQUIREMENTS),
    Check("security module", "ok", "{modules}", lambda seen: seen.modules),
    Check(
        "security module",
        "warning",
        "neither AppArmor nor SELinux",
        advice="Enable one of them: it is a second layer behind seccomp.",
    ),
    Check("user namespace", "ok", "{mapping}", lambda seen: seen.mapping),
    Check(
        "user namespace",
        "warning",
        "the containers share the host's user ids",
        advice='Set "userns-remap": "default" in the daemon\'s configuration, or run a rootless engine: root is then nobody outside.',
    ),
    Check(
        "live restore",
        "warning",
        "on: containers outlive the daemon, and some are then never removed by it (moby #46308)",
        lambda seen: seen.info.get("LiveRestoreEnabled"),
        'Set "live-restore": false where only dayfly uses this engine; else `dayfly clean` removes what is left.',
    ),
    Check("live restore", "ok", "off"),
    Check(
        "runtimes",
        "failure",
        "there is no {wanted}: {runtimes}",
        lambda seen: seen.wanted,
        'Add it to "runtimes" in the daemon\'s configuration.',
    ),
    Check(
        "runtimes",
        "warning",
        "{runtimes}; used is {used}",
        lambda seen: "crun" not in (seen.info.get("Runtimes") or {}) and "runsc" not in seen.used,
        f"Install crun and use it {_CRUN}",
    ),
    Check(
        "runtimes",
        "warning",
        "{runtimes}; used is {used}",
        lambda seen: seen.used in {"runc", "io.containerd.runc.v2"},
        f"Use crun {_CRUN}",
    ),
    Check("runtimes", "ok", "{runtimes}; used is {used}"),
    Check(
        "gvisor",
        "warning",
        "{used}: a kernel of its own for each container",
        lambda seen: "runsc" in seen.used,
        "It is the strongest isolation here. But a program can kill its own runner there, and one process out of memory ends all.",
    ),
    Check(
        "kernel",
        "warning",
        "{kernel}",
        lambda seen: _numbers(seen.kernel) < OLDEST_KERNEL,
        "Every container shares it. Use one that still gets security fixes.",
    ),
    Check(
        "kernel",
        "ok",
        "{kernel}",
        lambda seen: _numbers(seen.kernel) < FAST_KERNEL,
        "With 5.14 or newer a warm run takes about 1.5 ms less: memory that a fork shares is copied beforehand.",
    ),
    Check("kernel", "ok", "{kernel}"),
    Check(
        "core dumps",
        "warning",
        "piped to a program of the host: {core_pattern}",
        lambda seen: seen.core_pattern.startswith("|"),
        "The kernel does not start it for programs, whose core limit is 1. A plain name in kernel.core_pattern is safer.",
    ),
    Check("core dumps", "ok", "core_pattern {core_pattern}", lambda seen: seen.host.core_pattern is not None),
    Check(
        "storage",
        "ok",
        "{driver} in {root}, on {root_on}",
        lambda seen: seen.driver in _KNOWN_DRIVERS and seen.root_on not in {"", "tmpfs"},
        'With "data-root" on a tmpfs a container is created in half the time or less; images are then in memory, gone after a restart.',
    ),
    Check("storage", "ok", "{driver} in {root}", lambda seen: seen.driver in _KNOWN_DRIVERS),
    Check(
        "storage",
        "warning",
        "{driver} in {root}: vfs copies the whole image for every container",
        lambda seen: seen.driver == "vfs",
        "Use overlay2.",
    ),
    Check("storage", "warning", "{driver} in {root}: {driver} is not one that dayfly was tried with", advice="Use overlay2."),
    Check(
        "disk",
        "warning",
        "{free} bytes free in {root}",
        lambda seen: seen.host.free_disk_bytes is not None and seen.host.free_disk_bytes < FREE_DISK_BYTES,
        "Make room: with a full disk no container can be created.",
    ),
    Check("disk", "ok", "{free} bytes free in {root}", lambda seen: seen.host.free_disk_bytes is not None),
    Check("image", "failure", "the engine has no {image}", lambda seen: seen.host.image_missing, _BUILD),
    Check("image", "failure", "{image} is not a runner image", lambda seen: seen.host.image_protocol == "", _BUILD),
    Check(
        "image",
        "failure",
        f"{{image}} speaks protocol {{protocol}}; this dayfly needs {PROTOCOL}",
        lambda seen: seen.host.image_protocol not in (None, str(PROTOCOL)),
        _BUILD,
    ),
    Check("image", "ok", "{image}, protocol {protocol}", lambda seen: seen.host.image_protocol),
)


def judge(version: Mapping[str, Any], info: Mapping[str, Any], host: HostFacts, *, runtime: str | None = None) -> list[Finding]:
    """Turn `GET /version`, `GET /info` and the host's facts into findings, one or more for each
    thing looked at.

    `runtime` is the one that is to be used; None for the engine's default.
    """
    seen = _seen(version, info, host, runtime)
    texts = msgspec.structs.asdict(seen)
    found: dict[str, Finding] = {}
    for name in dict.fromkeys(check.name for check in CHECKS):
        for check in CHECKS:
            if check.name == name and check.holds(seen):
                found[name] = Finding(name, check.level, check.found.format_map(texts), check.advice)
                break
    return [*found.values(), *_versions(version, seen)]


def _seen(version: Mapping[str, Any], info: Mapping[str, Any], host: HostFacts, runtime: str | None) -> Seen:
    options = security_options(info)
    spoken = str(version.get("ApiVersion", "none"))
    names = sorted(info.get("Runtimes") or {})
    return Seen(
        host=host,
        info=info,
        options=options,
        engine=f"{version.get('Version', 'unknown version')} at {host.address}, API {spoken}",
        api=_numbers(spoken),
        podman=any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or []),
        mode=f"{host.socket_mode or 0:04o}",
        members=", ".join(host.docker_group or ()) or "none",
        cgroup_version=str(info.get("CgroupVersion") or "1"),
        cgroup_driver=str(info.get("CgroupDriver", "none")),
        swap="an unknown amount" if host.swap_bytes is None else f"{host.swap_bytes:,} bytes" if host.swap_bytes else "none",
        modules=", ".join(name for name in ("apparmor", "selinux") if name in options),
        mapping="rootless" if "rootless" in options else "userns-remap" if "userns" in options else "",
        runtimes=", ".join(names),
        wanted=runtime if runtime is not None and runtime not in names else "",
        used=runtime or str(info.get("DefaultRuntime", "")),
        kernel=str(info.get("KernelVersion", "")) or "unknown",
        core_pattern=(host.core_pattern or "")[:80],
        driver=str(info.get("Driver", "unknown")),
        root=str(info.get("DockerRootDir", "")),
        root_on=host.data_root_on or "",
        free=f"{host.free_disk_bytes or 0:,}",
        image=host.image,
        protocol=host.image_protocol or "",
    )


async def consult(docker_host: str | None = None, *, image: str = DEFAULT_IMAGE, runtime: str | None = None) -> list[Finding]:
    """Connect to the engine and examine it. Never raises for what it finds: an engine that cannot
    be reached is a finding, too."""
    try:
        async with EngineAPI(docker_host) as engine:
            return await examine(engine, image=image, runtime=runtime)
    except (DayflyError, ValueError) as error:
        advice = "Start the Docker Engine, or set DOCKER_HOST, and see that this user may use its socket."
        return [Finding("engine", "failure", str(error), advice)]


async def examine(engine: EngineAPI, *, image: str = DEFAULT_IMAGE, runtime: str | None = None) -> list[Finding]:
    """Look at an engine, and at this host where the engine is on it; return the findings. Raises
    EngineError where it does not answer."""
    version, info = await engine.version(), await engine.info()
    protocol = None
    try:
        labels = ((await engine.inspect_image(image)).get("Config") or {}).get("Labels") or {}
        protocol = str(labels.get(PROTOCOL_LABEL, ""))
    except ImageMissing:
        pass
    local = await anyio.to_thread.run_sync(_host_facts, engine.address, info) if engine.local else HostFacts(address=engine.address)
    host = msgspec.structs.replace(local, image=image, image_protocol=protocol, image_missing=protocol is None)
    return judge(version, info, host, runtime=runtime)


# Versions of programs, and their holes.


def _versions(version: Mapping[str, Any], seen: Seen) -> list[Finding]:
    """Judge the runtime that is used, and containerd, by what they say of their versions. What the
    engine says of its own wins: this host's runc may be another one."""
    versions = {name: said for name, said in seen.host.runtime_versions.items() if name in {seen.used, "containerd"}}
    for part in version.get("Components") or []:
        name, said = str(part.get("Name", "")).lower(), str(part.get("Version", ""))
        if said and (name == "containerd" or (name == "runc" and seen.used in {"runc", "io.containerd.runc.v2"})):
            versions[name] = said
    return [_holes(name, said) for name, said in sorted(versions.items())]


def _holes(name: str, said: str) -> Finding:
    """The holes of one program, by what it says of its version."""
    program = next((known for known in KNOWN_HOLES if known in f"{name} {said}"), name)
    number = _numbers(said)
    if not number:
        return Finding(f"{program} version", "warning", f"it does not say: {said!r:.80}", "Look whether it is up to date.")
    open_holes = [hole for hole, closed_in in KNOWN_HOLES.get(program, []) if _is_open(number, closed_in)]
    if not open_holes:
        return Finding(f"{program} version", "ok", f"{said}; no hole known as of {HOLES_AS_OF}")
    advice = "Update it. A distribution may have closed them in this very version: its package's changelog names the CVEs."
    return Finding(f"{program} version", "warning", f"{said}: by its number it has {'; '.join(open_holes)}", advice)


def _is_open(number: tuple[int, ...], closed_in: Sequence[tuple[int, ...]]) -> bool:
    """Whether a release still has a hole: it is older than the fix of its own line, or its line is
    older than all with a fix."""
    own_line = [fix for fix in closed_in if fix[:2] == number[:2]]
    return number < own_line[0] if own_line else number < closed_in[-1]


def _numbers(text: str) -> tuple[int, ...]:
    """The first dotted number in a text: "runc version 1.1.5+ds1" is (1, 1, 5). Empty where there
    is none.

    A pre-release counts as older than every release of its line: "1.4.0-rc.2" is (1, 4, -1).
    """
    match = re.search(r"(\d+(?:\.\d+)+)([-~](?:alpha|beta|rc))?", text)
    if match is None:
        return ()
    numbers = tuple(map(int, match[1].split(".")))
    return (*numbers[:2], -1) if match[2] else numbers


# The facts of this host, for an engine on it. Each is left out where it cannot be read.


def _host_facts(address: str, info: Mapping[str, Any]) -> HostFacts:
    path = Path(address.removeprefix("unix://"))
    mode, members = None, None
    try:
        status = path.stat()
        mode = stat.S_IMODE(status.st_mode)
        members = _members(status.st_gid) if mode & 0o060 else ()
    except OSError:
        pass  # gone since the engine answered, or behind a directory that we may not look into
    return HostFacts(
        address=address,
        socket_mode=mode,
        docker_group=members,
        core_pattern=_read("/proc/sys/kernel/core_pattern"),
        swap_bytes=_swap_bytes(_read("/proc/meminfo")),
        free_disk_bytes=_free_bytes(str(info.get("DockerRootDir", ""))),
        data_root_on=_file_system(_read("/proc/self/mounts"), str(info.get("DockerRootDir", ""))),
        runtime_versions=_runtime_versions(info.get("Runtimes") or {}),
    )


def _members(gid: int) -> tuple[str, ...] | None:
    if gid == 0:
        return ()  # root's own group
    import grp  # noqa: PLC0415 - not on every platform that can talk to an engine

    try:
        return tuple(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _swap_bytes(meminfo: str | None) -> int | None:
    match = re.search(r"^SwapTotal:\s+(\d+) kB", meminfo or "", re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def _free_bytes(path: str) -> int | None:
    try:
        free = os.statvfs(path)
    except OSError:
        return None
    return free.f_bavail * free.f_frsize


def _file_system(mounts: str | None, path: str) -> str | None:
    """Return the type of the file system that a path is on, from /proc/self/mounts: of the mounts
    above it, the last of the deepest."""
    found = None
    deepest = 0
    for line in (mounts or "").splitlines():
        _, point, kind, *_ = line.split(" ")
        if len(point) >= deepest and (path == point or path.startswith(point.rstrip("/") + "/")):
            found, deepest = kind, len(point)
    return found


def _runtime_versions(runtimes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Ask each runtime of the engine's configuration for its version; containerd's is in
    `/version`."""
    versions = {}
    for name, settings in runtimes.items():
        program = shutil.which(str((settings or {}).get("path") or ""))
        if program is None:
            continue
        try:
            said = subprocess.run([program, "--version"], capture_output=True, timeout=ASK_DEADLINE, check=True, text=True)  # noqa: S603 - the daemon's own
        except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
            continue
        versions[name] = said.stdout.partition("\n")[0].strip()
    return versions
