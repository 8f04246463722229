# covers = ["A20"]
# outcomes = ["error", "signal", "out_of_memory"]
# [[runs]]
# args = ["python"]
# [[runs]]
# args = ["c"]
# [[runs]]
# args = ["core"]
# outcomes = ["signal"]
# signal = 11
"""Recursion without a bound, and a crash that would leave a core file on a host that lets it."""

import contextlib
import ctypes
import os
import resource
import sys

sys.setrecursionlimit(2**31 - 1)


class Deep:
    def __repr__(self):
        return repr([self])


def deeper():
    return [deeper()]


if sys.argv[1] == "python":
    deeper()
elif sys.argv[1] == "c":
    repr(Deep())
else:
    # A child's crash leaves no file where core_pattern is a plain name; a limit of 1 keeps a helper from being started.
    with contextlib.suppress(ValueError):  # gVisor refuses it
        resource.setrlimit(resource.RLIMIT_CORE, (10**6, 10**6))
    before = set(os.listdir())
    child = os.fork()
    if not child:
        ctypes.string_at(0)
    _, status = os.waitpid(child, 0)
    if resource.getrlimit(resource.RLIMIT_CORE) == (1, 1) and not os.WCOREDUMP(status) and set(os.listdir()) == before:
        ctypes.string_at(0)
    raise AssertionError("core files can be had")
