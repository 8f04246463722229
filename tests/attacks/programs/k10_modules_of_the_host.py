# covers = ["K10", "K11", "K12"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error"] }
"""Requests to devices that load modules of the host or tell of its disk; places where the host tells of both."""

import fcntl
import os
import socket

from kit import refused

for family in (socket.AF_UNIX, socket.AF_INET):
    with socket.socket(family) as one:
        for request in (0x8940, 0x8941, 0x8946, 0x8947, 0x8970, 0x8982, 0x8983, 0x8990, 0x89A0, 0x89A1, 0x89B0, 0x89F0, 0x8B01):
            refused(lambda one=one, request=request: fcntl.ioctl(one, request, bytearray(64), True), "EPERM")
        if family == socket.AF_INET:
            assert fcntl.ioctl(one, 0x8913, b"lo".ljust(40, b"\0"))[:2] == b"lo"  # its own interface it may see
for path in ("/etc/hostname", "/usr/bin/python3", "/tmp"):
    file = os.open(path, os.O_RDONLY)
    for request in (0x8008662C, 0x80111500, 0x80811501, 0xC020660B, 0xC0206610, 0x80086601):
        refused(lambda file=file, request=request: fcntl.ioctl(file, request, bytearray(256), True), "EPERM")
for path in ("/proc/locks", "/proc/key-users", "/proc/iomem", "/proc/ioports", "/proc/diskstats"):
    if os.path.exists(path):
        with open(path) as file:
            assert file.read() == "", path
for path in ("/proc/pressure", "/proc/fs", "/proc/driver", "/sys/fs/ext4", "/sys/fs/xfs", "/sys/fs/btrfs", "/sys/bus", "/sys/dev", "/sys/class"):
    assert not os.path.exists(path) or os.listdir(path) == [], path
refused(lambda: os.open("/proc/pressure/memory", os.O_RDWR), "ENOENT")
