# covers = ["A19"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Contexts of asynchronous I/O are counted for the whole host; io_uring has been a way out of containers."""

import ctypes
import platform

from kit import checked, libc, refused

io_setup = {"x86_64": 206, "aarch64": 0}[platform.machine()]
context = ctypes.c_ulong(0)
refused(lambda: checked(libc.syscall(io_setup, 65_536, ctypes.byref(context))), "EPERM")
for io_uring in (425, 426, 427):
    refused(lambda number=io_uring: checked(libc.syscall(number, 8, ctypes.create_string_buffer(256))), "EPERM")
