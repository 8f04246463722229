"""The profile's rules, evaluated here as libseccomp documents them; tests/engine/test_hardening.py
asks a real kernel."""

from __future__ import annotations

import errno
import fcntl
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import _seccomp as seccomp

PROFILE: dict[str, Any] = json.loads(seccomp.profile())
EPERM, ENOSYS = 1, 38
HIGH = 1 << 32
UPPER_HALVES = st.integers(0, 2**32 - 1)

NEVER = """
    _sysctl acct add_key adjtimex bpf cachestat chroot clock_adjtime clock_settime delete_module fanotify_init fanotify_mark
    finit_module fsconfig fsmount fsopen fspick get_mempolicy init_module io_cancel io_destroy io_getevents io_pgetevents io_setup
    io_submit io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl
    landlock_add_rule landlock_create_ruleset landlock_restrict_self listmount lookup_dcookie lsm_get_self_attr lsm_list_modules
    lsm_set_self_attr map_shadow_stack mbind memfd_secret migrate_pages modify_ldt mount mount_setattr move_mount move_pages
    name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
    process_madvise process_mrelease process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot remap_file_pages
    request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday socketcall splice statmount
    stime swapoff swapon sysfs syslog tee umount umount2 unshare userfaultfd uselib ustat vhangup vm86 vm86old vmsplice
"""


def decide(name: str, *arguments: int, profile: dict[str, Any] = PROFILE) -> int | None:
    """Return the errno that the profile answers the call with, or None where it lets it through."""
    for call in profile["syscalls"]:
        if name in call["names"] and all(
            arguments[argument["index"]] & argument["value"] == argument["valueTwo"] for argument in call.get("args", [])
        ):
            return call["errnoRet"] if call["action"] == "SCMP_ACT_ERRNO" else None
    return int(PROFILE["defaultErrnoRet"])


def test_everything_that_is_not_named_is_refused() -> None:
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert decide("a call of the year 2040") == EPERM
    assert [name for name in NEVER.split() if decide(name, 0, 0, 0) != EPERM] == []


def test_no_foreign_architecture_is_let_in() -> None:
    assert "architectures" not in PROFILE
    assert "archMap" not in PROFILE


def test_it_is_compact_text_made_once() -> None:
    assert seccomp.profile() is seccomp.profile()
    assert " " not in seccomp.profile()
    assert len(seccomp.profile()) < 24_000  # each rule costs every start of a container


def test_no_call_is_both_let_through_and_answered() -> None:
    allowed = {name for names in seccomp.CONDITIONS for name in names.split()}
    # Where a rule says nothing of an argument, it is 1: no rule that lets a call through by 0 may
    # hold then.
    for answer, answers in seccomp.ANSWERS.items():
        for names, rules in answers.items():
            for name in names.split():
                for rule in rules:
                    arguments = {index: value for index, _, value in rule}
                    assert decide(name, *(arguments.get(index, 1) for index in range(6))) == answer
                    assert name in allowed or not rule


def test_a_name_is_either_plain_or_has_conditions() -> None:
    # libseccomp would let the unconditional rule win, and drop the conditions without a word.
    names = [name for call in PROFILE["syscalls"] if not call.get("args") for name in call["names"]]
    conditional = {name for call in PROFILE["syscalls"] if call.get("args") for name in call["names"]}
    assert len(names) == len(set(names))
    assert not conditional & set(names)


def test_no_rule_has_one_argument_twice() -> None:
    # runc splits such a rule into several, and they would be joined by OR.
    for call in PROFILE["syscalls"]:
        indices = [argument["index"] for argument in call.get("args", [])]
        assert len(indices) == len(set(indices))


def test_every_comparison_is_a_mask_and_can_hold() -> None:
    for call in PROFILE["syscalls"]:
        for argument in call.get("args", []):
            assert argument["op"] == "SCMP_CMP_MASKED_EQ"
            assert argument["value"] & argument["valueTwo"] == argument["valueTwo"]


SIGNALLING = ["kill", "tgkill", "tkill"]
QUEUEING = ["rt_sigqueueinfo", "rt_tgsigqueueinfo"]


