# covers = ["A2"]
# outcomes = ["timeout", "out_of_memory"]
# bomb = true
# timeout_ms = 1200
"""The same, and every child takes EAGAIN for a reason to try again."""

import os

while True:
    try:
        os.fork()
    except OSError:
        pass
