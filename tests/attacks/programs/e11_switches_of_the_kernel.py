# covers = ["E11"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Write to the files through which the kernel is steered. The suite compares the host's values, too."""

import glob
import os

from kit import refused, write

for path in (
    "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/kernel/hostname", "/proc/sys/fs/binfmt_misc/register", "/proc/irq/default_smp_affinity", "/proc/bus/pci/00", "/proc/self/uid_map",
    "/proc/self/setgroups", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/uevent_helper", "/proc/kcore", "/dev/mem", "/dev/kmsg",
):  # fmt: skip
    refused(lambda path=path: write(path, b"0"), "EROFS", "EACCES", "EPERM", "ENOENT", "EISDIR", "EINVAL")
refused(lambda: write("/proc/self/oom_score_adj", b"-1000"), "EACCES", "EPERM")
refused(lambda: write("/proc/self/oom_score_adj", b"-1"), "EACCES", "EPERM")
for path in (
    glob.glob("/sys/fs/cgroup/*/*") + glob.glob("/sys/fs/cgroup/*") + ["/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/cgroup.procs"]
):
    refused(lambda path=path: write(path, b"1"), "EROFS", "EACCES", "EPERM", "ENOENT", "EISDIR")
refused(lambda: os.mkdir("/sys/fs/cgroup/memory/x"), "EROFS", "EACCES", "EPERM", "ENOENT")
