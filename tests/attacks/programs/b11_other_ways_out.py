# covers = ["B11"]
# outcomes = ["ok"]
# stderr = "^from C$"
"""Stderr behind Python's back; and terminals, of which there are none."""

from kit import libc, refused, write

libc.write(2, b"from C", 6)
refused(lambda: write("/dev/tty", b"x"), "ENXIO", "EACCES", "ENOENT", "EIO")
refused(lambda: write("/dev/console", b"x"), "ENXIO", "EACCES", "ENOENT", "EIO")
refused(lambda: write("/dev/pts/0", b"x"), "ENXIO", "EACCES", "ENOENT", "EIO")
