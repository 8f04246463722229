"""The blocks of code in README and docs/, and how one of Python is run."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of a page."""

    page: str
    language: str
    code: str
    printed: str
    """What the `text` block right after it shows; else empty."""

    @property
    def first(self) -> str:
        """Its first line, by which a test names it."""
        return self.code.partition("\n")[0]


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the blocks in these languages, in all where none is named."""
    found = [Block(page, *match) for match in BLOCK.findall((ROOT / page).read_text())]
    return [block for block in found if not languages or block.language in languages]


def block(page: str, first: str) -> str:
    """Return the code of the block that begins with this line."""
    (found,) = [block.code for block in blocks(page) if block.first.startswith(first)]
    return found


def run(code: str, names: dict[str, Any], page: str = "an example") -> str:
    """Run Python, with `await` at its top level too, and return what it prints."""
    output = io.StringIO()
    compiled = compile(code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    with contextlib.redirect_stdout(output):
        if compiled.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(compiled, names))
        else:
            exec(compiled, names)
    return output.getvalue()
