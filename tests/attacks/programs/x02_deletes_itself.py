# outcomes = ["error"]
# exit_code = 1
# stderr = "ZeroDivisionError"
"""Take main.py away, and put a pipe in its place, before the traceback looks for its lines."""

import os

os.unlink("main.py")
os.mkfifo("main.py")
if os.fork() == 0:
    while True:
        with open("main.py", "w") as file:
            file.write("x" * 1000)
1 / 0
