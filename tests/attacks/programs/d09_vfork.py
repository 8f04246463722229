# covers = ["D8", "D9"]
# outcomes = ["timeout"]
# timeout_ms = 1200
"""A parent that hangs in vfork, uninterruptible but for a kill, while its child sleeps."""

import os
import time

from kit import libc

CLONE_VFORK, SIGCHLD = 0x4000, 17
clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if libc.syscall(clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) == 0:
    time.sleep(60)
raise AssertionError("the parent went on")
