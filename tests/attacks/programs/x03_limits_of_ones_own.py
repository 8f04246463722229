# outcomes = ["ok"]
# [[runs]]
# args = ["cpu"]
# timeout_ms = 20000
# outcomes = ["signal"]
# signal = 24
# [[runs]]
# args = ["files"]
# outcomes = ["error"]
# exit_code = 9
# [[runs]]
# args = ["memory"]
# outcomes = ["error"]
# exit_code = 9
# [[runs]]
# args = ["stack"]
# outcomes = ["signal"]
# signal = 11
# [[runs]]
# args = ["raise"]
"""Limits that a program sets for itself hit itself, and not the runner. Those that bound more than memory cannot be raised."""

import contextlib
import os
import resource
import sys

if sys.argv[1] == "cpu":
    resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
    while True:
        pass
elif sys.argv[1] == "files":
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    os._exit(9)
elif sys.argv[1] == "memory":
    resource.setrlimit(resource.RLIMIT_AS, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (0, 0))
    os._exit(9)
elif sys.argv[1] == "stack":
    resource.setrlimit(resource.RLIMIT_STACK, (0, 0))
    os.kill(os.getpid(), 11)
with contextlib.suppress(ValueError):  # gVisor refuses it
    resource.setrlimit(resource.RLIMIT_CORE, (10**6, 10**6))
assert resource.getrlimit(resource.RLIMIT_CORE) == (1, 1)
for name in ("FSIZE", "MEMLOCK", "MSGQUEUE", "NICE", "NOFILE", "RTPRIO", "SIGPENDING"):
    limit = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(limit)[1]
    assert hard != resource.RLIM_INFINITY, name
    try:
        resource.setrlimit(limit, (hard, hard + 1))
    except (OSError, ValueError):
        continue
    raise AssertionError(name)
