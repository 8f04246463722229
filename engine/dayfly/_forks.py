"""What a fork of this process must let go of: a copy of a connection, or of a pipe, keeps open what
its owner's death should end."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Held(Protocol):
    """Something with descriptors whose other ends wait for this process to die."""

    def forget(self) -> None:
        """In a fork of this process: let go of the copies, and leave what is behind them alone."""


_held: weakref.WeakSet[Held] = weakref.WeakSet()


def hold(thing: Held) -> None:
    """Have a fork of this process `forget` this, from now on."""
    _held.add(thing)


def release(thing: Held) -> None:
    """It is closed: a fork has nothing to forget."""
    _held.discard(thing)


def let_go(descriptor: int) -> None:
    """Close what is behind a descriptor and keep its number taken, by /dev/null: its owner may
    close it later, and closes nothing else."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, descriptor, inheritable=False)
    os.close(null)


def _forget_all() -> None:
    for thing in list(_held):
        try:
            thing.forget()
        except (OSError, ValueError):
            pass
    _held.clear()


os.register_at_fork(after_in_child=_forget_all)
