# covers = ["B8"]
# outcomes = ["ok"]
# stdout = "^x{60000}$"
# stderr = "^y{60000}$"
# [[runs]]
# args = ["exit"]
# [[runs]]
# args = ["segfault"]
# outcomes = ["signal"]
# signal = 11
# [[runs]]
# args = ["kill"]
# outcomes = ["signal"]
# signal = 9
# [[runs]]
# args = ["exec"]
"""A pipe full of output, and death in the same moment: every byte counts."""

import ctypes
import os
import sys

os.write(1, b"x" * 60_000)
os.write(2, b"y" * 60_000)
if sys.argv[1] == "exit":
    os._exit(0)
elif sys.argv[1] == "segfault":
    ctypes.string_at(0)
elif sys.argv[1] == "kill":
    os.kill(os.getpid(), 9)
else:
    os.execv("/bin/true", ["true"])
