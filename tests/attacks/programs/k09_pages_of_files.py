# covers = ["K9", "K14"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error"] }
"""Rare parts of the kernel: pages of files put into pipes, out-of-band data, protocols by name."""

import os
import shutil
import socket

from kit import refused

image = os.open("/usr/bin/python3", os.O_RDONLY)
reader, writer = os.pipe()
near, far = socket.socketpair()
with open("/tmp/a", "wb") as file:
    file.write(bytes(100_000))
    for target in (writer, near.fileno(), file.fileno()):
        refused(lambda target=target: os.sendfile(target, image, 0, 4_096), "ENOTSOCK")
shutil.copyfile("/tmp/a", "/tmp/b")
assert os.path.getsize("/tmp/b") == 100_000
with open("/tmp/a", "rb") as file:
    near.settimeout(5)
    near.sendfile(file, 0, 1_000)
assert len(far.recv(2_000)) == 1_000
refused(lambda: near.send(b"x", socket.MSG_OOB), "ENOTSUP", "EOPNOTSUPP")
refused(lambda: near.sendmsg([b"x"], [], socket.MSG_OOB), "ENOTSUP", "EOPNOTSUPP")
tcp = socket.socket()
for level, option, value in ((6, 31, b"tls"), (6, 31, b"mptcp"), (6, 13, b"bbr"), (6, 14, bytes(216)), (1, 60, 1), (17, 100, 2), (282, 1, bytes(40))):
    refused(lambda level=level, option=option, value=value: tcp.setsockopt(level, option, value), "EPERM")
tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
