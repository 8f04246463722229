"""Adds to the site what lies elsewhere in the repository, and the reference of the command, made
from its code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from dayfly._server.config import settings

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/dayfly/dayfly/blob/main/"
PAGES = (
    "SECURITY.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "engine/ARCHITECTURE.md",
    "conformance/PROTOCOL.md",
    "conformance/RESULTS.md",
    "benchmarks/README.md",
)


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages. MkDocs calls it when it has listed `docs_dir`."""
    for page in PAGES:
        text = (ROOT / page).read_text()
        files.append(File.generated(config, page, content=_with_links(text, ROOT / page)))
    files.append(File.generated(config, "reference/command.md", content=_command()))
    files.append(File.generated(config, "reference/settings.md", content=_settings()))
    for image in (ROOT / "benchmarks" / "results").glob("*.png"):
        files.append(File.generated(config, f"benchmarks/results/{image.name}", abs_src_path=str(image)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Let links to the repository's own pages work on the site too, where all pages of `docs` are
    at its root."""
    return markdown if "/" in page.file.src_uri else markdown.replace("](../", "](")


def _with_links(text: str, page: Path) -> str:
    """Let links to what the site does not have lead to the repository."""

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[1].partition("#")
        if "://" in target or not target:
            return match[0]
        path = (page.parent / target).resolve()
        relative = path.relative_to(ROOT)
        if str(relative) in PAGES or path.suffix == ".png":
            return match[0]
        if relative.parts[0] == "docs":
            up = "../" * (len(page.relative_to(ROOT).parts) - 1)
            return f"]({up}{relative.relative_to('docs')}{'#' * bool(anchor)}{anchor})"
        return f"]({REPOSITORY}{relative})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def _command() -> str:
    """Return the reference of `dayfly`, as Typer makes it from the command itself."""
    command = [sys.executable, "-m", "typer", "dayfly._cli", "utils", "docs", "--name", "dayfly", "--title", "Command"]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout  # noqa: S603 - a fixed command


def _settings() -> str:
    """Return the table of the server's settings, made from their definition."""
    rows = "".join(
        f"| `{setting.name.replace('limits_', 'limits.', 1)}` | {setting.help} "
        f"| {'' if setting.default in (None, [], '') else f'`{setting.default}`'} |\n"
        for setting in settings()
    )
    return f"""# Settings of the server

A setting `name` is the flag `--name` of `dayfly serve`, with `-` for `_`; the variable
`DAYFLY_SERVE_NAME`; and the line `name = …` of the file of `--config`. The limits of programs are in
the table `[limits]` of the file; their flags begin with `--limits-`.

| name | what it sets | default |
|---|---|---|
{rows}"""
