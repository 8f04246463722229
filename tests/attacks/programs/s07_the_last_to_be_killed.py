# covers = ["S7"]
# outcomes = ["ok", "error", "out_of_memory", "signal"]
# session = true
# lost = true
# bomb = true
# timeout_ms = 20000
"""Forty hogs that make themselves as unlikely to be killed at the memory limit as they may, so that the kernel turns to others."""

import contextlib
import os
import time

with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
    file.write("500")
for _ in range(40):
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            hog = [bytearray(os.urandom(1_000_000)) for _ in range(4)]
            time.sleep(100)
time.sleep(2)
