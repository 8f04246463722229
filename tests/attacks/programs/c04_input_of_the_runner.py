# covers = ["C4"]
# outcomes = ["ok"]
"""Read what the host sends to the runner: the program's stdin is a pipe of its own, and empty."""

import os

assert os.read(0, 1_000_000) == b""
assert os.readlink("/proc/self/fd/0") != os.readlink("/proc/self/fd/1")
for file in (1, 2, 1000):
    try:
        os.read(file, 1)
    except OSError:
        continue
    raise AssertionError(file)
