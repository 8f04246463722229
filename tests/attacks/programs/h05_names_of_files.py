# covers = ["H5", "E4", "E6"]
# outcomes = ["ok"]
# fetch = ["**", ".hidden", "..."]
# skipped = { "bad\\xff" = "name", "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d" = "name", "\\xc3(/inside" = "name" }
# files = { "new\nline" = "1", "\u001b]0;x\u0007" = "2", "..." = "3", "-rf" = "4", "$(id)" = "5", "C:\\x" = "6", ".hidden" = "7", "\u202egnp.exe" = "8" }
"""Names that are not text, that a terminal or a shell would obey, that lead elsewhere on other systems, and folders without a bottom."""

import os

NAMES = ["new\nline", "\x1b]0;x\x07", "...", "-rf", "$(id)", "C:\\x", ".hidden", "\u202egnp.exe"]
for number, name in enumerate(NAMES, 1):
    open(name, "w").write(str(number))
open(b"bad\xff", "w").close()
os.mkdir(b"\xc3(")
open(b"\xc3(/inside", "w").close()
for _ in range(300):
    os.mkdir("d")
    os.chdir("d")
open("deep", "w").close()
