"""Reproduces faults of other projects that dayfly works around: `python -m tests.upstream`.

anyio 4.16: where a read of a Unix socket is cancelled in the pass of asyncio's loop in which the
socket becomes readable, the loop reports an InvalidStateError, since the reader's callback is the
bare `Future.set_result`. `OwnerTask.end` therefore cancels by a deadline. A caller that cancels its
own await may still see the error in the log; the fault tests, which do so, leave it out.
"""

# ruff: noqa: T201 - a command's report goes to stdout
from __future__ import annotations

import asyncio
import socket
from typing import Any

from anyio._backends import _asyncio


async def anyio_sets_a_cancelled_future() -> bool:
    """Return whether the loop reports an error."""
    ours, theirs = socket.socketpair()
    loop, reported = asyncio.get_running_loop(), []

    def report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        reported.append(context)

    loop.set_exception_handler(report)
    with ours, theirs:
        ours.setblocking(False)
        read = asyncio.ensure_future(_asyncio.UNIXSocketStream(ours).receive())
        await asyncio.sleep(0.01)
        theirs.send(b"x")
        loop.call_soon(read.cancel)
        await asyncio.wait([read])
    return any(isinstance(context.get("exception"), asyncio.InvalidStateError) for context in reported)


if __name__ == "__main__":
    print("anyio sets a future that was cancelled:", asyncio.run(anyio_sets_a_cancelled_future()))
