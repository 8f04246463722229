# covers = ["B16"]
# outcomes = ["ok"]
# stdout = "^x{300000}$"
# truncated = false
# gvisor = { outcomes = ["ok", "error", "out_of_memory"], stdout = "", truncated = false }
"""Make the pipes to the runner tiny, huge, packet-wise and non-blocking."""

import fcntl
import os

import sandbox

F_SETPIPE_SZ = 1031
for file in (1, 2, 1000):
    for size in (4096, 1_048_576, 4096):
        try:
            fcntl.fcntl(file, F_SETPIPE_SZ, size)
        except OSError:
            pass
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_NONBLOCK | os.O_DIRECT)
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) & ~os.O_NONBLOCK)
for _ in range(100):
    os.write(1, b"x" * 3_000)
sandbox.send("y" * 50_000)
