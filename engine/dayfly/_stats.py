"""What a sandbox is doing and has done: gauges and counters, as one value."""

from __future__ import annotations

import msgspec


class Stats(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A snapshot, which may be taken from any thread. The first part are gauges, the second
    counters since `initialize`."""

    warm: int
    """Containers ready for a program."""
    making: int
    """Containers being made."""
    running: int
    """Containers with a program in them."""
    ending: int
    """Containers that are being ended."""
    uncertain: int
    """Containers that may still exist although their end was seen, or whose creation may have
    succeeded."""
    sessions: int
    """Sessions that are open. Their containers are among the running ones."""
    waiting: int
    """Callers in the queue."""

    made: int
    """Containers that became warm."""
    failed: int
    """Containers that never became warm, or died unused."""
    forced: int
    """Containers that had to be removed by force; the others end by themselves."""
    runs: dict[str, int]
    """Runs that gave a Result, by outcome."""
    errors: dict[str, int]
    """Runs that raised one of dayfly's errors, by its class."""
