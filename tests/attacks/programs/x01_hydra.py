# outcomes = ["timeout", "out_of_memory"]
# bomb = true
# timeout_ms = 1200
"""Processes that exist for a moment only, each leaving two behind, in sessions of their own: no walk over /proc would catch them."""

import os
import signal


def live_on():
    while True:
        try:
            if os.fork() and os.fork():
                os._exit(0)
            os.setsid()
        except OSError:
            pass


if os.fork() == 0:
    live_on()
while True:
    signal.pause()
