"""Rate and concurrency of each key. Pure: the time is told, nothing is waited for.

The rate is a token bucket: `burst` runs at once after a pause, then `per_minute` in the long run. A
refusal costs no token, so that a client which is told to wait, and waits, gets in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from .keys import Key


class Refused(Exception):
    """A key is over one of its limits."""


class RateExceeded(Refused):
    """Too many runs in a short time. `retry_after` is in seconds, 1 or more."""

    def __init__(self, per_minute: float, retry_after: int) -> None:
        super().__init__(f"this key may begin {per_minute:g} runs a minute; try again in {retry_after} s")
        self.retry_after = retry_after


class ConcurrencyExceeded(Refused):
    """Too many runs at once."""

    def __init__(self, most: int) -> None:
        super().__init__(f"this key may have {most} runs at once, waiting ones among them")
        self.retry_after = 1


class _Account(msgspec.Struct):
    tokens: float
    told: float
    running: int = 0


class Quotas:
    """What each key has used. The defaults hold for keys without limits of their own; 0
    means without limit."""

    def __init__(self, *, per_minute: float, burst: int, concurrency: int) -> None:
        self._per_minute = per_minute
        self._burst = burst
        self._concurrency = concurrency
        self._accounts: dict[str, _Account] = {}

    @contextmanager
    def run(self, key: Key, now: float) -> Iterator[None]:
        """Hold one run's place. `now` is in seconds of a clock that never goes back. Raises
        Refused."""
        per_minute = self._per_minute if key.rate_per_minute is None else key.rate_per_minute
        burst = self._burst if key.rate_burst is None else key.rate_burst
        most = self._concurrency if key.concurrency is None else key.concurrency
        account = self._accounts.setdefault(key.name, _Account(burst, now))
        account.tokens = min(burst, account.tokens + (now - account.told) * per_minute / 60)
        account.told = now
        if most and account.running >= most:
            raise ConcurrencyExceeded(most)
        if per_minute:
            if account.tokens < 1:
                raise RateExceeded(per_minute, math.ceil((1 - account.tokens) * 60 / per_minute))
            account.tokens -= 1
        account.running += 1
        try:
            yield
        finally:
            account.running -= 1
