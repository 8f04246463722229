"""Adds to the site what lies elsewhere in the repository, and the references of the command and of
the server's settings, made from their code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dayfly._server.command import app
from dayfly._server.config import settings

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

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
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests read the references without MkDocs

    for page in PAGES:
        text = (ROOT / page).read_text()
        files.append(File.generated(config, page, content=_with_links(text, ROOT / page)))
    files.append(File.generated(config, "reference/command.md", content=command()))
    files.append(File.generated(config, "reference/settings.md", content=server_settings()))
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


def command() -> str:
    """Return the reference of `dayfly`: what Typer makes from it, and the help of `dayfly serve`,
    which Typer does not look into."""
    typer = [sys.executable, "-m", "typer", "dayfly._cli", "utils", "docs", "--name", "dayfly", "--title", "Command"]
    made = subprocess.run(typer, check=True, capture_output=True, text=True, cwd=ROOT).stdout  # noqa: S603 - a fixed command
    return made + "\n".join(_help(app, click.Context(app, info_name="dayfly serve", terminal_width=100)))


def _help(group: click.Command, context: click.Context) -> Iterator[str]:
    yield f"\n### `{context.command_path}` in full\n\n```text\n{group.get_help(context)}\n```\n"
    for name, one in sorted(getattr(group, "commands", {}).items()):
        yield from _help(one, click.Context(one, parent=context, info_name=name, terminal_width=100))


def server_settings() -> str:
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
