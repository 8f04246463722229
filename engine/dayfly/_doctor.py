"""What this host can and cannot enforce, and what to do about it.

Two halves: `examine` asks the engine, the host's files and the runtimes for facts; `judge` is pure and turns facts into
findings, so that every one of them can be tested without a broken host at hand. Nothing is changed, started or pulled.

A failure is what a sandbox refuses to work with, or what leaves a limit without effect. A warning is a wall less than there could
be, or one with a known hole. The versions that holes were closed in are those of the upstream projects: a distribution may
have closed them in an older one, so such a finding is a warning that says how to find out, never a failure.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec

from ._engine_api import OLDEST_API, EngineAPI
from ._errors import DayflyError, ImageMissing
from ._messages import PROTOCOL
from ._names import DEFAULT_IMAGE, PROTOCOL_LABEL
from ._requirements import REQUIREMENTS, security_options

Level = Literal["ok", "warning", "failure"]

FREE_DISK_BYTES = 1_000_000_000
"""Below it, containers soon cannot be created: each needs a few hundred kB of the engine's disk, an image a few hundred MB."""
OLDEST_KERNEL = (5, 10)
"""The oldest line that kernel.org still maintained when this was written."""
ASK_DEADLINE = 5.0
"""Seconds for `runtime --version`."""

HOLES_AS_OF = "2025-11"
"""The month in which KNOWN_HOLES was last compared with the advisories of the projects."""
# Program -> holes: what it is, and the first good release of each maintained line, oldest first.
# github.com/opencontainers/runc, containers/crun, containerd/containerd, each under /security/advisories.
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
    """One thing that was looked at: its name, how it stands, what was found, and what to do where it is not ok."""

    name: str
    level: Level
    found: str
    advice: str = ""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine's own answers do not tell. None is always "could not be found out", as with an engine elsewhere."""

    address: str
    socket_mode: int | None = None
    """Permission bits of the engine's socket."""
    docker_group: tuple[str, ...] | None = None
    """Who is in the group that owns the socket."""
    core_pattern: str | None = None
    swap_bytes: int | None = None
    free_disk_bytes: int | None = None
    """Of the file system with the engine's data."""
    runtime_versions: Mapping[str, str] = {}
    """Runtime's name -> first line of what it says of its version."""
    image: str = DEFAULT_IMAGE
    """Name of the runner image."""
    image_protocol: str | None = None
    """Its label `dayfly.protocol`; "" where it has none."""
    image_missing: bool = False


def judge(version: Mapping[str, Any], info: Mapping[str, Any], host: HostFacts, *, runtime: str | None = None) -> list[Finding]:
    """Turn `GET /version`, `GET /info` and the host's facts into findings, one or more for each thing looked at.

    `runtime` is the one that is to be used; None for the engine's default.
    """
    options = security_options(info)
    return [
        *_api(version, host),
        *_socket(host, options),
        *_requirements(info, host),
        *_isolation(info, options),
        *_runtimes(version, info, host, runtime),
        *_kernel(info, host),
        *_storage(info, host),
        *_image(host),
    ]


async def consult(docker_host: str | None = None, *, image: str = DEFAULT_IMAGE, runtime: str | None = None) -> list[Finding]:
    """Connect to the engine and examine it. Never raises for what it finds: an engine that cannot be reached is a finding, too."""
    try:
        async with EngineAPI(docker_host) as engine:
            return await examine(engine, image=image, runtime=runtime)
    except (DayflyError, ValueError) as error:
        advice = "Start the Docker Engine, or set DOCKER_HOST, and see that this user may use its socket."
        return [Finding("engine", "failure", str(error), advice)]


async def examine(engine: EngineAPI, *, image: str = DEFAULT_IMAGE, runtime: str | None = None) -> list[Finding]:
    """Look at an engine, and at this host where the engine is on it; return the findings. Raises EngineError where it does not answer."""
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


# The judgement: one function for each thing looked at.


def _api(version: Mapping[str, Any], host: HostFacts) -> list[Finding]:
    spoken = str(version.get("ApiVersion", "none"))
    found = f"{version.get('Version', 'unknown version')} at {host.address}, API {spoken}"
    if any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or []):
        return [
            Finding(
                "engine",
                "failure",
                f"{found}: Podman",
                "Use the Docker Engine: Podman takes neither a seccomp profile as text nor a tmpfs with an owner and an inode limit.",
            )
        ]
    if _numbers(spoken) < OLDEST_API:
        return [
            Finding(
                "engine", "failure", found, f"dayfly needs API {OLDEST_API[0]}.{OLDEST_API[1]}, which Docker 20.10 has; update the engine."
            )
        ]
    return [Finding("engine", "ok", found)]


