"""The seccomp profile of every container: which system calls a program may make, and with which
arguments.

An allow-list: whatever is not named here fails with EPERM, so that a call which the next kernel
adds is refused until somebody has looked at it. It is as broad as the newest default of Docker,
less what a single-use box without a network does not need and kernels were broken through:
io_uring, aio, keyrings, ptrace and its kin, namespaces and mounts, splice, handles, NUMA policy,
landlock, the clocks, and sockets beyond AF_UNIX and loopback TCP and UDP.

The daemon's own default is never relied on: it differs from release to release (some let AF_VSOCK,
AF_ALG or io_uring through), and it was not written for a neighbour of the same uid. PID 1 is
dayfly's runner and runs with the uid of the program; so no call may signal, starve or slow another
process by number where that number can be 1.

Integer arguments are compared as the kernel takes them: as 32 bits, the upper half of the register
ignored (`SCMP_CMP_MASKED_EQ`). A plain comparison of 64 bits with 1 would let 0x1_0000_0001
through, which the kernel truncates to 1. Rules of one call are joined by OR, so two "not equal"
rules would allow everything; what is to be refused is therefore left over by rules that say what is
allowed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import Any

FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fallocate
    fchdir fchmod fchmodat fchmodat2 fchown fchownat fgetxattr flistxattr fremovexattr fstat fstatfs ftruncate futimesat
    getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch lchown
    lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lstat mkdir mkdirat mknod mknodat newfstatat
    open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
    removexattr removexattrat rename renameat renameat2 rmdir stat statfs statx symlink symlinkat truncate umask unlink
    unlinkat utime utimensat utimes write writev
"""
# mknod makes FIFOs for a program without capabilities. chown changes the group to one's own at the
# most. Calls that are allowed with some arguments only, or answered without a look at the file, are
# in CONDITIONS and ANSWERS.

MEMORY = """
    brk madvise membarrier mincore mlock mlock2 mlockall mprotect mremap mseal msync munlock munlockall munmap
    pkey_alloc pkey_free pkey_mprotect
"""
# mprotect, like mmap, with PROT_EXEC is what ctypes and JIT compilers live on.

PROCESSES = """
    arch_prctl capget capset execve execveat exit exit_group fork futex futex_requeue futex_wait futex_waitv futex_wake
    get_robust_list getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresuid getrlimit getrusage getsid gettid getuid ioprio_get pidfd_open restart_syscall rseq sched_get_priority_max
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_yield
    set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setregid setresgid setresuid setreuid
    setsid setuid sysinfo uname uretprobe vfork wait4 waitid
"""
# set*id change nothing for a program without capabilities and with no other id, but libraries call
# them. A pidfd can be waited for. pidfd_send_signal stays out: neither a pidfd nor a directory of
# /proc shows the number of its process to a rule. seccomp stays out: a filter's SECCOMP_RET_LOG
# writes to the host's audit log, and its code fills the host's space for JIT code.

SIGNALS = """
    pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack signalfd signalfd4
"""

TIME = """
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times
"""

TALK = """
    accept accept4 bind connect epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
    getpeername getsockname getsockopt listen mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl
    msgget msgrcv msgsnd pipe pipe2 poll ppoll pselect6 recvfrom recvmmsg recvmsg select semctl semget semop semtimedop
    shmat shmctl shmdt shmget shutdown
"""

NAMESPACE_FLAGS = 0x7E02_0000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET together."""

AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOCK_STREAM, SOCK_DGRAM = 1, 2
IPPROTO_DEFAULT, IPPROTO_TCP, IPPROTO_UDP = 0, 6, 17
SOCK_TYPE_MASK = 0xF
"""What is left of a socket's type without SOCK_NONBLOCK and SOCK_CLOEXEC: the kernel's own mask."""

PRIO_PROCESS = 0
IOPRIO_WHO_PROCESS = 1
EPERM, ENOSYS, ENOTSOCK, EOPNOTSUPP = 1, 38, 88, 95

IPPROTO_IP, SOL_SOCKET, IPPROTO_IPV6 = 0, 1, 41
BUFFER_SIZES = {7, 8, 18, 32, 33}
"""SO_SNDBUF, SO_RCVBUF, their FORCE forms, and SO_RCVLOWAT, which enlarges the receive buffer too:
they succeed and do nothing. The kernel treats the sizes as hints too.

