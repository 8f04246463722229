"""What a program has to do with the host that runs it.

    import sandbox
    sandbox.data            # the value that the host gave as `data`; None where it gave none
    sandbox.send(value)     # any JSON value, to the host's `result.messages`, in order

Python 2.7 and 3. Importing it does nothing: `data` is read when it is first asked for.
"""

import errno as _errno
import fcntl as _fcntl
import json as _json
import os as _os
import struct as _struct
import sys as _sys
import types as _types

__all__ = ["data", "send"]

_MESSAGE_PIPE = 1000
# The script's folder, as absolute as it is now: the program may change its working directory later
# on.
_FOLDER = _os.path.dirname(_os.path.abspath(getattr(_sys.modules["__main__"], "__file__", "/sandbox/main.py")))


def send(value):
    # type: (object) -> None
    """Send a JSON value to the host.

    Raises TypeError or ValueError for a value that JSON has no form for (NaN and the infinities are
    such), RuntimeError where there is no host to send to. Threads and forked processes may send at
    once.
    """
    # Python 2 cannot mix bytes and text beyond ASCII.
    body = _json.dumps(value, allow_nan=False, ensure_ascii=_sys.version_info[0] == 2, separators=(",", ":")).encode("utf-8")
    try:
        _os.fstat(_MESSAGE_PIPE)
    except OSError:
        raise RuntimeError(
            "sandbox.send: descriptor %d, the pipe to the host, is not open in this process; "
            "dayfly opens it for the program, and subprocess closes it in what the program starts" % _MESSAGE_PIPE
        )
    # A lock of the kernel, and a file of its own for each call: threads are kept apart by it, and
    # so are forked processes.
    lock = _os.open(_FOLDER, _os.O_RDONLY)
    try:
        _fcntl.flock(lock, _fcntl.LOCK_EX)
        try:
            _write(_struct.pack(">I", len(body)) + body)
        finally:
            # By name, and not only by closing: a process forked just now holds a copy of it.
            _fcntl.flock(lock, _fcntl.LOCK_UN)
    finally:
        _os.close(lock)


def _write(message):
    # type: (bytes) -> None
    while message:
        try:
            message = message[_os.write(_MESSAGE_PIPE, message) :]
        except OSError as error:
            if error.errno != _errno.EINTR:
                raise


def _load():
    # type: () -> object
    for folder in (_FOLDER, "/sandbox"):
        try:
            file = open(_os.path.join(folder, "data.json"), "rb")
        except (IOError, OSError) as error:
            if error.errno != _errno.ENOENT:
                raise
        else:
            with file:
                return _json.loads(file.read().decode("utf-8"))
    return None


class _Module(_types.ModuleType):
    # Python 2.7 and 3.6 have no __getattr__ of a module.
    def __getattr__(self, name):
        # type: (str) -> object
        if name != "data":
            raise AttributeError("module 'sandbox' has no attribute %r" % name)
        self.data = value = _load()
        return value


_module = _Module(__name__, __doc__)
_module.__dict__.update({_name: _value for _name, _value in globals().items() if _name not in ("_module", "__builtins__")})
# Python 2 empties a module that nothing refers to, and the functions above live in it.
_module.__dict__["_original"] = _sys.modules[__name__]
_sys.modules[__name__] = _module
