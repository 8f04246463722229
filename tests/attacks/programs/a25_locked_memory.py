# covers = ["A25"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Memory that cannot be swapped or split: none."""

import mmap

from kit import checked, libc, refused

refused(lambda: checked(libc.mlockall(3)), "EPERM", "ENOMEM")
refused(lambda: mmap.mmap(-1, 2**21, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000), "EPERM", "ENOMEM", "EINVAL")
