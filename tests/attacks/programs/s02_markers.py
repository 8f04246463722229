# covers = ["S2", "G6"]
# outcomes = ["ok"]
# session = true
# env = { LEFT = "MARKER-4f1d0c9b" }
# timeout_ms = 20000
# gvisor = { lost = true }
"""A marker in every place that might outlive a program: shared memory, queues, sockets, locks, keys, names of processes, memory, attributes."""

import array
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import time

from kit import libc

MARKER = b"MARKER-4f1d0c9b"
print(MARKER.decode() * 5_000)
print(MARKER.decode() * 5_000, file=sys.stderr)
kept = [MARKER * (1 << power) for power in range(16)]
for name in ("marker", "sem.marker"):
    with contextlib.suppress(OSError), open("/dev/shm/" + name, "wb") as file:
        file.write(MARKER * 1_000)
for make in (lambda: libc.shmget(0x4F1D, 40_000, 0o1666), lambda: libc.semget(0x4F1D, 3, 0o1666), lambda: libc.msgget(0x4F1D, 0o1666)):
    make()
libc.shmat.restype = ctypes.c_void_p
address = libc.shmat(libc.shmget(0x4F1D, 40_000, 0o666), None, 0)
if address not in (None, ctypes.c_void_p(-1).value):
    ctypes.memmove(address, MARKER * 1_000, 15_000)
libc.msgsnd(libc.msgget(0x4F1D, 0o666), ctypes.create_string_buffer(b"\1\0\0\0\0\0\0\0" + MARKER), 15, 0)
libc.syscall(248, b"user", MARKER, MARKER, 15, -4)  # add_key
libc.mq_open(b"/" + MARKER, os.O_CREAT | os.O_RDWR, 0o666, None)
named = socket.socket(socket.AF_UNIX)
named.bind(b"\0" + MARKER)
named.listen()
ours, theirs = socket.socketpair()
ours.sendmsg([MARKER], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [named.fileno(), ours.fileno(), theirs.fileno()]))])
server = socket.create_server(("127.0.0.1", 4_567))
client = socket.create_connection(("127.0.0.1", 4_567))
accepted = server.accept()[0]
client.send(MARKER)
accepted.close()  # its port stays in TIME_WAIT
fcntl.flock(os.open("lock", os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)
with contextlib.suppress(OSError):
    os.setxattr(".", "user.marker", MARKER)
memory = os.memfd_create(MARKER.decode())
os.write(memory, MARKER * 1_000)
libc.prctl(15, MARKER)  # the name of this process
os.umask(0o777)
os.nice(3)
os.chdir("/tmp")
os.environ["LEFT"] = MARKER.decode()
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
resource.setrlimit(resource.RLIMIT_CPU, (50, 60))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
signal.setitimer(signal.ITIMER_REAL, 1_000)
for number in range(1, 65):
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_IGN)
subprocess.Popen(["sleep", "1000"], start_new_session=True, env={"LEFT": MARKER.decode()})
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        libc.prctl(36, 1)  # it takes orphans in
        while True:
            time.sleep(100)
    os._exit(0)
