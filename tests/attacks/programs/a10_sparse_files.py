# covers = ["A10"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Files that are larger than the place they lie in, without a byte in them."""

import os

from kit import refused

with open("/tmp/sparse", "wb") as file:
    refused(lambda: os.truncate("/tmp/sparse", 2**50), "EFBIG", "EINVAL")
    refused(lambda: os.posix_fallocate(file.fileno(), 0, 2**30), "EFBIG", "ENOSPC")
    refused(lambda: os.pwrite(file.fileno(), b"x", 2**40), "EFBIG")
    os.truncate("/tmp/sparse", 10_000_000)
assert os.stat("/tmp/sparse").st_blocks < 100
