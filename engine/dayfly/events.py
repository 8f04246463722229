"""What happens in a run, in order.

`Leased` and `Ended` are the host's own. The others are the runner's frames as they are: `Started`, then
`Output`, `Message` and `Display`, then `File` and `Skipped`. An iterator of events that has no `Ended` raises:
the container has failed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from .messages import Display, Exit, File, Message, Output, Skipped, Started
from .result import OnOutput, Outcome, Piece, Recorder, Result


class Leased(msgspec.Struct, frozen=True):
    """A container was leased for the run. It comes again if that container dies before it has the program."""


class Ended(msgspec.Struct, frozen=True):
    """The run is over. `exit` is the runner's report, or None where the host judged by itself.

    `wall_ms` is then what the host measured.
    """

    exit: Exit | None
    outcome: Outcome
    wall_ms: float


Event = Leased | Started | Output | Message | Display | File | Skipped | Ended


async def fold(
    events: AsyncGenerator[Event, None],
    on_output: OnOutput | None,
    on_start: Callable[[], None] | None,
) -> Result:
    """Make the Result of a run's events, calling back on the way. What a callback raises ends the run."""
    recorder = Recorder()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Leased):
                if on_start is not None:
                    on_start()
            elif isinstance(event, Ended):
                return recorder.result(event.exit, event.outcome, wall_ms=event.wall_ms)
            elif (piece := recorder.take(event)) is not None and on_output is not None:
                on_output(piece)
    raise AssertionError("a run ends with Ended, or raises")


async def pieces(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Piece | Result, None]:
    """Yield each Piece of output as it arrives, and the Result last."""
    recorder = Recorder()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Ended):
                yield recorder.result(event.exit, event.outcome, wall_ms=event.wall_ms)
            elif (piece := recorder.take(event)) is not None:
                yield piece
