# covers = ["S5"]
# outcomes = ["ok"]
# session = true
# timeout_ms = 20000
# gvisor = { lost = true, outcomes = ["ok", "out_of_memory", "timeout"] }
"""Daemons that go for process 1 and the zygote until they are killed, and folders made as hard to wipe as can be."""

import contextlib
import os
import resource
import signal
import time

from kit import libc

os.chdir("/dev/shm")
with contextlib.suppress(OSError):
    for number in range(1_500):
        os.mkdir("d")
        os.chdir("d")
        open(f".{number}", "w").close()
os.chdir("/dev/shm")
with contextlib.suppress(OSError):
    for number in range(1_000):
        open(f"{number}", "w").close()
os.mkdir("/tmp/shut")
open("/tmp/shut/x", "w").close()
for path in ("/tmp/shut", "/dev/shm/d/d", "/dev/shm/d"):
    os.chmod(path, 0)
os.chmod("/sandbox", 0)
zygote = min(int(name) for name in os.listdir("/proc") if name.isdigit() and name not in ("1", str(os.getpid())))
for _ in range(4):
    if os.fork() == 0:
        os.setsid()
        while True:
            for victim in (1, zygote):
                for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGALRM):
                    with contextlib.suppress(OSError):
                        if victim == 1 or number in (signal.SIGSTOP, signal.SIGTSTP):
                            os.kill(victim, number)
                with contextlib.suppress(OSError):
                    libc.ptrace(0x4206, victim, 0, 0)
                with contextlib.suppress(OSError):
                    resource.prlimit(1, resource.RLIMIT_NOFILE, (3, 3))
time.sleep(0.3)
