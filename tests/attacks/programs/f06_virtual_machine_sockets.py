# covers = ["F6", "F7"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error"] }
"""Families of sockets beyond loopback: to the hypervisor, to the kernel, to the wire."""

import socket

from kit import refused

for family in set(range(3, 50)) - {10}:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
        refused(lambda family=family, kind=kind: socket.socket(family, kind), "EPERM", "EAFNOSUPPORT", "ESOCKTNOSUPPORT")
for family in (socket.AF_INET, socket.AF_INET6):
    for kind, protocol in (
        (socket.SOCK_RAW, 1),
        (socket.SOCK_RAW, 255),
        (socket.SOCK_DGRAM, 1),
        (socket.SOCK_STREAM, 132),
        (socket.SOCK_STREAM, 262),
        (5, 132),
    ):
        refused(lambda family=family, kind=kind, protocol=protocol: socket.socket(family, kind, protocol), "EPERM")
