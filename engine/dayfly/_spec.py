"""From limits to the body of `POST /containers/create`: all of the hardening, on this one page.

Pure: no I/O, no clock. What belongs here: every field that the engine is sent, each with its
reason; what to look for when the engine shows the container it made (`differences`: it silently
ignores a field that it does not know, and an old kernel's missing limit is a mere warning); and
what the runner must find inside (`check_status`).

What must never happen here: a value of the program's own in the body (code, input and environment
travel in frames only), a path of the host's, or a limit left to the engine's default. Sizes are
bytes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from . import _seccomp as seccomp
from ._limits import MIN_MEMORY_MB, Limits, integer

ENTRYPOINT = ("python3", "-u", "-X", "dayfly_runner", "main.py")
"""Becomes the runner while `site` is imported, see `runner_stdio`; the name of the file is the
program's, later."""

HOSTNAME = "sandbox"
WORKING_DIR = "/sandbox"
TEMPORARY_DIR = "/tmp"  # noqa: S108 - the container's own, not the host's

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the container's own

THREADS = (*(f"{name}_NUM_THREADS=1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")), "POLARS_MAX_THREADS=1")
"""One thread for each library that would start one per processor: threads count against `pids`, and
a fork loses them."""

ENVIRONMENT = ("PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/sandbox", "LANG=C.UTF-8", "USER=sandbox", *THREADS)
"""HOME and USER because the uid is in no passwd file."""

FIRST_UID, LAST_UID = 1, 2**31 - 1
"""What a container's uid may be at all: not root, and within what every kernel interface takes."""

PROCESSORS_DIR = "/sys/devices/system/cpu"
"""A tmpfs hides it: the runner writes there how many processors the program is to see."""

STACK_BYTES = 8 * 2**20
"""The kernel's own default, and what the C library gives a thread."""

LARGEST_STACK_BYTES = 2**30
"""One thread may ask for a stack of this size without raising RLIMIT_DATA first."""

NO_HARD_LIMIT = -1

OPTIONS = "rw,nosuid,nodev,noexec,size={},nr_inodes={}"
"""Of every tmpfs: bytes, and files with directories."""

RUNSC_PIDS = 1_024
"""Added to `pids` under gVisor, whose own host threads are what the cgroup counts there."""

