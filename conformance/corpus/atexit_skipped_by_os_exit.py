import atexit
import os

atexit.register(print, "never")
print("flushed by -u")
os._exit(11)
