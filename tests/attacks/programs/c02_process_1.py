# covers = ["C2", "C16", "G7"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Get at process 1, which talks to the host: its descriptors, its memory, its environment, its system calls."""

import ctypes
import os

from kit import checked, libc, refused, write

for name in (
    "fd/0",
    "fd/1",
    "mem",
    "maps",
    "smaps",
    "environ",
    "auxv",
    "syscall",
    "stack",
    "cwd",
    "exe",
    "root/etc",
    "ns/pid",
    "map_files",
    "pagemap",
    "io",
):
    path = "/proc/1/" + name
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        refused(lambda path=path, flags=flags: os.open(path, flags), "EACCES", "EPERM", "ENOENT", "EISDIR")
for name in ("fd", "map_files", "ns", "fdinfo"):
    refused(
        lambda name=name: [os.readlink("/proc/1/%s/%s" % (name, one)) for one in os.listdir("/proc/1/" + name) or ["x"]],
        "EACCES",
        "EPERM",
        "ENOENT",
    )
for name in (
    "oom_score_adj",
    "comm",
    "coredump_filter",
    "timerslack_ns",
    "clear_refs",
    "loginuid",
    "autogroup",
    "timens_offsets",
    "setgroups",
    "uid_map",
):
    refused(lambda name=name: write("/proc/1/" + name, b"1"), "EACCES", "EPERM", "ENOENT", "EROFS")
for name in os.listdir("/proc/1/task/1"):
    if name in ("fd", "mem", "environ"):
        refused(lambda name=name: os.listdir("/proc/1/task/1/fd") and open("/proc/1/task/1/" + name).read(), "EACCES", "EPERM")
ATTACH, SEIZE = 16, 0x4206
for request in (ATTACH, SEIZE):
    refused(lambda request=request: checked(libc.ptrace(request, 1, None, None)), "EPERM")
buffer = ctypes.create_string_buffer(64)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


here = Vector(ctypes.addressof(buffer), 64)
for call in (libc.process_vm_readv, libc.process_vm_writev):
    refused(lambda call=call: checked(call(1, ctypes.byref(here), 1, ctypes.byref(here), 1, 0)), "EPERM")
pidfd = os.pidfd_open(1) if hasattr(os, "pidfd_open") else checked(libc.syscall(434, 1, 0))
refused(lambda: checked(libc.syscall(438, pidfd, 1, 0)), "EPERM")  # pidfd_getfd
