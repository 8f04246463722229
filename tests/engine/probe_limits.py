"""Runs inside a container: prints as JSON what the kernel says of the limits, the mounts and the
view. Python >= 3.8."""
# About system calls, on whatever Python the container has: no pathlib, no types.
# ruff: noqa: PTH101, PTH108, PTH109, PTH112, PTH118, PTH123, PTH208
# mypy: ignore-errors

import errno
import json
import os
import resource
import socket
import sys


def read(*paths):
    for path in paths:
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            continue
    return None


def attempt(function):
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok"


def write(path, data=b"x"):
    def act():
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(file, data)
        finally:
            os.close(file)

    return attempt(act)


def fill(directory, count, size):
    def act():
        for n in range(count):
            with open(os.path.join(directory, f"fill{n}"), "wb") as file:
                file.write(b"x" * size)

    try:
        return attempt(act)
    finally:
        for name in os.listdir(directory):
            if name.startswith("fill"):
                os.unlink(os.path.join(directory, name))


def script(path):
    with open(path, "w") as file:
        file.write("#!/bin/sh\n")
    os.chmod(path, 0o755)
    return attempt(lambda: os.execv(path, [path]))


def content(path):
    """What can be read of a path: bytes of a file, names in a directory; None where it does not
    exist."""
    try:
        return len(os.listdir(path)) if os.path.isdir(path) else len(read(path) or "")
    except OSError as error:
        return None if error.errno == errno.ENOENT else 0


def buffer_size():
    """What a socket has before and after it asked for a larger buffer."""
    with socket.socket() as one:
        before = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000_000)
        return [before, one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)]


def set_attribute(path):
    return attempt(lambda: os.setxattr(path, "user.x", b"x"))


def send_file():
    with open("/etc/passwd", "rb") as file:
        os.sendfile(os.pipe()[1], file.fileno(), 0, 100)


def main():
    cgroup = "/sys/fs/cgroup"
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    statvfs = {path: os.statvfs(path) for path in ("/sandbox", "/tmp", "/dev/shm")}
    status = dict(line.split(":\t", 1) for line in read("/proc/self/status").splitlines() if ":\t" in line)
    masked = json.loads(os.environ["MASKED"])
    found = {
        "status": status,
        "ids": [os.getuid(), os.getgid(), os.getgroups()],
        "cwd": os.getcwd(),
        "env": {name: value for name, value in os.environ.items() if name != "MASKED"},
        "memory": read(cgroup + "/memory.max", cgroup + "/memory/memory.limit_in_bytes"),
        "memory_and_swap": read(cgroup + "/memory/memory.memsw.limit_in_bytes"),
        "swap": read(cgroup + "/memory.swap.max"),
        "pids": read(cgroup + "/pids.max", cgroup + "/pids/pids.max"),
        "cpu": read(cgroup + "/cpu.max") or "{} {}".format(read(cgroup + "/cpu/cpu.cfs_quota_us"), read(cgroup + "/cpu/cpu.cfs_period_us")),
        "oom_score_adj": read("/proc/self/oom_score_adj"),
        "rlimits": {name[7:].lower(): resource.getrlimit(getattr(resource, name)) for name in names},
        "mounts": {line.split()[1]: [line.split()[2], *line.split()[3].split(",")] for line in read("/proc/mounts").splitlines()},
        "empty_files": {path: len(read(path)) for path in ("/etc/hosts", "/etc/resolv.conf")},
        "mountinfo": [line.split() for line in read("/proc/self/mountinfo").splitlines()],
        "sizes": {path: [stat.f_blocks * stat.f_frsize, stat.f_files] for path, stat in statvfs.items()},
        "masked": {path: content(path) for path in masked},
        "interfaces": [line.split(":")[0].strip() for line in read("/proc/net/dev").splitlines()[2:]],
        "routes": (read("/proc/net/route") or "").splitlines()[1:],
        "tcp_buffers": [read("/proc/sys/net/ipv4/tcp_rmem").split(), read("/proc/sys/net/ipv4/tcp_wmem").split()],
        "asked_for_buffer": buffer_size(),
        "tcp_queues": [read("/proc/sys/net/core/somaxconn"), read("/proc/sys/net/ipv4/tcp_max_tw_buckets")],
        "answers": {
            **{f"attribute of {path}": set_attribute(path) for path in ("/sandbox", "/tmp", "/dev/shm")},
            "attribute of a memfd": set_attribute(os.memfd_create("x")),
            "openpty": attempt(os.openpty),
            "sendfile": attempt(send_file),
        },
        "hostname": socket.gethostname(),
        "cgroup_paths": sorted({line.split(":", 2)[2] for line in read("/proc/self/cgroup").splitlines()}),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "devices": sorted(os.listdir("/dev")),
        "write": {
            path: write(path)
            for path in (
                "/x", "/etc/passwd", "/usr/x", "/dev/x", "/dev/mqueue/../x", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
                "/proc/self/oom_score_adj", "/sys/fs/cgroup/x", "/sandbox/x", "/tmp/x", "/dev/shm/x",
                "/sys/devices/system/cpu/x", "/sys/x",
            )
        },
        "lower_oom_score": write("/proc/self/oom_score_adj", b"-1"),
        "mknod": attempt(lambda: os.mknod("/tmp/device", 0o020666, os.makedev(1, 3))),
        "setuid": attempt(lambda: os.setuid(0)),
        "execute": {path: script(path + "/script") for path in ("/sandbox", "/tmp", "/dev/shm")},
        "too_many_files": {path: fill(path, 100, 0) for path in ("/sandbox", "/tmp", "/dev/shm")},
        "too_many_bytes": {path: fill(path, 10, 200_000) for path in ("/sandbox", "/tmp", "/dev/shm")},
        "connect": {
            address: attempt(lambda address=address: socket.create_connection((address, 80), 2))
            for address in ("1.1.1.1", "169.254.169.254", "172.17.0.1")
        },
    }  # fmt: skip
    json.dump(found, sys.stdout)


main()
