# covers = ["G7"]
# outcomes = ["ok"]
"""Look for the runner and its secrets in one's own interpreter, which was forked from the same process."""

import gc
import re
import sys

frame = sys._getframe()
assert frame.f_back is None
assert not [name for name in sys.modules if "dayfly" in name], sys.modules
assert not [one for one in gc.get_objects() if isinstance(one, dict) and "token" in one and "stdout_limit" in one]
assert not sys._xoptions and "dayfly_runner" not in sys.orig_argv if hasattr(sys, "orig_argv") else True
# The token of the host's `hello` came after the fork. Its form, in memory that is one's own:
seen = set()
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        if " rw-p " not in line:
            continue
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        try:
            memory.seek(start)
            seen.update(re.findall(rb'"token":\s*"[0-9a-f]{32}"', memory.read(min(end - start, 10_000_000))))
        except (OSError, OverflowError, ValueError):
            pass
assert not seen, seen
