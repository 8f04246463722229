# covers = ["A13"]
# outcomes = ["out_of_memory", "error"]
# bomb = true
# gvisor = { outcomes = ["ok", "error", "timeout", "out_of_memory"] }
# [[runs]]
# args = ["memfd"]
# outcomes = ["out_of_memory"]
# [[runs]]
# args = ["page tables"]
# outcomes = ["out_of_memory"]
# [[runs]]
# args = ["pipes"]
# outcomes = ["ok"]
# [[runs]]
# args = ["sockets"]
# outcomes = ["ok", "out_of_memory"]
# [[runs]]
# args = ["queued descriptors"]
# outcomes = ["ok", "out_of_memory"]
"""Memory outside the heap: anonymous files, page tables, buffers of pipes and sockets, descriptors on their way."""

import mmap
import os
import socket
import sys

from kit import until_refused


def pipe():
    ends = os.pipe()
    os.set_blocking(ends[1], False)
    until_refused(lambda: os.write(ends[1], bytes(65_536)), "EAGAIN")


def full_socket():
    near, far = socket.socketpair()
    kept.append((near, far))
    near.setblocking(False)
    until_refused(lambda: near.send(bytes(65_536)), "EAGAIN")


def queue_descriptors():
    near, far = socket.socketpair()
    kept.append((near, far))
    near.setblocking(False)
    until_refused(lambda: socket.send_fds(near, [b"x"], [near.fileno()] * 200), "EAGAIN", "ETOOMANYREFS")


kept = []
what = sys.argv[1]
if what == "memfd":
    for n in range(40):
        file = os.memfd_create("x")
        for _ in range(10):
            os.write(file, b"x" * 1_000_000)
elif what == "page tables":
    for _ in range(1000):
        area = mmap.mmap(-1, 2**32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
        kept.append(area)
        for at in range(0, 2**32, 2**21):
            area[at]
elif what == "pipes":
    until_refused(pipe, "EMFILE")
elif what == "sockets":
    until_refused(full_socket, "EMFILE", "ENOBUFS")
else:
    until_refused(queue_descriptors, "EMFILE", "ETOOMANYREFS")
until_refused(lambda: os.dup(0), "EMFILE")
