import os
import signal


def handler(number, frame):
    print("handled", number, frame.f_code.co_name)


for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, handler)
    os.kill(os.getpid(), number)
print("end")
