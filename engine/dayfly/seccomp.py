"""The seccomp profile of every container: which system calls a program may make, and with which arguments.

An allow-list: whatever is not named here fails with EPERM, so that a call which the next kernel adds is refused until
somebody has looked at it. It is as broad as the newest default of Docker, less what a single-use box without a network does
not need and kernels were broken through: io_uring, aio, keyrings, ptrace and its kin, namespaces and mounts, splice,
handles, NUMA policy, landlock, the clocks, and sockets beyond AF_UNIX and loopback TCP and UDP.

The daemon's own default is never relied on: it differs from release to release (some let AF_VSOCK, AF_ALG or io_uring
through), and it was not written for a neighbour of the same uid. PID 1 is dayfly's runner and runs with the uid of the
program; so no call may signal, starve or slow another process by number where that number can be 1.

Integer arguments are compared as the kernel takes them: as 32 bits, the upper half of the register ignored
(`SCMP_CMP_MASKED_EQ`). A plain comparison of 64 bits with 1 would let 0x1_0000_0001 through, which the kernel truncates to 1.
Rules of one call are joined by OR, so two "not equal" rules would allow everything; what is to be refused is
therefore left over by rules that say what is allowed.
"""

from __future__ import annotations

import functools
import json
from typing import Any

FILES = """
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fallocate
    fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat
    fstatfs fsync ftruncate futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch lchown lgetxattr link linkat listxattr listxattrat llistxattr lremovexattr lseek lsetxattr
    lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile setxattr setxattrat
    stat statfs statx symlink symlinkat sync_file_range truncate umask unlink unlinkat utime utimensat utimes write writev
"""
# mknod makes FIFOs for a program without capabilities. chown changes the group to one's own at the most.

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
    seccomp set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setregid setresgid setresuid setreuid
    setsid setuid sysinfo uname uretprobe vfork wait4 waitid
"""
# set*id change nothing for a program without capabilities and with no other id, but libraries call them. A pidfd can be waited
# for; pidfd_send_signal stays out, since a pidfd, or a directory of /proc, shows no number that a rule could look at.

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
    sendmmsg sendmsg sendto shmat shmctl shmdt shmget shutdown
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
EPERM, ENOSYS = 1, 38

SOL_SOCKET = 1
BUFFER_SIZES = {7, 8, 32, 33}
"""SO_SNDBUF, SO_RCVBUF and their FORCE forms: they succeed and do nothing, as a kernel may that takes them for hints.

