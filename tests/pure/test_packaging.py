"""The wheel: what is in it, and what is not. Built for real, by the build back end."""

from __future__ import annotations

import configparser
import email
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dayfly

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_both_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"dayfly", "dayfly_runner", f"dayfly-{dayfly.__version__}.dist-info"}


def test_every_source_file_is_in_it(wheel: zipfile.ZipFile) -> None:
    sources = {
        str(file.relative_to(root))
        for root, package in ((ROOT / "engine", "dayfly"), (ROOT / "runner_stdio", "dayfly_runner"))
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert sources == {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert {"dayfly/py.typed", "dayfly_runner/site/sandbox.py", "dayfly_runner/site/zz_dayfly_runner.pth"} <= sources


def test_no_pth_file_becomes_active_on_the_host(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.endswith(".pth") and name.count("/") == 0] == []


def test_dependencies_have_lower_bounds_and_the_command_exists(wheel: zipfile.ZipFile) -> None:
    folder = f"dayfly-{dayfly.__version__}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    # All that the core imports from outside, each with the lowest version that the tests pass with.
    assert {re.split("[<>=]", line)[0] for line in required} == {"anyio", "httpcore", "httpx", "msgspec"}
    assert all(re.search(r">=\d+\.\d+", line) for line in required)
    assert metadata["Requires-Python"] == ">=3.10"
    points = configparser.ConfigParser()
    points.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"dayfly": "dayfly._cli:main"}
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()


def test_the_readme_of_the_wheel_has_absolute_links(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_bytes(wheel.read(f"dayfly-{dayfly.__version__}.dist-info/METADATA"))
    readme = str(metadata.get_payload())
    assert "](https://raw.githubusercontent.com/" in readme
    links = re.findall(r"\]\(([^)]*)\)", readme)
    assert len(links) > 5
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_the_wheel_has_no_extra_for_developers(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_bytes(wheel.read(f"dayfly-{dayfly.__version__}.dist-info/METADATA"))
    assert set(metadata.get_all("Provides-Extra", [])) == {"cli", "judge", "mcp", "otel", "ray", "server"}


def test_the_runner_in_the_wheel_has_these_files(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if name.startswith("dayfly_runner/")}
    assert files == {
        f"dayfly_runner/{name}"
        for name in (
            "__init__.py",
            "_cgroup.py",
            "_child.py",
            "_end.py",
            "_files.py",
            "_frames.py",
            "_memory.py",
            "_parent.py",
            "_session.py",
            "_shown.py",
            "site/sandbox.py",
            "site/zz_dayfly_runner.pth",
        )
    }


def test_the_changelog_has_a_date_and_a_link_for_each_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE)[0] == "[Unreleased]"
    assert len(versions) == text.count("\n## ") - 1
    assert dayfly.__version__ in versions
    assert re.findall(r"^\[(.*)\]: https://github.com/dayfly/dayfly/", text, re.MULTILINE) == ["Unreleased", *versions]


def test_the_runner_says_the_same_version() -> None:
    assert f'\nVERSION = "{dayfly.__version__}"\n' in (ROOT / "runner_stdio" / "dayfly_runner" / "__init__.py").read_text()
