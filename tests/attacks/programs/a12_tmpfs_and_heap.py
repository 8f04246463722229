# covers = ["A12"]
# outcomes = ["out_of_memory"]
# bomb = true
"""Files in memory count as memory: what they take the heap does not get."""

for folder in ("/tmp", "/sandbox"):
    with open(folder + "/x", "wb") as file:
        file.write(bytes(15_000_000))
hoard = []
while True:
    hoard.append(bytearray(b"x" * 500_000))
