import atexit
import sys

atexit.register(lambda: print("at exit"))
atexit.register(lambda: sys.exit(9))
sys.exit(4)