@pytest.mark.parametrize("name", SIGNALLING + QUEUEING)
@given(upper=UPPER_HALVES)
def test_pid_1_gets_no_signal_however_its_number_is_written(name: str, upper: int) -> None:
    assert decide(name, upper << 32 | 1, 0) == EPERM


@pytest.mark.parametrize("name", SIGNALLING)
@given(pid=st.integers(2 - 2**22, 2**22 - 1).filter(lambda pid: pid != 1), upper=UPPER_HALVES)
def test_every_other_process_does(name: str, pid: int, upper: int) -> None:
    assert decide(name, upper << 32 | pid & 0xFFFF_FFFF, 0) is None


PIDS = st.one_of(st.integers(0, 1_100), st.integers(0, 2**32 - 1))


@pytest.mark.parametrize("name", ["sched_setaffinity", *QUEUEING])
@given(pid=PIDS, upper=UPPER_HALVES)
def test_processors_of_ones_own_processes(name: str, pid: int, upper: int) -> None:
    assert decide(name, upper << 32 | 1) == EPERM
    assert decide(name, upper << 32 | pid) == (EPERM if pid % 256 == 1 else None)


@given(pid=PIDS, limit=st.integers(0, 15), new=st.integers(1, 2**64 - 1), upper=UPPER_HALVES)
def test_limits_of_others_can_be_read_only(pid: int, limit: int, new: int, upper: int) -> None:
    assert decide("prlimit64", upper << 32 | pid, limit, 0, 99) is None
    assert pid == 0 or decide("prlimit64", upper << 32 | pid, limit, new, 0) == EPERM


@pytest.mark.parametrize("name", ["sched_setattr", "sched_setparam", "sched_setscheduler"])
@given(pid=st.integers(1, 2**32 - 1), upper=UPPER_HALVES)
def test_scheduling_is_ones_own(name: str, pid: int, upper: int) -> None:
    assert decide(name, upper << 32 | pid) == EPERM
    assert decide(name, 0) is None


@given(limit=st.integers(0, 15), new=st.integers(1, 2**64 - 1), upper=UPPER_HALVES)
def test_the_core_limit_is_never_changed(limit: int, new: int, upper: int) -> None:
    # Nor RSS, MSGQUEUE and NICE, with which a program can do nothing.
    kept = {4: 0, 5: 0, 12: EPERM, 13: EPERM}.get(limit)
    assert decide("setrlimit", upper << 32 | limit, new) == kept
    assert decide("prlimit64", 0, upper << 32 | limit, new, 0) == kept
    # The kernel would write the old limit too, which an ignored call does not.
    assert decide("prlimit64", 0, upper << 32 | limit, new, 99) == (None if kept is None else EPERM)


@given(values=st.sets(st.integers(0, 63)), upper=UPPER_HALVES)
def test_rules_hold_for_their_values_alone(values: set[int], upper: int) -> None:
    def held(rules: list[list[seccomp.Argument]]) -> set[int]:
        numbers = (upper << 32 | low for low in (*range(64), *range(1 << 31, (1 << 31) + 64)))
        return {number & 0xFFFF_FFFF for number in numbers if any(number & mask == value for [(_, mask, value)] in rules)}

    assert held(seccomp._only(0, values, 6)) == values
    others = set(range(64)) - values
    assert held(seccomp._all_but(0, values, 6)) == others | {1 << 31 | value for value in others}


@given(which=st.integers(0, 4), who=st.integers(0, 2**32 - 1), upper=UPPER_HALVES)
def test_priority_is_ones_own(which: int, who: int, upper: int) -> None:
    assert decide("setpriority", upper << 32 | which, who) == (None if (which, who) == (0, 0) else EPERM)
    assert decide("ioprio_set", upper << 32 | which, who) == (None if (which, who) == (1, 0) else EPERM)


@given(family=st.integers(0, 2**32 - 1), kind=st.integers(0, 15), protocol=st.integers(0, 300), upper=UPPER_HALVES)
def test_sockets_are_local_or_plain_tcp_and_udp(family: int, kind: int, protocol: int, upper: int) -> None:
    inet = family in (2, 10) and (kind, protocol) in ((1, 0), (1, 6), (2, 0), (2, 17))
    allowed = family == 1 or inet
    assert decide("socket", upper << 32 | family, kind | 0o2004000, protocol) == (None if allowed else EPERM)
    assert decide("socketpair", upper << 32 | family, kind, protocol) == (None if family == 1 else EPERM)


