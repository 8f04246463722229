# covers = ["H4"]
# outcomes = ["ok"]
# timeout_ms = 30000
# fetch = ["**"]
# file_count = 64
# skipped_count = 100
# skipped_dropped = 3000
"""Ten thousand files are asked back, as many as there is room for, in folders, and each is named twice."""

import errno
import os

os.mkdir("d")
made = 0
try:
    for number in range(5_000):
        open(f"d/{number}", "w").close()
        os.link(f"d/{number}", f"d/second{number}")
        made += 2
except OSError as error:
    assert error.errno == errno.ENOSPC, error
assert made > 3_500, made
