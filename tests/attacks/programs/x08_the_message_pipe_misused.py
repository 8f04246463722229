# outcomes = ["ok"]
# [[runs]]
# args = ["closed"]
# messages = []
# [[runs]]
# args = ["swapped"]
# messages = []
# [[runs]]
# args = ["interleaved"]
"""Close the pipe, try to put stdout in its place, let processes write over each other into it."""

import os
import sys

import sandbox
from kit import refused

if sys.argv[1] == "closed":
    os.close(1000)
    try:
        sandbox.send(1)
    except RuntimeError:
        pass
elif sys.argv[1] == "swapped":
    os.dup2(1, 250)
    os.dup2(2, 3)
    os.close(1000)
    # The limit on open files is below it: nothing of the program's can take that number again.
    refused(lambda: os.dup2(1, 1000), "EBADF")
else:
    for n in range(4):
        if os.fork() == 0:
            for _ in range(200):
                os.write(1000, os.urandom(100))
            os._exit(0)
    for _ in range(4):
        os.wait()
