# covers = ["H2"]
# outcomes = ["ok"]
# fetch = ["**", "fifo", "folder"]
# timeout_ms = 20000
# before_the_deadline = true
# files = { "file" = "x" }
# skipped = { fifo = "not_regular", held = "not_regular", full = "not_regular", socket = "not_regular", shut = "unreadable", closed = "unreadable", folder = "not_regular" }
"""FIFOs, some of them held open by a daemon, sockets, and what is closed to its owner, where files are asked for."""

import os
import socket
import time

for name in ("fifo", "held", "full"):
    os.mkfifo(name)
listener = socket.socket(socket.AF_UNIX)
listener.bind("socket")
listener.listen()
open("file", "w").write("x")
open("shut", "w").write("x")
os.chmod("shut", 0)
os.mkdir("folder")
os.mkdir("closed")
open("closed/x", "w").close()
os.chmod("closed", 0)
if os.fork() == 0:
    os.setsid()
    held = os.open("held", os.O_RDWR)
    full = os.open("full", os.O_RDWR | os.O_NONBLOCK)
    os.write(full, bytes(65536))
    open("/tmp/ready", "w").close()
    time.sleep(100)
while not os.path.exists("/tmp/ready"):
    time.sleep(0.01)
