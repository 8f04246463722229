import os
import subprocess
import sys

print(sys.argv, sys.orig_argv, sys._xoptions, sys.stdin.read())
with open("/proc/self/cmdline") as file:
    command = file.read().split("\0")[:-1]
again = int(os.environ.get("AGAIN", "0")) + 1
os.environ["AGAIN"] = str(again)
if again == 1:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    print(done.returncode, done.stdout, done.stderr)
elif again < 4:
    os.execvp(command[0], command)
