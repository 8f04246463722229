"""The profile's rules, evaluated here as libseccomp documents them; tests/engine/test_hardening.py asks a real kernel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import seccomp

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
    name_to_handle_at nfsservctl open_by_handle_at open_tree perf_event_open pidfd_getfd pidfd_send_signal pivot_root
    process_madvise process_mrelease process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot remap_file_pages
    request_key set_mempolicy set_mempolicy_home_node setdomainname sethostname setns settimeofday socketcall splice statmount
    stime swapoff swapon sysfs syslog tee umount umount2 unshare userfaultfd uselib ustat vhangup vm86 vm86old vmsplice
"""


def holds(argument: dict[str, Any], value: int) -> bool:
    if argument["op"] == "SCMP_CMP_NE":
        return bool(value != argument["value"])
    return bool(value & argument["value"] == argument["valueTwo"])


def decide(name: str, *arguments: int, profile: dict[str, Any] = PROFILE) -> int | None:
    """Return the errno that the profile answers the call with, or None where it lets it through."""
    for call in profile["syscalls"]:
        if name in call["names"] and all(holds(argument, arguments[argument["index"]]) for argument in call.get("args", [])):
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
    assert len(seccomp.profile()) < 24_000


def test_no_call_is_both_let_through_and_ignored() -> None:
    allowed = {name for names in seccomp.CONDITIONS for name in names.split()}
    for names, rules in seccomp.IGNORED.items():
        for name in names.split():
            for rule in rules:
                arguments = {index: value + (mask == seccomp.NOT_NULL) for index, mask, value in rule}
                assert decide(name, *(arguments.get(index, 0) for index in range(6))) == 0
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


def test_every_comparison_can_hold() -> None:
    for call in PROFILE["syscalls"]:
        for argument in call.get("args", []):
            if argument["op"] == "SCMP_CMP_NE":
                # libseccomp joins several inequalities by OR, so there is one in the whole profile.
                assert call["names"] == ["prlimit64"]
                continue
            assert argument["op"] == "SCMP_CMP_MASKED_EQ"
            assert argument["value"] & argument["valueTwo"] == argument["valueTwo"]


SIGNALLING = ["kill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tgkill", "tkill"]


@pytest.mark.parametrize("name", SIGNALLING)
@given(upper=UPPER_HALVES)
def test_pid_1_gets_no_signal_however_its_number_is_written(name: str, upper: int) -> None:
    assert decide(name, upper << 32 | 1, 0) == EPERM


@pytest.mark.parametrize("name", SIGNALLING)
@given(pid=st.integers(1 - 2**22, 2**22 - 1).filter(lambda pid: pid != 1), upper=UPPER_HALVES)
def test_every_other_process_does(name: str, pid: int, upper: int) -> None:
    assert decide(name, upper << 32 | pid & 0xFFFF_FFFF, 0) is None


@pytest.mark.parametrize("name", ["prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"])
@given(pid=st.integers(1, 2**32 - 1), upper=UPPER_HALVES)
def test_limits_and_scheduling_are_ones_own(name: str, pid: int, upper: int) -> None:
    assert decide(name, upper << 32 | pid, 0) == EPERM
    assert decide(name, 0, 0) is None


@given(limit=st.integers(0, 15), new=st.integers(0, 2**64 - 1), upper=UPPER_HALVES)
def test_the_core_limit_is_never_changed(limit: int, new: int, upper: int) -> None:
    core = limit == 4
    assert decide("setrlimit", upper << 32 | limit, new) == (0 if core else None)
    assert decide("prlimit64", 0, upper << 32 | limit, new, 0) == (0 if core and new else None)
    # The kernel would write the old limit too, which an ignored call does not.
    assert decide("prlimit64", 0, upper << 32 | limit, new, 99) == (EPERM if core and new else None)


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


def test_without_loopback_sockets_are_local_and_the_rest_is_the_same() -> None:
    closed = json.loads(seccomp.profile(loopback=False))
    assert decide("socket", 1, 1, 0, profile=closed) is None
    assert {decide("socket", family, kind, 0, profile=closed) for family in (2, 10) for kind in (1, 2)} == {EPERM}
    assert [call for call in closed["syscalls"] if call["names"] != ["socket"]] == [
        call for call in PROFILE["syscalls"] if call["names"] != ["socket"]
    ]


@pytest.mark.parametrize("protocol", [1, 58, 132, 256, 262])
def test_no_icmp_sctp_smc_mptcp(protocol: int) -> None:
    assert {decide("socket", family, kind, protocol) for family in (2, 10) for kind in range(11)} == {EPERM}


@given(request=st.one_of(st.integers(0, 2**32 - 1), st.integers(0x5400, 0x54FF)), upper=UPPER_HALVES)
def test_every_ioctl_but_typing_into_a_terminal(request: int, upper: int) -> None:
    assert decide("ioctl", 0, upper << 32 | request) == (EPERM if request in (0x5412, 0x541C) else None)


@given(level=st.integers(0, 511), option=st.integers(0, 127), upper=UPPER_HALVES)
def test_every_socket_option_but_the_sizes_of_buffers(level: int, option: int, upper: int) -> None:
    ignored = level == 1 and option in (7, 8, 32, 33)
    assert decide("setsockopt", 3, upper << 32 | level, upper << 32 | option) == (0 if ignored else None)


@pytest.mark.parametrize("option", [7, 8, 32, 33])
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


@pytest.mark.parametrize("name", ["sync", "syncfs"])
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
def test_every_prctl_but_core_scheduling(option: int, upper: int) -> None:
    assert decide("prctl", upper << 32 | option) == (EPERM if option == 62 else None)


@given(persona=st.integers(0, 2**32 - 1))
def test_personality_is_plain_linux_or_asked_for(persona: int) -> None:
    assert decide("personality", persona) == (None if persona in (0, 0xFFFF_FFFF) else EPERM)
