"""What can go wrong with the sandbox itself, and never what the program did: that is a Result.

    DayflyError
    ├── EngineError              the Docker Engine: its answer cannot be used
    │   ├── EngineUnreachable    no answer in time, or no connection
    │   ├── EngineRefused        it answered, and said no
    │   └── ImageMissing         it has no such image
    ├── PoolError                the pool had no container, or is closed
    │   ├── PoolClosed           the sandbox is closed, or was not initialized
    │   ├── PoolTimeout          none became free in time
    │   └── PoolFull             too many callers are waiting already
    └── SandboxError             one container failed
        ├── StartFailed          it never became ready
        ├── RunnerMisbehaved     it broke the protocol
        ├── ContainerLost        it vanished
        └── SessionLost          a session cannot go on

A bad argument is a plain TypeError or ValueError, raised before any container is touched.
"""

from __future__ import annotations

from typing import Any


class DayflyError(Exception):
    """Base of every error that dayfly raises on its own account. All of them can be pickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own way calls the class with `args`, which lack what is keyword-only: a worker
        # process could not report its error.
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[DayflyError], args: tuple[Any, ...], state: dict[str, Any]) -> DayflyError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class EngineError(DayflyError):
    """The Docker Engine could not be used. The message names the call and what the engine said."""


class EngineUnreachable(EngineError):
    """There is no connection to the engine, or no answer within the call's deadline.

    `sent` (bool): the call may have reached the engine, so it may have been carried out.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class EngineRefused(EngineError):
    """The engine answered a call with an error.

    `status` is its HTTP status (int); it does not tell the kinds of failure apart: a bad request
    may be a 500.
    """

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


class ImageMissing(EngineError):
    """The engine has no such image. dayfly never pulls one by itself."""


class PoolError(DayflyError):
    """The pool had no container for the run, or was closed. `delivered` (bool) as with
    SandboxError."""

    def __init__(self, message: str, *, delivered: bool = False) -> None:
        super().__init__(message)
        self.delivered = delivered


class PoolClosed(PoolError):
    """The sandbox is closed, being closed, not yet initialized, or belongs to another process.
    Delivered if it ended the run."""


class PoolTimeout(PoolError):
    """No container became free within the queue's deadline.

    `__cause__` is the last failure to make one, if making them fails.
    """


class PoolFull(PoolError):
    """`max_waiting` callers are waiting already."""


class SandboxError(DayflyError):
    """One container failed. The pool replaces it by itself.

    `delivered` (bool): the program had been handed over, so it may have run, in part or whole.
    Where it is False, the same run can be tried again without running anything twice.
    """

    def __init__(self, message: str, *, delivered: bool) -> None:
        super().__init__(message)
        self.delivered = delivered


class StartFailed(SandboxError):
    """The container never became ready, or is not what was asked for. Never delivered."""

    def __init__(self, message: str, *, delivered: bool = False) -> None:
        super().__init__(message, delivered=delivered)


class RunnerMisbehaved(SandboxError):
    """The container's side broke the protocol. Its container is gone; no claim of its was
    believed."""


class ContainerLost(SandboxError):
    """The container vanished: removed from outside, or the engine, its runtime or dayfly itself
    failed."""


class SessionLost(SandboxError):
    """A session cannot go on: it has ended, or its container is gone or cannot be cleaned.

    Results of earlier runs stay right. `__cause__` is the error of the container, if there is one.
    """


class ProtocolViolation(Exception):
    """Internal: bytes from the other side break a protocol. It becomes RunnerMisbehaved before a
    caller sees it."""
