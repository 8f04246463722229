import sys


def dig(n):
    try:
        return dig(n + 1)
    except RecursionError as error:
        return str(error)


print(sys.getrecursionlimit(), dig(0))
