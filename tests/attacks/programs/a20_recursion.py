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

import ctypes
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
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (10**6, 10**6))
    except (OSError, ValueError):
        ctypes.string_at(0)
    raise AssertionError("core files can be had")
