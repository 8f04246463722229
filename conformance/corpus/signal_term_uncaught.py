import os
import signal

try:
    os.kill(os.getpid(), signal.SIGTERM)
finally:
    print("not run")
