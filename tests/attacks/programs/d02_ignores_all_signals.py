# covers = ["D2", "A2"]
# outcomes = ["timeout"]
# timeout_ms = 1200
# gvisor = { outcomes = ["timeout", "out_of_memory"] }
"""Sessions and groups of their own, every signal blocked and ignored."""

import os
import signal

for _ in range(4):
    os.fork()
    try:
        os.setsid()
        os.setpgid(0, 0)
    except OSError:
        pass
for number in set(range(1, 65)) - {9, 19, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass
