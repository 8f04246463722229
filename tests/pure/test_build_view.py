"""What a build of an image shows, on a terminal of 80 columns and elsewhere."""

from __future__ import annotations

import io
import re

from rich.console import Console

from dayfly._build_view import USUAL, BuildView

LINES = [
    "making a root file system of debian:bookworm with mmdebstrap, half a minute or so",
    "  done in 12.3456 seconds [/not markup]",
    "importing it, 84 MB",
    "installing the runner, compiling the standard library",
    "committing the image",
    "dayfly/python:1 is built: sha256:0",
]


def shown(*, terminal: bool, colours: bool = True) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, no_color=not colours, legacy_windows=False)
    with BuildView(console) as view:
        for line in LINES:
            view.told(line)
            view._progress.refresh()
    return file.getvalue()


def test_elsewhere_it_is_lines_alone() -> None:
    assert shown(terminal=False).splitlines() == LINES


def test_a_terminal_has_the_step_its_time_and_the_usual_one() -> None:
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown(terminal=True))
    assert re.search(r"step 1: making a root file system of debian:bookworm \d:\d\d:\d\d usually \d+ s", text)
    assert re.search(r"step 3: installing the runner \d:\d\d:\d\d usually \d+ s", text)
    assert re.search(r"step 4: committing the image", text)
    status = [line for line in re.split(r"[\r\n]", text) if re.search(r"step \d:", line)]
    assert max(len(line.rstrip()) for line in status) <= 80
    assert all(any(line.startswith(begin) for line in LINES) for begin in USUAL)


def test_without_colours_there_are_none() -> None:
    assert re.search(r"\x1b\[3\dm", shown(terminal=True))
    assert not re.search(r"\x1b\[(?:\d+;)*3\dm", shown(terminal=True, colours=False))
