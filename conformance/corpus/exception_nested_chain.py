class First(Exception):
    pass


try:
    try:
        raise First("one")
    except First as error:
        raise TypeError("two") from error
except TypeError:
    raise LookupError("three\nwith two lines")
