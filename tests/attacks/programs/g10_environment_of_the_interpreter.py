# covers = ["G10"]
# outcomes = ["ok"]
# env = { PYTHONSTARTUP = "/tmp/x", PYTHONINSPECT = "1", PYTHONPATH = "/tmp", LD_PRELOAD = "/tmp/x.so", PYTHONHASHSEED = "1", DOCKER_HOST = "x", PATH = "/tmp" }
# stdout = "^here$"
# timeout_ms = 10000
"""Variables by which an interpreter and its loader are steered: they are the program's, never the runner's."""

import os
import sys

assert sys.flags.hash_randomization == 1 or os.environ["PYTHONHASHSEED"] == "1"
assert "/tmp" in sys.path
assert os.listdir("/proc/self/fd") and os.environ["DOCKER_HOST"] == "x"
with open("/proc/1/cmdline") as file:
    assert "dayfly_runner" in file.read()
os.write(1, b"here")
os._exit(0)
