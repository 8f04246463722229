"""A task for what outlives a call, on asyncio or trio.

It belongs to no caller, so no caller's cancellation ends it. It cannot end silently: an internal
error is logged with its traceback, a cancellation by somebody else is logged too, and both are kept
for everybody who waits or comes later.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio

from ._errors import DayflyError

log = logging.getLogger("dayfly.owner")

_NEXT_PASS = 0.001
"""Seconds: any time but now."""


class OwnerTask:
    """Runs `main` in a task of its own. `main` calls its argument when it has started.

    `on_failure` is called with the error of a `main` that failed, or was cancelled by anything but
    `end`, after it had started.
    """

    def __init__(
        self,
        main: Callable[[Callable[[], None]], Coroutine[Any, Any, None]],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._live = main
        self._on_failure = on_failure
        self._scope = anyio.CancelScope()
        self._has_started = False
        self._started = anyio.Event()
        self._over = anyio.Event()
        self.error: BaseException | None = None
        self._loop = event_loop()
        if isinstance(self._loop, asyncio.AbstractEventLoop):
            self._task = self._loop.create_task(self._main(), name="dayfly sandbox")
        else:
            sys.modules["trio"].lowlevel.spawn_system_task(self._main, name="dayfly sandbox")

    async def _main(self) -> None:
        try:
            with self._scope:
                await self._live(self._note_start)
            if not self._scope.cancel_called:  # a child's cancellation ends a task group without an error
                self._fail(cut_off(None))
        except Exception as error:  # noqa: BLE001 - logged, and kept for all who ask
            self._fail(single(error))
        except BaseException as error:
            self._fail(cut_off(error))
            raise
        finally:
            self._started.set()
            self._over.set()

    def _fail(self, error: BaseException) -> None:
        self.error = error
        if not isinstance(error, DayflyError):
            log.error("a sandbox has failed with an internal error", exc_info=error)
        if self._has_started:
            self._on_failure(error)

    def _note_start(self) -> None:
        self._has_started = True
        self._started.set()

    def check_loop(self) -> None:
        """Raise RuntimeError if the running event loop is not the one that it lives on."""
        if self._loop is not event_loop():
            raise RuntimeError(
                "this sandbox belongs to another event loop, the one that `initialize` ran on; make one here, or use Sandbox"
            )

    async def started(self) -> None:
        """Wait until `main` has started. Raises what it raised before that."""
        await self._started.wait()
        if self.error is not None:
            raise self.error

    async def end(self) -> None:
        """Cancel it, and wait for its end."""
        # By the clock, not from this task. See `tests.upstream`.
        self._scope.deadline = anyio.current_time() + _NEXT_PASS
        await self._over.wait()


def single(error: BaseException) -> BaseException:
    """Return the error inside of groups: task groups wrap even a single one."""
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    return single(inner[0]) if len(inner) == 1 else error


def cancelled_from_outside(error: BaseException) -> bool:
    """Return whether `error` is a cancellation of this task by no scope that it is in.

    `asyncio.Task.cancel` does that: a loop over `asyncio.all_tasks()`, or the end of `asyncio.run`.
    trio has nothing of the kind.
    """
    return isinstance(error, asyncio.CancelledError) and not in_cancelled_scope()


def in_cancelled_scope() -> bool:
    """Return whether a scope that this task is in was cancelled, which is then why the task is."""
    return anyio.current_effective_deadline() == -math.inf


def cut_off(cancelled: BaseException | None) -> RuntimeError:
    """Return the error for those who wait for a task that was cancelled from outside."""
    error = RuntimeError("a task of the sandbox was cancelled, by something other than dayfly; end a sandbox with `close`")
    error.__cause__ = cancelled
    return error


def event_loop() -> object:
    """The running event loop: trio's token of it, or asyncio's own.

    trio is asked first: in its guest mode it runs on top of asyncio, which would answer too.
    """
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except (RuntimeError, AttributeError):
            pass  # it does not run here; or another thread is just importing it
        else:
            token: object = trio.lowlevel.current_trio_token()
            return token
    return asyncio.get_running_loop()
