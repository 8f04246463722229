"""What a container died of, by the engine's events. Its `inspect` may be gone with it; its events
stay for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ._deadline import Deadline
from ._engine_api import EngineAPI
from ._errors import EngineError

POST_MORTEM = 5.0
"""Seconds that the engine has to say what a container died of. It takes milliseconds, if it is not
busy."""
OOM_DELAY = 0.5
"""Seconds to wait for the `oom` event after `die`; it arrives separately."""


@dataclass
class Death:
    """What the engine said. Nothing, where it did not say it in time."""

    code: str = ""
    """The exit status of process 1, as text."""
    actions: set[str] = field(default_factory=set)

    @property
    def oom(self) -> bool:
        """Whether the kernel killed a process for lack of memory."""
        return "oom" in self.actions

    @property
    def killed(self) -> bool:
        """Whether somebody had the engine kill it."""
        return "kill" in self.actions

    @property
    def known(self) -> bool:
        """Whether all has been said. Of a SIGKILL, whose it was is told by another event."""
        return bool(self.code) and (self.code != "137" or self.oom or self.killed)


async def post_mortem(engine: EngineAPI, container: str, *, abandoned: Callable[[], bool]) -> Death:
    """Ask until it is known, `abandoned` is true, the engine fails or time is up.

    Time in which this process was late does not count: what the engine said meanwhile is read.
    """
    death = Death()
    deadline = Deadline(time.monotonic() + POST_MORTEM, POST_MORTEM)
    while not death.known and not abandoned():
        with anyio.move_on_after(max(0.0, deadline.at - time.monotonic())) as scope:
            try:
                async with engine.events(container) as events:
                    async for event in events:
                        action = event.get("Action") or event.get("status", "")
                        death.actions.add(action)
                        if action == "die" and not death.code:
                            death.code = str(event.get("Actor", {}).get("Attributes", {}).get("exitCode", "unknown"))
                            deadline = Deadline(min(deadline.at, time.monotonic() + OOM_DELAY), OOM_DELAY)
                            scope.deadline = anyio.current_time() + deadline.at - time.monotonic()
                        if death.known:
                            break
            except EngineError:
                break
            if not death.known:
                await anyio.sleep(0.02)  # the engine ended its answer: ask again
        if deadline.has_passed(time.monotonic(), heard=False):
            break
    return death
