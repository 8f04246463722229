"""What a check can hold of the project's language: lengths of lines and names, and a few words that
have better ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *("README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "engine/ARCHITECTURE.md", "benchmarks/README.md"),
        *(str(page.relative_to(ROOT)) for folder in ("conformance", "docs") for page in (ROOT / folder).rglob("*.md")),
    ]
)
COLUMNS = 100
"""Of a line of prose. Tables, code, lines with an address and single words may be longer."""


def prose(text: str) -> list[str]:
    """Return the lines that are neither code nor part of a table nor hold an address."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in text.splitlines() if " " in line.strip()]
    return [line for line in lines if not line.startswith("|") and "](" not in line and "://" not in line]


@pytest.mark.parametrize("page", PAGES)
def test_prose_wraps(page: str) -> None:
    assert [line for line in prose((ROOT / page).read_text()) if len(line) > COLUMNS] == []


def test_names_of_tests_are_short() -> None:
    files = [file for folder in ("tests", "conformance") for file in (ROOT / folder).rglob("*.py")]
    names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(errors="replace"))]
    assert [name for name in names if len(name) > 60] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
