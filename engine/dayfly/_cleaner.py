"""Removes the containers of one sandbox that may still exist although nothing attends to them.

Most containers end by themselves and are removed by the engine. That is believed for a second, then
looked up: one listing for all of them. What is listed and attended to by nobody is removed by its
id, never by its name: the name may be another sandbox's. What is known of each container is in the
ledger; this module asks the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import anyio

from ._engine_api import EngineAPI
from ._errors import EngineError
from ._ledger import Ledger, State
from ._orphans import LABEL

log = logging.getLogger("dayfly.cleaner")

LOOK_AFTER = 1.0
"""Seconds that the engine has to remove a container that has ended by itself; also between
sweeps."""
OOM_LOOK_AFTER = 10.0
"""The same after an OOM kill: a removal by force before dockerd has processed the OOM event leaves
a stale entry in its list ("Removal In Progress", seen with 20.10)."""
SUSPECT_FOR = 60.0
"""Seconds for which a lost creation may still succeed: dockerd goes on when its client has gone."""
REMOVE_DEADLINE = 10.0
"""Seconds for one removal."""
FINISH_PAUSE = 0.05
"""Seconds between two sweeps at the end."""


class Cleaner:
    """Sees to it that the containers of one sandbox are gone. `instance` is the value of LABEL.

    `on_change` is called when a sweep may have released places that count against `max_alive`.
    """

    def __init__(
        self,
        engine: EngineAPI,
        ledger: Ledger,
        instance: str,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._ledger = ledger
        self._instance = instance
        self._on_change = on_change
        self._wanted = anyio.Event()
        self._answers = True
        self.forced = 0
        """Removals that had to be forced."""

    def believe(self, key: int, *, oom: bool) -> None:
        """Note that a container has ended, and that the engine is removing it."""
        self._doubt(key, OOM_LOOK_AFTER if oom else LOOK_AFTER, counts=False)

    def lose(self, key: int) -> None:
        """Note that the answer to a creation was lost: whether there is a container is not
        known."""
        self._doubt(key, 0, suspect_for=SUSPECT_FOR, counts=True, lost=True)

    async def remove(self, key: int, container: str) -> None:
        """Kill and remove a container by its id. Never raises: a failure is tried again later."""
        self.forced += 1
        try:
            await self._engine.remove(container, deadline=REMOVE_DEADLINE)
        except EngineError as error:
            log.warning("container %s could not be removed, and will be tried again: %s", container[:12], error)
            self._doubt(key, 0, counts=True)
        else:  # it is gone, or the engine is removing it already
            self._doubt(key, LOOK_AFTER, counts=False)

    def _doubt(self, key: int, expected_in: float, *, suspect_for: float = 0.0, counts: bool, lost: bool = False) -> None:
        self._ledger.uncertain(key, time.monotonic(), expected_in=expected_in, suspect_for=suspect_for, counts=counts, lost=lost)
        self._wanted.set()

    async def work(self) -> None:
        """Sweep while any container is uncertain, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            while self._ledger.count(State.UNCERTAIN):
                await anyio.sleep(LOOK_AFTER)
                await self.sweep()

    async def finish(self, seconds: float) -> list[str]:
        """Remove all that is left and wait until it is gone, for at most so long. Never raises.

        Returns the names of the containers of which that is not certain.
        """
        end = time.monotonic() + seconds
        while True:
            left, complete = await self.sweep(deadline=max(0.1, end - time.monotonic()))
            if complete and not left:
                return self._ledger.lost_names  # a lost creation may still succeed
            if time.monotonic() + FINISH_PAUSE > end:
                return sorted({*left, *self._ledger.uncertain_names})
            await anyio.sleep(FINISH_PAUSE)

    async def sweep(self, *, deadline: float | None = None) -> tuple[list[str], bool]:
        """Remove whatever has this sandbox's label and is attended to by nobody. Never raises.

        Returns the names of what is not gone yet, and whether the engine gave a listing. What is
        expected to go by itself is left alone until its time has come.
        """
        asked_at = time.monotonic()
        try:
            rows = await self._engine.containers(f"{LABEL}={self._instance}", deadline=deadline)
        except EngineError as error:
            if self._answers:
                log.warning("containers cannot be listed, which will be tried again: %s", error)
            self._answers = False
            self._ledger.unlisted(time.monotonic(), SUSPECT_FOR)
            return [], False
        self._answers = True
        names = {row["Id"]: str((row.get("Names") or ["/"])[0]).lstrip("/") for row in rows}
        remove, leaving = self._ledger.listed(asked_at, [(name, container) for container, name in names.items()])
        self._on_change()
        left = [names[container] for container in leaving]
        for container in remove:
            try:
                if await self._engine.remove(container, deadline=deadline):
                    continue
            except EngineError as error:  # the others are tried all the same
                log.warning("container %s could not be removed, and will be tried again: %s", container[:12], error)
            left.append(names[container])
        return left, True
