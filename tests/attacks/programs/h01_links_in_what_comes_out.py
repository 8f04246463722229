# covers = ["H1"]
# fetch = ["**", "linked/passwd", "chain", "a/b/c/environ"]
# timeout_ms = 5000
# files = { last = "last", second = "mine" }
# [skipped]
# absolute = "not_regular"
# relative = "not_regular"
# chain = "not_regular"
# loop = "not_regular"
# linked = "not_regular"
# memory = "not_regular"
# here = "not_regular"
# swapped = "not_regular"
# "linked/passwd" = "not_regular"
# "a/b/c" = "not_regular"
# "a/b/c/environ" = "not_regular"
# [[runs]]
# outcomes = ["ok"]
# [[runs]]
# args = ["killed"]
# outcomes = ["signal"]
"""Links of every kind where files are asked for: to files, folders, /proc, to each other, and put in a file's place at the last moment."""

import os
import sys

open("last", "w").write("last")
os.symlink("/etc/passwd", "absolute")
os.symlink("../etc/passwd", "relative")
os.symlink("absolute", "chain")
os.symlink("loop", "loop")
os.symlink("/etc", "linked")
os.symlink("/proc/1/mem", "memory")
os.symlink(".", "here")
os.makedirs("a/b")
os.symlink("/proc/1", "a/b/c")
open("mine", "w").write("mine")
os.link("mine", "second")
os.unlink("mine")
open("swapped", "w").write("a file")
if os.fork() == 0:
    # It goes on until it is killed, and leaves a link in any case: names are only swapped for links.
    os.symlink("/etc/passwd", ".link")
    os.rename(".link", "swapped")
    open(".done", "w").close()
    while True:
        os.symlink("/etc/passwd", ".link")
        os.rename(".link", "swapped")
while not os.path.exists(".done"):
    pass
if sys.argv[1:]:
    os.kill(os.getpid(), 9)
