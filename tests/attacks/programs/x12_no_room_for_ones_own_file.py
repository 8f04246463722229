# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Use up the inodes and the bytes of the working directory, then try to write main.py anew."""

import os

from kit import refused, until_refused

names = iter(range(10_000))
until_refused(lambda: os.close(os.open(str(next(names)), os.O_CREAT)), "ENOSPC")
with open("0", "wb", 0) as file:
    until_refused(lambda: file.write(bytes(100_000)), "ENOSPC", "EFBIG")
with open("1", "wb", 0) as file:
    until_refused(lambda: file.write(bytes(1_000)), "ENOSPC")
refused(lambda: open("another", "w"), "ENOSPC")
with open("main.py", "r+b", 0) as file:
    file.seek(0, 2)
    until_refused(lambda: file.write(bytes(1_000)), "ENOSPC", most=10)
