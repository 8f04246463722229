"""The suite's promises about itself: it is independent, complete, and its clauses can fail."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conformance import mutations
from conformance.oracle import repository
from conformance.report import FOLDER, clause, not_applicable


@pytest.fixture(autouse=True)
def _suite_itself(request: pytest.FixtureRequest) -> None:
    if request.config.option.engine_only:
        not_applicable("the suite itself was judged on the local engine")


@clause("suite.independent")
def test_only_the_adapter_and_the_mutations_import_dayfly() -> None:
    importing = set()
    for path in FOLDER.rglob("*.py"):
        for node in [] if path.parent.name == "corpus" else ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] in ("dayfly", "dayfly_runner") for name in names):
                importing.add(path.name)
    assert importing == {"adapter.py", "mutations.py"}


def judge(tmp_path: Path, *arguments: str, status: int, **environment: str) -> dict[str, Any]:
    """Run the suite in a process of its own, and return its report."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(FOLDER / "pytest.toml"),
        "-q",
        "-p",
        "no:cacheprovider",
        "--report",
        str(tmp_path / "r"),
    ]
    done = subprocess.run(
        [*command, *arguments],
        cwd=repository(),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == status, done.stdout[-3_000:] + done.stderr[-2_000:]
    report: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    return report


@clause("suite.complete")
def test_a_clause_without_a_test_fails_the_run(tmp_path: Path) -> None:
    table = tmp_path / "clauses.toml"
    table.write_text((FOLDER / "clauses.toml").read_text() + '\n[clauses."new.clause"]\norigin = "own"\ntext = "Nobody tests this."\n')
    report = judge(tmp_path, str(FOLDER), "--clauses", str(table), "--clause", "suite.independent", status=1)
    assert report["problems"] == ["the clause new.clause has no test"]


@clause("suite.complete")
def test_missing_clauses_and_unexplained_skips_fail_the_run(tmp_path: Path) -> None:
    for body, problem in (
        ("def test_it(): pass", "judges no clause"),
        ("@clause('no.such')\ndef test_it(): pass", "names the unknown clause 'no.such'"),
        ("@clause('run.string')\ndef test_it(): pytest.skip('today')", "was skipped: today"),
    ):
        (tmp_path / "test_it.py").write_text(f"import pytest\nfrom conformance.report import clause\n{body}\n")
        report = judge(tmp_path, str(tmp_path / "test_it.py"), "-p", "conformance.report", status=1)
        assert len(report["problems"]) == 1
        assert problem in report["problems"][0]


@pytest.fixture(scope="session")
def judged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """The reports on all mutations that are asked for. Three at a time: most of each is waiting."""
    runtime = request.config.option.runtime
    with ThreadPoolExecutor(3) as threads:

        def start(name: str) -> Future[dict[str, Any]]:
            broken = mutations.ALL[name]
            files = {str(item.path) for item in request.session.items if ("clause", broken.clause) in item.user_properties}
            arguments = ["--adapter", f"conformance.mutations:{name}", "--clause", broken.clause, "--maxfail", "1"]
            arguments += ["--runtime", runtime] if runtime else []
            # What never comes is waited for in some of them.
            patience = {"CONFORMANCE_PATIENCE": "10"}
            return threads.submit(judge, tmp_path_factory.mktemp(name), *(sorted(files) or [str(FOLDER)]), *arguments, status=1, **patience)

        wanted = {item.callspec.params["name"] for item in request.session.items if "mutation" in item.fixturenames}  # type: ignore[attr-defined]
        yield {name: start(name) for name in mutations.ALL if name in wanted}


@pytest.fixture
def mutation(name: str, request: pytest.FixtureRequest, _suite_itself: None) -> dict[str, Any]:
    judged: dict[str, Future[dict[str, Any]]] = request.getfixturevalue("judged")
    return judged[name].result()


@clause("suite.mutations")
@pytest.mark.parametrize("name", mutations.ALL)
def test_a_mutation_fails_its_clause(name: str, mutation: dict[str, Any]) -> None:
    broken = mutations.ALL[name]
    (row,) = (row for row in mutation["clauses"] if row["id"] == broken.clause)
    assert row["state"] == "failed"
    assert re.search(broken.because, "\n".join(row["why"])), f"it failed for another reason: {row['why']}"
    assert mutation["engine"]["implementation"].startswith(f"conformance.mutations:{name} ")
