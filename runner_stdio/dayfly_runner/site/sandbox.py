"""What a program has to do with the host that runs it.

    import sandbox
    sandbox.data            # the value that the host gave as `data`; None where it gave none
    sandbox.send(value)     # any JSON value, to the host's `result.messages`, in order
    sandbox.display(value)  # an image, a figure, a table, to the host's `result.displays`

Python 2.7 and 3. Importing it does nothing: `data` is read when it is first asked for.
"""

import base64 as _base64
import errno as _errno
import fcntl as _fcntl
import io as _io
import json as _json
import os as _os
import struct as _struct
import sys as _sys
import types as _types

__all__ = ["data", "display", "send"]

_MESSAGE_PIPE = 1000
_DISPLAY = 1 << 31
_REPRESENTATIONS = (
    ("image/png", "_repr_png_"),
    ("image/svg+xml", "_repr_svg_"),
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
)
_VALUE = "application/vnd.dayfly.value+json"
_DEPTH = 95  # of a value as JSON; the host takes 100, and the value is not alone in its text
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
    _send(_json_text(value), 0)


def display(value):
    # type: (object) -> None
    """Show a value to the host, as a notebook would: in every form that it has, by MIME type.

    The forms are those of its methods `_repr_mimebundle_`, `_repr_png_`, `_repr_svg_`,
    `_repr_html_`, `_repr_markdown_` and `_repr_latex_`, which images of PIL, tables of pandas and
    figures of plotly have. A figure of matplotlib is a PNG. A method that fails is skipped.
    `repr(value)` is sent too, as text/plain. A display over the run's limits is dropped and
    counted. Raises TypeError or ValueError for a bundle that JSON has no form for, RuntimeError as
    `send` does.
    """
    forms = {}  # type: dict[str, object]
    figure = getattr(_sys.modules.get("matplotlib.figure"), "Figure", None)
    if figure is not None and isinstance(value, figure):
        file = _io.BytesIO()
        value.savefig(file, format="png")
        forms["image/png"] = file.getvalue()
        value._sandbox_displayed = True  # noqa: SLF001 - so that it is not sent again at the end
    else:
        bundle = _call(value, "_repr_mimebundle_")
        if isinstance(bundle, dict):
            forms.update(bundle)
        for kind, name in _REPRESENTATIONS:
            form = None if kind in forms else _call(value, name)
            if isinstance(form, (bytes, type(b"".decode()))):
                forms[kind] = form
    for kind, form in forms.items():
        if isinstance(form, bytes):
            binary = kind.startswith("image/") and kind != "image/svg+xml"
            forms[kind] = (_base64.b64encode(form) if binary else form).decode("utf-8")
    forms.setdefault("text/plain", _repr(value))
    _send(_json_text(forms), _DISPLAY)


def _call(value, name):
    # type: (object, str) -> object
    """Return what a method of a notebook's protocol gives, without metadata; None if nothing."""
    try:
        found = getattr(value, name)()
    except Exception:
        return None
    return found[0] if isinstance(found, tuple) and found else found


def _repr(value):
    # type: (object) -> str
    try:
        text = repr(value)
    except Exception:
        text = "<%s, whose repr fails>" % type(value).__name__
    return text.encode("utf-8", "backslashreplace").decode("utf-8") if _sys.version_info[0] > 2 else text


def _last_value(value):
    # type: (object) -> None
    """Tell the host the value of the last expression: its repr, and JSON if it has any."""
    forms = {"repr": _repr(value)}  # type: dict[str, object]
    try:
        _json_text(value)
        level = [value]
        for _ in range(_DEPTH):
            inner = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list, tuple))]
            level = [item for items in inner for item in items]
        if not level:
            forms["json"] = value
    except Exception:  # noqa: S110 - it has no such form
        pass
    _send(_json_text({_VALUE: forms}), _DISPLAY)


def _json_text(value):
    # type: (object) -> bytes
    # Python 2 cannot mix bytes and text beyond ASCII.
    return _json.dumps(value, allow_nan=False, ensure_ascii=_sys.version_info[0] == 2, separators=(",", ":")).encode("utf-8")


def _send(body, kind):
    # type: (bytes, int) -> None
    try:
        _os.fstat(_MESSAGE_PIPE)
    except OSError:
        raise RuntimeError(
            "sandbox: descriptor %d, the pipe to the host, is not open in this process; "
            "dayfly opens it for the program, and subprocess closes it in what the program starts" % _MESSAGE_PIPE
        )
    # A lock of the kernel, and a file of its own for each call: threads are kept apart by it, and
    # so are forked processes.
    lock = _os.open(_FOLDER, _os.O_RDONLY)
    try:
        _fcntl.flock(lock, _fcntl.LOCK_EX)
        try:
            _write(_struct.pack(">I", kind | len(body)) + body)
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
