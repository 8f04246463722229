# covers = ["C17", "C18"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Starve the runner: its limits, its processors, its priority, in every way to name it."""

import ctypes
import os
import resource

from kit import checked, libc, refused

for limit in (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_DATA,
    resource.RLIMIT_STACK,
):
    refused(lambda limit=limit: resource.prlimit(1, limit, (0, 0)), "EPERM")
    before = resource.prlimit(1, limit)  # /proc/1/limits says the same
    assert before != (0, 0), (limit, before)
refused(lambda: os.sched_setaffinity(1, {0}), "EPERM")
refused(lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)), "EPERM")
refused(lambda: os.sched_setparam(1, os.sched_param(0)), "EPERM")
for which, who in ((os.PRIO_PROCESS, 1), (os.PRIO_PGRP, 1), (os.PRIO_USER, os.getuid()), (os.PRIO_USER, 0), (os.PRIO_PGRP, 0)):
    refused(lambda which=which, who=who: os.setpriority(which, who, 19), "EPERM", "EACCES")
ioprio_set = {"x86_64": 251, "aarch64": 30}[os.uname().machine]
for which, who in ((1, 1), (2, 1), (3, os.getuid()), (3, 0)):
    refused(lambda which=which, who=who: checked(libc.syscall(ioprio_set, which, who, 3 << 13)), "EPERM")
prlimit64 = {"x86_64": 302, "aarch64": 261}[os.uname().machine]
for who in (1, 1 + 2**32, 1 + 2**63):
    zeros = (ctypes.c_ulong * 2)(0, 0)
    refused(lambda who=who, zeros=zeros: checked(libc.syscall(prlimit64, ctypes.c_ulong(who), 7, zeros, None)), "EPERM")
os.nice(19)
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
