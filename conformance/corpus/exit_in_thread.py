import sys
import threading


def run():
    print("thread exits alone")
    sys.exit(3)


thread = threading.Thread(target=run)
thread.start()
thread.join()
print("main goes on")
