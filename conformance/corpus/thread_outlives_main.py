import threading
import time


def late():
    time.sleep(0.3)
    print("after main")


threading.Thread(target=late).start()
print("end of main")
