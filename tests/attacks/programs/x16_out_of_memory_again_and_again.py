# outcomes = ["timeout", "out_of_memory"]
# timeout_ms = 2500
# bomb = true
"""Child after child is killed at the memory limit: the engine has to handle an event for each."""

import os

while True:
    if os.fork() == 0:
        hoard = []
        while True:
            hoard.append(bytearray(b"x" * 4_000_000))
    try:
        os.wait()
    except ChildProcessError:
        pass
