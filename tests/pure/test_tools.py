"""`make test` leaves the configuration of a daemon alone that it has not installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
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


def test_a_daemon_that_set_up_installed_may_be_changed(tmp_path: Path) -> None:
    (tmp_path / "installed-by-dayfly").touch()
    # It goes on to add crun, and stops at the engine, which is not the local one.
    done = runtimes(tmp_path / "daemon.json")
    assert done.returncode == 1
    assert "only root can add it to the local one" in done.stderr


def test_the_editor_s_licences_are_those_of_what_is_in_it() -> None:
    packages = json.loads((ROOT / "tools" / "editor" / "package.json").read_text())["dependencies"]
    text = (ROOT / "engine" / "dayfly" / "_server" / "page" / "editor.LICENSE").read_text()
    headings = re.findall(r"^(\S+) (\d+\.\d+\.\d+)$", text, re.MULTILINE)
    assert dict(headings) == {name: version for name, version in packages.items() if name != "esbuild"}  # which makes the file
    assert text.count("Permission is hereby granted") == len(headings)
