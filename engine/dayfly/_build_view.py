"""How `dayfly image build` looks: what it says, and on a terminal the step that is under way, how
long it has taken, and how long it usually takes."""

from __future__ import annotations

import re
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from typing_extensions import Self

USUAL = {"making a root": 30, "installing the runner": 2, "committing": 1}
"""Seconds of a step, by how it begins: of the default image on two processors. How long the others
take depends on what they fetch or compile."""


class BuildView:
    """Shows a build on `console`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(), TextColumn("{task.fields[usual]}"))
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("building", usual="")
        self._steps = 0

    def __enter__(self) -> Self:
        # One that is not on a terminal would end with an empty line.
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def told(self, line: str) -> None:
        """Show a line of the build. One that is not indented begins a step."""
        if not line.startswith(" "):
            self._steps += 1
            usual = next((f"usually {seconds} s" for begin, seconds in USUAL.items() if line.startswith(begin)), "")
            self._progress.reset(self._task, description=f"step {self._steps}: {re.split(', | with ', line)[0][:45]}", usual=usual)
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
