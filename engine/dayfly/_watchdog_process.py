"""The watchdog's process: it removes the containers of a host process that was killed.

A container that was started ends by itself when the host's connection to it closes. One whose host
is killed between `create` and `start` would stay for ever: no connection ends with it, and the
engine does not remove what never ran. So each sandbox keeps a bare interpreter waiting on a socket.
If the socket closes before ALL_DONE was received, the host is dead, or has given up on an engine
that does not answer, and the watchdog removes what has the sandbox's label.

Until then this file imports nothing: it is run as a script, in an interpreter without `site`, and
costs a few MB and no time.
"""

from __future__ import annotations

import sys

LOOK_FOR = 10.0
"""Seconds for which it looks for containers on an engine that answers: that may still be busy with
an earlier creation."""
WAIT_FOR = 600.0
"""Seconds for which it waits for an engine that does not answer. What is left after that is removed
by the next sandbox at its start."""
OFTEN, SELDOM = 0.25, 4.0
"""Seconds between two looks, at an engine that answers and at one that does not."""
ALL_DONE = b"."


def main() -> None:
    """Read the instructions, then wait. What follows them says that all is done; nothing, that the
    host is dead."""
    import os

    received = bytearray()
    while piece := os.read(0, 65_536):
        received += piece
    instructions, _, last_word = bytes(received).partition(b"\n")
    if instructions and not last_word:
        import json

        instance, endpoint, path = json.loads(instructions)
        sys.path[:] = path
        from dayfly import _watchdog_process as watchdog_process

        watchdog_process.remove_all(instance, endpoint)


def remove_all(instance: str, endpoint: object) -> None:
    """Remove all containers of a sandbox, until the engine has had none for a while."""
    import time

    import anyio
    import msgspec

    from ._endpoint import Endpoint
    from ._engine_api import EngineAPI
    from ._errors import EngineError
    from ._orphans import LABEL

    where = msgspec.convert(endpoint, Endpoint)

    async def sweep() -> None:
        end = time.monotonic() + LOOK_FOR
        give_up = time.monotonic() + WAIT_FOR
        pause = OFTEN
        while time.monotonic() < min(end, give_up):
            try:
                async with EngineAPI(where, deadline=LOOK_FOR / 2) as engine:
                    for row in await engine.containers(f"{LABEL}={instance}"):
                        await engine.remove(row["Id"])
                pause = OFTEN
            except EngineError:
                end = time.monotonic() + LOOK_FOR
                pause = min(2 * pause, SELDOM)
            await anyio.sleep(pause)

    anyio.run(sweep)


if __name__ == "__main__":
    main()
