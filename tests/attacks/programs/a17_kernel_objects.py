# covers = ["A17"]
# outcomes = ["ok"]
# timeout_ms = 8000
# neighbour = true
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Use up what the kernel counts per user: another container, of another user, must not feel it."""

import ctypes
import os
import select
import time

from kit import checked, libc, refused, until_refused

until_refused(lambda: checked(libc.shmget(0, 4096, 0o600)), "ENOSPC", most=5_000)
for _ in range(2_000):
    checked(libc.semget(0, 100, 0o600))
    checked(libc.msgget(0, 0o600))
queue = getattr(libc, "mq_open", None) or ctypes.CDLL("librt.so.1", use_errno=True).mq_open
refused(lambda: checked(queue(b"/x", os.O_CREAT | os.O_RDWR, 0o600, None)), "EMFILE", "ENOSPC", "EACCES")
for make in (
    lambda: checked(libc.inotify_init1(0)),
    lambda: checked(libc.timerfd_create(1, 0)),
    select.epoll,
    lambda: checked(libc.eventfd(0, 0)),
):
    kept = []
    until_refused(lambda: kept.append(make()), "EMFILE", "ENFILE")
    time.sleep(0.2)
    for one in kept:
        one.close() if isinstance(one, select.epoll) else os.close(one)
watcher = checked(libc.inotify_init1(0))
for n in range(4_000):
    os.mkdir("/tmp/%d" % n)
    checked(libc.inotify_add_watch(watcher, b"/tmp/%d" % n, 0xFFF))
time.sleep(0.5)
