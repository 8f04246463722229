# covers = ["A3"]
# outcomes = ["error"]
# stderr = "can't start new thread"
# bomb = true
# gvisor = { outcomes = ["error", "timeout", "out_of_memory"], stderr = "" }
"""Ten thousand threads: they count as processes do."""

import threading
import time

for _ in range(10_000):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
