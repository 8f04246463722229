"""Sets of cases that clients have sent, kept in memory for judgings that name them."""

from __future__ import annotations

from collections import OrderedDict

from dayfly._result import without_strings
from dayfly.judge import Cases

from .problems import Problem

EACH_CASE, EACH_VALUE, EACH_OBJECT = 500, 64, 200
"""Bytes of memory, more than measured: of a case; of a value in a list; of an object's table."""
WIDEST = 4
"""Bytes of a character in a text that has one outside the basic plane."""


def memory(body: bytes, cases: int) -> int:
    """Return how much memory a set of cases takes, at most, that was decoded from JSON."""
    bare = without_strings(body)
    text = len(body) * (1 if body.isascii() and b"\\u" not in body else WIDEST)
    return text + EACH_CASE * cases + EACH_VALUE * (bare.count(b",") + bare.count(b"[")) + EACH_OBJECT * bare.count(b"{")


class CaseSets:
    """Sets of cases by key and hash, the least recently used forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._sets: OrderedDict[tuple[str, str], tuple[Cases, int]] = OrderedDict()

    def keep(self, key: str, id: str, cases: Cases, size: int) -> None:  # noqa: A002 - the API's own word
        """Keep a set that takes `size` bytes of memory. Problem 413 if it is larger than all may
        be together."""
        if size > self._most:
            raise Problem(
                413, "too-large", "The cases are too large", f"they take {size:,} bytes of memory; case_sets_bytes is {self._most:,}"
            )
        self._forget((key, id))
        self._sets[key, id] = cases, size
        self._held += size
        while self._held > self._most:
            self._forget(next(iter(self._sets)))

    def _forget(self, name: tuple[str, str]) -> None:
        _, size = self._sets.pop(name, (None, 0))
        self._held -= size

    def find(self, key: str, id: str) -> Cases:  # noqa: A002
        """Return a key's set. Problem 404 if it is not there, or no more."""
        found = self._sets.get((key, id))
        if found is None:
            detail = "there are no cases with this id, or they were forgotten; send them to /v1/cases"
            raise Problem(404, "no-cases", "There are no such cases", detail, delivered=False)
        self._sets.move_to_end((key, id))
        return found[0]
