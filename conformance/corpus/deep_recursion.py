def dig(n):
    return dig(n + 1)


dig(0)
