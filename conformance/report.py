"""The report: clause by clause, passed, failed or not applicable with the reason; as text, as JSON,
and as JUnit's XML (pytest's own).

A pytest plugin. It holds the suite to its own rules: a clause without a test, a test without a
clause or with an unknown one, and a skip that is not declared with `not_applicable` fail the run.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import tomllib

FOLDER = Path(__file__).resolve().parent
clause = pytest.mark.clause
"""`@clause("new.pool-size")`: the test judges this clause."""

_NOT_APPLICABLE = "not applicable: "


def not_applicable(reason: str) -> NoReturn:
    """Say that the clause has no meaning here, and why. The only way not to judge."""
    pytest.skip(_NOT_APPLICABLE + reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suite's options."""
    group = parser.getgroup("conformance")
    group.addoption("--adapter", default="conformance.adapter:Dayfly", help="the implementation to judge, as package.module:Class")
    group.addoption("--runtime", default=None, help="a runtime of the engine, such as crun")
    group.addoption("--clause", action="append", default=[], help="judge only clauses like this one (* and ? as in a shell)")
    group.addoption("--clauses", default=str(FOLDER / "clauses.toml"), help="the table of clauses")
    group.addoption(
        "--engine-only", action="store_true", help="judge the implementation on this engine, and not the suite itself once more"
    )
    group.addoption("--report", default=None, help="write the report to this path, with .json, .txt and .xml")
    group.addoption("--column", default=None, help="name of this run's column in a table of several engines")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the report."""
    report = Report(config)
    config.pluginmanager.register(report, "conformance-report")
    if config.option.report and not config.option.xmlpath:
        config.option.xmlpath = f"{config.option.report}.xml"


class Report:
    """Gathers what became of each test, and puts it down to the clauses."""

    def __init__(self, config: pytest.Config) -> None:
        with open(config.option.clauses, "rb") as file:  # noqa: PTH123
            self.clauses: dict[str, dict[str, str]] = tomllib.load(file)["clauses"]
        self.config = config
        self.engine: dict[str, str] = {}
        self.problems: list[str] = []
        self.tests: dict[str, dict[str, Any]] = {}
        self.chosen = set(self.clauses)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Compare tests and clauses, before anything is deselected."""
        judged: set[str] = set()
        for item in items:
            ids = [str(name) for mark in item.iter_markers("clause") for name in mark.args]
            judged.update(ids)
            item.user_properties += [("clause", name) for name in ids]
            self.problems += [f"the test {item.nodeid} names the unknown clause {name!r}" for name in ids if name not in self.clauses]
            if not ids:
                self.problems.append(f"the test {item.nodeid} judges no clause")
        whole = [Path(str(argument)).resolve() for argument in config.args] == [FOLDER]
        if whole:
            self.problems += [f"the clause {name} has no test" for name in self.clauses if name not in judged]
        if wanted := config.option.clause:
            self.chosen = {name for name in self.clauses if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted)}
            self.problems += [f"--clause {pattern}: no such clause" for pattern in wanted if not fnmatch.filter(self.clauses, pattern)]
            kept = [item for item in items if self.chosen & {value for name, value in item.user_properties if name == "clause"}]
            config.hook.pytest_deselected(items=[item for item in items if item not in kept])
            items[:] = kept

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note what became of a test: the worst of its three phases."""
        test = self.tests.setdefault(
            report.nodeid, {"clauses": [value for name, value in report.user_properties if name == "clause"], "state": "passed", "why": ""}
        )
        if report.failed:
            test["state"] = "failed"
            test["why"] = _reason(report)
        elif report.skipped and test["state"] != "failed":
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            text = text.removeprefix("Skipped: ")
            applicable = not text.startswith(_NOT_APPLICABLE)
            test["state"] = "failed" if applicable else "n/a"
            test["why"] = text.removeprefix(_NOT_APPLICABLE)
            if applicable:
                self.problems.append(f"the test {report.nodeid} was skipped: {text}")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield each clause with what became of it."""
        for name, entry in self.clauses.items():
            tests = {node: test for node, test in self.tests.items() if name in test["clauses"]} if name in self.chosen else {}
            states = [test["state"] for test in tests.values()]
            worst = next((state for state in ("failed", "passed", "n/a") if state in states), "not run")
            why = sorted(
                {test["why"] for test in tests.values() if test["why"] and test["state"] == ("failed" if worst == "failed" else "n/a")}
            )
            counts = {state: states.count(state) for state in ("passed", "failed", "n/a") if state in states}
            yield {"id": name, "origin": entry["origin"], "text": entry["text"], "state": worst, "tests": counts, "why": why}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the report; a broken rule of the suite fails the run."""
        if self.problems and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if path := self.config.option.report:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            column = self.config.option.column or self.engine.get("engine", "engine")
            whole = {"column": column, "engine": self.engine, "problems": self.problems, "clauses": list(self.rows()), "tests": self.tests}
            Path(f"{path}.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
            Path(f"{path}.txt").write_text("\n".join(self.lines()) + "\n")

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        yield "  ".join(f"{name} {value}" for name, value in self.engine.items())
        rows = list(self.rows())
        for row in rows:
            counts = ", ".join(f"{count} {state}" for state, count in row["tests"].items() if len(row["tests"]) > 1 or count > 1)
            yield f"{row['state']:8} {row['origin']:10} {row['id']:22} {row['text']}{f' ({counts})' if counts else ''}"
            for why in row["why"]:
                yield f"{'':42} {why[:300]}"
        totals = [f"{sum(row['state'] == state for row in rows)} {state}" for state in ("passed", "failed", "n/a", "not run")]
        yield f"{len(rows)} clauses: {', '.join(totals)}"
        yield from (f"PROBLEM: {problem}" for problem in self.problems)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the report."""
        terminalreporter.section("conformance")
        for line in self.lines():
            terminalreporter.write_line(line)


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr).splitlines()[0][:500]
