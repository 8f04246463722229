# covers = ["A11"]
# outcomes = ["signal"]
# signal = 7
"""A mapping of a file in /dev/shm that is larger than /dev/shm: the page that has no room is a SIGBUS."""

import mmap

with open("/dev/shm/x", "wb+") as file:
    file.truncate(15_000_000)
    memory = mmap.mmap(file.fileno(), 15_000_000)
    for at in range(0, 15_000_000, 4096):
        memory[at] = 1
