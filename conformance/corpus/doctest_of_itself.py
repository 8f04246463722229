"""
>>> 1 + 1
3
>>> double(2)
4
"""
import doctest


def double(n):
    """
    >>> double(21)
    42
    """
    return 2 * n


print(doctest.testmod())
