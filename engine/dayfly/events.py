"""What happens in a run, in order: `Started`, then `Output` and `Message`, then `Ended`.

The first three are the runner's frames as they are. An iterator of events that has no `Ended` raises:
the container has failed.
"""

from __future__ import annotations

import msgspec

from .messages import Exit, Message, Output, Started
from .result import Outcome


class Leased(msgspec.Struct, frozen=True):
    """A container was leased for the run. It comes again if that container dies before it has the program."""


class Ended(msgspec.Struct, frozen=True):
    """The run is over. `exit` is the runner's report, or None where the host judged by itself.

    `wall_ms` is then what the host measured.
    """

    exit: Exit | None
    outcome: Outcome
    wall_ms: float


Event = Leased | Started | Output | Message | Ended
