# covers = ["B3"]
# outcomes = ["timeout"]
# pieces = 3_000
# bomb = true
# timeout_ms = 1200
"""Single bytes, on all three channels at once, as fast as they can be written: few pieces must come of it."""

import os
import threading


def write(file):
    while True:
        os.write(file, b"\n")


for file in (1, 2, 1000):
    threading.Thread(target=write, args=(file,)).start()
