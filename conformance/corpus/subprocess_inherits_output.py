import subprocess
import sys

print("one")
subprocess.run([sys.executable, "-c", "import sys; print('two'); print('err', file=sys.stderr); 1/0"])
print("three")
