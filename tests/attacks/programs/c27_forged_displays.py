# covers = ["C27"]
# outcomes = ["ok"]
# figures = true
# last_value = true
# displays = 1
# displays_dropped = 11
# messages = [true]
"""Displays that are not bundles, values of the wrong shape, too deep or with numbers beyond all bounds; then one true bundle."""

import os

import sandbox

KIND = b'{"application/vnd.dayfly.value+json":%b}'

for body in (
    b"",
    b"[]",
    b"null",
    b"\xff",
    b'{"text/plain":"\\ud800"}',
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b'{"a":1' + b"0" * 10_000 + b"}",
    KIND % b"{}",
    KIND % b'{"repr":1}',
    KIND % (b'{"repr":"","json":' + b"[" * 200 + b"]" * 200 + b"}"),
    KIND % b'{"repr":"","json":1e999}',
    KIND % b'{"repr":"forged","outcome":"ok"}',
    b'{"image/png":5,"outcome":"error"}',
):
    os.write(1000, (len(body) | 1 << 31).to_bytes(4, "big") + body)
sandbox.send(True)
