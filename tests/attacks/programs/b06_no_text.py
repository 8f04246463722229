# covers = ["B6", "B7"]
# outcomes = ["ok"]
# stdout = "\u0000\ufffd\ufffd\u001b\\]0;x\u0007\u001b\\[2J\u202e\\r"
# [[runs]]
# args = []
# [[runs]]
# args = ["surrogate"]
# outcomes = ["error"]
# stdout = ""
# stderr = "UnicodeEncodeError"
# [[runs]]
# args = ["cut"]
# stdout = ""
# truncated = true
"""Bytes that are not UTF-8, terminals' escapes, a surrogate, a character that the limit cuts in two."""

import os
import sys

if sys.argv[1:] == ["surrogate"]:
    print("\ud800")
elif sys.argv[1:] == ["cut"]:
    os.write(2, b"")
    sys.stdout.write("\N{EURO SIGN}" * 400_000)
else:
    os.write(1, b"\x00\xff\xc3\x1b]0;x\x07\x1b[2J" + "\u202e\r".encode())