@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize(("kind", "protocol"), [(1, 0), (1, 6), (2, 0), (2, 17)])
def test_loopback_sockets_work(family: int, kind: int, protocol: int) -> None:
    assert decide("socket", family, kind | 0o2000000, protocol) is None


def test_without_loopback_only_sockets_differ() -> None:
    closed = json.loads(seccomp.profile(loopback=False))
    assert decide("socket", 1, 1, 0, profile=closed) is None
    assert {decide("socket", family, kind, 0, profile=closed) for family in (2, 10) for kind in (1, 2)} == {EPERM}
    assert [call for call in closed["syscalls"] if call["names"] != ["socket"]] == [
        call for call in PROFILE["syscalls"] if call["names"] != ["socket"]
    ]


def test_without_udp_there_is_tcp() -> None:
    closed = json.loads(seccomp.profile(udp=False))
    assert {decide("socket", family, 1, 0, profile=closed) for family in (2, 10)} == {None}
    assert {decide("socket", family, 2, protocol, profile=closed) for family in (2, 10) for protocol in (0, 17)} == {EPERM}
    assert seccomp.profile(loopback=False, udp=True) is seccomp.profile(loopback=False)


@pytest.mark.parametrize("protocol", [1, 58, 132, 256, 262])
def test_no_icmp_sctp_smc_mptcp(protocol: int) -> None:
    assert {decide("socket", family, kind, protocol) for family in (2, 10) for kind in range(11)} == {EPERM}


IOCTLS = [
    *(0x5401, 0x5413, 0x541B, 0x5411, 0x5421, 0x5450, 0x5451),  # terminals, sizes, FIONREAD, TIOCOUTQ, FIONBIO, FIOCLEX
    *(0x8905, 0x8906, 0x8910, 0x8912, 0x8913, 0x8915, 0x8927, 0x8933),  # SIOCATMARK, interfaces
    *(0x40049409, 0xC0189436),  # FICLONE, FIDEDUPERANGE
]


@pytest.mark.parametrize("request_", IOCTLS)
def test_ioctls_that_programs_use(request_: int) -> None:
    assert decide("ioctl", 0, request_) is None


REFUSED_IOCTLS = {
    **{f"a bridge, {n:#x}": n for n in (0x8940, 0x8941, 0x89A0, 0x89A1, 0x89A2, 0x89A3)},
    **{f"a VLAN, {n:#x}": n for n in (0x8982, 0x8983)},
    **{f"ethtool, bonding, hardware, private, {n:#x}": n for n in (0x8946, 0x8990, 0x89B0, 0x89F0, 0x89FF)},
    **{f"wireless, {n:#x}": n for n in (0x8B00, 0x8B1B, 0x8BFF)},
    "EXT4_IOC_GETFSUUID": 0x8008662C,
    "FS_IOC_GETFSUUID": 0x80111500,
    "FS_IOC_GETFSSYSFSPATH": 0x80811501,
    "FS_IOC_FIEMAP": 0xC020660B,
    "FS_IOC_GETFLAGS": 0x80086601,
    "TIOCSTI": 0x5412,
    "TIOCLINUX": 0x541C,
}


@pytest.mark.parametrize("name", REFUSED_IOCTLS)
@given(upper=UPPER_HALVES)
def test_ioctls_that_reach_the_host(name: str, upper: int) -> None:
    assert decide("ioctl", 0, upper << 32 | REFUSED_IOCTLS[name]) == EPERM


@given(request=st.integers(0, 2**32 - 1))
def test_an_ioctl_is_known_by_its_type_and_number(request: int) -> None:
    assert decide("ioctl", 0, request) == (EPERM if request & 0xFFFF in seccomp.REFUSED_IOCTLS else None)


