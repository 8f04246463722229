# covers = ["C13"]
# outcomes = ["ok"]
# timeout_ms = 20000
# messages_dropped = 199_000
# bomb = true
"""Two hundred thousand messages, well-formed, each as small as can be."""

import os

data = b"\0\0\0\x010" * 200_000
while data:
    data = data[os.write(1000, data) :]
