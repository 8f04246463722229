# covers = ["C24"]
# outcomes = ["ok"]
# before_the_deadline = true
# timeout_ms = 20000
# [[runs]]
# args = ["thread"]
# [[runs]]
# args = ["del"]
# stderr = "in del"
# [[runs]]
# args = ["atexit"]
# stderr = "in atexit"
# [[runs]]
# args = ["excepthook"]
# outcomes = ["error"]
# exit_code = 1
# stderr = "in hook"
# [[runs]]
# args = ["abort"]
# outcomes = ["signal"]
# signal = 6
# [[runs]]
# args = ["interrupt"]
# outcomes = ["signal"]
# signal = 2
# [[runs]]
# args = ["closed"]
# stdout = "^written$"
"""Ends that are none of the usual ones, as Python itself maps them."""

import _thread
import atexit
import os
import sys
import threading
import time


class Dying:
    def __del__(self):
        raise RuntimeError("in del")


def fail(text):
    raise RuntimeError(text)


how = sys.argv[1]
if how == "thread":
    thread = threading.Thread(target=sys.exit, args=(9,))
    thread.start()
    thread.join()
elif how == "del":
    Dying()
elif how == "atexit":
    atexit.register(fail, "in atexit")
elif how == "excepthook":
    sys.excepthook = lambda *_: fail("in hook")
    fail("first")
elif how == "abort":
    os.abort()
elif how == "interrupt":
    _thread.interrupt_main()
    time.sleep(10)
else:
    sys.stdout.write("written")
    os.close(1)
