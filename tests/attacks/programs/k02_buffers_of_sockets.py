# covers = ["K2"]
# outcomes = ["ok"]
# bomb = true
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Buffers of sockets made larger, of every family and by every name; datagrams where nobody is charged; connections never accepted."""

import os
import socket

from kit import until_refused

families = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6]
for family in families:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            one = socket.socket(family, kind)
        except PermissionError:
            assert family != socket.AF_UNIX and kind == socket.SOCK_DGRAM
            continue
        for option, forced in ((socket.SO_SNDBUF, 32), (socket.SO_RCVBUF, 33)):
            before = one.getsockopt(socket.SOL_SOCKET, option)
            one.setsockopt(socket.SOL_SOCKET, option, 2**30)
            one.setsockopt(socket.SOL_SOCKET, forced, 2**30)
            assert one.getsockopt(socket.SOL_SOCKET, option) == before
            assert family == socket.AF_UNIX or kind == socket.SOCK_DGRAM or before <= 4_096, before
server = socket.create_server(("127.0.0.1", 0), backlog=4_096)
server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 2**30)
assert server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1
waiting = 0
while waiting < 100:
    with socket.socket() as client:
        client.settimeout(0.2)
        try:
            client.connect(server.getsockname())
        except OSError:
            break
    waiting += 1
assert waiting <= 17, waiting
near, far = socket.socketpair()
near.setblocking(False)
assert until_refused(lambda: near.send(bytes(4_096)), "EAGAIN") * 4_096 < 500_000
with open("/proc/net/tcp") as table:
    assert not [line for line in table if line.split()[3] == "06"], "TIME_WAIT"
os.write(1, b"%d" % waiting)
