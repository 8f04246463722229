# covers = ["C22"]
# outcomes = ["error"]
# exit_code = 5
"""A process that looks like the runner, and an interpreter that is started as the runner is, and is
none."""

import os
import subprocess
import sys

from kit import libc

libc.prctl(15, b"python3")
with open("/proc/self/comm", "w") as file:
    file.write("python3")
runner = ["python3", "-u", "-X", "dayfly_runner", "-c", "import sys; sys.exit(7)"]
child = subprocess.run(runner, executable=sys.executable, input=b"\0\0\0\x02{}" * 10, stdout=subprocess.PIPE)
assert (child.returncode, child.stdout) == (7, b"")
os._exit(5)