# What newer engines hide by default (naming any replaces the default list), and beyond it what
# tells of the host's hardware, disks, modules and boot. Not hidden, because libraries read them:
# meminfo, stat, cpuinfo.
MASKED_PATHS = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
    *("/proc/cmdline", "/proc/config.gz", "/proc/diskstats", "/proc/kallsyms", "/proc/modules", "/proc/partitions", "/proc/swaps"),
    *("/proc/driver", "/proc/fs", "/proc/iomem", "/proc/ioports", "/proc/key-users"),
    *("/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/fs/btrfs", "/sys/fs/ext4", "/sys/fs/xfs", "/sys/kernel", "/sys/module"),
    # What costs the host: a read of locks holds the lock of all file locks, pressure takes
    # triggers, and a terminal's buffer is emptied by the host's kworkers, beyond the processor
    # limit. /dev/ptmx is a link into /dev/pts.
    *("/proc/locks", "/proc/pressure", "/dev/pts"),
)
READONLY_PATHS = ("/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
"""The engines' defaults, less what is masked. Not /sys/fs/cgroup too: crun would mount the
controllers below it again, writable."""


SYSCTLS = {
    # Buffers of TCP are charged to no container on cgroup v1, and on v2 not before the connection
    # is accepted: they are small. Smaller ones hold no less, since the kernel rounds up to pages.
    "net.ipv4.tcp_rmem": "4096 4096 8192",
    "net.ipv4.tcp_wmem": "4096 4096 4096",
    # So is the queue of connections that wait to be accepted. At 8, a hundred clients that an event
    # loop starts at once took a minute; at 4 they failed.
    "net.core.somaxconn": "16",
    # A closed connection leaves nothing behind: no TIME_WAIT, no entry in the host's table of
    # metrics.
    "net.ipv4.tcp_max_tw_buckets": "0",
    "net.ipv4.tcp_no_metrics_save": "1",
}
"""Of the container's own network. Every kernel since 4.15 has all of them for each network
namespace."""


SOCKET_SHARE = 8
"""On cgroup v1 the buffers of TCP and UDP may have an eighth of `memory_bytes`, beside it."""


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the containers of one pool have in common.

    `runtime` is a name of the engine's `/info`, or None for its default; `cgroup_parent` a cgroup
    that bounds the sum of all (a path with the cgroupfs driver, a `*.slice` with systemd's). Raises
    TypeError and ValueError, naming the field.
    """

    image_id: str
    """`sha256:…`: a tag could be moved between two containers of one pool."""
    memory_bytes: int = 50_000_000
    limits: Limits = Limits()
    runtime: str | None = None
    cgroup_parent: str | None = None
    labels: dict[str, str] = {}
    socket_limit: bool = False
    """Whether the memory of sockets has a limit of its own: see `accounting`."""
    udp: bool = True
    """Whether `Limits.loopback` means UDP too."""

    def __post_init__(self) -> None:
        integer("memory_bytes", self.memory_bytes, least=int(MIN_MEMORY_MB * 1_000_000), most=2**50)
        if not self.image_id:
            raise ValueError("image_id must not be empty")


def processors(limits: Limits) -> int:
    """Return how many processors the program sees, so that pools made by that number fit `pids`.

    `cpus` rounded up; less where `pids` has no place for as many worker processes beside the
    runner's two and the threads of a pool.
    """
    return max(1, min(math.ceil(limits.cpus), limits.pids - 8))


def is_gvisor(runtime: str | None) -> bool:
    """Whether the runtime's name says gVisor, which has a kernel of its own: other counts, and no
    filter of ours inside."""
    return runtime is not None and ("runsc" in runtime or "gvisor" in runtime)


def accounting(info: Mapping[str, Any], runtime: str | None) -> tuple[bool, bool]:
    """Return `Profile.socket_limit` and `Profile.udp` for an engine, by its `GET /info`.

    On cgroup v1 the buffers of sockets are charged to a container only where it has a limit for
    them, which crun sets and runc ignores. 3,800 sockets of UDP held 690 MB for a container of 50
    MB: without a limit there is none. On v2 all is charged.
    """
    name = runtime or str(info.get("DefaultRuntime") or "")
    if is_gvisor(name) or str(info.get("CgroupVersion") or "1") != "1":
        return False, True
    limited = bool(info.get("KernelMemoryTCP")) and "crun" in name
    return limited, limited


class Blueprint:
    """The create body of one profile, computed once; `body(uid)` fills in what differs from
    container to container."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._body = _common(profile)

    def body(self, uid: int) -> dict[str, Any]:
        """Return the body for the container that runs as `uid`:`uid`. Shares its unchanging parts:
        not to be changed."""
        integer("uid", uid, least=FIRST_UID, most=LAST_UID)
        limits = self.profile.limits
        mount = OPTIONS.format(limits.tmpfs_bytes, limits.tmpfs_inodes)
        owner = f"uid={uid},gid={uid}"
        writable = {
            WORKING_DIR: f"{mount},mode=0755,{owner}",
            TEMPORARY_DIR: f"{mount},mode=1777",
            # ShmSize alone gives it no inode cap.
            SHARED_MEMORY: f"{OPTIONS.format(limits.shm_bytes, limits.tmpfs_inodes)},mode=1777",
        }
        if not is_gvisor(self.profile.runtime):
            # The C library reads the number of processors here, so Python before 3.13 does too. The
            # kernel has no file of this kind for one container, and a cpuset would pin programs to
            # the same processors.
            writable[PROCESSORS_DIR] = f"{OPTIONS.format(16384, 5)},mode=0755,{owner}"
        return {
            **self._body,
            # A numeric user of the container's own: many of the kernel's quotas are per uid and
            # host-wide (pending signals, message queues, inotify, pipe pages, keys), so one uid for
            # two containers would let one starve the other.
            "User": f"{uid}:{uid}",
            "HostConfig": {
                **self._body["HostConfig"],
                # The only writable places; sized and with an inode cap, both charged to Memory.
                "Tmpfs": writable,
            },
        }


def create_body(profile: Profile, *, uid: int) -> dict[str, Any]:
    """Return the whole body of `POST /containers/create` for a container that runs as
    `uid`:`uid`."""
    return copy.deepcopy(Blueprint(profile).body(uid))


def _common(profile: Profile) -> dict[str, Any]:
    limits = profile.limits
    return {
        "Image": profile.image_id,
        "Entrypoint": list(ENTRYPOINT),  # fixed: argv can be read in `ps` and `inspect` of the host
        "Cmd": [],
        # Python 3.13 and newer read it; the runner shows the same number to all others.
        "Env": [*ENVIRONMENT, f"PYTHON_CPU_COUNT={processors(limits)}"],
        "WorkingDir": WORKING_DIR,
        "Hostname": HOSTNAME,  # else it would be the container's id
        "Domainname": "",
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,  # the host's death is EOF for the runner, which ends; AutoRemove does the rest
        "Tty": False,  # a terminal would merge the streams and change their bytes
        "StopSignal": "SIGKILL",
        "StopTimeout": 1,
        "NetworkDisabled": True,  # with NetworkMode none: the same isolation, without a hook that costs 100 ms of CPU
        "Healthcheck": {"Test": ["NONE"]},  # no exec at intervals, whatever the image says
        "Labels": dict(profile.labels),
        "HostConfig": {
            "Runtime": profile.runtime or "",
            "AutoRemove": True,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "none", "Config": {}},  # else every byte of output is written to the host's disk
            # Isolation
            "NetworkMode": "none",
            "IpcMode": "private",
            "CgroupnsMode": "private",  # on cgroup v1 the default would show the host's paths
            "PidMode": "",
            "UTSMode": "",
            "UsernsMode": "",  # the daemon's own remapping where it has one; never "host"
            "Sysctls": dict(SYSCTLS),
            "CgroupParent": profile.cgroup_parent or "",
            # Privileges
            "Privileged": False,
            "CapDrop": ["ALL"],
            "CapAdd": [],
            "SecurityOpt": [
                "no-new-privileges",
                f"seccomp={seccomp.profile(loopback=limits.loopback, udp=profile.udp)}",
            ],  # AppArmor and SELinux: the daemon's default
            "GroupAdd": [],
            "Init": False,  # the runner is PID 1 and reaps; another init would be one more process of the program's uid
            # Files
            "ReadonlyRootfs": True,
            "Binds": [],
            "Devices": [],
            "ShmSize": limits.shm_bytes,
            "MaskedPaths": list(MASKED_PATHS),
            "ReadonlyPaths": list(READONLY_PATHS),
            # Amounts
            "Memory": profile.memory_bytes,
            **({"KernelMemoryTCP": profile.memory_bytes // SOCKET_SHARE} if profile.socket_limit else {}),
            "MemorySwap": profile.memory_bytes,  # the sum of both: no swap. Not set, it would be twice Memory
            "PidsLimit": limits.pids + (RUNSC_PIDS if is_gvisor(profile.runtime) else 0),
            "NanoCpus": math.ceil(limits.cpus * 1e9),
            "CpuShares": 256,  # a quarter of what the host's own processes have, when processors are short
            "OomScoreAdj": 500,  # when the host is short of memory, sandboxes go first
            "OomKillDisable": False,
            "Ulimits": [
                # 1, not 0: the kernel starts a piped core_pattern's helper, as root on the host, at
                # any limit but 1. The filter makes every later change of this limit do nothing.
                _ulimit("core", 1),
                # So that one oversized allocation is a MemoryError in the program, not a kill: the
                # kernel counts what is mapped writable, touched or not, and that is 8 MiB of stack
                # for every thread, most of which is never touched. The program may raise it: Memory
                # is what bounds.
                _ulimit("data", _data_bytes(profile), NO_HARD_LIMIT),
                _ulimit("fsize", limits.file_size_bytes),
                _ulimit("memlock", 0),
                _ulimit("msgqueue", 0),
                _ulimit("nice", 0),
                _ulimit("nofile", max(1_024, limits.open_files + 32)),  # the runner's; the program is given `open_files`
                _ulimit("rtprio", 0),
                _ulimit("sigpending", 128),
                _ulimit("stack", STACK_BYTES, NO_HARD_LIMIT),
            ],
        },
    }


def _data_bytes(profile: Profile) -> int:
    return profile.memory_bytes + max(profile.limits.pids * STACK_BYTES, LARGEST_STACK_BYTES)


def _ulimit(name: str, soft: int, hard: int | None = None) -> dict[str, Any]:
    return {"Name": name, "Soft": soft, "Hard": soft if hard is None else hard}


def differences(body: Mapping[str, Any], inspect: Mapping[str, Any]) -> list[str]:
    """Compare what was asked with what the engine says it made; return a sentence for each thing
    that it did not take over.

    `body` is a create body, `inspect` the answer of `GET /containers/{id}/json`. Different
    spellings of one thing are equal (see `_same`), so that engines from 20.10 on can be read; a
    limit or a restriction that is missing, wider or narrower is not.
    """
    host, config = inspect.get("HostConfig") or {}, inspect.get("Config") or {}
    asked_and_got = [
        ("Image", body["Image"], inspect.get("Image")),
        *((name, asked, config.get(name)) for name, asked in body.items() if name not in ("Image", "HostConfig", *_NOT_COMPARED)),
        *((f"HostConfig.{name}", asked, host.get(name)) for name, asked in body["HostConfig"].items()),
    ]
    if not host.get("NanoCpus") and host.get("CpuPeriod"):  # the same limit in another unit
        cpus = host.get("CpuQuota", 0) * 1_000_000_000 // host["CpuPeriod"]
        asked_and_got = [(name, asked, cpus if name == "HostConfig.NanoCpus" else got) for name, asked, got in asked_and_got]
    found = [
        f"{name}: asked for {_short(asked)}, the engine has {_short(got)}"
        for name, asked, got in asked_and_got
        if not _same(name.rpartition(".")[2], asked, got)
    ]
    # A VOLUME of the image would be a directory of the host, writable and without a limit.
    found += [
        f"Mounts: the engine mounts {_short(mount.get('Destination'))} of type {_short(mount.get('Type'))}, which was not asked for"
        for mount in inspect.get("Mounts") or []
        if mount.get("Type") != "tmpfs" or mount.get("Destination") not in body["HostConfig"]["Tmpfs"]
    ]
    return found


_NOT_COMPARED = frozenset({"NetworkDisabled"})
"""Only saves time: NetworkMode is what isolates. Some engines have dropped the field."""


def _same(name: str, asked: Any, got: Any) -> bool:
    """Whether `got` is the engine's way of writing `asked`. A field that has no entry in
    `_SPELLINGS` is compared as it is."""
    if spelling := _SPELLINGS.get(name):
        try:
            return spelling(asked, got)
        except (AttributeError, KeyError, TypeError):  # of a shape that no engine has shown so far: not what was asked for
            return False
    # An engine leaves out, or writes null for, what is empty.
    return bool(asked == got and type(asked) is type(got)) if asked else not got


def _security_option(option: str) -> str:
    return "no-new-privileges" if option in ("no-new-privileges:true", "no-new-privileges=true") else option


def _ulimits(entries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    return {entry["Name"].lower().removeprefix("rlimit_"): (entry["Soft"], entry["Hard"]) for entry in entries}


def _same_mount(asked: str, got: str) -> bool:
    """Whether the mount options have all that was asked for, and nothing that takes it back."""
    options = dict(option.partition("=")[::2] for option in got.split(","))
    wanted = dict(option.partition("=")[::2] for option in asked.split(","))
    return wanted.items() <= options.items() and not options.keys() & {"exec", "suid", "dev", "ro"}


def _capabilities(names: Sequence[str] | None) -> set[str]:
    return {name.upper().removeprefix("CAP_") for name in names or ()}


def _own_namespace(asked: str, got: str | None) -> bool:
    return got in ({asked} if asked else {None, "", "private"})


_SPELLINGS: dict[str, Callable[[Any, Any], bool]] = {
    "Env": lambda asked, got: set(asked) <= set(got or ()),  # the image's own come on top
    "Labels": lambda asked, got: asked.items() <= (got or {}).items(),  # here too
    "Runtime": lambda asked, got: asked == got if asked else True,  # the engine writes the name of its default
    "PidMode": _own_namespace,
    "UTSMode": _own_namespace,
    "UsernsMode": _own_namespace,
    "RestartPolicy": lambda asked, got: (got or {}).get("Name") in {asked["Name"], ""},
    "LogConfig": lambda asked, got: (got or {}).get("Type") == asked["Type"],
    "SecurityOpt": lambda asked, got: {_security_option(one) for one in asked} == {_security_option(one) for one in got or ()},
    "CapDrop": lambda asked, got: _capabilities(asked) <= _capabilities(got),
    "MaskedPaths": lambda asked, got: set(asked) <= set(got or ()),
    "ReadonlyPaths": lambda asked, got: set(asked) <= set(got or ()),
    "Ulimits": lambda asked, got: _ulimits(asked).items() <= _ulimits(got or ()).items(),  # the daemon's defaults may come on top
    "Tmpfs": lambda asked, got: (
        asked.keys() == (got or {}).keys() and all(_same_mount(options, got[path]) for path, options in asked.items())
    ),
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def expected_status(runtime: str | None) -> dict[str, frozenset[int]]:
    """What the runner's `ready.status` may say, by member: the kernel's view from inside, which no
    inspect can give.

    gVisor shows no no_new_privs (-1), and runs its guests under a kernel of its own instead of our
    filter.
    """
    gvisor = is_gvisor(runtime)
    return {
        "cap_eff": frozenset({0}),
        "cap_bnd": frozenset({0}),
        "no_new_privs": frozenset({1, -1} if gvisor else {1}),
        "seccomp": frozenset({-1, 0, 2} if gvisor else {2}),
        "dumpable": frozenset({0}),
    }


def check_status(status: Mapping[str, Any], uid: int, runtime: str | None) -> list[str]:
    """Compare the runner's `ready.status` with what must hold; return a sentence for each thing
    that does not.

    A member that is missing or no number does not hold. The two capability sets are hexadecimal
    strings.
    """
    expected = {"uid": frozenset({uid}), "gid": frozenset({uid}), **expected_status(runtime)}
    found = []
    for name, allowed in expected.items():
        value = status.get(name)
        try:
            number = int(value, 16) if isinstance(value, str) and name.startswith("cap_") else value
        except ValueError:
            number = None
        if isinstance(number, bool) or not isinstance(number, int) or number not in allowed:
            found.append(f"{name} is {_short(value)} in the container, where only {' or '.join(map(str, sorted(allowed)))} is safe")
    return found
