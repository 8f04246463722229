# covers = ["C15", "D9"]
# outcomes = ["timeout"]
# timeout_ms = 1200
# [[runs]]
# args = ["self"]
# [[runs]]
# args = ["group"]
# [[runs]]
# args = ["all"]
# [[runs]]
# args = ["wait"]
# [[runs]]
# args = ["continue"]
"""Stop oneself and everybody else, for ever or again and again; wait for what never comes."""

import os
import signal
import sys

child = os.fork()
if child == 0:
    while True:
        signal.pause()
if sys.argv[1] == "self":
    os.kill(os.getpid(), signal.SIGSTOP)
elif sys.argv[1] == "group":
    os.killpg(0, signal.SIGSTOP)
elif sys.argv[1] == "all":
    os.kill(-1, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)
elif sys.argv[1] == "wait":
    os.wait()
while True:
    os.kill(child, signal.SIGSTOP)
    os.kill(child, signal.SIGCONT)
