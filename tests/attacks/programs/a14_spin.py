# covers = ["A14"]
# outcomes = ["timeout"]
# bomb = true
# timeout_ms = 1200
"""Eight processes that only burn: together they get the processors' time of one limit."""

import os

for _ in range(3):
    os.fork()
while True:
    pass