What lies in the buffers of TCP and UDP is charged to no container on cgroup v1, and on v2 not before a connection is accepted.
Measured: 200 sockets with large buffers held 1.6 GB of the host's memory after 0.1 s in a container of 50 MB; with those of the
page `spec` 35 MB. The bound that is left is the kernel's own for the whole host, `net.ipv4.tcp_mem` and `udp_mem`.
"""

FADV_DONTNEED = 4
MAP_HUGETLB, MFD_HUGETLB = 0x4_0000, 0x4
PR_SCHED_CORE = 62

TIOCSTI, TIOCLINUX = 0x5412, 0x541C
"""They type into a terminal."""

PID_BITS = 23
"""Enough to tell every process (below 2^22, PID_MAX_LIMIT) and, negative, every process group from 1."""

AS_INT = 0xFFFF_FFFF

Argument = tuple[int, int, int]
"""(index of the argument, mask, value): allowed where argument & mask == value, or with NOT_NULL for
a mask, where argument != value."""

NOT_NULL = -1
ADDRESS = 0xFFFF_FFFF_FFFF_FFFF

RLIMIT_CORE = 4


def profile(*, loopback: bool = True) -> str:
    """Return the profile as compact JSON text, in the form that Docker takes (`seccomp=<text>`).

    Without `loopback` there is no TCP and no UDP, not even inside the container: see BUFFER_SIZES for what they cost a host.
    It names no architecture: daemon and runtime then take the host's own and nothing else. The 32-bit and x32 entries, through
    which a filter by number can be walked around, end the program with SIGSYS. Written for x86_64 and aarch64.
    """
    return _text(loopback)


def _int(index: int, value: int) -> Argument:
    return index, AS_INT, value


def _all_but(index: int, refused: set[int], bits: int) -> list[list[Argument]]:
    """Rules that together allow every value of the lowest `bits` bits of an argument but the refused ones.

    A tree of prefixes: a half of the values without a refused one is one rule, any other is halved again.
    """

    def halve(prefix: int, free: int) -> list[list[Argument]]:
        if not any(value >> free == prefix for value in refused):
            return [[(index, (1 << bits) - (1 << free), prefix << free)]]
        return halve(prefix << 1, free - 1) + halve(prefix << 1 | 1, free - 1) if free else []

    return halve(0, bits)


LOCAL = [[_int(0, AF_UNIX)]]

# Not raw, ICMP, SCTP, SMC, MPTCP, nor any other family: each is a module more of the kernel to attack.
LOOPBACK = [
    [_int(0, family), (1, SOCK_TYPE_MASK, kind), _int(2, protocol)]
    for family in (AF_INET, AF_INET6)
    for kind, own in ((SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP))
    for protocol in (IPPROTO_DEFAULT, own)
]

# Calls (one name or several) -> rules, of which one must hold -> arguments, all of which must be as stated.
CONDITIONS: dict[str, list[list[Argument]]] = {
    # No new namespace. clone3 has its flags in memory, where no filter can look; see `profile`.
    "clone": [[(0, NAMESPACE_FLAGS, 0)]],
    "socketpair": LOCAL,
    # Signals to whomever but the runner.
    "kill rt_sigqueueinfo rt_tgsigqueueinfo tgkill tkill": _all_but(0, {1}, PID_BITS),
    # One's own limits, priority and processors, not those of another: 0 is the caller.
    "prlimit64": [
        *([_int(0, 0), *rule] for rule in _all_but(1, {RLIMIT_CORE}, 4)),
        [_int(0, 0), _int(1, RLIMIT_CORE), (2, ADDRESS, 0)],  # only asking
    ],
    "setrlimit": _all_but(0, {RLIMIT_CORE}, 4),
    "sched_setaffinity sched_setattr sched_setparam sched_setscheduler": [[_int(0, 0)]],
    "setpriority": [[_int(0, PRIO_PROCESS), _int(1, 0)]],  # PRIO_USER would reach the runner: it has the same uid
    "ioprio_set": [[_int(0, IOPRIO_WHO_PROCESS), _int(1, 0)]],
    # The host's huge pages are a pool of its own, charged to nobody: for whom they were set aside, not for a program.
    "mmap": [[(3, MAP_HUGETLB, 0)]],
    "memfd_create": [[(1, MFD_HUGETLB, 0)]],
    # Any option but PR_SCHED_CORE, with which a program would keep the other hyperthread of its processor idle.
    "prctl": _all_but(0, {PR_SCHED_CORE}, 7),
    "ioctl": _all_but(1, {TIOCSTI, TIOCLINUX}, 32),
    "fadvise64": _all_but(3, {FADV_DONTNEED}, 3),
    "setsockopt": [
        *_all_but(1, {SOL_SOCKET}, 9),
        *([_int(1, SOL_SOCKET), *rule] for rule in _all_but(2, BUFFER_SIZES, 7)),
    ],
    # PER_LINUX, or only asking. Others switch off address randomisation or make old bugs come back.
    "personality": [[_int(0, 0)], [_int(0, AS_INT)]],
}


# Calls that succeed and do nothing; the same form, and no rule of CONDITIONS may hold where one of these does.
IGNORED: dict[str, list[list[Argument]]] = {
    # The limit stays 1, with which a crash starts no helper on the host; see `spec`.
    "setrlimit": [[_int(0, RLIMIT_CORE)]],
    # Not where the old limit is asked for too: it would not be filled in.
    "prlimit64": [[_int(0, 0), _int(1, RLIMIT_CORE), (2, NOT_NULL, 0), (3, ADDRESS, 0)]],
    # All that a program can write to is tmpfs, where there is nothing to flush; the host's disks are others.
    "sync syncfs": [[]],
    # It would throw files of the image, which all containers share, out of the page cache.
    "fadvise64": [[_int(3, FADV_DONTNEED)]],
    "setsockopt": [[_int(1, SOL_SOCKET), _int(2, option)] for option in sorted(BUFFER_SIZES)],
}


def _arguments(rule: list[Argument]) -> list[dict[str, Any]]:
    return [
        {"index": index, "value": value, "op": "SCMP_CMP_NE"}
        if mask == NOT_NULL
        else {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        for index, mask, value in rule
    ]


@functools.lru_cache(maxsize=2)
def _text(loopback: bool) -> str:
    plain = sorted(f"{FILES} {MEMORY} {PROCESSES} {SIGNALS} {TIME} {TALK}".split())
    calls: list[dict[str, Any]] = [
        {"names": plain, "action": "SCMP_ACT_ALLOW"},
        # glibc and musl fall back to clone on ENOSYS; any other error would mean "no threads".
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
    ]
    socket = {"socket": LOCAL + LOOPBACK if loopback else LOCAL}
    for conditions, answer in (
        (socket | CONDITIONS, {"action": "SCMP_ACT_ALLOW"}),
        (IGNORED, {"action": "SCMP_ACT_ERRNO", "errnoRet": 0}),
    ):
        calls += [{"names": names.split(), **answer, "args": _arguments(rule)} for names, rules in conditions.items() for rule in rules]
    document = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": EPERM, "syscalls": calls}
    return json.dumps(document, separators=(",", ":"))
