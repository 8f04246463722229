import os
import sys

pid = os.fork()
if pid:
    status = os.waitpid(pid, 0)[1]
    print("parent sees", os.WEXITSTATUS(status))
    sys.exit(1)
print("child goes through the end of main")
sys.exit(2)
