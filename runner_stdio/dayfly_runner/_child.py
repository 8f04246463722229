"""The program's process, from the fork to the moment when the interpreter takes over with main.py.

Runs beside nothing hostile: the program is not there yet. It trusts its parent, reads its orders by marshal (which is
loaded in every interpreter), and says on a pipe of its own how far it got, so that a failure to set up is never taken
for the program's. When it returns, or becomes another interpreter by exec, the process must be what a plain start
would be: descriptors 0, 1, 2 and the message pipe, signals, modules, arguments, environment.
"""

# `_signal` is the C half of signal, loaded in every interpreter; the Python half would import enum.
import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
import marshal
import os
import resource
import sys
import time

from . import READY, STARTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MESSAGE_PIPE = 1000

PROCESSORS = "/sys/devices/system/cpu"

_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "HOME", "MALLOC_", "GLIBC_", "LOCPATH")
"""Names of the environment that begin so act while an interpreter, or its C library, starts: a warm one is too late."""


def become_program(streams: "tuple[int, int, int, int]", orders: int, progress: int) -> None:
    """Set up this process as the program's, wait for the orders, carry them out. Return, or exec; exit on a failure.

    `streams` are our ends of stdin, stdout, stderr and the message pipe.
    """
    try:
        problems = _settle(streams)
        os.write(progress, "\n".join(problems).encode("utf-8", "replace") + READY)
        interpreter = _prepare(_receive(orders))
        _write_all(progress, STARTED + repr(time.monotonic()).encode())
        if interpreter is None:
            os.close(progress)
        else:
            # Close-on-exec closes the pipe when, and only when, the new interpreter has taken over.
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
            os.execve(*interpreter, os.environ)  # noqa: S606 - there is no shell, on purpose
    except BaseException as error:
        try:
            _write_all(progress, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
        finally:
            os._exit(66)


def _settle(streams: "tuple[int, int, int, int]") -> "list[str]":
    """Do all that needs no orders. Return what could not be done but can be done without."""
    problems = []
    kept = (0, 1, 2, MESSAGE_PIPE)
    for source, target in zip(streams, kept):
        os.dup2(source, target)
        os.close(source)
    for name in os.listdir("/proc/self/fd"):
        try:
            # What came through exec has no close-on-exec flag; what Python opened, like the .pth file being read, has it.
            if int(name) not in kept and os.get_inheritable(int(name)):
                os.close(int(name))
        except OSError:
            pass  # The descriptor that listed them.
    os.setsid()
    try:
        file = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(file, b"1000")
        finally:
            os.close(file)
    except OSError as error:
        problems.append(f"oom_score_adj: {error.strerror}")
    try:
        _show_processors()
    except OSError as error:
        problems.append(f"{PROCESSORS}: {error.strerror}")
    return problems


def _show_processors() -> None:
    """Tell the C library how many processors there are, where a tmpfs hides the host's own files."""
    count = os.environ.get("PYTHON_CPU_COUNT", "")
    if count.isdigit() and os.path.isdir(PROCESSORS) and not os.listdir(PROCESSORS):
        for name in ("online", "possible", "present"):
            _write_file(f"{PROCESSORS}/{name}", f"0-{int(count) - 1}\n".encode())


def _receive(orders: int) -> "dict[str, Any]":
    """Return the orders. The parent ends the pipe behind them; an end without any means that the parent has ended."""
    pieces = []
    while True:
        piece = os.read(orders, 65536)
        if not piece:
            break
        pieces.append(piece)
    os.close(orders)
    if not pieces:
        os._exit(0)
    order: dict[str, Any] = marshal.loads(b"".join(pieces))  # noqa: S302 - written by process 1, our parent
    return order


def _prepare(order: "dict[str, Any]") -> "tuple[str, list[str]] | None":
    """Write the files, set limits, arguments, environment. Return None, or (path, argv) of another interpreter to be."""
    _write_file("main.py", order["code"])
    if order["data"] is not None:
        _write_file("data.json", order["data"])
    args, env, limit = order["args"], order["env"], order["open_files"]
    if any("\0" in arg for arg in args):
        raise ValueError("an argument has a null character")
    for name, value in env.items():
        os.environ[name] = value
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if order["python2"] is not None:
        return order["python2"], ["python2.7", "-u", "main.py", *args]
    # An interpreter finds itself by its argv[0] and PATH. (sys.orig_argv is of 3.10.)
    original = getattr(sys, "orig_argv", [sys.executable])
    if any(name.startswith(_READ_AT_START) for name in env):
        return sys.executable, [sys.executable if "PATH" in env else original[0], "-u", "main.py", *args]
    original[1:] = ["-u", "main.py", *args]
    sys.argv.extend(args)
    sys._xoptions.clear()  # noqa: SLF001 - it is documented, underscore and all
    return None


def _write_file(name: str, data: bytes) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_all(file, data)
    except OSError as error:
        raise OSError(error.errno, error.strerror, name) from None
    finally:
        os.close(file)


def _write_all(file: int, data: bytes) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(data):
            done += os.write(file, view[done:])
