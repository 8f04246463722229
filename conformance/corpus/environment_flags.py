import sys

print(sys.flags)
print(sys.dont_write_bytecode, sys.pycache_prefix, sys.implementation.name)
print(sys.path)
