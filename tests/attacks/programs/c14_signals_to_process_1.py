# covers = ["C14"]
# outcomes = ["ok"]
# [[runs]]
# args = ["one"]
# gvisor = { lost = true }
# [[runs]]
# args = ["all"]
# [[runs]]
# args = ["group"]
# outcomes = ["signal"]
# signal = 9
"""Every signal, by every call, to process 1; then to everybody; then to one's own group."""

import ctypes
import os
import signal
import sys

from kit import checked, libc, refused

if sys.argv[1] == "one":
    for number in range(1, 65):
        refused(lambda number=number: os.kill(1, number), "EPERM")
        refused(lambda number=number: checked(libc.syscall(234 if os.uname().machine == "x86_64" else 131, 1, 1, number)), "EPERM")
        refused(lambda number=number: checked(libc.sigqueue(1, number, ctypes.c_void_p(0))), "EPERM")
    if hasattr(os, "pidfd_open"):
        pidfd = os.pidfd_open(1)
        refused(lambda: signal.pidfd_send_signal(pidfd, signal.SIGKILL), "EPERM")
elif sys.argv[1] == "all":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGSTOP, signal.SIGKILL, 34, 64):
        if os.fork() == 0:
            while True:
                signal.pause()
        try:
            os.kill(-1, number)
        except OSError:
            pass
else:
    os.killpg(0, signal.SIGKILL)
