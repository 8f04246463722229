# covers = ["B9"]
# outcomes = ["timeout"]
# stdout = "^(\\d+\n){100}"
# timeout_ms = 1200
"""Output that goes on until the kill: what was written before it is kept."""

import time

n = 0
while True:
    print(n)
    n += 1
    time.sleep(0.001)
