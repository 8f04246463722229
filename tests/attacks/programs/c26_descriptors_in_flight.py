# covers = ["C26"]
# outcomes = ["ok"]
"""Descriptors that travel in sockets, and lie in sockets that lie in sockets, when everything ends."""

import os
import socket

outer = []
near, far = socket.socketpair()
for _ in range(20):
    one, two = socket.socketpair()
    socket.send_fds(near, [b"x"], [one.fileno(), two.fileno(), 1, 1000])
    near, far = one, two
    outer.append((near, far))
if os.fork() == 0:
    os._exit(0)
os._exit(0)
