# covers = ["F1", "F2", "F3"]
# outcomes = ["ok"]
# timeout_ms = 8000
"""Addresses of the world, the host, the cloud and other containers, by TCP and UDP; names. Each refusal is at once."""

import socket
import time

from kit import refused

begun = time.monotonic()
kinds = [socket.SOCK_STREAM]
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    kinds.append(socket.SOCK_DGRAM)
except PermissionError:
    pass  # there is no UDP where its memory would be charged to nobody
for address in (
    "1.1.1.1",
    "172.17.0.1",
    "172.17.0.2",
    "10.0.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.100.100.200",
    "8.8.8.8",
    "255.255.255.255",
):
    for kind in kinds:
        with socket.socket(socket.AF_INET, kind) as one:
            one.settimeout(2)
            refused(lambda one=one, address=address: one.connect((address, 53)), "ENETUNREACH", "EHOSTUNREACH", "EACCES")
for address in ("2606:4700:4700::1111", "fd00:ec2::254", "fe80::1", "ff02::1"):
    with socket.socket(socket.AF_INET6, kinds[-1]) as one:
        refused(lambda one=one, address=address: one.connect((address, 53)), "ENETUNREACH", "EHOSTUNREACH", "EADDRNOTAVAIL", "EINVAL")
for name in ("example.com", "metadata.google.internal", "sandbox.invalid"):
    try:
        socket.getaddrinfo(name, 80)
    except socket.gaierror:
        continue
    raise AssertionError(name)
assert time.monotonic() - begun < 2
with open("/proc/net/dev") as file:
    assert [line.split(":")[0].strip() for line in file][2:] == ["lo"]
