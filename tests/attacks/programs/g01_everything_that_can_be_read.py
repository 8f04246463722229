# covers = ["G1", "G3"]
# outcomes = ["ok"]
# timeout_ms = 15000
# gvisor = { outcomes = ["ok", "error", "out_of_memory"] }
"""Print what can be read of environments, arguments, names and mounts. The suite looks for secrets that it has put on the host."""

import glob
import os
import socket

KNOWN = {"PATH", "HOME", "LANG", "USER", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "POLARS_MAX_THREADS", "PYTHON_CPU_COUNT", "HOSTNAME", "LC_CTYPE"}
assert set(os.environ) - KNOWN == set(), set(os.environ) - KNOWN
assert socket.gethostname() == os.environ["HOSTNAME"] == "sandbox"
for path in glob.glob("/proc/[0-9]*/*") + glob.glob("/proc/*") + glob.glob("/etc/*") + glob.glob("/run/*"):
    if path.endswith(("/mem", "kmsg", "kcore", "pagemap")) or not os.path.isfile(path):
        continue
    try:
        with open(path, "rb") as file:
            print(path, file.read(20_000).decode(errors="replace"))
    except OSError:
        pass
with open("/proc/self/cgroup") as file:
    assert all(line.rstrip().endswith(":/") for line in file)