A larger buffer is memory that the kernel holds for the program. What of it is charged to the
container is in SECURITY.md.
"""

SOCKET_OPTIONS: dict[int, set[int]] = {
    # Not SO_ATTACH_FILTER and its kin (code for the kernel's JIT), SO_ZEROCOPY, SO_TXTIME,
    # SO_BUSY_POLL, SO_RESERVE_MEM.
    SOL_SOCKET: {*range(7), *range(9, 18), 20, 21, *range(28, 32)},
    # Not IP_OPTIONS and IP_ADD_MEMBERSHIP (memory that is charged to nobody), nor what is
    # netfilter's and IPsec's.
    IPPROTO_IP: {*range(4), *range(8, 16), 32, 33, 34},
    # Not IPV6_ADDRFORM, groups, extension headers, flow labels.
    IPPROTO_IPV6: {16, 17, 18, 19, 26, 49},
    # Not TCP_CONGESTION and TCP_ULP (they name modules of the kernel), TCP_REPAIR, TCP_MD5SIG,
    # TCP_AO, TCP_ZEROCOPY_RECEIVE.
    IPPROTO_TCP: {*range(13), 18},
    # Of UDP none: not UDP_ENCAP, UDP_SEGMENT, UDP_GRO.
}
"""Level -> the options of setsockopt that are let through, by the kernel's numbers; gaps that no
kernel knows are filled in.

Each further rule of the profile costs every start of a container a quarter of a millisecond.
"""

MSG_OOB = 1

FADV_DONTNEED = 4
MAP_HUGETLB, MFD_HUGETLB = 0x4_0000, 0x4
PR_SET_SECCOMP, PR_SCHED_CORE = 22, 62

TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""They type into a terminal."""

REFUSED_IOCTLS = {
    *(TIOCSTI, TIOCLINUX),
    # On any socket: bridges, VLANs, ethtool, bonding, time stamps, a driver's own; wireless.
    # Several load a module of the host's kernel without asking for a capability. Those below
    # 0x8940, which only read an interface, stay.
    *range(0x8940, 0x8C00),
    # On files: they tell of the host's disk (uuid, name, where a file lies on it).
    *range(0x1500, 0x1600),
    *range(0x6600, 0x6700),
}
"""By the lower 16 bits of the request, its type and number: the upper ones are the size of its
argument, which differs."""

FCNTL_COMMANDS = {*range(6), *range(8, 12), 15, 16, *range(1026, 1036)}
"""All commands but locks (below) and F_SETLEASE, whose leases are kernel memory that is charged to
nobody."""

FCNTL_LOCKS = {6, 7, 37, 38}
"""F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW: they succeed and do nothing.

A lock is kernel memory that is charged to nobody, without a limit on their number. And all
eventfds, epolls and timerfds of the host share one inode: 30,000 locks on one make every close of
another a thousand times slower. SQLite needs them to succeed.
"""

LOCK_SH, LOCK_UN = 1, 8

PID_BITS, FEW_PID_BITS = 22, 8
"""Of a process number, the bits that are compared with 1: each is a rule for each call.

22 tell every process (below 2^22, PID_MAX_LIMIT) and, negative, every group but the last possible
one from 1. 8 mistake one process of 256 for the runner: for calls that seldom name a process, but
0, which is the caller.
"""

RLIMIT_CORE = 4

AS_INT, ADDRESS = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF

Argument = tuple[int, int, int]
"""(index of the argument, mask, value): holds where argument & mask == value."""

Rules = dict[str, list[list[Argument]]]


def profile(*, loopback: bool = True, udp: bool = True) -> str:
    """Return the profile as compact JSON text, in the form that Docker takes (`seccomp=<text>`).

    Without `loopback` there is no TCP and no UDP, not even inside the container; without `udp` no
    UDP. See `spec.accounting`. It names no architecture: daemon and runtime then take the host's
    own and nothing else. The 32-bit and x32 entries, through which a filter by number can be walked
    around, end the program with SIGSYS. Written for x86_64 and aarch64.
    """
    return _text(loopback, loopback and udp)


def _int(index: int, value: int) -> Argument:
    return index, AS_INT, value


def _not_1(index: int, bits: int) -> list[list[Argument]]:
    """Rules that together hold where the lowest `bits` bits of an argument are not the number 1:
    one rule a bit."""
    return [[(index, 1 << bit, (1 << bit) * (bit > 0))] for bit in range(bits)]


