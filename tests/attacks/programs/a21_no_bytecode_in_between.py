# covers = ["A21"]
# outcomes = ["timeout"]
# timeout_ms = 1200
# [[runs]]
# args = ["power"]
# [[runs]]
# args = ["regex"]
# [[runs]]
# args = ["count"]
"""Long work in C, which no signal handler of Python's would interrupt: the kill comes from outside."""

import re
import sys

if sys.argv[1] == "power":
    10**10**8
elif sys.argv[1] == "regex":
    re.match("(a+)+$", "a" * 60 + "b")
else:
    ("a" * 5_000_000).count("a" * 2_500_000 + "b" + "a" * 2_400_000)
    max(range(10**12))
