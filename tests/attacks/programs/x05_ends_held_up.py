# outcomes = ["timeout"]
# timeout_ms = 1200
# stdout = "^done\n$"
# [[runs]]
# args = ["atexit"]
# [[runs]]
# args = ["thread"]
# [[runs]]
# args = ["flush"]
"""A main program that is done, and an interpreter that never finishes: atexit, a thread that is waited for, a flush that blocks."""

import atexit
import os
import sys
import threading
import time

print("done")
if sys.argv[1] == "atexit":
    atexit.register(time.sleep, 60)
elif sys.argv[1] == "thread":
    for _ in range(50):
        threading.Thread(target=time.sleep, args=(60,)).start()
else:
    near, far = os.pipe()
    os.dup2(far, 1)
    sys.stdout = os.fdopen(far, "w", 10_000_000)
    sys.stdout.write("x" * 1_000_000)
