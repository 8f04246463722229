"""The workflows call what the repository has: targets of the Makefile, tools, and extras.

What is installed for a job is said once, in the Makefile, so a job runs `make` and no pip.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
CI = ROOT / ".github" / "workflows" / "ci.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SUPPORTED = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))


def jobs(workflow: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(workflow.read_text())["jobs"]
    return loaded


def commands(workflow: Path) -> list[str]:
    return [step["run"] for job in jobs(workflow).values() for step in job["steps"] if "run" in step]


def targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_runs_targets_and_tools_that_exist(workflow: Path) -> None:
    for job in jobs(workflow).values():
        assert job["runs-on"]
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    for command in commands(workflow):
        assert "pip install" not in command
        named = re.search(r"\bmake ([\w-]+)|\b(tools/[\w-]+)|^test ", command)
        assert named, f"neither a target nor a tool: {command}"
        assert not named[1] or named[1] in targets(), command
        assert not named[2] or (ROOT / named[2]).is_file(), command


def test_every_check_of_a_push_is_there() -> None:
    run = " ; ".join(commands(CI))
    for target in ("lint", "test-pure", "test-pythons", "test-lowest", "docs", "test"):
        assert re.search(rf"make {target}\b(?!-)", run), target


def test_the_matrix_is_what_the_project_supports() -> None:
    matrices = [job["strategy"]["matrix"]["python"] for job in jobs(CI).values() if "strategy" in job]
    assert matrices == [SUPPORTED, SUPPORTED]
    assert f"versions='{' '.join(SUPPORTED)}'" in (ROOT / "tools" / "pythons").read_text()


def test_what_is_installed_is_declared() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    for file in ("Makefile", "tools/pythons", "tools/dist-check", "README.md", *map(str, (ROOT / "docs").rglob("*.md"))):
        text = (ROOT / file).read_text()
        asked = {extra for named in re.findall(r"(?:'\.|dayfly|\$file)\[([a-z,]+)\]", text) for extra in named.split(",")}
        assert asked <= extras, file
        assert set(re.findall(r"--group (\w+)", text)) <= set(PROJECT["dependency-groups"]), file


def test_dependabot_looks_at_each_place_with_versions() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    places = {(update["package-ecosystem"], update["directory"]) for update in updates}
    assert places == {("github-actions", "/"), ("pip", "/"), ("npm", "/tools/editor")}
    assert json.loads((ROOT / "tools" / "editor" / "package.json").read_text())["dependencies"]
