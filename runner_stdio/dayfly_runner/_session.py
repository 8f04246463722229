"""What process 1 needs where more than one program will run: the zygote, and the cleaning between
two programs.

The zygote is the child that process 1 forked before it had read a byte of the host. It forks each
program's process, which is then an orphan and so process 1's own to reap. A program can end the
zygote, or stop it; it cannot look into it.
"""

# The C halves: see _parent for why.
import _ctypes
import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
import _socket
import os
import resource
import sys
import time

from . import _files

_LOOKS, _PAUSE = 10, 0.002
"""How often, and how many seconds apart, to look for what the kernel may still be removing."""
_IPC = (("shm", "shmctl"), ("sem", "semctl"), ("msg", "msgctl"))
_LIMITS = 16  # RLIM_NLIMITS
_COUNTED = (b"used", b"inuse", b"tw")
"""Of /proc/net/sockstat, what is of this network namespace. `orphan` is of the whole host; those of
this namespace are in `inuse` or `tw`."""


class Left(Exception):
    """Something of a program is left that could not be removed."""


class Session:
    """The zygote, from process 1's side, and the folders to wipe."""

    def __init__(self, folders: "dict[str, list[str]]", zygote: int) -> None:
        self.zygote: int | None = zygote
        """Its number; None when it has been reaped, for the number may then be another's."""
        self._files = [_files.Wiped(path) for path in folders["files"]]
        self._scratch = [_files.Wiped(path) for path in folders["scratch"]]
        self._listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        # An abstract name that nobody has. Linux would choose one itself, gVisor does not.
        self._listener.bind(b"\0" + os.urandom(16).hex().encode())
        self._listener.listen(1)
        self.address = self._listener.getsockname()

    def connect(self) -> None:
        """Take the zygote's connection, which is there, and note what the kernel holds before any
        program."""
        file, _ = self._listener._accept()  # type: ignore[attr-defined] # noqa: SLF001 - socket.socket.accept is made of it
        self._control = _socket.socket(fileno=file)
        self._listener.close()
        self._inherited = self._look_at_zygote()
        self._ipc = {kind: _ipc(kind) for kind, _ in _IPC}
        self._sockets = _sockets()

    def fork(self) -> "list[int]":
        """Have a program's process forked; return our ends of its pipes: stdin, stdout, stderr,
        messages, orders, progress."""
        pipes = [os.pipe() for _ in range(6)]
        # Of these two, process 1 reads; of the others, it writes.
        ours = [pipe[int(at in (0, 4))] for at, pipe in enumerate(pipes)]
        theirs = [pipe[int(at not in (0, 4))] for at, pipe in enumerate(pipes)]
        try:
            packed = b"".join([file.to_bytes(4, sys.byteorder) for file in theirs])
            self._control.sendmsg([b"+"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
        except OSError as error:
            for file in ours:
                os.close(file)
            raise Left(f"the zygote is not there: {error.strerror}") from None
        finally:
            for file in theirs:
                os.close(file)
        return ours

    def others(self) -> "list[int]":
        """Stop every process but this one, and return the numbers of those that are not ours.

        A process with a stop pending cannot complete a fork, so they do not become more while they
        are killed.
        """
        try:
            os.kill(-1, _signal.SIGSTOP)
        except ProcessLookupError:
            return []
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, self.zygote)]

    def go_on(self) -> None:
        """Let the zygote run again."""
        if self.zygote is not None:
            os.kill(self.zygote, _signal.SIGCONT)

    def wipe(self) -> None:
        """Wipe the working files. Left if something is left."""
        _wipe(self._files)

    def clean(self, *, alone: bool) -> None:
        """Remove what outlives processes, and look whether anything does. Left if something is
        left, processes among it if this is not `alone`."""
        if self.zygote is None:
            raise Left("the program has ended the process from which the next one is forked")
        if not alone:  # and the zygote is stopped still
            raise Left("processes of the program could not be ended")
        if self._look_at_zygote() != self._inherited:
            # A hard limit cannot be raised again.
            raise Left("the program has changed the limits of the process from which the next one is forked")
        _wipe(self._scratch)
        try:
            for folder in self._files:
                folder.restore()
        except OSError as error:
            raise Left(f"a folder cannot be restored: {error.strerror}") from None
        libc = _ctypes.dlopen(None, 0)  # type: ignore[arg-type] # None is this very process
        for kind, function in _IPC:
            for number in _ipc(kind) - self._ipc[kind]:
                _ctypes.call_function(_ctypes.dlsym(libc, function), (number, 0, 0, 0))  # 0 is IPC_RMID
        left = ""
        for _ in range(_LOOKS):
            # The end of a socket wakes the kernel's collector of sockets that are in flight in
            # messages to each other.
            for file in _socket.socketpair():
                file.close()
            left = self._left()
            if not left:
                return
            time.sleep(_PAUSE)
        raise Left(f"left behind by the program: {left}")

    def _look_at_zygote(self) -> "tuple[object, ...]":
        """Return what another process of the same user can change of it, and what each program
        would inherit."""
        assert self.zygote is not None
        limits = [resource.prlimit(self.zygote, number) for number in range(_LIMITS)]
        return limits, os.sched_getaffinity(self.zygote)

    def _left(self) -> str:
        found = [f"System V {kind}" for kind, _ in _IPC if _ipc(kind) - self._ipc[kind]]
        found += [f"{name} {count}" for name, count in _sockets().items() if count > self._sockets.get(name, 0)]
        return ", ".join(found)


def _wipe(folders: "list[_files.Wiped]") -> None:
    for folder in folders:
        try:
            folder.wipe()
        except OSError as error:
            raise Left(f"{folder.path} cannot be wiped: {error.strerror or error}") from None


def _lines(path: str) -> "list[list[bytes]]":
    try:
        with open(path, "rb", 0) as file:
            return [line.split() for line in file.read().splitlines()]
    except OSError:
        return []  # not every kernel shows it


def _ipc(kind: str) -> "set[int]":
    return {int(words[1]) for words in _lines("/proc/sysvipc/" + kind)[1:]}


def _sockets() -> "dict[str, int]":
    """Return how many sockets there are in this network namespace, by protocol and state, and of
    the Unix kind.

    /proc/net/tcp would cost 4 ms.
    """
    found = {"unix sockets": len(_lines("/proc/net/unix"))}
    for path in ("/proc/net/sockstat", "/proc/net/sockstat6"):
        for protocol, *words in _lines(path):
            for name, count in zip(words[::2], words[1::2]):
                if name in _COUNTED:
                    found[f"{protocol.decode()} {name.decode()}"] = int(count)
    return found
