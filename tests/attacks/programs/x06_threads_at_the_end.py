# outcomes = ["ok"]
# before_the_deadline = true
# timeout_ms = 20000
"""Fifty daemon threads that write, while the process ends under them."""

import os
import threading


def write():
    while True:
        os.write(1, b"x" * 100)


for _ in range(50):
    threading.Thread(target=write, daemon=True).start()
os._exit(0)
