# covers = ["E3", "E4", "E6"]
# outcomes = ["error"]
# exit_code = 4
# stdout = "^written$"
"""Links, names and depths that would lead a host astray which reads files from the container: dayfly reads none."""

import os

import sandbox

assert sandbox.data is None
for name in ("main.py", "data.json", "result.json", "stdout", "stderr"):
    if os.path.exists(name):
        os.unlink(name)
    os.symlink("/proc/1/fd/1", name)
names = ["..x", "n" * 255, "line\nbreak", "-rf", "$(reboot)", "\x1b[2J"]
for name in names:
    os.mkfifo("/tmp/" + name)
os.mkdir(b"\xff\xfe")
for _ in range(1_000):
    os.mkdir("d")
    os.chdir("d")
os.write(1, b"written")
os._exit(4)
