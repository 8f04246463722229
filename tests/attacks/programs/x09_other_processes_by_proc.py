# outcomes = ["ok"]
# stdout = "^child\nthrough proc\n$"
"""What is one's own can be got at, as everywhere: a child's descriptors through /proc. It leads nowhere but to the same pipes."""

import os
import time

near, far = os.pipe()
child = os.fork()
if child == 0:
    os.write(1, b"child\n")
    os.write(far, b"x")
    time.sleep(60)
os.read(near, 1)
with open("/proc/%d/fd/1" % child, "w") as file:
    file.write("through proc\n")
for name in os.listdir("/proc/%d/fd" % child):
    assert os.readlink("/proc/%d/fd/%s" % (child, name)).startswith(("pipe:", "/proc")), name
