# covers = ["A8"]
# outcomes = ["ok"]
"""Fill each writable place, with one file and with many."""

import os

from kit import until_refused

for folder, room in (("/tmp", 16_000_000), ("/sandbox", 16_000_000), ("/dev/shm", 8_000_000)):
    for n in range(3):
        with open("%s/%d" % (folder, n), "wb", buffering=0) as file:
            until_refused(lambda file=file: file.write(bytes(100_000)), "ENOSPC", "EFBIG", most=1000)
    used = sum(os.stat("%s/%d" % (folder, n)).st_blocks * 512 for n in range(3))
    assert used <= room + 4096, (folder, used)  # in whole pages
    for n in range(3):
        os.unlink("%s/%d" % (folder, n))
