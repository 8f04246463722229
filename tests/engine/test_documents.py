"""Every example of README and docs/ does what the page shows, on the real engine.

A block marked `python` is run; the blocks of a page share their names. A block marked `text` right
after it is what it prints. A block marked `console` is run in bash, in a folder of its own; what
follows a `$ ` line is what that line prints. `…` stands for any text, and a line that is only `…`
for any lines. Blocks marked `sh` are not run: they install, or change the machine.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


def blocks(page: str, *languages: str) -> list[tuple[str, str | None]]:
    """Return the blocks in these languages, each with the `text` block that follows it."""
    return [(code, printed) for language, code, printed in BLOCK.findall((ROOT / page).read_text()) if language in languages]


def alike(shown: str, printed: str) -> bool:
    """Whether `printed` is what a page shows, apart from blanks at the ends of lines."""
    printed = "\n".join(line.rstrip() for line in printed.splitlines())
    pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", shown.strip()))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


def test_the_comparison_can_fail() -> None:
    assert alike("a … c\n", "a b c")
    assert not alike("a … c\n", "a b d")
    assert not alike("42", "420")
    assert len(pages_with("python")) > 5
    assert len(pages_with("console")) > 2


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_examples_print_what_is_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for code, shown in blocks(page, "python"):
        output = io.StringIO()
        compiled = compile(code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        with contextlib.redirect_stdout(output):
            if compiled.co_flags & inspect.CO_COROUTINE:
                asyncio.run(eval(compiled, names))
            else:
                exec(compiled, names)
        if shown:
            assert alike(shown, output.getvalue()), f"{page} shows\n{shown}\nand this was printed:\n{output.getvalue()}"


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield shell
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
    shell.communicate(timeout=60)


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_print_what_is_shown(page: str, bash: subprocess.Popen[str]) -> None:
    assert bash.stdin
    assert bash.stdout
    for code, _ in blocks(page, "console"):
        first, *steps = re.split(r"^\$ ", code, flags=re.MULTILINE)
        assert first == "", f"{page}: a block begins with a line that is not a command: {first}"
        for step in steps:
            command, _, shown = step.partition("\n")
            bash.stdin.write(f"{command}\nstatus=$?; echo; echo '--- end'; (exit $status)\n")
            bash.stdin.flush()
            printed = "".join(iter(bash.stdout.readline, "--- end\n"))
            assert alike(shown, printed), f"{page}: {command}\nshows\n{shown}\nand this was printed:\n{printed}"
