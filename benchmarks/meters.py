"""What the kernel says: processor time of the machine and of a process, memory of a container and
of what stands beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TICK = 1_000 / os.sysconf("SC_CLK_TCK")


def machine_cpu_ms() -> float:
    """Processor time spent on this machine since boot, whoever spent it: all but idle, iowait and
    steal."""
    times = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(times[:8]) - times[3] - times[4] - times[7]) * _TICK


def settle(most: float = 1.0) -> None:
    """Wait until the machine has nothing to do, that is until what was measured before has left
    nothing behind; at most `most` seconds."""
    end = time.monotonic() + most
    while time.monotonic() < end:
        before, begun = machine_cpu_ms(), time.monotonic()
        time.sleep(0.04)
        if machine_cpu_ms() - before <= 0.3 * (time.monotonic() - begun) * 1_000:
            return


def status_kb(pid: int | str, name: str) -> int:
    """A field of /proc/PID/status, in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    return 0


def reset_peak(pid: int | str = "self") -> None:
    """Let VmHWM, the peak of a process's memory, begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def pss_kb(pid: int | str) -> int:
    """A process's memory, what it shares divided among those who share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def pids_of_uid(uid: int) -> list[int]:
    """The processes of a user."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid or f"Uid:\t{uid}\t" in (entry / "status").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def shim_of(container: str) -> int | None:
    """The containerd-shim that stands beside a container."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"containerd-shim" in words[0] and container.encode() in words:
                return int(entry.name)
    return None


def cgroup_bytes(pid: int) -> tuple[int | None, int | None]:
    """Memory that the cgroup of a process is charged with, and how much of it is file cache; None
    where it cannot be read."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder, name = Path("/sys/fs/cgroup/memory" + path), "memory.usage_in_bytes"
        elif number == "0" and not controllers:
            folder, name = Path("/sys/fs/cgroup" + path), "memory.current"
        else:
            continue
        try:
            stat = dict(row.split() for row in (folder / "memory.stat").read_text().splitlines())
            return int((folder / name).read_text()), int(stat.get("total_cache", stat.get("file", 0)))
        except OSError:
            continue
    return None, None


def available_kb() -> int:
    """What the kernel says could still be had."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1])
    return 0
