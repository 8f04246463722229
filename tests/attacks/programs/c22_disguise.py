# covers = ["C22"]
# outcomes = ["error"]
# exit_code = 5
"""A process that looks like the runner, and one more runner, whose frames nobody asked for."""

import os
import subprocess
import sys

from kit import libc

libc.prctl(15, b"python3")
with open("/proc/self/comm", "w") as file:
    file.write("python3")
runner = ["python3", "-u", "-X", "dayfly_runner", "main.py"]
child = subprocess.Popen(runner, executable=sys.executable, stdin=subprocess.PIPE)
child.communicate(b"\0\0\0\x02{}" * 10)
assert child.returncode
os._exit(5)
