"""`make test` leaves the configuration of a daemon alone that it has not installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNTIMES = ROOT / "tools" / "runtimes"


def runtimes(config: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask which runtimes can be tested, on an engine that has no crun."""
    variables = {"PATH": os.environ["PATH"], "DOCKER_HOST": f"unix://{config.parent}/nothing", "DAYFLY_DAEMON_CONFIG": str(config)}
    return subprocess.run([RUNTIMES, "test"], env=variables | environment, capture_output=True, text=True, timeout=60, check=False)


def test_crun_is_left_out_where_the_daemon_is_not_ours(tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text("{}")
    done = runtimes(config)
    assert (done.returncode, done.stdout, config.read_text()) == (0, "runc\n", "{}")
    assert "leaving out crun" in done.stderr


@pytest.mark.parametrize(("wanted", "status", "said"), [("runc", 0, "runc\n"), ("runc crun", 1, "")])
def test_runtimes_asked_for_by_name_are_not_left_out(tmp_path: Path, wanted: str, status: int, said: str) -> None:
    done = runtimes(tmp_path / "daemon.json", DAYFLY_TEST_RUNTIMES=wanted)
    assert (done.returncode, done.stdout) == (status, said)


def test_crun_is_left_out_where_the_engine_is_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "installed-by-dayfly").touch()  # of the local engine, which is not the one at DOCKER_HOST
    done = runtimes(tmp_path / "daemon.json")
    assert (done.returncode, done.stdout) == (0, "runc\n")
    assert "leaving out crun" in done.stderr


def test_what_is_missing_is_named_and_not_installed(tmp_path: Path) -> None:
    def missing(path: str) -> str:
        return subprocess.run(
            ["/bin/sh", ROOT / "tools" / "host", "missing"], env={"PATH": path}, capture_output=True, text=True, check=True
        ).stdout

    assert missing(str(tmp_path)).split()[0] == "page"
    for name in ("chromium", "haproxy"):
        (tmp_path / name).touch(mode=0o755)
    assert missing(str(tmp_path)) == ""


def test_skipped_tests_are_noted_for_the_closing_line(tmp_path: Path) -> None:
    (tmp_path / "test_one.py").write_text("import pytest\ndef test_a(): pytest.skip('one processor')\ndef test_b(): pass\n")
    note = tmp_path / "left-out.txt"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "DAYFLY_TEST_LEFT_OUT": str(note)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert note.read_text() == "test_one.py::test_a: one processor\n"


def test_the_editor_s_licences_are_those_of_what_is_in_it() -> None:
    packages = json.loads((ROOT / "tools" / "editor" / "package.json").read_text())["dependencies"]
    text = (ROOT / "engine" / "dayfly" / "_server" / "page" / "editor.LICENSE").read_text()
    headings = re.findall(r"^(\S+) (\d+\.\d+\.\d+)$", text, re.MULTILINE)
    assert dict(headings) == {name: version for name, version in packages.items() if name != "esbuild"}  # which makes the file
    assert text.count("Permission is hereby granted") == len(headings)
