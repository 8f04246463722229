# outcomes = ["ok"]
"""Clocks: nobody's can be set, and what is slept through counts."""

import time

from kit import refused

refused(lambda: time.clock_settime(time.CLOCK_REALTIME, 0), "EPERM")
