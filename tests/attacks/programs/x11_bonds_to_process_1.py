# outcomes = ["ok"]
# timeout_ms = 20000
# before_the_deadline = true
"""Signals at the parent's death, subreapers, robust lists that point nowhere, names of threads, dumpable again and not."""

import ctypes
import os

from kit import libc

libc.prctl(1, 9)  # PR_SET_PDEATHSIG: the parent is process 1
libc.prctl(36, 1)
libc.prctl(4, 0)
libc.prctl(4, 1)
libc.prctl(0x59616D61, ctypes.c_ulong(2**64 - 1))  # PR_SET_PTRACER_ANY
set_robust_list = {"x86_64": 273, "aarch64": 99}[os.uname().machine]
for address in (0xDEAD0000, ctypes.addressof(ctypes.create_string_buffer(24))):
    if os.fork() == 0:
        libc.syscall(set_robust_list, ctypes.c_void_p(address), 24)
        os._exit(0)
    os.wait()
