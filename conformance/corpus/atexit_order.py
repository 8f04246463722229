import atexit

atexit.register(print, "first registered, last run")
atexit.register(print, "second")


@atexit.register
def fail():
    raise RuntimeError("in atexit")


print("end of main")
