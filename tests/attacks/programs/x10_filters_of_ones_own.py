# covers = ["K6"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["signal"], signal = 31 }
"""Filter one's own system calls, to death: no filter of the program's is taken."""

import ctypes
import os
import struct

from kit import libc


class Program(ctypes.Structure):
    _fields_ = [("size", ctypes.c_ushort), ("code", ctypes.c_void_p)]


kill_process = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0x80000000))
libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.addressof(kill_process))), 0, 0)
os.getppid()
os._exit(0)
