def a(n):
    b(n + 1)


def b(n):
    a(n + 1)


a(0)
