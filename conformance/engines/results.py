"""Makes `RESULTS.md` from the reports: one column for each, in the order given; pages in Markdown
(the soak's) are put behind.

python -m conformance.engines.results build/conformance/*.json build/soak.md >
conformance/RESULTS.md
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = (
    "The last run of each column; a clause that was judged again has its last result. `python -m conformance.engines.results` makes this page from the reports. ✓ passed, **✗** failed, "
    "n/a: not applicable (the reason is below), empty: not run in this column."
)
COLUMNS = 100
SIGNS = {"passed": "✓", "failed": "**✗**", "n/a": "n/a", "not run": ""}


def lines(reports: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the page."""
    yield "# Results"
    yield ""
    yield from textwrap.wrap(HEAD, COLUMNS)
    yield ""
    yield "| column | engine | API | runtime | cgroup | kernel | judged | passed | failed | n/a | not run |"
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for report in reports:
        engine = report["engine"]
        states = [row["state"] for row in report["clauses"]]
        counts = [str(states.count(state)) for state in SIGNS]
        facts = [engine.get(name, "?") for name in ("engine", "API", "runtime", "cgroup")] + [engine.get("kernel", "?").partition("-")[0]]
        judged = engine.get("implementation", "?").rpartition(":")[2]
        yield f"| {' | '.join([report['column'], *facts, judged, *counts])} |"
    yield ""
    yield f"| clause | origin | {' | '.join(report['column'] for report in reports)} |"
    yield f"|---|---|{'---|' * len(reports)}"
    states = [{row["id"]: row["state"] for row in report["clauses"]} for report in reports]
    for row in reports[0]["clauses"]:
        yield f"| `{row['id']}` {row['text']} | {row['origin']} | {' | '.join(SIGNS[column.get(row['id'], 'not run')] for column in states)} |"
    yield ""
    yield "## What was not applicable or failed, and why"
    yield ""
    for report in reports:
        why: dict[str, list[str]] = {}
        for row in report["clauses"]:
            for reason in row["why"]:
                why.setdefault(f"{row['state']}: {reason}", []).append(row["id"])
        yield f"- **{report['column']}**" + ("" if why else ": nothing")
        for reason, ids in why.items():
            names = f"{len(ids)} clauses" if len(ids) > 8 else ", ".join(f"`{name}`" for name in ids)
            yield from textwrap.wrap(f"  - {names}: {reason[:600]}", COLUMNS, subsequent_indent="    ", break_on_hyphens=False)


def _columns(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one report for each column: a later one replaces what it has judged again."""
    columns: dict[str, dict[str, Any]] = {}
    for report in reports:
        before = columns.get(report["column"], report)
        known = {row["id"]: row for row in before["clauses"]}
        rows = [row if row["state"] in ("passed", "failed") else known.get(row["id"], row) for row in report["clauses"]]
        columns[report["column"]] = {**report, "clauses": rows}
    return list(columns.values())


def main() -> None:
    """Print the page."""
    files = [Path(name) for name in sys.argv[1:]]
    reports = [json.loads(file.read_text()) for file in files if file.suffix == ".json"]
    print("\n".join(lines(_columns(reports))))  # noqa: T201
    for file in files:
        if file.suffix == ".md":
            print(f"\n## {file.stem.capitalize()}\n\n{file.read_text()}", end="")  # noqa: T201


if __name__ == "__main__":
    main()
