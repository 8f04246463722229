"""What happens in a run, in order.

`Leased` and `Ended` are the host's own. The others are the runner's frames as they are: `Started`,
then `Output`, `Message` and `Display`, then `File` and `Skipped`. An iterator of events that has no
`Ended` raises: the container has failed. Of a run on another machine there are `Leased`, each Piece
and the Result, made there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from ._messages import Display, Exit, File, Message, Output, Skipped, Started
from ._result import OnOutput, Outcome, Piece, Recorder, Result


class Leased(msgspec.Struct, frozen=True):
    """A container was leased for the run. It comes again if that container dies before it has the
    program."""


class Ended(msgspec.Struct, frozen=True):
    """The run is over. `exit` is the runner's report, or None where the host judged by itself.

    `wall_ms` is then what the host measured.
    """

    exit: Exit | None
    outcome: Outcome
    wall_ms: float


Event = Leased | Started | Output | Message | Display | File | Skipped | Ended | Piece | Result


class Fold:
    """Makes the Pieces and the Result of a run's events, and calls back on the way."""

    def __init__(self, on_output: OnOutput | None = None, on_start: Callable[[], None] | None = None) -> None:
        for name, call in (("on_output", on_output), ("on_start", on_start)):
            if call is not None and not callable(call):
                raise TypeError(f"{name} must be callable or None, not {type(call).__name__}")
        self._recorder = Recorder()
        self._on_output = on_output
        self._on_start = on_start

    def take(self, event: Event) -> list[Piece | Result]:
        """Return what there is for the caller: a Piece of output; or the last ones, and the
        Result."""
        if isinstance(event, Leased):
            if self._on_start is not None:
                self._on_start()
            return []
        if isinstance(event, Result):
            return [event]
        if isinstance(event, Piece):
            pieces = [event]
        elif isinstance(event, Ended):
            pieces = self._recorder.rest()
        else:
            pieces = self._recorder.take(event)
        if self._on_output is not None:
            for piece in pieces:
                self._on_output(piece)
        items: list[Piece | Result] = [*pieces]
        if isinstance(event, Ended):
            items.append(self._recorder.result(event.exit, event.outcome, wall_ms=event.wall_ms))
        return items


async def run(events: AsyncGenerator[Event, None], fold: Fold) -> Result:
    """Return the Result of a run. What a callback raises ends the run."""
    async with aclosing(events):
        async for event in events:
            for item in fold.take(event):
                if isinstance(item, Result):
                    return item
    raise AssertionError("a run ends with Ended, or raises")


async def stream(events: AsyncGenerator[Event, None]) -> AsyncGenerator[Piece | Result, None]:
    """Yield each Piece of output as it arrives, and the Result last."""
    fold = Fold()
    async with aclosing(events):
        async for event in events:
            for item in fold.take(event):
                yield item
