# covers = ["K4"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error"] }
"""Terminals: their buffers are emptied by the host's own threads, beyond any limit of the processor, and count against nobody."""

import os
import pty

from kit import refused

refused(os.openpty, "ENOENT")
try:
    pty.fork()
except OSError as error:
    assert "out of pty devices" in str(error), error
else:
    raise AssertionError("a terminal")
for path in ("/dev/ptmx", "/dev/pts/ptmx", "/dev/pts/0"):
    refused(lambda path=path: os.open(path, os.O_RDWR | os.O_NOCTTY), "ENOENT")
assert os.listdir("/dev/pts") == []
refused(lambda: os.mknod("/tmp/ptmx", 0o020666, os.makedev(5, 2)), "EPERM")