def _only(index: int, values: Collection[int], bits: int) -> list[list[Argument]]:
    """Rules that together hold for these values of an argument, and none else."""
    above = AS_INT - (1 << bits) + 1
    return [[(index, mask | above, value)] for mask, value in _cover(_table(values), bits)]


def _all_but(index: int, refused: Collection[int], bits: int) -> list[list[Argument]]:
    """Rules that together hold for every value of the lowest `bits` bits of an argument but
    these."""
    return [[(index, mask, value)] for mask, value in _cover((1 << (1 << bits)) - 1 ^ _table(refused), bits)]


def _table(values: Collection[int]) -> int:
    return sum(1 << value for value in set(values))


def _cover(table: int, bits: int) -> list[tuple[int, int]]:
    """Return few (mask, value) that together hold for the numbers whose bit in `table` is set
    (Minato and Morreale's cover)."""

    def cover(needed: int, allowed: int, bits: int) -> tuple[list[tuple[int, int]], int]:
        everything = (1 << (1 << bits)) - 1
        if not needed or allowed == everything:
            return [(0, 0)] * bool(needed), everything * bool(needed)
        half = 1 << (bits - 1)
        lower = everything >> half
        needed_0, needed_1, allowed_0, allowed_1 = needed & lower, needed >> half, allowed & lower, allowed >> half
        rules_0, done_0 = cover(needed_0 & ~allowed_1, allowed_0, bits - 1)
        rules_1, done_1 = cover(needed_1 & ~allowed_0, allowed_1, bits - 1)
        both, done = cover(needed_0 & ~done_0 | needed_1 & ~done_1, allowed_0 & allowed_1, bits - 1)
        zero, one = [(mask | half, value) for mask, value in rules_0], [(mask | half, value | half) for mask, value in rules_1]
        return zero + one + both, done_0 | done | (done_1 | done) << half

    return cover(table, table, bits)[0]


def _settable(index: int) -> list[list[Argument]]:
    """Rules for the limits that may be set: all but CORE (4), and its neighbours RSS, MSGQUEUE and
    NICE, which nothing here needs."""
    return [[(index, 4, 0)], [(index, 2, 2)]]


LOCAL = [[_int(0, AF_UNIX)]]


# Not raw, ICMP, SCTP, SMC, MPTCP, nor any other family: each is a module more of the kernel to
# attack.
def _inet(kind: int, protocol: int) -> list[list[Argument]]:
    families, protocols = (AF_INET, AF_INET6), (IPPROTO_DEFAULT, protocol)
    return [[_int(0, family), (1, SOCK_TYPE_MASK, kind), _int(2, number)] for family in families for number in protocols]


INET_TCP, INET_UDP = _inet(SOCK_STREAM, IPPROTO_TCP), _inet(SOCK_DGRAM, IPPROTO_UDP)

# Calls (one name or several) -> rules, of which one must hold -> arguments, all of which must be as
# stated.
CONDITIONS: Rules = {
    # No new namespace. clone3 has its flags in memory, where no filter can look; see `profile`.
    "clone": [[(0, NAMESPACE_FLAGS, 0)]],
    "socketpair": LOCAL,
    # Signals to whomever but the runner.
    "kill tgkill tkill": _not_1(0, PID_BITS),
    # Queued signals and processors of the program's own processes, by number for what programs use
    # so.
    "rt_sigqueueinfo rt_tgsigqueueinfo sched_setaffinity": _not_1(0, FEW_PID_BITS),
    # Limits are asked for by any number: that tells no more than /proc does, and costs less than a
    # look at the number. The caller, who is 0, may set its own.
    "prlimit64": [[(2, ADDRESS, 0)], *([_int(0, 0), *limit] for limit in _settable(1))],
    "setrlimit": _settable(0),
    "sched_setattr sched_setparam sched_setscheduler": [[_int(0, 0)]],
    # PRIO_USER would reach the runner: it has the same uid.
    "setpriority": [[_int(0, PRIO_PROCESS), _int(1, 0)]],
    "ioprio_set": [[_int(0, IOPRIO_WHO_PROCESS), _int(1, 0)]],
    # The host's huge pages are a pool of its own, charged to nobody: for whom they were set aside,
    # not for a program.
    "mmap": [[(3, MAP_HUGETLB, 0)]],
    "memfd_create": [[(1, MFD_HUGETLB, 0)]],
    # Not PR_SCHED_CORE, with which a program would keep the other hyperthread of its processor
    # idle; filters: see `seccomp` above.
    "prctl": _all_but(0, {PR_SET_SECCOMP, PR_SCHED_CORE}, 7),
    "ioctl": _all_but(1, REFUSED_IOCTLS, 16),
    "fadvise64": _all_but(3, {FADV_DONTNEED}, 3),
    "fcntl": _only(1, FCNTL_COMMANDS, 11),
    "flock": [[(1, LOCK_SH, 0)], [(1, LOCK_UN, LOCK_UN)]],
    "setsockopt": [[_int(1, level), *rule] for level, options in SOCKET_OPTIONS.items() for rule in _only(2, options, 6)],
    "sendto": [[(3, MSG_OOB, 0)]],
    "sendmsg": [[(2, MSG_OOB, 0)]],
    "sendmmsg": [[(3, MSG_OOB, 0)]],
    # PER_LINUX, or only asking. Others switch off address randomisation or make old bugs come back.
    "personality": [[_int(0, 0)], [_int(0, AS_INT)]],
}


