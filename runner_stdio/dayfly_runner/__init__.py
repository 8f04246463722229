"""The container side of dayfly: process 1, and the program's interpreter kept warm.

The container runs `python3 -u -X dayfly_runner main.py`, and `zz_dayfly_runner.pth` calls `main()`
while `site` is being imported: after the interpreter is up, before it looks for main.py. `main()`
forks. The parent becomes the runner and never returns. The child waits, warm, until main.py is
there, and returns: the interpreter then runs main.py by itself, with no frame, module or option of
ours left, exactly as `python3 -u main.py` does. In a session the child stays as it is, and each
program is run by a process forked from it.

The parent is what the host talks to; it must never run, parse or wait for anything that the program
controls but the bytes in its pipes. The child must import nothing that a plain start does not, or
take it out again.

Standard library only, CPython 3.8 and newer. Never imports `dayfly`, nor is imported by it: they
share conformance/PROTOCOL.md and nothing else. What is in `site/` lies beside this package in the
image's site-packages.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    # typing itself would be paid for in every container.
    from typing import NoReturn

VERSION = "0.1.0"
"""The dayfly version that this runner belongs to, told to the host in `ready`."""

READY, STARTED = b"\0", b"+"
"""What the child says of its progress: its number and problems, line by line, READY; then STARTED
with the monotonic time, and " exec" if the interpreter starts anew; or why not."""


def main() -> None:
    """Fork: return in the child when its program is to start, never return in the parent. Called by
    the .pth file."""
    if os.getpid() != 1:
        # Not the container's first process: a program has made this interpreter, in its own process
        # or by the command line in /proc/self/cmdline.
        _leave_no_trace()
        return
    try:
        # The child's three standard streams, its messages, the parent's orders to it, and its word
        # on how far it got.
        stdin, stdout, stderr, message, orders, progress = [os.pipe() for _ in range(6)]
        assert stdin[0] > 2, "descriptors 0, 1 and 2 must be open"
        # Before the first byte of the host is read: the child must not inherit any of it.
        child = os.fork()
    except BaseException as error:
        _give_up(error)
    if child:
        try:
            from . import _parent

            for end in (stdin[0], stdout[1], stderr[1], message[1], orders[0], progress[1]):
                os.close(end)
            _parent.serve(child, stdin[1], (stdout[0], stderr[0], message[0]), orders[1], progress[0])
        except BaseException as error:
            _give_up(error)
    try:
        modules = set(sys.modules) - {__name__}
        from . import _child

        for end in (stdin[1], stdout[0], stderr[0], message[0], orders[1], progress[0]):
            os.close(end)
        _child.become_program((stdin[0], stdout[1], stderr[1], message[1], orders[0], progress[1]), modules)
        loaded, ours = sys.modules, __name__
        for name in set(loaded) - modules:
            module = loaded.pop(name)
            if name.startswith(ours):
                # Their functions hold these dicts, and these the functions: gone now, and not when
                # the garbage collector comes by.
                module.__dict__.clear()
    except BaseException:
        os._exit(70)


def _leave_no_trace() -> None:
    """Take out the option that this interpreter was given: nothing shows it in the first one
    either."""
    sys._xoptions.pop(__name__, None)  # noqa: SLF001 - it is documented, underscore and all
    option = ["-X", __name__]
    # sys.orig_argv is of 3.10.
    if sys.version_info >= (3, 10) and sys.orig_argv[2:4] == option:
        del sys.orig_argv[2:4]
    del sys.modules[__name__]


def _give_up(error: BaseException) -> "NoReturn":
    """Leave with status 70 and an `error` frame: an exception out of a .pth line would only be
    printed, and forgotten."""
    try:
        from . import _frames

        os.write(1, _frames.encode_error(f"{type(error).__name__}: {error}"))
    finally:
        os._exit(70)
