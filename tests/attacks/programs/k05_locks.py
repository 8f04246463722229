# covers = ["K5", "K7", "K8"]
# outcomes = ["ok"]
# neighbour = true
# gvisor = { outcomes = ["ok", "error"] }
"""Locks by the ten thousand, on one's own files and on the one inode that all eventfds of the host share: none of them is taken."""

import ctypes
import errno
import fcntl
import os
import select
import sqlite3
import struct

from kit import checked, libc, refused


def lock(kind, start):
    return struct.pack("hhqqi4x", kind, 0, start, 1, 0)


descriptors = [libc.eventfd(0, 0), select.epoll().fileno(), libc.timerfd_create(1, 0), libc.inotify_init1(0), os.open("/tmp/x", 0o102)]
for file in descriptors:
    for command in (fcntl.F_SETLK, fcntl.F_SETLKW, 37, 38):
        for start in range(1_000):
            fcntl.fcntl(file, command, lock(fcntl.F_WRLCK, 2 * start))
    for _ in range(1_000):
        fcntl.flock(file, fcntl.LOCK_SH)
    for command in (fcntl.F_SETLEASE, 6 | 2**31):
        refused(lambda file=file, command=command: fcntl.fcntl(file, command - 2**32 if command > 2**31 else command, fcntl.F_RDLCK), "EPERM")
pid = os.fork()
if pid == 0:
    # Were a lock held, the other process could not have it, and the list of all locks would show it.
    found = fcntl.fcntl(descriptors[-1], fcntl.F_GETLK, lock(fcntl.F_WRLCK, 0))
    fcntl.flock(os.open("/tmp/x", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
    os._exit(struct.unpack("hhqqi4x", found)[0] != fcntl.F_UNLCK)
assert os.waitpid(pid, 0)[1] == 0
with open("/proc/locks") as table:
    assert table.read() == ""
# A number of a command is 32 bits wide: what lies above them is not looked at by the kernel.
libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p]
number = {"x86_64": 72, "aarch64": 25}[os.uname().machine]
assert checked(libc.syscall(number, descriptors[0], 2**32 | fcntl.F_SETLK, lock(fcntl.F_WRLCK, 0))) == 0
assert fcntl.fcntl(descriptors[0], fcntl.F_GETLK, lock(fcntl.F_WRLCK, 0))[:2] == struct.pack("h", fcntl.F_UNLCK), errno
database = sqlite3.connect("/tmp/database")
database.execute("create table t (x)")
database.execute("insert into t values (1)")
database.commit()
