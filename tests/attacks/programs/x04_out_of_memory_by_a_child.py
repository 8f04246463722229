# outcomes = ["out_of_memory", "ok"]
# bomb = true
"""Children that want to be killed last, each with a little, and a parent with nothing: whom the kernel kills, and be it process 1, it is told."""

import os

from kit import write

for n in range(8):
    if os.fork() == 0:
        for wish in range(0, 1000, 100):
            try:
                write("/proc/self/oom_score_adj", b"%d" % wish)
                break
            except OSError:
                pass
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * 500_000))
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
