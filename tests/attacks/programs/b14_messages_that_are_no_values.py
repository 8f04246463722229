# covers = ["B14", "C10"]
# outcomes = ["ok"]
# messages = [1, 2]
# messages_dropped = 13
"""What JSON has no form for is an exception in the program; what it forges on the pipe is dropped, and counted."""

import os

import sandbox

cycle = []
cycle.append(cycle)


class Evil:
    def __reduce__(self):
        return os._exit, (1,)


sandbox.send(1)
for value in (cycle, float("nan"), float("inf"), Evil(), {1, 2}, {(1, 2): 3}, "\ud800", b"x"):
    try:
        sandbox.send(value)
    except (TypeError, ValueError):
        continue
    raise AssertionError(value)
for text in (
    b"",
    b"NaN",
    b"Infinity",
    b"1" * 5_000,
    b'"\xff"',
    b'{"a": 1',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'"\x00"',
    b"1 2",
    b"\xef\xbb\xbf1",
    b'"' + b"x" * 1_100_000 + b'"',
):
    data = len(text).to_bytes(4, "big") + text
    while data:
        data = data[os.write(1000, data) :]
sandbox.send(2)
