# covers = ["B12"]
# outcomes = ["ok"]
# before_the_deadline = true
# timeout_ms = 20000
# stdout = "^$"
"""Close every descriptor, live on for a while, exit."""

import os
import time

os.closerange(0, 2000)
time.sleep(0.2)
os._exit(0)
