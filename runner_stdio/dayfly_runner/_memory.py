"""The memory that a fork shares, copied ahead of its use."""

# The C half of ctypes: see _frames for why.
import _ctypes
import os

_MADV_POPULATE_WRITE = 23
_PAGE_SIZE, _PAGE_ENTRY, _PAGE_PRESENT = os.sysconf("SC_PAGE_SIZE"), 8, 0x80
"""/proc/self/pagemap (Linux, admin-guide/mm/pagemap): 8 bytes for each page, little-endian, the
highest bit: it is there."""


def unshare() -> None:
    """Copy the memory that a fork shares, as far as an interpreter keeps its objects in it.

    Else each page is copied at the program's first write, which comes at the interpreter's end at
    the latest: milliseconds of each run. Whoever is left alone with a page writes to it for
    less. A mere hint: a kernel that does not know it (before 5.14, gVisor) leaves all as it is.
    """

    # Here, so that a collection removes it: a class is part of a cycle.
    class Address(_ctypes._SimpleCData):  # type: ignore[type-arg] # noqa: SLF001 - ctypes' c_void_p, without the rest of ctypes
        """An argument as wide as a pointer."""

        _type_ = "P"

    madvise = _ctypes.dlsym(_ctypes.dlopen(None, 0), "madvise")  # type: ignore[arg-type] # None is this very process
    try:
        with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", 0) as pagemap:
            for line in maps:
                words = line.split()
                begin, end = [int(address, 16) for address in words[0].split(b"-")]
                # What was allocated, and the interpreter's static objects; neither the libraries'
                # data nor the stack.
                if words[1] != b"rw-p" or not (words[5:] in ([], [b"[heap]"]) or begin <= id(object) < end):
                    continue
                count = (end - begin) // _PAGE_SIZE
                entries = os.pread(pagemap.fileno(), count * _PAGE_ENTRY, begin // _PAGE_SIZE * _PAGE_ENTRY)
                present = [entry & _PAGE_PRESENT for entry in entries[_PAGE_ENTRY - 1 :: _PAGE_ENTRY]] + [0]
                first = None
                for page, there in enumerate(present):
                    if there and first is None:
                        first = page
                    elif not there and first is not None:
                        where, size = begin + first * _PAGE_SIZE, (page - first) * _PAGE_SIZE
                        _ctypes.call_function(madvise, (Address(where), Address(size), _MADV_POPULATE_WRITE))
                        first = None
    except OSError:
        pass
