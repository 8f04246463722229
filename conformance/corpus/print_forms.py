import sys

print("a", "b", sep="-", end="!\n")
print(file=sys.stderr)
print("%r %s %5.2f|%-5s|" % ("x", "y", 3.14159, "l"), f"{'x':>5}{1_000_000:,}{255:#x}")
print("\x1b[31mred\x1b[0m", "tab\there", "cr\rover", "\a\b\f\v")
