"""dayfly inside a host process that has nothing: a plain Python image, the wheel without extras,
the engine's socket, no root.

The bare host is a service of `engines/bare-host.yaml`, always on the local engine; the engine under
test is the one whose socket it is given.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conformance.oracle import Oracle, repository
from conformance.report import FOLDER, clause, not_applicable

COMPOSE = FOLDER / "engines" / "bare-host.yaml"
LOCALLY = "env -u DOCKER_HOST docker-compose"
PYTHON = "3.11"
"""Of the bare host's image."""


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    return LOCALLY


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    return str(COMPOSE)


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    return f"dayfly-bare-host-{os.getpid()}"


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    return ["up -d bare-host"]


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from here, and what it requires, installed into a folder by pip."""
    folder = tmp_path_factory.mktemp("packages")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder / "wheel"), str(repository())], check=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    target = folder / "installed"
    subprocess.run(
        [*pip, "install", "--target", str(target), "--python-version", PYTHON, "--only-binary=:all:", "--no-compile", str(wheel)],
        check=True,
    )
    return target


@pytest.fixture(scope="session")
def bare_host(request: pytest.FixtureRequest, oracle: Oracle, docker_compose_project_name: str) -> Callable[..., str]:
    """Runs a command in the bare host, and returns what it prints."""
    if shutil.which("docker-compose") is None:
        not_applicable("docker-compose is missing, which brings up the bare host")
    socket = Path(oracle.socket).stat()
    if not socket.st_gid or not socket.st_mode & stat.S_IWGRP:
        not_applicable("the engine's socket is of no group but root's")
    packages: Path = request.getfixturevalue("packages")
    for folder in (packages, *list(packages.parents)[:2]):
        folder.chmod(0o755)
    os.environ |= {"SOCKET": oracle.socket, "GROUP": str(socket.st_gid), "PACKAGES": str(packages), "SUITE": str(FOLDER)}
    request.getfixturevalue("docker_services")
    command = [*LOCALLY.split(), "-f", str(COMPOSE), "-p", docker_compose_project_name, "exec", "-T", "bare-host"]

    def run(*arguments: str, given: str = "") -> str:
        done = subprocess.run([*command, *arguments], input=given, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@clause("host.embedded")
def test_nothing_but_httpx_and_msgspec_is_installed(bare_host: Callable[..., str]) -> None:
    listing = """
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"].lower(): [r for r in d.requires or [] if "extra ==" not in r] for d in m.distributions()}))
"""
    installed: dict[str, list[str]] = json.loads(bare_host("python3", "-c", listing))
    wanted, found = {"dayfly"}, set[str]()
    while wanted:
        name = wanted.pop()
        found.add(name)
        direct = {_name(requirement) for requirement in installed[name]}
        brought = {_name(requirement) for requirement in installed["httpx"]}
        assert name != "dayfly" or direct - brought == {"httpx", "msgspec"}
        wanted |= (direct & installed.keys()) - found
    assert installed.keys() == found


@clause("host.embedded")
def test_a_program_runs_and_nothing_else_is_imported(
    bare_host: Callable[..., str], oracle: Oracle, image: str, request: pytest.FixtureRequest
) -> None:
    seen = oracle.mark(image)
    option = request.config.option
    order = {"engine": "unix:///engine.sock", "runtime": option.runtime, "image": seen.image, "settings": {}, "adapter": option.adapter}
    lines = bare_host("python3", "-m", "conformance.host", json.dumps(order), given=json.dumps({"code": "print('Hello, world!')"}) + "\n")
    starting, ready, answer = (json.loads(line) for line in lines.splitlines())
    assert starting == {"starting": True}
    assert ready["uid"] == 65_534
    assert answer["result"]["stdout"] == "Hello, world!\n"
    brought = {"dayfly", "httpx", "msgspec", "conformance", *_modules_of(bare_host)}
    standard = set(sys.stdlib_module_names) | {"__main__", "_distutils_hack", "sitecustomize", "apport_python_hook"}
    assert set(answer["modules"]) - standard <= brought
    seen.none_left()


def _modules_of(bare_host: Callable[..., str]) -> set[str]:
    """The top-level modules of what httpx brings."""
    code = """
import importlib.metadata as m, json
print(json.dumps(sorted({str(f).split("/")[0].partition(".")[0] for d in m.distributions() for f in d.files or []})))
"""
    modules: list[Any] = json.loads(bare_host("python3", "-c", code))
    return set(modules)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement, maxsplit=1)[0].lower()
