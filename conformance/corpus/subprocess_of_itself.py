import subprocess
import sys

if len(sys.argv) > 1:
    print("again", sys.argv)
    sys.exit(7)
print(subprocess.run([sys.executable, __file__, "x"]).returncode)
