import sys

sys.setrecursionlimit(5000)


def dig(n):
    return n if n == 4000 else dig(n + 1)


print(dig(0))
