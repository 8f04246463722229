import subprocess
import sys

print(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True).stdout)
subprocess.run("echo from the shell; exit 3", shell=True)
print(subprocess.call(["sh", "-c", "kill -9 $$"]))
print(subprocess.check_output(["cat"], input=b"through a pipe"))
subprocess.check_call(["false"])
