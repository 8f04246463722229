# outcomes = ["out_of_memory", "error", "timeout"]
# bomb = true
# timeout_ms = 1500
# [[runs]]
# args = ["mappings"]
# [[runs]]
# args = ["fork"]
"""Tens of thousands of mappings, each a structure of the kernel's; then many processes that have all of them."""

import mmap
import os
import sys

kept = []
try:
    for _ in range(70_000):
        kept.append(mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ))
        if len(kept) % 2:
            kept[-1].madvise(mmap.MADV_DONTFORK)
except (OSError, ValueError):
    pass
if sys.argv[1] == "fork":
    while True:
        os.fork()
raise SystemExit(1)
