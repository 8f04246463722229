# covers = ["S1"]
# outcomes = ["ok"]
# session = true
# lost = true
# stdout = "^before\nafter\n$"
# [[runs]]
# args = ["kill"]
# [[runs]]
# args = ["kill all"]
# [[runs]]
# args = ["owner"]
# [[runs]]
# args = ["limits"]
# [[runs]]
# args = ["processors"]
# [[runs]]
# args = ["look"]
# lost = false
# gvisor = { env = { GVISOR = "" } }
"""The process from which the session's next program is forked: killed by signals of each kind, limited, moved, traced, read."""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys

from kit import libc, refused

zygote = min(int(name) for name in os.listdir("/proc") if name.isdigit() and name not in ("1", str(os.getpid())))
print("before", flush=True)
how = sys.argv[1]
if how == "kill":
    os.kill(zygote, signal.SIGKILL)
elif how == "kill all":
    os.kill(-1, signal.SIGKILL)
elif how == "owner":
    # A signal that a socket sends for its owner, who may be anybody.
    ours, theirs = socket.socketpair()
    with contextlib.suppress(OSError):
        fcntl.fcntl(ours, fcntl.F_SETOWN, zygote)
        fcntl.fcntl(ours, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(ours, fcntl.F_SETFL, fcntl.fcntl(ours, fcntl.F_GETFL) | os.O_ASYNC)
        theirs.send(b"x")
elif how == "limits":
    with contextlib.suppress(OSError):
        resource.prlimit(zygote, resource.RLIMIT_NOFILE, (20, 20))
        resource.prlimit(zygote, resource.RLIMIT_CPU, (1, 1))
elif how == "processors":
    with contextlib.suppress(OSError):
        os.sched_setaffinity(zygote, {max(os.sched_getaffinity(0))})
        os.setpriority(os.PRIO_PROCESS, zygote, 19)
else:
    for request in (16, 0x4206):
        refused(lambda request=request: libc.ptrace(request, zygote, 0, 0) + 1 or os.kill(1, 0) or open("/proc/1/mem"), "EPERM", "EACCES")
    # What gVisor shows of it, as of any other process, is what is the same for each program.
    shown = () if "GVISOR" in os.environ else ("maps", "environ", "auxv", "fd/0", "fd/1")
    for name in (*shown, "mem", "syscall", "stack", "exe", "cwd", "root/etc"):
        for flags in (os.O_RDONLY, os.O_RDWR):
            path = f"/proc/{zygote}/{name}"
            refused(lambda path=path, flags=flags: os.open(path, flags), "EACCES", "EPERM", "ENOENT", "EISDIR")
print("after")
