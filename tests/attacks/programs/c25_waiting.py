# covers = ["C25"]
# outcomes = ["ok"]
# before_the_deadline = true
# timeout_ms = 20000
"""Wait for everybody, ignore children, take over orphans: the runner's own waiting is not disturbed."""

import os
import signal

from kit import libc

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
libc.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
for n in range(200):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(n % 256)
        os._exit(n % 256)
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
