# covers = ["B1", "B2", "B5"]
# outcomes = ["timeout"]
# truncated = true
# bomb = true
# timeout_ms = 1200
# [[runs]]
# args = ["1"]
# [[runs]]
# args = ["2"]
# [[runs]]
# args = ["12"]
# [[runs]]
# args = ["1"]
# outcomes = ["output_limit"]
# kill_on_output = true
# [[runs]]
# args = ["12"]
# outcomes = ["output_limit"]
# kill_on_output = true
"""Output without an end and without a line's end, on stdout, on stderr, on both."""

import os
import sys

while True:
    for file in map(int, sys.argv[1]):
        os.write(file, b"x" * 100_000)