def _socket(host: HostFacts, options: Mapping[str, str]) -> list[Finding]:
    if host.socket_mode is None:
        return []
    found = [Finding("socket", "ok", f"mode {host.socket_mode:04o}")]
    if host.socket_mode & 0o006:
        found = [
            Finding(
                "socket",
                "failure",
                f"mode {host.socket_mode:04o}: every user of this host may use it",
                "Whoever may use it is root. Run `chmod o-rw` on it.",
            )
        ]
    if host.docker_group and "rootless" not in options:
        found.append(
            Finding(
                "socket group",
                "warning",
                f"its members: {', '.join(host.docker_group)}",
                "Each of them is root on this host. Keep only those who are meant to be; better, let dayfly use a rootless engine.",
            )
        )
    elif host.docker_group is not None:
        found.append(Finding("socket group", "ok", f"its members: {', '.join(host.docker_group) or 'none'}"))
    return found


def _cgroups(info: Mapping[str, Any]) -> list[Finding]:
    number, driver = str(info.get("CgroupVersion") or "1"), info.get("CgroupDriver", "none")
    if number == "1":
        advice = "Boot with cgroup v2. Version 1 charges what lies in socket buffers to nobody, and runc and systemd are giving it up."
        return [Finding("cgroups", "warning", f"version 1, driver {driver}", advice)]
    return [Finding("cgroups", "ok", f"version {number}, driver {driver}")]


def _requirements(info: Mapping[str, Any], host: HostFacts) -> list[Finding]:
    """What a sandbox refuses to start without. One that holds is "ok", but where another check has more to say of it."""
    found = []
    for requirement in REQUIREMENTS:
        name, missing = requirement.name, requirement.missing
        if not requirement.holds(info):
            if name == "swap":
                missing += f"; the host has {_amount(host.swap_bytes)}"
            found.append(Finding(name, "failure", missing, requirement.advice))
        elif name == "cgroups":
            found += _cgroups(info)
        elif name == "swap":
            found.append(Finding(name, "ok", f"limited; the host has {_amount(host.swap_bytes)}"))
        else:
            found.append(Finding(name, "ok", "enforced"))
    return found


def _isolation(info: Mapping[str, Any], options: Mapping[str, str]) -> list[Finding]:
    found = []
    modules = [name for name in ("apparmor", "selinux") if name in options]
    found.append(
        Finding("security module", "ok", ", ".join(modules))
        if modules
        else Finding("security module", "warning", "neither AppArmor nor SELinux", "Enable one of them: it is a wall behind seccomp.")
    )
    remapped = [name for name in ("rootless", "userns") if name in options]
    found.append(
        Finding("user namespace", "ok", "rootless" if "rootless" in remapped else "userns-remap")
        if remapped
        else Finding(
            "user namespace",
            "warning",
            "the containers share the host's user ids",
            'Set "userns-remap": "default" in the daemon\'s configuration, or run a rootless engine: root inside is then nobody outside.',
        )
    )
    if info.get("LiveRestoreEnabled"):
        found.append(
            Finding(
                "live restore",
                "warning",
                "on: containers outlive the daemon, and some are then never removed by it (moby #46308)",
                'Set "live-restore": false where only dayfly uses this engine; else the reaper cleans up.',
            )
        )
    else:
        found.append(Finding("live restore", "ok", "off"))
    return found


def _runtimes(version: Mapping[str, Any], info: Mapping[str, Any], host: HostFacts, runtime: str | None) -> list[Finding]:
    names = sorted(info.get("Runtimes") or {})
    default = str(info.get("DefaultRuntime", ""))
    used = runtime or default
    found = [Finding("runtimes", "ok", f"{', '.join(names)}; used is {used}")]
    if runtime is not None and runtime not in names:
        found = [
            Finding(
                "runtimes", "failure", f"there is no {runtime}: {', '.join(names)}", 'Add it to "runtimes" in the daemon\'s configuration.'
            )
        ]
    elif "crun" not in names and "runsc" not in used:
        found = [
            Finding(
                "runtimes",
                "warning",
                f"{', '.join(names)}; used is {used}",
                'Install crun and use it (`runtime="crun"`): it saves about a fifth of the processor time of each container.',
            )
        ]
    if "runsc" in used:
        found.append(
            Finding(
                "gvisor",
                "warning",
                f"{used}: a kernel of its own for each container",
                "It is the strongest wall here. But a program can kill its own runner there, and one process out of memory ends all.",
            )
        )
    versions = {name: said for name, said in host.runtime_versions.items() if name in {used, "containerd"}}
    for part in version.get("Components") or []:
        name = str(part.get("Name", "")).lower()
        if name == "containerd" or (name == "runc" and used in {"runc", "io.containerd.runc.v2"}):
            versions.setdefault(name, str(part.get("Version", "")))
    for name, said in sorted(versions.items()):
        found += _holes(name, said)
    return found


