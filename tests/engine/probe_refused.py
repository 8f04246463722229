"""Runs inside a container, as a child of PID 1: tries what the profile must refuse, by raw number,
and prints what came of it.

Each call is made in a forked process of its own, so that one which kills or changes its caller
spoils nothing. Prints one JSON object: name -> "EPERM", "ENOSYS", ... , "ok" or "signal N". Runs on
Python >= 3.8.
"""
# About system calls, on whatever Python the container has: no pathlib, no types.
# mypy: ignore-errors

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import sys

X86 = platform.machine() == "x86_64"
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
HIGH = 1 << 32

# name: number on x86_64, number on aarch64 (None: there is no such call)
NUMBERS = {
    "_sysctl": (156, None), "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "cachestat": (451, 451),
    "chroot": (161, 51), "clock_adjtime": (305, 266), "clock_settime": (227, 112), "clone3": (435, 435), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "fanotify_mark": (301, 263), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "get_mempolicy": (239, 236), "init_module": (175, 105), "io_cancel": (210, 3),
    "io_destroy": (207, 1), "io_getevents": (208, 4), "io_pgetevents": (333, 292), "io_setup": (206, 0), "io_submit": (209, 2),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None),
    "iopl": (172, None), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "landlock_add_rule": (445, 445), "landlock_create_ruleset": (444, 444), "landlock_restrict_self": (446, 446),
    "listmount": (458, 458), "lookup_dcookie": (212, 18), "lsm_get_self_attr": (459, 459), "lsm_list_modules": (461, 461),
    "lsm_set_self_attr": (460, 460), "map_shadow_stack": (453, 453), "mbind": (237, 235), "memfd_secret": (447, 447),
    "migrate_pages": (256, 238), "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "name_to_handle_at": (303, 264), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41), "process_madvise": (440, 440), "process_mrelease": (448, 448), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443), "reboot": (169, 142),
    "remap_file_pages": (216, 234), "request_key": (249, 218), "set_mempolicy": (238, 237), "set_mempolicy_home_node": (450, 450),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170), "splice": (275, 76),
    "statmount": (457, 457), "swapoff": (168, 225), "swapon": (167, 224), "sysfs": (139, None),
    "syslog": (103, 116), "tee": (276, 77), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "uselib": (134, None),
    "file_setattr": (469, 469), "seccomp": (317, 277), "ustat": (136, None), "vhangup": (153, 58), "vmsplice": (278, 75),
}  # fmt: skip
NEEDED = {
    "clone": (56, 220), "ioctl": (16, 29), "ioprio_set": (251, 30), "kill": (62, 129), "memfd_create": (319, 279), "mmap": (9, 222),
    "personality": (135, 92), "prlimit64": (302, 261),
    "pidfd_open": (434, 434), "prctl": (157, 167), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "setsockopt": (54, 208), "fcntl": (72, 25),
    "sched_setattr": (314, 274), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "setpriority": (141, 140),
    "socket": (41, 198), "socketpair": (53, 199), "tgkill": (234, 131), "tkill": (200, 130),
}  # fmt: skip
FAMILIES = [family for family in range(48) if family not in (1, 2, 10)]
NAMESPACES = {"NEWNS": 0x20000, "NEWCGROUP": 0x2000000, "NEWUTS": 0x4000000, "NEWIPC": 0x8000000, "NEWUSER": 0x10000000,
              "NEWPID": 0x20000000, "NEWNET": 0x40000000}  # fmt: skip


def number(name):
    x86, arm = (NUMBERS.get(name) or NEEDED[name])[:2]
    return x86 if X86 else arm


def raw(nr, *arguments):
    """Make one call; return 'ok' or the errno's name. Arguments are whole 64-bit registers."""
    ctypes.set_errno(0)
    answer = LIBC.syscall(ctypes.c_long(nr), *[ctypes.c_ulong(value & (2**64 - 1)) for value in arguments])
    return "ok" if answer >= 0 else errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))


def alone(function):
    """Run `function` in a child; return what it returned, or the signal that ended it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(function()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else text


def call(name, *arguments):
    return alone(lambda: raw(number(name), *arguments))


def int80():
    """getpid by the 32-bit entry: past a filter that looks at 64-bit numbers only."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    return f"ok, pid {ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()}"


