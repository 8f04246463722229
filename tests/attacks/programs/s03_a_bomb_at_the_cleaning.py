# covers = ["S3"]
# outcomes = ["ok"]
# session = true
# bomb = true
# timeout_ms = 20000
# before_the_deadline = true
# gvisor = { lost = true, outcomes = ["ok", "out_of_memory"] }
# [[runs]]
# args = ["before the end"]
# outcomes = ["ok", "out_of_memory"]
# lost = true
# [[runs]]
# args = ["at the end"]
# [[runs]]
# args = ["by vfork"]
"""A fork bomb that ignores every signal goes off when its program ends, so that it grows while the session is cleaned."""

import contextlib
import os
import signal
import sys
import time

from kit import libc

for number in range(1, 65):
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_IGN)
how = sys.argv[1]


def bomb():
    with contextlib.suppress(OSError):
        os.setsid()
    while True:
        with contextlib.suppress(OSError):
            if (libc.vfork() if how == "by vfork" else os.fork()) != 0 and how == "at the end":
                os._exit(0)  # there is always one more, and never the same


for _ in range(20):
    with contextlib.suppress(OSError):
        if os.fork() == 0:
            if how == "at the end":
                parent = os.getppid()
                while os.getppid() == parent:
                    pass
            bomb()
if how != "at the end":
    time.sleep(0.3)