def _holes(name: str, said: str) -> list[Finding]:
    """The holes of one program, by what it says of its version."""
    program = next((known for known in KNOWN_HOLES if known in f"{name} {said}"), name)
    number = _numbers(said)
    if not number:
        return [Finding(f"{program} version", "warning", f"it does not say: {said!r:.80}", "Look whether it is up to date.")]
    open_holes = [hole for hole, closed_in in KNOWN_HOLES.get(program, []) if _is_open(number, closed_in)]
    if not open_holes:
        return [Finding(f"{program} version", "ok", f"{said}; no hole known as of {HOLES_AS_OF}")]
    return [
        Finding(
            f"{program} version",
            "warning",
            f"{said}: by its number it has {'; '.join(open_holes)}",
            "Update it. A distribution may have closed them in this very version: its package's changelog names the CVEs.",
        )
    ]


def _is_open(number: tuple[int, ...], closed_in: Sequence[tuple[int, ...]]) -> bool:
    """Whether a release still has a hole: it is older than the fix of its own line, or its line is older than all with a fix."""
    own_line = [fix for fix in closed_in if fix[:2] == number[:2]]
    return number < own_line[0] if own_line else number < closed_in[-1]


def _kernel(info: Mapping[str, Any], host: HostFacts) -> list[Finding]:
    release = str(info.get("KernelVersion", ""))
    if _numbers(release) < OLDEST_KERNEL:
        found = [Finding("kernel", "warning", release or "unknown", "Every container shares it. Use one that still gets its holes closed.")]
    else:
        found = [Finding("kernel", "ok", release)]
    if host.core_pattern is not None:
        if host.core_pattern.startswith("|"):
            found.append(
                Finding(
                    "core dumps",
                    "warning",
                    f"piped to a program of the host: {host.core_pattern:.80}",
                    "The kernel does not start it for programs, whose core limit is 1. A plain name in kernel.core_pattern is safer.",
                )
            )
        else:
            found.append(Finding("core dumps", "ok", f"core_pattern {host.core_pattern:.80}"))
    return found


def _amount(swap_bytes: int | None) -> str:
    return "an unknown amount" if swap_bytes is None else f"{swap_bytes:,} bytes" if swap_bytes else "none"


def _storage(info: Mapping[str, Any], host: HostFacts) -> list[Finding]:
    driver, root = str(info.get("Driver", "unknown")), info.get("DockerRootDir", "")
    if driver in {"overlay2", "overlayfs", "overlay", "fuse-overlayfs", "btrfs", "zfs"}:
        found = [Finding("storage", "ok", f"{driver} in {root}")]
    else:
        slow = "vfs copies the whole image for every container" if driver == "vfs" else "is not one that dayfly was tried with"
        found = [Finding("storage", "warning", f"{driver} in {root}: {slow}", "Use overlay2.")]
    if host.free_disk_bytes is not None:
        free = f"{host.free_disk_bytes:,} bytes free in {root}"
        found.append(
            Finding("disk", "ok", free)
            if host.free_disk_bytes >= FREE_DISK_BYTES
            else Finding("disk", "warning", free, "Make room: with a full disk no container can be created.")
        )
    return found


def _image(host: HostFacts) -> list[Finding]:
    build = "Build it: `dayfly image build`."
    if host.image_missing:
        return [Finding("image", "failure", f"the engine has no {host.image}", build)]
    if host.image_protocol is None:
        return []
    if not host.image_protocol:
        return [Finding("image", "failure", f"{host.image} is no runner image", build)]
    if host.image_protocol != str(PROTOCOL):
        return [Finding("image", "failure", f"{host.image} speaks protocol {host.image_protocol}; this dayfly needs {PROTOCOL}", build)]
    return [Finding("image", "ok", f"{host.image}, protocol {host.image_protocol}")]


def _numbers(text: str) -> tuple[int, ...]:
    """The first dotted number in a text: "runc version 1.1.5+ds1" is (1, 1, 5). Empty where there is none.

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


def _runtime_versions(runtimes: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Ask each runtime of the engine's configuration for its version; containerd's is in `/version`."""
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
