"""What several attacks need. The suite puts this text in place of their `from kit import …` line: a program is one file."""

import ctypes
import errno
import os

libc = ctypes.CDLL(None, use_errno=True)


def checked(result):
    """Raise what the C library's call that returned -1 left in errno."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def refused(call, *codes):
    """Assert that the call fails with one of the named errors, and return which."""
    try:
        got = call()
    except OSError as error:
        name = errno.errorcode.get(error.errno, str(error.errno))
        assert name in codes, "%s, and not one of %s" % (name, codes)
        return name
    raise AssertionError("allowed: %r" % (got,))


def write(path, data):
    """Write as the kernel is asked to: a buffered file would be refused at its closing, where nobody looks."""
    file = os.open(path, os.O_WRONLY)
    try:
        return os.write(file, data)
    finally:
        os.close(file)


def until_refused(call, *codes, most=1_000_000):
    """Call until one of the named errors; return how often it went well."""
    for count in range(most):
        try:
            call()
        except OSError as error:
            name = errno.errorcode.get(error.errno, str(error.errno))
            assert name in codes, "%s, and not one of %s" % (name, codes)
            return count
    raise AssertionError("allowed %d times" % most)
