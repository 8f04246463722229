# covers = ["A24"]
# outcomes = ["timeout", "out_of_memory"]
# bomb = true
# timeout_ms = 1200
"""Read the whole image again and again, with no memory left to keep it in."""

import os

hoard = bytearray(b"x" * 34_000_000)
while True:
    for folder, _, files in os.walk("/usr"):
        for name in files:
            try:
                with open(os.path.join(folder, name), "rb") as file:
                    while file.read(100_000):
                        pass
            except OSError:
                pass
