import inspect


class Thing:
    """A docstring."""

    def method(self):
        # a comment that only the source has
        return 1


def function(a, *, b=2):
    return a + b


print(inspect.getsource(Thing))
print(inspect.getsource(function), inspect.getsourcefile(function), inspect.signature(function))
print(inspect.getmodule(Thing).__name__, inspect.getfile(Thing))
