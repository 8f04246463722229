# covers = ["B10", "D1"]
# outcomes = ["ok"]
# timeout_ms = 20000
# before_the_deadline = true
# stdout = "^begun\n(daemon\n)*$"
"""A daemon of two forks holds stdout open and writes into it, while its parent has long exited."""

import os
import time

print("begun")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            os.write(1, b"daemon\n")
            time.sleep(0.01)
