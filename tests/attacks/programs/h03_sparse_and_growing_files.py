# covers = ["H3"]
# outcomes = ["timeout"]
# timeout_ms = 1500
# bomb = true
# fetch = ["first", "sparse*", "growing", "last"]
# skipped = { sparse1 = "too_large", sparse2 = "too_large", sparse3 = "too_large", growing = "too_large" }
# files = { first = "1", last = "2" }
"""Files that claim more than there is room for, and one that grows until everything is killed."""

import os

open("first", "w").write("1")
open("last", "w").write("2")
for number in (1, 2, 3):
    with open(f"sparse{number}", "wb") as file:
        file.truncate(15_900_000)
file = os.open("growing", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
while True:
    try:
        os.write(file, bytes(100_000))
    except OSError:
        os.ftruncate(file, 9_000_000)
