# covers = ["D6"]
# outcomes = ["signal"]
# [[runs]]
# args = ["1"]
# signal = 1
# [[runs]]
# args = ["9"]
# signal = 9
# [[runs]]
# args = ["11"]
# signal = 11
# [[runs]]
# args = ["13"]
# signal = 13
# [[runs]]
# args = ["24"]
# signal = 24
# [[runs]]
# args = ["64"]
# signal = 64
# [[runs]]
# args = ["-139"]
# outcomes = ["error"]
# exit_code = 139
"""Death by a signal, which is not the same as an exit code of 128 and its number."""

import os
import signal
import sys

number = int(sys.argv[1])
if number < 0:
    os._exit(-number)
if number not in (9, 34, 64):
    signal.signal(number, signal.SIG_DFL)
os.kill(os.getpid(), number)
signal.pause()
