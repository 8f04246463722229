# covers = ["A9"]
# outcomes = ["ok"]
# timeout_ms = 5000
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""A million empty files, directories and links: each is kernel memory."""

import os

from kit import until_refused

for folder in ("/tmp", "/sandbox"):
    names = ("%s/%s%d" % (folder, "n" * 200, n) for n in range(1_000_000))
    assert until_refused(lambda: os.close(os.open(next(names), os.O_CREAT)), "ENOSPC") < 5_000
    assert until_refused(lambda: os.mkdir(next(names)), "ENOSPC") == 0
    assert until_refused(lambda: os.symlink("x" * 4_000, next(names)), "ENOSPC") == 0
