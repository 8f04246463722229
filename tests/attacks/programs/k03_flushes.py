# covers = ["K3"]
# outcomes = ["ok"]
# neighbour = true
# gvisor = { outcomes = ["ok", "error"] }
"""Flush the host's disk through whatever lies on it, by every call: the engine's own files, the image, its folders."""

import mmap
import os

from kit import libc

for path in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/", "/usr", "/usr/bin/python3", "/proc/self/ns/net"):
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        continue
    for _ in range(500):
        os.fsync(file)
        os.fdatasync(file)
        libc.sync_file_range(file, 0, 0, 7)
        libc.syncfs(file)
    if os.path.isfile(path) and os.fstat(file).st_size:
        area = mmap.mmap(file, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        area.flush()
os.sync()
