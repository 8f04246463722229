# covers = ["E12"]
# outcomes = ["ok"]
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Ways in which kernels were made to write into the cache of files that can only be read. The next run looks at the files, too."""

import os
import socket

from kit import checked, libc, refused

refused(lambda: socket.socket(38, socket.SOCK_SEQPACKET), "EPERM", "EAFNOSUPPORT")
near, far = os.pipe()
os.write(far, b"x")
file = os.open(os.__file__, os.O_RDONLY)
refused(lambda: checked(libc.splice(file, None, far, None, 1, 0)), "EPERM")
refused(lambda: checked(libc.vmsplice(far, None, 0, 0)), "EPERM")
refused(lambda: checked(libc.tee(near, far, 1, 0)), "EPERM")
one, two = socket.socketpair()
refused(lambda: os.sendfile(one.fileno(), file, 0, 100), "ENOTSOCK")
