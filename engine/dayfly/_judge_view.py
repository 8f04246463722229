"""How `dayfly judge` looks: a line for each case, a bar on a terminal, and the verdict."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .judge._checkers import visible
from .judge._verdicts import CaseResult, JudgeResult, Verdict

if TYPE_CHECKING:
    from typing_extensions import Self

COLOURS = {Verdict.ACCEPTED: "green", Verdict.PARTIAL: "yellow", Verdict.SKIPPED: "bright_black", Verdict.JUDGE_ERROR: "magenta"}
"""Red for all others."""
SHOWN = 80
"""Characters of feedback."""


class Rate(ProgressColumn):
    """Cases in a second, as soon as that is known."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


class View:
    """Shows a judging of `total` cases, unless it is not to be `shown`."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._shown = shown
        self._total = total
        self._console = Console(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.completed} of {task.total} cases"),
            BarColumn(),
            Rate(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not (shown and self._console.is_terminal))
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def case(self, one: CaseResult) -> None:
        """Show a case."""
        self._progress.advance(self._task)
        if self._shown and one.verdict is not Verdict.SKIPPED:
            self._console.print(_line(one), soft_wrap=True)

    def verdict(self, told: JudgeResult) -> None:
        """Show the verdict."""
        line = Text().append(told.verdict.value, COLOURS.get(told.verdict, "bold red"))
        line.append(f"  {told.passed} of {told.total} cases")
        if told.max_score != told.total:
            line.append(f"  {told.score:g} of {told.max_score:g} points")
        if skipped := told.counts.get("skipped"):
            line.append(f"  {skipped} skipped")
        line.append(f"  {told.wall_ms / 1_000:.2f} s")
        self._console.print(line)
        if told.feedback:
            self._console.print(Text(visible(told.feedback)))


def _line(one: CaseResult) -> Text:
    line = Text().append(f"{one.verdict.value:<14}", COLOURS.get(one.verdict, "red"))
    line.append(f" {visible(one.name) or '-':<16}")
    wall = "" if one.wall_ms is None else f"{one.wall_ms:.1f} ms"
    cpu = "" if one.cpu_ms is None else f"({one.cpu_ms:.1f} ms CPU)"
    memory = "" if one.max_rss_bytes is None else f"{one.max_rss_bytes / 1e6:.1f} MB"
    line.append(f" {wall:>11} {cpu:<16} {memory:>9}")
    if told := visible(one.error or one.feedback)[:SHOWN]:
        line.append(f"  {told}")
    return line