def main():  # noqa: C901, PLR0912 - a list of attempts
    found = {}
    for name in NUMBERS:
        if number(name) is not None:
            found[name] = call(name, 0, 0, 0, 0, 0, 0)
    # What the runner, PID 1, must be safe from; also with a number that is 1 only for the kernel.
    for pid, label in ((1, "1"), (HIGH | 1, "1 + 2**32"), (2**63 | 1, "1 + 2**63")):
        for sig in (0, signal.SIGINT, signal.SIGKILL):
            for name in ("kill", "tkill"):
                found[f"{name} {sig} to {label}"] = call(name, pid, sig)
            found[f"tgkill {sig} to {label}"] = call("tgkill", pid, 1, sig)
        found[f"rt_sigqueueinfo to {label}"] = call("rt_sigqueueinfo", pid, 2, 0)
        found[f"rt_tgsigqueueinfo to {label}"] = call("rt_tgsigqueueinfo", pid, 1, 2, 0)
        found[f"prlimit64 of {label}"] = call("prlimit64", pid, 9, 1, 0)  # an address of nothing
        for name in ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
            found[f"{name} of {label}"] = call(name, pid, 0, 0)
        found[f"setpriority of {label}"] = call("setpriority", 0, pid, 19)
        found[f"ioprio_set of {label}"] = call("ioprio_set", 1, pid, 0)
    found["setpriority of every process of the uid"] = call("setpriority", 2, 0, 19)
    found["ioprio_set of every process of the uid"] = call("ioprio_set", 3, 0, 0)
    directory = os.open("/proc/1", os.O_RDONLY)
    found["pidfd_send_signal by /proc/1"] = call("pidfd_send_signal", directory, 2, 0, 0)
    os.close(directory)
    # Sockets
    for family in FAMILIES:
        for kind in (1, 2, 3, 5):
            found[f"socket family {family} kind {kind}"] = call("socket", family, kind, 0)
    for family in (16, 38, 40):
        found[f"socket family {family} + 2**32"] = call("socket", HIGH | family, 3, 0)
    for family in (2, 10):
        found[f"raw socket of family {family}"] = call("socket", family, 3, 1)
        found[f"SOCK_PACKET of family {family}"] = call("socket", family, 10, 3)
        for protocol in (1, 58, 33, 132, 136, 115, 256, 262):
            for kind in (1, 2, 5):
                found[f"socket family {family} kind {kind} protocol {protocol}"] = call("socket", family, kind, protocol)
    found["socketpair of AF_TIPC"] = call("socketpair", 30, 1, 0, 0)
    # Namespaces by clone
    for flag, value in NAMESPACES.items():
        found["clone " + flag] = call("clone", value | signal.SIGCHLD, 0, 0, 0, 0)
        found[f"clone {flag} + 2**32"] = call("clone", HIGH | value | signal.SIGCHLD, 0, 0, 0, 0)
    # Terminals, personalities, the other entries into the kernel
    near, _far = socket.socketpair()
    for request in (0x5412, 0x541C, 0x8940, 0x8941, 0x8946, 0x8982, 0x8983, 0x89A0, 0x89A1, 0x89F0, 0x8B01):
        for high in (0, HIGH):
            found[f"ioctl {high | request:#x} of a socket"] = call("ioctl", near.fileno(), high | request, id(found))
    file = os.open("/etc/hostname", os.O_RDONLY)
    for request in (0x8008662C, 0x80111500, 0x80811501, 0xC020660B, 0x80086601):
        found[f"ioctl {request:#x} of a file"] = call("ioctl", file, request, id(found))
    found["fcntl F_SETLEASE"] = call("fcntl", file, 1024, 0)
    for level, option in ((1, 26), (1, 50), (1, 51), (1, 60), (0, 35), (0, 64), (6, 13), (6, 14), (6, 31), (17, 100), (41, 20), (282, 1)):
        for high in (0, HIGH):
            found[f"setsockopt {level} {option} + {high:#x}"] = call("setsockopt", near.fileno(), high | level, high | option, id(found), 4)
    for high in (0, HIGH):
        found[f"prctl PR_SET_SECCOMP + {high:#x}"] = call("prctl", high | 22, 2, id(found), 0, 0)
    for persona in (8, 0x40000, 0x400000, HIGH | 0x40000):
        found[f"personality {persona:#x}"] = call("personality", persona)
    # Huge pages, core scheduling
    for high in (0, HIGH):
        found[f"mmap of huge pages, flags + {high:#x}"] = call("mmap", 0, 2**21, 3, high | 0x40022, 2**64 - 1, 0)
        found[f"memfd of huge pages, flags + {high:#x}"] = call("memfd_create", id(found), high | 4)
        found[f"prctl core scheduling + {high:#x}"] = call("prctl", high | 62, 1, 0, 0, 0)
    if X86:
        found["x32 getpid"] = alone(lambda: raw(0x40000000 | 39))
        found["x32 ptrace"] = alone(lambda: raw(0x40000000 | 521, 0, 0, 0, 0))
        found["int 0x80"] = alone(int80)
    json.dump(found, sys.stdout)


main()
