"""The suite on other engines, one column each: brought up by pytest-docker and compose.yaml, judged
by a suite in a process of its own.

    python -m pytest -c conformance/pytest.toml --noconftest conformance/engines/test_matrix.py -s
    [-k docker-26]

Fails where a column fails. The reports are left in build/conformance/, where
`python -m conformance.engines.results` makes RESULTS.md of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import adapter
from conformance.oracle import Oracle, eventually, repository
from conformance.report import FOLDER

REPORTS = repository() / "build" / "conformance"
COLUMNS = {
    "docker-26": ("docker-26", None),
    "docker-26 crun": ("docker-26", "crun"),
    "docker-28": ("docker-28", None),
    "docker-28 crun": ("docker-28", "crun"),
    "podman-trixie": ("podman-trixie", None),
    "podman-forky": ("podman-forky", None),
}


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    return "env -u DOCKER_HOST docker-compose"


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(FOLDER / "engines" / "compose.yaml")


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return "dayfly-conformance"


@pytest.fixture(scope="session")
def docker_setup(request: pytest.FixtureRequest) -> list[str]:
    wanted = {COLUMNS[item.callspec.params["column"]][0] for item in request.session.items}  # type: ignore[attr-defined]
    return [f"up -d {' '.join(sorted(wanted))}"]


@pytest.fixture(scope="session")
def sockets() -> Iterator[Path]:
    # Not below pytest's own temporary folder, which is closed to the users whom the sockets are
    # for.
    with tempfile.TemporaryDirectory(prefix="dayfly-conformance-") as name:
        Path(name).chmod(0o755)
        os.environ["SOCKETS"] = name
        yield Path(name)


@pytest.fixture(scope="session")
def local() -> Oracle:
    return Oracle("unix:///var/run/docker.sock")


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("column", COLUMNS)
def test_column(column: str, sockets: Path, docker_services: Any, local: Oracle) -> None:
    service, runtime = COLUMNS[column]
    address = f"unix://{sockets / service}.sock"
    eventually(lambda: _answers(address), f"{service} answers", 60)
    other = Oracle(address)
    for python2 in (False, True):
        name = adapter.load("conformance.adapter:Dayfly", address, None).image(python2=python2)
        print(f"\n[conformance] {column}: {name}")  # noqa: T201
        other.call("POST", "/images/load", data=local.call("GET", f"/images/{name}/get"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        str(FOLDER / "pytest.toml"),
        str(FOLDER),
        "-q",
        "-p",
        "no:cacheprovider",
        "--engine-only",
    ]
    command += ["--report", str(REPORTS / column.replace(" ", "-")), "--column", column, *(["--runtime", runtime] if runtime else [])]
    done = subprocess.run(command, env={**os.environ, "DOCKER_HOST": address}, cwd=repository(), check=False)
    assert done.returncode == 0, f"{column}: see {REPORTS / column.replace(' ', '-')}.txt"


def _answers(address: str) -> bool:
    try:
        Oracle(address)
    except Exception:  # noqa: BLE001 - not there yet, in one of many ways
        return False
    return True
