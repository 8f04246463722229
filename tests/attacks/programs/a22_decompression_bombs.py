# covers = ["A22"]
# outcomes = ["out_of_memory", "error"]
# bomb = true
# timeout_ms = 8000
# [[runs]]
# args = ["zip"]
# [[runs]]
# args = ["pickle"]
# [[runs]]
# args = ["oversized"]
# outcomes = ["error"]
# stderr = "MemoryError"
# gvisor = { outcomes = ["error", "out_of_memory"], stderr = "" }
"""Little data that becomes much; and one allocation that could never fit, which is an exception and no kill."""

import pickle
import sys
import zlib

if sys.argv[1] == "zip":
    deflate = zlib.compressobj(wbits=-15)
    block = deflate.compress(bytes(10_000_000)) + deflate.flush(zlib.Z_FULL_FLUSH)
    zlib.decompress(block * 50, wbits=-15)
elif sys.argv[1] == "pickle":
    pickle.loads(b"".join((b"(", b"(((((((((" * 3_000_000, b"l" * 27_000_001, b".")))
else:
    bytearray(10**11)