# Calls that the filter answers by itself: errno (0 is success) -> the same form. No rule of
# CONDITIONS may hold where one of these does. Every one of them is a line of the table in
# SECURITY.md, with what a program notices.
ANSWERS: dict[int, Rules] = {
    0: {
        # The core limit stays 1, see `spec`; Linux has no use for the other. Not where the old
        # limit is asked for too: it would not be filled in.
        "setrlimit": [[(0, AS_INT - 1, RLIMIT_CORE)]],
        "prlimit64": [[_int(0, 0), (1, AS_INT - 1, RLIMIT_CORE), (3, ADDRESS, 0)]],
        # All that a program can write to is tmpfs, where there is nothing to flush. The engine's
        # /etc/hostname is on the host's disk: 19,000 flushes of it a second.
        "sync syncfs fsync fdatasync sync_file_range": [[]],
        # It would throw files of the image, which all containers share, out of the page cache.
        "fadvise64": [[_int(3, FADV_DONTNEED)]],
        "setsockopt": [[_int(1, SOL_SOCKET), _int(2, option)] for option in sorted(BUFFER_SIZES)],
        "fcntl": [[_int(1, command)] for command in sorted(FCNTL_LOCKS)],
        # Shared locks have no bound on their number on one inode, exclusive ones have.
        # `sandbox.send` needs the latter.
        "flock": [[(1, LOCK_SH | LOCK_UN, LOCK_SH)]],
    },
    # As on a file system without attributes, which is what shutil and tar expect. An ACL on tmpfs
    # is kernel memory that is charged to nobody: 64 KB for each file, and files inherit it.
    EOPNOTSUPP: {
        "setxattr lsetxattr fsetxattr setxattrat": [[]],
        # Out-of-band data of Unix sockets: a seldom used part of the kernel with a history of
        # holes.
        "sendto": [[(3, MSG_OOB, MSG_OOB)]],
        "sendmsg": [[(2, MSG_OOB, MSG_OOB)]],
        "sendmmsg": [[(3, MSG_OOB, MSG_OOB)]],
    },
    # It puts pages of the page cache itself into a pipe, as splice does, which is refused for that.
    # shutil, pathlib, socket and asyncio all copy instead on this errno, which kernels before
    # 2.6.33 gave.
    ENOTSOCK: {"sendfile": [[]]},
    # glibc and musl fall back to clone on ENOSYS; any other error would mean "no threads".
    ENOSYS: {"clone3": [[]]},
}


def _arguments(rule: list[Argument]) -> list[dict[str, Any]]:
    return [{"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"} for index, mask, value in rule]


@functools.lru_cache(maxsize=3)
def _text(tcp: bool, udp: bool) -> str:
    plain = sorted(f"{FILES} {MEMORY} {PROCESSES} {SIGNALS} {TIME} {TALK}".split())
    socket = {"socket": LOCAL + INET_TCP * tcp + INET_UDP * udp}
    allow: dict[str, Any] = {"action": "SCMP_ACT_ALLOW"}
    calls: list[dict[str, Any]] = [{"names": plain, **allow}]
    for conditions, action in (
        (socket | CONDITIONS, allow),
        *((rules, {"action": "SCMP_ACT_ERRNO", "errnoRet": errno}) for errno, rules in ANSWERS.items()),
    ):
        calls += [{"names": names.split(), **action, "args": _arguments(rule)} for names, rules in conditions.items() for rule in rules]
    document = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "syscalls": calls}
    return json.dumps(document, separators=(",", ":"))
