import sys

main = sys.modules["__main__"]
print(sorted(name for name in vars(main)), main.__spec__, main.__package__, main.__doc__, main.__loader__.__class__.__name__)
print(main.__loader__.name, main.__loader__.path)
