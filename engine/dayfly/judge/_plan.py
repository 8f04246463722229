"""Which case is run next, and which is not run at all: pure, so that the report is the same for any
number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ._cases import Case, Group

Stop = Literal["first", "group"] | None


class Plan:
    """The order of a judging. Cases are begun in their order; their ends may come in any.

    `stop`: "first": what comes behind a case that was not accepted is skipped. "group": what comes
    behind it in its group. None: nothing. Cases of a group that requires another wait until that
    one's cases are decided.
    """

    def __init__(self, cases: Sequence[Case], groups: Sequence[Group], stop: Stop) -> None:
        self._groups = [case.group for case in cases]
        self._requires = {group.name: list(group.require) for group in groups}
        self._stop = stop
        self._open = list(reversed(range(len(cases))))
        """Cases that were not begun; the next one is the last."""
        self._running: set[int] = set()
        self._left: dict[str, int] = {}
        """Cases of each group that are not decided."""
        for group in self._groups:
            self._left[group] = self._left.get(group, 0) + 1
        self._failed: dict[str, int] = {}
        """The first case of each group that was not accepted."""

    @property
    def over(self) -> bool:
        """Whether no case is left to begin, and none is running."""
        return not self._open and not self._running

    def begin(self) -> int | None:
        """Return the next case to run. None: there is none now; ask again when a case was decided,
        unless it is `over`."""
        while self._open:
            index = self._open[-1]
            if self.is_skipped(index):
                self._open.pop()
                self._left[self._groups[index]] -= 1
                continue
            if any(self._left[group] for group in self._requires.get(self._groups[index], ())):
                return None
            self._open.pop()
            self._running.add(index)
            return index
        return None

    def decide(self, index: int, *, accepted: bool) -> set[int]:
        """Note how a case ended. Return the cases in progress that are skipped for it."""
        self._running.discard(index)
        group = self._groups[index]
        self._left[group] -= 1
        if not accepted:
            self._failed[group] = min(index, self._failed.get(group, index))
        return {other for other in self._running if self.is_skipped(other)}

    def is_skipped(self, index: int) -> bool:
        """Whether a case is skipped for what is known now. Once it is, it stays so."""
        group = self._groups[index]
        if any(required in self._failed for required in self._requires.get(group, ())):
            return True
        if self._stop == "first":
            return any(failed < index for failed in self._failed.values())
        return self._stop == "group" and self._failed.get(group, index) < index
