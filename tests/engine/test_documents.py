"""Every example of README and docs/ does what the page shows, on the real engine.

A block marked `python` is run; the blocks of a page share their names. A block marked `text` right
after it is what it prints. A block marked `console` is run in bash, in a folder of its own; what
follows a `$ ` line is what that line prints. `…` stands for any text, and a line that is only `…`
for any lines. A block marked `sh` or `py` is not run here: ELSEWHERE says by what it is, or why
not, and it is checked as far as that goes without running it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..documents import PAGES, Block, blocks, run

IMAGES = "tests/engine/test_image.py builds images of each kind; a build takes minutes"
SCIENCE = "tests/engine/test_image.py, which has the image"
CLIENTS = "frameworks that no group of dependencies has; tests/server/test_mcp.py is a client of the protocol"
INDEX = "it installs from the package index"
ELSEWHERE = {
    ("README.md", "make run"): "it sets up the machine; CI runs it",
    ("README.md", "dayfly image build --science"): SCIENCE,
    ("docs/figures.md", "import base64"): SCIENCE,
    ("docs/figures.md", "printf"): SCIENCE,
    ("docs/figures.md", "from pathlib import Path"): SCIENCE,
    ("docs/figures.md", "dayfly serve --image science"): SCIENCE,
    ("docs/engine.md", "import logging"): "it would change the log of the tests' own process",
    ("docs/frameworks.md", "from inspect_ai import Task"): "tests/adapters/test_inspect_ai.py",
    ("docs/frameworks.md", "from smolagents import CodeAgent"): "tests/adapters/test_smolagents.py",
    ("docs/frameworks.md", "python3 -m verl.trainer.main_ppo"): "verl needs a GPU; tests/adapters/test_verl.py calls the function",
    ("docs/images.md", "dayfly image build"): IMAGES,
    ("docs/machines.md", "haproxy -c"): "tests/server/test_haproxy.py",
    ("docs/machines.md", "dayfly serve"): "it is for another machine",
    ("docs/machines.md", "ray start"): "it is for another machine; tests/adapters/test_ray.py has such nodes",
    ("docs/machines.md", "import ray"): "tests/adapters/test_ray.py",
    ("docs/machines.md", "from dayfly.adapters.ray"): "tests/adapters/test_ray.py",
    ("docs/mcp.md", "from pydantic_ai import Agent"): CLIENTS,
    ("docs/mcp.md", "from agents import Agent"): CLIENTS,
    ("docs/mcp.md", "from langchain_mcp_adapters"): CLIENTS,
    ("docs/preload.md", "dayfly image build"): IMAGES,
    ("docs/reach.md", "dayfly serve key new"): "it is for another machine; the next block is run",
    ("docs/remote.md", "dayfly serve key new"): "it is for another machine; the block below is run",
    ("docs/remote.md", "from dayfly.remote import RemoteSandbox"): "two lines to compare; the block below runs the second",
    ("docs/tutorial.md", "pip install 'dayfly[cli]'"): INDEX,
    ("docs/tutorial.md", "pip install 'dayfly[server]'"): INDEX,
    ("docs/tutorial.md", "python3 -m venv /opt/dayfly"): "it changes the machine; tests/server/test_deploy.py compares it with the unit",
}
FAILS = {
    "dayfly run --memory-mb 50 -c 'x = [bytearray": 137,
    "dayfly run --timeout-ms 500 -c 'while True": 124,
    "dayfly run --image no/such": 125,
    "dayfly run --docker-host unix:///nowhere": 125,
    "dayfly run --runtime nope": 125,
    "dayfly run --preload no_such": 125,
}
"""Commands that end with another status than 0, each by its beginning."""


def alike(shown: str, printed: str) -> bool:
    """Whether `printed` is what a page shows, apart from blanks at the ends of lines."""
    printed = "\n".join(line.rstrip() for line in printed.splitlines())
    pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", shown.strip()))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def pages_with(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


def not_run() -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language not in ("python", "console", "json", "text")]


def test_the_comparison_can_fail() -> None:
    assert alike("a … c\n", "a b c")
    assert not alike("a … c\n", "a b d")
    assert not alike("42", "420")
    assert len(pages_with("python")) > 5
    assert len(pages_with("console")) > 2


def test_every_block_is_run_or_it_is_said_why_not() -> None:
    found = [(block.page, block.first) for block in not_run()]
    told = {key: [one for one in found if one[0] == key[0] and one[1].startswith(key[1])] for key in ELSEWHERE}
    assert {key: ones for key, ones in told.items() if len(ones) != 1} == {}
    assert set(found) - {one for ones in told.values() for one in ones} == set()


@functools.cache
def options(*command: str) -> set[str]:
    """Return the options that a command of dayfly has."""
    shown = subprocess.run(
        [sys.executable, "-m", "dayfly", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "300"},
    ).stdout
    return set(re.findall(r"--[\w-]+", shown))


@pytest.mark.parametrize("block", not_run(), ids=lambda block: f"{block.page}: {block.first[:30]}")
def test_what_is_not_run_could_be(block: Block, tmp_path: Path) -> None:
    if block.language == "py":
        compile(block.code, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return
    assert block.language == "sh"
    subprocess.run(["bash", "-n", "-c", block.code], check=True)
    for line in block.code.replace("\\\n", " ").splitlines():
        if not line.startswith("dayfly "):
            continue
        words = shlex.split(line.rstrip("&"), comments=True)
        if words[:2] == ["dayfly", "serve"]:
            check = [] if words[2] == "key" else ["--check-config"]
            if check and not (tmp_path / "keys").exists():
                (tmp_path / "keys").write_text(f"me=sha256:{'0' * 64}\n")
            subprocess.run([sys.executable, "-m", *words, *check], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
        else:
            command = words[1 : 3 if words[1] == "image" else 2]
            assert {word for word in words if word.startswith("--")} <= options(*command), line


@pytest.mark.parametrize("page", pages_with("json"))
def test_json_is_valid_and_names_a_command_that_exists(page: str) -> None:
    for block in blocks(page, "json"):
        for server in next(iter(json.loads(block.code).values())).values():
            if "url" not in server:
                assert Path(server["command"]).name == "dayfly"
                assert {word for word in server["args"] if word.startswith("--")} <= options(server["args"][0])


@pytest.mark.parametrize("page", pages_with("python"))
def test_python_examples_print_what_is_shown(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        printed = run(block.code, names, page)
        if block.printed:
            assert alike(block.printed, printed), f"{page} shows\n{block.printed}\nand this was printed:\n{printed}"


@pytest.fixture
def bash(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    yield shell
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGTERM)
    shell.communicate(timeout=60)


@pytest.mark.parametrize("page", pages_with("console"))
def test_commands_print_what_is_shown(page: str, bash: subprocess.Popen[str]) -> None:
    assert bash.stdin
    assert bash.stdout
    for block in blocks(page, "console"):
        first, *steps = re.split(r"^\$ ", block.code, flags=re.MULTILINE)
        assert first == "", f"{page}: a block begins with a line that is not a command: {first}"
        for step in steps:
            command, _, shown = step.partition("\n")
            bash.stdin.write(f'{command}\nstatus=$?; echo; echo "--- end $status"; (exit $status)\n')
            bash.stdin.flush()
            lines = []
            while not (line := bash.stdout.readline()).startswith("--- end "):
                assert line, f"{page}: bash has ended at {command}"
                lines.append(line)
            printed = "".join(lines)
            assert alike(shown, printed), f"{page}: {command}\nshows\n{shown}\nand this was printed:\n{printed}"
            expected = next((status for begin, status in FAILS.items() if command.startswith(begin)), 0)
            assert int(line.split()[-1]) == expected, f"{page}: {command}\nends with status {line.split()[-1]}"
