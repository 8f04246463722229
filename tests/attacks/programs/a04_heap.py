# covers = ["A4"]
# outcomes = ["out_of_memory"]
# bomb = true
"""Memory, one megabyte after the other, each touched."""

hoard = []
while True:
    hoard.append(bytearray(b"x" * 1_000_000))
