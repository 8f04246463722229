# covers = ["E8", "G6"]
# outcomes = ["ok"]
# timeout_ms = 15000
# neighbour = true
"""Watch shared files and every table of the kernel's for a trace of another run, while there is one."""

import glob
import os
import select
import time

from kit import checked, libc

watcher = checked(libc.inotify_init1(0o4000))
for path in (
    "/",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    os.path.dirname(os.__file__),
    os.path.realpath("/bin/true"),
    os.path.realpath("/usr/bin/python3"),
    "/dev",
    "/dev/shm",
    "/dev/mqueue",
):
    try:
        checked(libc.inotify_add_watch(watcher, path.encode(), 0xFFF))
    except OSError:
        pass
time.sleep(0.1)
try:
    os.read(watcher, 65_536)  # what our own look-ups did
except OSError:
    pass
os.write(1, b"")
end = time.monotonic() + 2.5
while time.monotonic() < end:
    time.sleep(0.1)
assert not select.select([watcher], [], [], 0)[0], os.read(watcher, 4096)
others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
assert not others, others
for table in ("shm", "msg", "sem"):
    if os.path.exists("/proc/sysvipc/" + table):
        with open("/proc/sysvipc/" + table) as file:
            assert len(file.readlines()) == 1
for table in ("unix", "tcp", "udp", "tcp6", "udp6"):
    if os.path.exists("/proc/net/" + table):
        with open("/proc/net/" + table) as file:
            assert len(file.readlines()) == 1, table
for folder in ("/tmp", "/dev/shm", "/dev/mqueue"):
    assert not os.path.exists(folder) or os.listdir(folder) == [], folder