SOCKET_OPTIONS = {
    "SO_REUSEADDR": (1, 2), "SO_ERROR": (1, 4), "SO_BROADCAST": (1, 6), "SO_KEEPALIVE": (1, 9), "SO_LINGER": (1, 13),
    "SO_REUSEPORT": (1, 15), "SO_PASSCRED": (1, 16), "SO_RCVTIMEO": (1, 20), "SO_SNDTIMEO": (1, 21), "SO_TIMESTAMP": (1, 29),
    "IP_TOS": (0, 1), "IP_TTL": (0, 2), "IP_PKTINFO": (0, 8), "IP_MULTICAST_TTL": (0, 33), "IP_MULTICAST_LOOP": (0, 34),
    "IPV6_UNICAST_HOPS": (41, 16), "IPV6_V6ONLY": (41, 26), "IPV6_RECVPKTINFO": (41, 49), "TCP_NODELAY": (6, 1),
    "TCP_KEEPIDLE": (6, 4), "TCP_KEEPINTVL": (6, 5), "TCP_KEEPCNT": (6, 6), "TCP_QUICKACK": (6, 12), "TCP_USER_TIMEOUT": (6, 18),
}  # fmt: skip
REFUSED_OPTIONS = {
    "SO_ATTACH_FILTER": (1, 26), "SO_ATTACH_BPF": (1, 50), "SO_ATTACH_REUSEPORT_CBPF": (1, 51), "SO_ATTACH_REUSEPORT_EBPF": (1, 52),
    "SO_ZEROCOPY": (1, 60), "SO_TXTIME": (1, 61), "SO_RESERVE_MEM": (1, 73), "IP_OPTIONS": (0, 4), "IP_XFRM_POLICY": (0, 17),
    "IP_ADD_MEMBERSHIP": (0, 35), "IP_ADD_SOURCE_MEMBERSHIP": (0, 39), "MCAST_JOIN_GROUP": (0, 42), "IPT_SO_SET_REPLACE": (0, 64),
    "IPV6_ADDRFORM": (41, 1), "IPV6_JOIN_GROUP": (41, 20), "IPV6_FLOWLABEL_MGR": (41, 32), "IPV6_HOPOPTS": (41, 54),
    "TCP_CONGESTION": (6, 13), "TCP_MD5SIG": (6, 14), "TCP_REPAIR": (6, 19), "TCP_ULP": (6, 31), "TCP_AO_ADD_KEY": (6, 38),
    "UDP_ENCAP": (17, 100), "UDP_SEGMENT": (17, 103), "UDP_GRO": (17, 104), "TLS_TX": (282, 1), "SOL_ALG": (279, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SOCKET_OPTIONS)
@given(upper=UPPER_HALVES)
def test_socket_options_that_programs_use(name: str, upper: int) -> None:
    level, option = SOCKET_OPTIONS[name]
    assert decide("setsockopt", 3, upper << 32 | level, upper << 32 | option) is None


@pytest.mark.parametrize("name", REFUSED_OPTIONS)
@given(upper=UPPER_HALVES)
def test_socket_options_that_are_refused(name: str, upper: int) -> None:
    level, option = REFUSED_OPTIONS[name]
    assert decide("setsockopt", 3, upper << 32 | level, upper << 32 | option) == EPERM


@given(level=st.integers(0, 2**32 - 1), option=st.integers(0, 2**32 - 1))
def test_no_option_of_an_unknown_level(level: int, option: int) -> None:
    known = option in seccomp.SOCKET_OPTIONS.get(level, set())
    assert known or decide("setsockopt", 3, level, option) == (0 if level == 1 and option in (7, 8, 18, 32, 33) else EPERM)


@pytest.mark.parametrize("option", [7, 8, 18, 32, 33])
def test_the_size_of_a_buffer_is_taken_and_ignored(option: int) -> None:
    assert decide("setsockopt", 3, 1, option) == 0
    assert decide("setsockopt", 3, HIGH | 1, HIGH | option) == 0


@pytest.mark.parametrize("request_", [0x5412, 0x541C, 0x5412 | HIGH, 0x541C | HIGH])
def test_typing_into_a_terminal(request_: int) -> None:
    assert decide("ioctl", 0, request_) == EPERM


@pytest.mark.parametrize("flag", [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000])
@given(other=st.integers(0, 2**64 - 1))
def test_clone_makes_no_namespace(flag: int, other: int) -> None:
    assert decide("clone", flag | other) == EPERM
    assert decide("clone", other & ~0x7E020000) is None


def test_clone3_says_that_it_does_not_exist() -> None:
    assert decide("clone3", 0, 0) == ENOSYS


FLUSHES = ["sync", "syncfs", "fsync", "fdatasync", "sync_file_range"]


@pytest.mark.parametrize("name", FLUSHES)
def test_a_flush_is_taken_and_ignored(name: str) -> None:
    assert decide(name, 3) == 0


@given(advice=st.integers(0, 7), upper=UPPER_HALVES)
def test_shared_files_stay_in_the_page_cache(advice: int, upper: int) -> None:
    assert decide("fadvise64", 3, 0, 0, upper << 32 | advice) == (0 if advice == 4 else None)


@given(flags=st.integers(0, 2**64 - 1))
def test_no_huge_pages(flags: int) -> None:
    assert decide("mmap", 0, 4096, 3, flags, 2**64 - 1, 0) == (EPERM if flags & 0x40000 else None)
    assert decide("memfd_create", 0, flags) == (EPERM if flags & 4 else None)


@given(option=st.sampled_from([*range(90), 0x59616D61, 0x53564D41, 0x41555856]), upper=UPPER_HALVES)
def test_every_prctl_but_filters_and_core_scheduling(option: int, upper: int) -> None:
    assert decide("prctl", upper << 32 | option) == (EPERM if option in (22, 62) else None)


@given(persona=st.integers(0, 2**32 - 1))
def test_personality_is_plain_linux_or_asked_for(persona: int) -> None:
    assert decide("personality", persona) == (None if persona in (0, 0xFFFF_FFFF) else EPERM)


XATTRS = ["setxattr", "lsetxattr", "fsetxattr", "setxattrat"]


@pytest.mark.parametrize("name", XATTRS)
def test_attributes_as_on_a_file_system_without(name: str) -> None:
    assert decide(name, 3, 0, 0, 0, 0, 0) == errno.EOPNOTSUPP
    assert decide("file_setattr", 3) == EPERM


@pytest.mark.parametrize("name", ["getxattr", "listxattr", "removexattr"])
def test_attributes_can_be_looked_for(name: str) -> None:
    assert decide(name, 3) is None


@given(command=st.one_of(st.integers(0, 64), st.integers(1000, 1100), st.integers(0, 2**32 - 1)), upper=UPPER_HALVES)
def test_locks_of_ranges_are_taken_and_ignored(command: int, upper: int) -> None:
    allowed = None if command in seccomp.FCNTL_COMMANDS else EPERM
    assert decide("fcntl", 3, upper << 32 | command, 0) == (0 if command in (6, 7, 37, 38) else allowed)


FCNTL = [fcntl.F_DUPFD, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL, fcntl.F_GETLK, fcntl.F_SETOWN, 1030, 1031, 1033]


@pytest.mark.parametrize("command", FCNTL)
def test_other_commands_of_fcntl(command: int) -> None:
    assert decide("fcntl", 3, command, 0) is None


def test_no_lease() -> None:
    assert decide("fcntl", 3, fcntl.F_SETLEASE, 0) == EPERM


@given(flags=st.integers(0, 2**64 - 1))
def test_only_exclusive_locks_of_files(flags: int) -> None:
    shared = flags & fcntl.LOCK_SH and not flags & fcntl.LOCK_UN
    assert decide("flock", 3, flags) == (0 if shared else None)


@pytest.mark.parametrize(("name", "index"), [("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)])
@given(flags=st.integers(0, 2**64 - 1))
def test_no_out_of_band_data(name: str, index: int, flags: int) -> None:
    arguments = [3, 0, 0, 0, 0, 0]
    arguments[index] = flags
    assert decide(name, *arguments) == (errno.EOPNOTSUPP if flags & 1 else None)


def test_files_are_sent_by_copying() -> None:
    assert decide("sendfile", 1, 3, 0, 10) == errno.ENOTSOCK


@pytest.mark.parametrize("name", ["seccomp", "pidfd_send_signal"])
def test_calls_that_no_argument_makes_safe(name: str) -> None:
    assert decide(name, 0, 0, 0, 0) == EPERM
