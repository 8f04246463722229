import sys


def hook(kind, value, trace):
    raise RuntimeError("the hook itself")


sys.excepthook = hook
raise ValueError("first")
