"""Runtimes: the one that was asked for and no other, and the word of none believed before its first
container has shown what it is.

The runtimes here that are broken, or weaken what they are given, belong to a daemon of the test's
own, where the users of the containers are mapped as well (userns-remap).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly import EngineError, EngineRefused, Outcome, Sandbox, StartFailed

from ..attacks.conftest import RUNTIMES
from ..conftest import Engine
from ..faults.conftest import Oracle
from ..faults.daemon import Daemon

WEAKENING = """#!/usr/bin/python3
# A runtime that removes a restriction from the container it is asked to make, and then is runc.
import json, os, sys
if "create" in sys.argv:
    path = sys.argv[sys.argv.index("--bundle") + 1] + "/config.json"
    with open(path) as file:
        config = json.load(file)
    {change}
    with open(path, "w") as file:
        json.dump(config, file)
os.execvp("runc", ["runc", *sys.argv[1:]])
"""
CHANGES = {
    "unfiltered": ("config['linux'].pop('seccomp')", "seccomp is 0"),
    "capable": (
        "config['process']['capabilities'] = dict.fromkeys(('bounding', 'permitted', 'effective'), ['CAP_SYS_ADMIN'])",
        "cap_bnd is",
    ),
    "privileged": ("config['process']['noNewPrivileges'] = False", "no_new_privs is 0"),
    "rooted": ("config['process']['user'] = dict(uid=0, gid=0)", "uid is 0"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtimes")
    for name, (change, _) in CHANGES.items():
        (folder / name).write_text(WEAKENING.format(change=change))
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def daemon(folder: Path, docker_host: str, image: str) -> Iterator[Daemon]:
    """A daemon that maps the users of its containers, and has runtimes of all sorts."""
    known = Path("/etc/passwd").read_text()
    daemon = Daemon()
    for part in (daemon._folder, daemon._socket_folder):
        part.chmod(0o711)  # else the mapped root could not get to its own files
    runtimes = {"broken": "/bin/false", "missing": "/no/such/runtime", "deaf": "/bin/true", **{name: folder / name for name in CHANGES}}
    try:
        daemon.start("--userns-remap=default", *(f"--add-runtime={name}={path}" for name, path in runtimes.items()))
        daemon.load(Oracle(docker_host.removeprefix("unix://")), image)
        yield daemon
    finally:
        daemon.close()
        if "dockremap:" not in known:  # the daemon makes this user where there is none
            subprocess.run(["userdel", "dockremap"], check=False)


@pytest.mark.parametrize("name", ["broken", "missing", "deaf"])
def test_a_runtime_that_does_not_run_is_start_failed(daemon: Daemon, image: str, name: str) -> None:
    with pytest.raises(StartFailed, match=r"could not be started|ended before its runner was ready") as caught:
        Sandbox(docker_host=daemon.address, image=image, runtime=name).initialize()
    assert not caught.value.delivered
    assert daemon.oracle.containers() == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_runtime_that_weakens_the_container_is_found_out(daemon: Daemon, image: str, name: str) -> None:
    with pytest.raises(StartFailed, match=CHANGES[name][1]):
        Sandbox(docker_host=daemon.address, image=image, runtime=name).initialize()
    assert daemon.oracle.containers() == []


def test_users_that_the_daemon_maps(daemon: Daemon, image: str) -> None:
    with Sandbox(docker_host=daemon.address, image=image) as sandbox:
        (warm,) = daemon.oracle.containers()
        status, container = daemon.oracle.call("GET", f"/containers/{warm['Id']}/json")
        outside = Path(f"/proc/{container['State']['Pid']}").stat().st_uid
        result = sandbox.run("import os\nprint(os.getuid(), open('/proc/self/uid_map').read())")
    assert result.outcome is Outcome.OK
    uid, first, begin, size = map(int, result.stdout.split())
    assert first == 0 < uid < size <= begin
    # A process that cannot be dumped belongs to the root of its user namespace.
    assert status == 200 and begin <= outside < begin + size


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_runtime_is_the_one_that_was_asked_for(engine: Engine, runtime: str) -> None:
    with Sandbox(runtime=runtime) as sandbox:
        (mine,) = engine.containers(os.getpid())
        status, container = engine.call("GET", f"/containers/{mine['Id']}/json")
        assert (status, container["HostConfig"]["Runtime"]) == (200, runtime)
        assert sandbox.run("print(1)").stdout == "1\n"


def test_a_missing_runtime_is_named_with_those_there_are() -> None:
    with pytest.raises(EngineError, match=r"no runtime 'nope'; it has .*runc") as caught:
        Sandbox(runtime="nope").initialize()
    assert not isinstance(caught.value, EngineRefused)
