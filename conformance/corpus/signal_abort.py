import os
import sys

print("before", file=sys.stderr)
os.abort()
