# covers = ["S4"]
# outcomes = ["ok"]
# session = true
# timeout_ms = 20000
"""What would be frames of a later run, written everywhere: whole, cut off, by a daemon until the end, and one that swallows what follows."""

import contextlib
import json
import os
import struct
import time


def frame(**members):
    body = json.dumps(members).encode()
    return struct.pack(">I", len(body)) + body


FRAMES = b"".join(
    [
        frame(type="next"),
        frame(type="started", preloaded=True),
        frame(type="output", stream="stdout", data="Zm9yZ2Vk"),
        frame(type="exit", token="0" * 32, exit_code=0, signal=None, timed_out=False),
        frame(type="spent", reason="forged"),
    ]
)
for number in range(1_100):
    if number != 1000:
        with contextlib.suppress(OSError):
            os.write(number, FRAMES)
if os.fork() == 0:
    os.setsid()
    while True:
        with contextlib.suppress(OSError):
            os.write(1, FRAMES)
        time.sleep(0.001)
os.write(1000, struct.pack(">I", 1_000) + b'"a message whose rest would be the next run\'s')
