"""Starts a process that outlives this one, and removes a sandbox's containers if this one is
killed.

What that process does is in `watchdog_process`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import anyio
import msgspec

from . import _watchdog_process as watchdog_process
from ._endpoint import Endpoint
from ._forks import hold, let_go, release

log = logging.getLogger("dayfly.watchdog")

PYTHON = "DAYFLY_PYTHON"
"""Environment variable: the Python interpreter to run the watchdog with."""
EXIT_WITHIN = 1.0
"""Seconds that its process has to exit when all is done. It is killed then."""
POLL = 0.005

_INTERPRETER = re.compile(r"(python|pypy)[0-9.]*t?d?(-dbg)?(\.exe)?", re.IGNORECASE)
"""File names of interpreters. An application may be called `pythonista`."""


class Watchdog:
    """A process that removes the containers of a sandbox if this one dies without calling
    `done`."""

    def __init__(self, endpoint: Endpoint, instance: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        python = interpreter()
        if python is None or not Path(watchdog_process.__file__).is_file():
            log.warning(
                "no watchdog: %s is not a Python interpreter, or dayfly is not installed as files. If this process is "
                "killed, containers that were created and not yet started stay until the next sandbox starts; set %s to "
                "a Python interpreter that has dayfly",
                sys.executable or "sys.executable",
                PYTHON,
            )
            return
        path = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100 - resolve() would follow links
        instructions = json.dumps([instance, msgspec.to_builtins(endpoint), path])
        try:
            # A socket, not a pipe: writing to it never raises SIGPIPE, whatever the host has set.
            self._socket, theirs = socket.socketpair()
        except OSError as error:
            log.warning("no watchdog: there is no socket for it: %s", error)
            return
        try:
            self._process = subprocess.Popen(  # noqa: S603 - an interpreter, and a file of this package
                [python, "-I", "-S", watchdog_process.__file__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal is for the host
                cwd="/",
            )
        except OSError as error:
            log.warning("no watchdog: its process cannot be started: %s", error)
        theirs.close()
        self._socket.setblocking(False)
        self._say(f"{instructions}\n".encode())
        hold(self)

    async def done(self) -> None:
        """All containers are gone: the process is not needed any more. Bounded in time; never
        raises."""
        self._close(watchdog_process.ALL_DONE)
        process = self._process
        if process is None:
            return
        # Polled: a thread to wait in cannot be had while the interpreter shuts down.
        end = time.monotonic() + EXIT_WITHIN
        while process.poll() is None and time.monotonic() < end:  # noqa: ASYNC110 - nothing tells of its end
            await anyio.sleep(POLL)
        if process.poll() is None:
            process.kill()
            self._let_alone()

    def go_on(self) -> None:
        """Not all containers are certain to be gone: it removes them from now on, as if this
        process were dead."""
        self._close(b"")
        self._let_alone()

    def _close(self, last_word: bytes) -> None:
        release(self)
        if self._socket is not None:
            self._say(last_word)
            self._socket.close()
            self._socket = None

    def _let_alone(self) -> None:
        if self._process is not None:
            self._process.returncode = 0  # else Popen would warn of a process that is left alone on purpose

    def forget(self) -> None:
        """In a fork of this process: let go of the socket, whose end says that the host is dead."""
        if self._socket is not None:
            let_go(self._socket.fileno())
        self._let_alone()  # it is not a child of the fork

    def _say(self, what: bytes) -> None:
        assert self._socket is not None
        try:
            # A new socket's buffer takes 200 kB at least.
            self._socket.sendall(what, socket.MSG_NOSIGNAL)
        except OSError as error:  # its process was killed, or never started
            log.warning("the watchdog does not listen: %s", error)


def interpreter() -> str | None:
    """Return a Python interpreter for a process of its own, or None if there is none.

    sys.executable is the application itself in a frozen application, and under uWSGI or mod_wsgi.
    """
    if given := os.environ.get(PYTHON):
        return given
    if getattr(sys, "frozen", False):
        return None
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    # Not sysconfig: it opens a file when it is first asked, and there may be no descriptor left.
    folders = [Path(sys.exec_prefix, "bin"), Path(sys.base_exec_prefix, "bin")]
    for path in [Path(sys.executable or "/"), *(folder / f"python{version}" for folder in folders)]:
        if _INTERPRETER.fullmatch(path.name) and os.access(path, os.X_OK):
            return str(path)
    return None
