"""Takes memory bit by bit until the kernel says no. One request that is too large by itself is a
MemoryError, as anywhere."""

try:
    bytearray(10**12)
except MemoryError:
    print("a terabyte at once: MemoryError")

print("a megabyte at a time, until it ends")
kept = []
while True:
    kept.append(b"x" * 1_000_000)
