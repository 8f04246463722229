"""What a check can hold of the project's language: lengths of lines and names, links, and a few
words that have better ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *("README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "CHANGELOG.md", "SECURITY.md"),
        *("engine/ARCHITECTURE.md", "benchmarks/README.md"),
        *(str(page.relative_to(ROOT)) for folder in ("conformance", "docs") for page in (ROOT / folder).rglob("*.md")),
    ]
)
FOLDERS = ("benchmarks", "conformance", "docs", "engine", "examples", "runner_stdio", "tests", "tools", ".github")
OTHERS_WORK = {"editor.js", "editor.LICENSE"}
COLUMNS = 100
"""Of a line of prose. Tables, code, the target of a link and a single word may be longer."""
BANNED = {
    r"\bbrains?\b": "decision",
    r"\bbur(?:y|ied|ies)\b": "remove",
    r"\bundertakers?\b": "watchdog",
    r"\bautops(?:y|ies)\b": "post-mortem",
    r"\bleftovers?\b": "orphan",
    r"\b(?:faces?|hopes?|rooms)\b": "a term of the field",
    r"\b(?:no|good|bad|such|the|its|that|any) news\b": "event",
    r"'s hands\b": "a term of the field",
    r"\b(?:for|of) want of\b": "because there is no",
    r"(?<!\b[Tt]here )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b)": "is not a",
}
"""Patterns, each with what to write."""


def files() -> Iterator[Path]:
    yield from (
        path for path in ROOT.iterdir() if path.is_file() and (path.suffix in (".md", ".toml", ".yml", ".yaml") or path.name == "Makefile")
    )
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.name not in OTHERS_WORK and not {"__pycache__", "results", "corpus"} & set(path.parts):
                yield path


def text_of(path: Path) -> str:
    """Return the text of a file, empty if it is not text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


def prose(text: str) -> list[str]:
    """Return the lines that are neither code nor part of a table, without the targets of links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\]\([^)\s]+\)|(?<=\]): \S+$", "]", text, flags=re.MULTILINE)
    return [line for line in text.splitlines() if " " in line.strip() and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES)
def test_prose_wraps(page: str) -> None:
    assert [line for line in prose((ROOT / page).read_text()) if len(line) > COLUMNS] == []


@pytest.mark.parametrize("page", PAGES)
def test_fences_stand_alone(page: str) -> None:
    """With text behind it, the end of a block is none, and the rest of the page is code."""
    assert [line for line in (ROOT / page).read_text().splitlines() if re.match(r"\s*```.* ", line)] == []


def test_comments_wrap() -> None:
    """Ruff holds those of Python. A command in a comment is indented, and may be longer."""
    long = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files()
        if path.suffix not in (".md", ".py")
        for line in text_of(path).splitlines()
        if len(line) > COLUMNS and re.match(r"\s*(?:#|//) \S", line) and "://" not in line
    ]
    assert long == []


def test_words_that_have_better_ones() -> None:
    found = []
    for path in files():
        text = re.sub(r"\n\s*(?:#|//|\*)?\s*", " ", text_of(path))
        for pattern, better in BANNED.items():
            found += [
                f"{path.relative_to(ROOT)}: write {better!r}: {text[max(0, m.start() - 30) : m.end() + 30]}"
                for m in re.finditer(pattern, text)
            ]
    assert [one for one in found if not one.startswith("tests/pure/test_text.py: ")] == []


def test_names_of_tests_are_short() -> None:
    modules = [file for folder in ("tests", "conformance") for file in (ROOT / folder).rglob("*.py")]
    names = [name for file in modules for name in re.findall(r"def (test_\w+)", file.read_text(errors="replace"))]
    assert [name for name in names if len(name) > 60] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_checkout(page: str) -> None:
    targets = re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", (ROOT / page).read_text())
    assert [one for one in targets if "://" not in one and not (ROOT / page).parent.joinpath(one).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
