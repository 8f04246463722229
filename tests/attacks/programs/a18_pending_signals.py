# covers = ["A18"]
# outcomes = ["ok"]
# neighbour = true
"""Queue signals to oneself until the kernel's count of this user's is full."""

import ctypes
import os
import signal
import time

from kit import checked, libc, until_refused

signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
assert until_refused(lambda: checked(libc.sigqueue(os.getpid(), 40, None)), "EAGAIN") <= 128
time.sleep(0.7)
