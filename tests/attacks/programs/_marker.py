"""Runs in a session after a program that planted markers: prints where one is found. Working files are left out, since they are kept."""

import os
import re

import sandbox

MARKER = re.compile(b"MARKER-4f1d0c9[b]")  # which does not match itself
found = []
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if "r" in line.split()[1] and "[v" not in line:
            memory.seek(start)
            try:
                if MARKER.search(memory.read(end - start)):
                    found.append(line)
            except OSError:
                pass
paths = ["/proc/net/unix", "/proc/keys", "/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg"]
paths += [f"/proc/{pid}/{name}" for pid in os.listdir("/proc") if pid.isdigit() for name in ("comm", "cmdline", "environ")]
paths += [os.path.join(folder, name) for root in ("/dev/shm", "/dev/mqueue") for folder, _, names in os.walk(root) for name in names]
for path in paths:
    try:
        with open(path, "rb") as file:
            if MARKER.search(file.read()):
                found.append(path)
    except OSError:
        pass
print(found)
sandbox.send("the first message")
