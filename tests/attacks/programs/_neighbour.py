"""Runs inside a container of another sandbox, while an attack is under way: it needs a little of all that an attack may use up."""

import ctypes
import os
import select
import socket
import subprocess
import tempfile
import threading

libc = ctypes.CDLL(None, use_errno=True)
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]


def well(result):
    assert result != -1, os.strerror(ctypes.get_errno())
    return result


for _ in range(4):
    assert subprocess.call(["/bin/true"]) == 0
threads = [threading.Thread(target=len, args=("x",)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
watcher = well(libc.inotify_init1(0))
well(libc.inotify_add_watch(watcher, b"/tmp", 0xFFF))
well(libc.timerfd_create(1, 0))
well(libc.semget(0, 10, 0o600))
well(libc.shmget(0, 4096, 0o600))
well(libc.msgget(0, 0o600))
select.epoll()
near, far = os.pipe()
well(libc.fcntl(near, 1031, 262_144))
libc.signal(40, 1)
well(libc.sigqueue(os.getpid(), 40, None))
with tempfile.TemporaryFile() as file:
    file.write(bytes(5_000_000))
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
assert len(bytearray(b"x" * 10_000_000)) == 10_000_000
print("well")
