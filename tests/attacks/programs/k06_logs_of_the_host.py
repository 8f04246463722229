# covers = ["K6"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "signal"] }
"""Filters of one's own, whose verdicts the host writes into its log, and whose code fills the host's space for compiled filters."""

import ctypes
import os
import socket
import struct

from kit import checked, libc, refused

log_all = struct.pack("HBBI", 0x06, 0, 0, 0x7FFC0000)
code = ctypes.create_string_buffer(log_all)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
seccomp = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
for flags in (0, 1, 2, 8):
    refused(lambda flags=flags: checked(libc.syscall(ctypes.c_long(seccomp), 1, flags, program)), "EPERM")
refused(lambda: checked(libc.syscall(ctypes.c_long(seccomp), 0, 0, None)), "EPERM")
for high in (0, 2**32):
    for mode in (1, 2):
        refused(lambda high=high, mode=mode: checked(libc.prctl(ctypes.c_ulong(high | 22), mode, program, 0, 0)), "EPERM")
near, _ = socket.socketpair()
for option in (26, 50, 51, 52):
    refused(lambda option=option: near.setsockopt(socket.SOL_SOCKET, option, program.raw[:16]), "EPERM")
