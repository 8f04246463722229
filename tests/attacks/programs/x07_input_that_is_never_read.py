# outcomes = ["ok"]
# stdin_bytes = 3_900_000
# timeout_ms = 20000
# before_the_deadline = true
# [[runs]]
# args = ["ignore"]
# [[runs]]
# args = ["close"]
# [[runs]]
# args = ["part"]
# [[runs]]
# args = ["flood"]
# truncated = true
"""Four million bytes of input, of which the program takes none, a part, or none while it floods."""

import os
import sys

if sys.argv[1] == "close":
    os.close(0)
elif sys.argv[1] == "part":
    assert len(os.read(0, 1000)) == 1000
elif sys.argv[1] == "flood":
    for _ in range(300):
        os.write(1, b"x" * 50_000)
os._exit(0)
