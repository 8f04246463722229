"""A small process beside the host's, for the one thing that a dead host leaves behind: containers that were created and never started.

A container that was started ends by itself when the host's connection to it closes. One whose host is killed between `create` and `start`
would stay for ever: no connection ends with it, and the engine does not remove what never ran. So each sandbox keeps a bare interpreter
waiting on a pipe. If the pipe ends without a word, the host is dead, or has given up on an engine that does not answer, and it removes what
carries the sandbox's label.

Until then this file imports nothing: it is run as a script, in an interpreter without `site`, and costs a few MB and no time.
"""

from __future__ import annotations

import sys

PATIENCE = 10.0
"""Seconds for which it looks for containers on an engine that answers: that may be busy still with a creation of before."""
HOPE = 600.0
"""Seconds for which it waits for an engine that does not. What is left after that, the next sandbox removes at its start."""
OFTEN, SELDOM = 0.25, 4.0
"""Seconds between two looks, at an engine that answers and at one that does not."""
ALL_DONE = b"."


def wait_for_death() -> None:
    """Read the instructions, then wait. What comes behind them is the host's farewell; nothing is its death."""
    import os

    pieces = bytearray()
    while piece := os.read(0, 65_536):
        pieces += piece
    instructions, _, farewell = bytes(pieces).partition(b"\n")
    if not farewell and instructions:
        import json

        instance, address, path = json.loads(instructions)
        sys.path[:] = path
        from dayfly import undertaker

        undertaker.bury(instance, address)


def bury(instance: str, address: str) -> None:
    """Remove all containers of a sandbox, until the engine has had none for a while."""
    import time

    import anyio

    from .engine_api import EngineAPI
    from .errors import EngineError
    from .reaper import LABEL

    async def sweep() -> None:
        end = time.monotonic() + PATIENCE
        hope = time.monotonic() + HOPE
        pause = OFTEN
        while time.monotonic() < min(end, hope):
            try:
                async with EngineAPI(address, deadline=PATIENCE / 2) as engine:
                    for row in await engine.containers(f"{LABEL}={instance}"):
                        await engine.remove(row["Id"])
                pause = OFTEN
            except EngineError:
                end = time.monotonic() + PATIENCE
                pause = min(2 * pause, SELDOM)
            await anyio.sleep(pause)

    anyio.run(sweep)


if __name__ == "__main__":
    wait_for_death()
