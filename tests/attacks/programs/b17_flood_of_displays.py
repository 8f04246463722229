# covers = ["B17"]
# outcomes = ["ok"]
# timeout_ms = 20000
# bomb = true
# [[runs]]
# args = ["flood"]
# displays = 20
# displays_dropped = 199980
# [[runs]]
# args = ["huge"]
# displays = 1
# displays_dropped = 4
# [[runs]]
# args = ["claimed"]
# displays = 0
# displays_dropped = 1
"""Two hundred thousand displays, each as small as can be; five that nearly fill what all may have; one of two gigabytes that is not there."""

import os
import sys


def write(size: int, data: bytes) -> None:
    rest = memoryview((size | 1 << 31).to_bytes(4, "big") + data)
    while rest:
        rest = rest[os.write(1000, rest) :]


if sys.argv[1] == "flood":
    data = b"\x80\0\0\x02{}" * 200_000
    while data:
        data = data[os.write(1000, data) :]
elif sys.argv[1] == "huge":
    bundle = b'{"text/plain":"%b"}' % (b"x" * 7_900_000)
    for _ in range(5):
        write(len(bundle), bundle)
else:
    write(2**31 - 1, b"{}")
