"""What happens in a run, in order.

`Leased` and `Ended` are the host's own. The others are the runner's frames as they are: `Started`, then
`Output`, `Message` and `Display`, then `File` and `Skipped`. An iterator of events that has no `Ended` raises:
the container has failed.
"""

from __future__ import annotations

import msgspec

from .messages import Display, Exit, File, Message, Output, Skipped, Started
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


Event = Leased | Started | Output | Message | Display | File | Skipped | Ended
