# covers = ["C21"]
# outcomes = ["error"]
# exit_code = 7
# stdout = "^other$"
# [[runs]]
# args = ["python"]
# [[runs]]
# args = ["sh"]
"""Become another program: it is the program then."""

import os
import sys

if sys.argv[1] == "python":
    os.execv(sys.executable, ["python3", "-c", "import sys; print('other', end=''); sys.exit(7)"])
os.execv("/bin/sh", ["sh", "-c", "printf other; exit 7"])
