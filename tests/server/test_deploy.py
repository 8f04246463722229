"""The examples for running it: what they say to the server is what the server understands."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import yaml

from dayfly._server.config import load, settings

from .. import documents

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


def flags_of(command: str) -> dict[str, str]:
    words = shlex.split(command)
    words = words[words.index("serve") + 1 :]
    return {
        flag.removeprefix("--").replace("-", "_"): value
        for flag, value in zip(words[::2], words[1::2], strict=False)
        if flag.startswith("--")
    }


def test_the_configuration_is_accepted() -> None:
    config = load(str(DEPLOY / "server.toml"), {}, {})
    assert config.loopback
    assert config.keys_file == "/etc/dayfly/keys"


def test_the_unit_has_time_to_stop_and_few_rights() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "dayfly.service")
    service = unit["Service"]
    assert (service["User"], service["SupplementaryGroups"], service["NoNewPrivileges"]) == ("dayfly", "docker", "yes")
    assert int(service["TimeoutStopSec"]) > load(str(DEPLOY / "server.toml"), {}, {}).drain_seconds + 15
    assert flags_of(service["ExecStart"]) == {"config": "/etc/dayfly/server.toml"}
    assert service["ExecStartPre"].endswith("--check-config")
    # Its home is closed to it, so the engine must be named.
    assert (service["ProtectHome"], service["Environment"]) == ("yes", "DOCKER_HOST=unix:///var/run/docker.sock")


def test_the_tutorial_installs_the_unit_as_the_unit_says() -> None:
    said = re.findall(r"^#   (\S.*)$", (DEPLOY / "dayfly.service").read_text(), re.MULTILINE)
    steps = documents.block("docs/tutorial.md", "python3 -m venv /opt/dayfly").splitlines()
    assert len(said) == 7
    for line in said[1:]:  # the first installs mmdebstrap, which the tutorial has told before
        wanted = line.replace("/path/to/this/checkout[server]", "dayfly[server]").replace(
            "systemctl enable", "systemctl daemon-reload && systemctl enable"
        )
        assert wanted in steps


def test_the_compose_file_asks_for_flags_that_there_are() -> None:
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["dayfly"]
    flags = flags_of(service["command"])
    assert set(flags) <= {setting.name for setting in settings()}
    config = load(None, {}, flags)  # not refused for listening without a key
    assert not config.loopback
    assert service["ports"] == [f"127.0.0.1:{config.port}:{config.port}"]
    assert "/var/run/docker.sock:/var/run/docker.sock" in service["volumes"]
    assert int(service["stop_grace_period"].rstrip("s")) > config.drain_seconds + 15
