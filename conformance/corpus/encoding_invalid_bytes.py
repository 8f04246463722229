import os
import sys

os.write(1, bytes(range(256)))
os.write(2, b"\xff\xfe\xc3\x28\n")
sys.stderr.write("\udc80 is escaped here\n")
