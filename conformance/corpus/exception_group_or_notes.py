import sys

if sys.version_info >= (3, 11):
    error = ValueError("noted")
    error.add_note("a note\nof two lines")
    raise ExceptionGroup("several", [error, TypeError("t"), ExceptionGroup("inner", [KeyError("k")])])
raise ValueError("no groups here")
