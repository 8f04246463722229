# covers = ["A15"]
# outcomes = ["timeout"]
# bomb = true
# timeout_ms = 1200
"""Keep the kernel busy: look-ups, walks of /proc, and sync, which would flush the disks of the host and is refused."""

import os

for _ in range(3):
    os.fork()
while True:
    for path in ("/proc", "/sys/fs/cgroup", "/usr/lib"):
        for folder, _, files in os.walk(path):
            for name in files[:20]:
                try:
                    os.stat(os.path.join(folder, name))
                except OSError:
                    pass
    os.sync()
