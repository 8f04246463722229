# covers = ["A16"]
# outcomes = ["ok"]
"""A hundred thousand descriptors."""

import os
import resource

from kit import until_refused

assert until_refused(lambda: os.dup(0), "EMFILE") < 256
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (257, 257))
except (OSError, ValueError):
    pass
else:
    raise AssertionError("the limit was raised")
