# covers = ["C6", "C7"]
# outcomes = ["ok"]
# messages = [7]
# [[runs]]
# args = ["2147483647"]
# messages_dropped = 1
# [[runs]]
# args = ["4294967295"]
# [[runs]]
# args = ["1000001"]
# messages_dropped = 1
# [[runs]]
# args = ["3"]
# messages_dropped = 1
# [[runs]]
# args = ["hang"]
# timeout_ms = 1200
# outcomes = ["timeout"]
# messages_dropped = 1
"""A message, or with the highest bit a display, that claims more than it brings, and ends there or hangs: nothing is allocated by a claim."""

import os
import sys
import time

import sandbox

sandbox.send(7)
if sys.argv[1] == "hang":
    os.write(1000, b"\0\0\0\x10[")
    time.sleep(60)
os.write(1000, int(sys.argv[1]).to_bytes(4, "big") + b"[")
