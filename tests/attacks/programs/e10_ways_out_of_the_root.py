# covers = ["E10", "F8"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Devices, mounts, other roots, handles, namespaces."""

import ctypes
import os
import stat

from kit import checked, libc, refused

for device in (os.makedev(1, 1), os.makedev(8, 0), os.makedev(254, 0), os.makedev(1, 3)):
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        refused(lambda kind=kind, device=device: os.mknod("/tmp/device", 0o666 | kind, device), "EPERM")
refused(lambda: os.chroot("/tmp"), "EPERM")
refused(lambda: checked(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)), "EPERM")
refused(lambda: checked(libc.mount(b"/", b"/proc", None, 4096, None)), "EPERM")
refused(lambda: checked(libc.umount2(b"/proc/sys", 2)), "EPERM")
refused(lambda: checked(libc.syscall({"x86_64": 155, "aarch64": 41}[os.uname().machine], b"/tmp", b"/tmp")), "EPERM")
handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0", 24)
refused(lambda: checked(libc.open_by_handle_at(os.open("/etc/hostname", os.O_RDONLY), handle, 0)), "EPERM")
for namespace in (0x10000000, 0x40000000, 0x20000, 0x8000000, 0x2000000, 0x4000000, 0x20000000, 0x80):
    refused(lambda namespace=namespace: checked(libc.unshare(namespace)), "EPERM")
    refused(lambda namespace=namespace: checked(libc.setns(os.open("/proc/self/ns/net", os.O_RDONLY), namespace)), "EPERM", "EINVAL")
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
refused(lambda: checked(libc.syscall(clone, 0x10000000 | 17, 0, 0, 0, 0)), "EPERM")
refused(lambda: checked(libc.syscall(435, ctypes.create_string_buffer(88), 88)), "ENOSYS")
refused(lambda: os.listdir("/proc/1/root/"), "EACCES", "EPERM")
assert sorted(os.listdir("/proc/self/root/")) == sorted(os.listdir("/"))
os.chdir("/")
for _ in range(50):
    os.chdir("..")
assert os.path.samefile(".", "/")
