# covers = ["H6"]
# outcomes = ["out_of_memory"]
# timeout_ms = 30000
# bomb = true
# fetch = ["*"]
# skipped = { "z" = "too_large" }
# file_count = 7
# gvisor = { file_count = 0, skipped = {} }
"""All memory is taken when files are to be read: by files themselves, in /tmp as well, and by a heap."""

import contextlib
import os

for name in "abcdefg":
    open(name, "wb").write(bytes(1_000_000))
open("z", "wb").write(bytes(5_000_000))
with contextlib.suppress(OSError):
    open("/tmp/x", "wb").write(bytes(15_000_000))
heap = []
while True:
    heap.append(os.urandom(1_000_000))
