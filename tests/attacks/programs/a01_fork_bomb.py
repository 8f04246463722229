# covers = ["A1"]
# outcomes = ["error", "timeout", "out_of_memory"]
# bomb = true
"""Every process forks until the kernel refuses."""

import os

while True:
    os.fork()
