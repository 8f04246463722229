# covers = ["K1"]
# outcomes = ["ok"]
# bomb = true
# gvisor = { outcomes = ["ok", "error"] }
"""Access lists and other attributes of files, by every call and descriptor; files without a bound where there is a second place."""

import ctypes
import os
import platform
import shutil
import struct

from kit import checked, libc, refused, until_refused

access_list = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 7, number) for tag, number in [(1, 2**32 - 1), (2, 1000), (4, 2**32 - 1), (16, 2**32 - 1), (32, 2**32 - 1)]
)
names = "system.posix_acl_access", "system.posix_acl_default", "user.x", "trusted.x", "security.x"
folder = os.open("/dev/shm", os.O_RDONLY)
for place in ("/tmp", "/sandbox", "/dev/shm", "/proc/self/fd/%d" % folder, folder, os.memfd_create("x")):
    for name in names:
        refused(lambda place=place, name=name: os.setxattr(place, name, access_list), "ENOTSUP", "EOPNOTSUPP")
refused(lambda: os.setxattr("/tmp", "user.x", b"", follow_symlinks=False), "ENOTSUP", "EOPNOTSUPP")
if platform.machine() == "x86_64":
    # setxattrat, file_setattr, and numbers that no kernel has yet
    for number in (463, 468, 469, *range(470, 520)):
        refused(lambda number=number: checked(libc.syscall(ctypes.c_long(number), -100, b"/tmp", 0, access_list, 44, 0)),
                "EPERM", "ENOSYS", "ENOTSUP", "EOPNOTSUPP")  # fmt: skip
with open("/tmp/a", "w") as file:
    file.write("x")
shutil.copy2("/tmp/a", "/tmp/b")
for place in ("/tmp", "/sandbox", "/dev/shm"):
    names = map((place + "/%d").__mod__, range(5_000))
    made = until_refused(lambda names=names: os.mkdir(next(names)), "ENOSPC", most=5_000)
    assert made < 4_100, made
