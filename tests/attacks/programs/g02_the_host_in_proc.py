# covers = ["G2", "G8"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""What tells of the host's boot, hardware, disks and other processes is hidden; counters of the hardware are out of reach."""

import os

from kit import checked, libc, refused

for path in (
    "/proc/cmdline", "/proc/config.gz", "/proc/interrupts", "/proc/diskstats", "/proc/partitions", "/proc/keys", "/proc/kallsyms", "/proc/timer_list",
    "/proc/swaps", "/proc/modules", "/proc/kcore", "/proc/sched_debug", "/proc/latency_stats",
):  # fmt: skip
    try:
        with open(path, "rb") as file:
            assert file.read(1000) == b"", path
    except OSError:
        pass
for path in (
    "/sys/firmware",
    "/sys/block",
    "/sys/class",
    "/sys/kernel",
    "/sys/module",
    "/sys/devices/virtual/powercap",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/asound",
):
    if os.path.isdir(path):
        assert os.listdir(path) == [], path
perf_event_open = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
refused(lambda: checked(libc.syscall(perf_event_open, bytes(128), 0, -1, -1, 0)), "EPERM")
refused(lambda: checked(libc.klogctl(3, bytes(1000), 1000)), "EPERM")
