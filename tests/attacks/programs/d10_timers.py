# covers = ["D10"]
# outcomes = ["ok"]
# timeout_ms = 8000
"""Storms of the program's own timers; the runner's time is none of them."""

import os
import signal
import time

hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.signal(signal.SIGVTALRM, lambda *_: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001, 0.0001)
end = time.monotonic() + 0.5
while time.monotonic() < end:
    pass
signal.alarm(0)
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
assert len(hits) > 10
os._exit(0)
