"""When the host stops waiting for the runner. Pure: no clock, no I/O.

The runner's clock decides whether a program was late. The host's deadline only ends silence: a
runner that reports is read to its end, however late this process gets to it. A host process that
was blocked, stopped or starved reads first and judges afterwards.
"""

from __future__ import annotations

LATE = 0.05
"""Seconds by which a deadline may be noticed too late on a host that is well."""
LONGEST = 10.0
"""Seconds from the first time that the deadline was noticed after which the host judges, whatever
it still reads. Time in which this process was late does not count. A runner that follows the
protocol needs a fraction of that: its output is bounded."""


class Deadline:
    """One deadline. `at` is on any monotonic clock; `grace` is the silence (seconds) that ends
    it."""

    def __init__(self, at: float, grace: float) -> None:
        self.at = at
        self._grace = grace
        self._noticed: float | None = None

    def has_passed(self, now: float, *, heard: bool) -> bool:
        """Return whether to stop waiting. If not, `at` is the time to ask again.

        `heard`: bytes of the runner were read since this was last asked, or can be read now.
        """
        if now < self.at:
            return False
        late = now - self.at > LATE
        if self._noticed is None:
            self._noticed = now
        elif late:
            self._noticed += now - self.at
        if (heard or late) and now - self._noticed < LONGEST:
            self.at = now + self._grace
            return False
        return True
