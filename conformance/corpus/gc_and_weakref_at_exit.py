import weakref


class Thing:
    pass


def gone(ref):
    print("gone")


thing = Thing()
ref = weakref.ref(thing, gone)
weakref.finalize(thing, print, "finalized")
