"""The watchdog's process: with which interpreter it is started, what it is told, and that it never
harms its host."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dayfly import _watchdog as watchdog
from dayfly import _watchdog_process as watchdog_process
from dayfly._endpoint import Endpoint
from dayfly._watchdog import PYTHON, Watchdog, interpreter

NOWHERE = Endpoint(address="unix:///nowhere", socket="/nowhere")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON, raising=False)


# The interpreter.


def test_the_interpreter_is_this_one() -> None:
    assert interpreter() == sys.executable


def test_a_frozen_application_has_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert interpreter() is None


APPLICATIONS = ["app", "python_editor", "pythonista", "python3-editor", "pypyserver", "python.sh", "my-python"]


@pytest.mark.parametrize("executable", ["/usr/sbin/uwsgi", *APPLICATIONS, "", None])
def test_an_application_is_never_taken_for_an_interpreter(executable: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if executable in APPLICATIONS:
        executable = str(tmp_path / executable)
        Path(executable).write_text("#!/bin/sh\n")
        Path(executable).chmod(0o755)
    monkeypatch.setattr(sys, "executable", executable)
    found = interpreter()
    assert found is not None
    assert Path(found).name == f"python{sys.version_info[0]}.{sys.version_info[1]}"
    asked = [found, "-c", "import sys; print(*sys.version_info[:2])"]
    assert subprocess.check_output(asked, text=True).split() == [str(number) for number in sys.version_info[:2]]


NAMES = ["python", "python3", "python3.14", "python3.13t", "python3.12d", "Python", "pypy3.11", "pypy", "python3.11-dbg"]


@pytest.mark.parametrize("name", NAMES)
def test_an_interpreter_is_known_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(tmp_path / name))
    assert interpreter() == str(tmp_path / name)


def test_where_no_interpreter_is_found_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/sbin/uwsgi")
    monkeypatch.setattr(sys, "exec_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "base_exec_prefix", str(tmp_path))
    assert interpreter() is None


@pytest.mark.parametrize("frozen", [True, False])
def test_the_variable_names_the_interpreter(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    monkeypatch.setenv(PYTHON, "/opt/python")
    assert interpreter() == "/opt/python"


async def test_without_an_interpreter_it_says_what_is_lost(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(watchdog, "interpreter", lambda: None)
    monkeypatch.setattr(subprocess, "Popen", None)
    dog = Watchdog(NOWHERE, "x")
    await dog.done()
    dog.go_on()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dayfly.watchdog", logging.WARNING)
    assert PYTHON in record.message and "no watchdog" in record.message


async def test_an_interpreter_that_cannot_be_started_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(PYTHON, "/nonexistent/python")
    dog = Watchdog(NOWHERE, "x")
    await dog.done()
    assert "cannot be started" in caplog.text


# Its process.


async def test_it_ends_when_all_is_done() -> None:
    dog = Watchdog(NOWHERE, "x")
    assert dog._process is not None
    await dog.done()
    assert dog._process.poll() == 0
    await dog.done()


def end_of(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


async def test_a_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "EXIT_WITHIN", 0.2)
    dog = Watchdog(NOWHERE, "x")
    assert dog._process is not None
    os.kill(dog._process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    await dog.done()
    assert time.monotonic() - begun < 5
    assert end_of(dog._process.pid) == signal.SIGKILL


async def test_a_dead_process_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    dog = Watchdog(NOWHERE, "x")
    assert dog._process is not None
    dog._process.kill()
    dog._process.wait()
    await dog.done()
    assert "does not listen" in caplog.text


def test_the_default_action_of_sigpipe_does_not_kill() -> None:
    program = """
    import anyio, signal
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    from dayfly._endpoint import Endpoint
    from dayfly._watchdog import Watchdog
    dog = Watchdog(Endpoint(address="x"), "x")
    dog._process.kill()
    dog._process.wait()
    anyio.run(dog.done)
    print("alive")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("alive\n", 0), done.stderr


async def test_a_full_buffer_never_blocks(caplog: pytest.LogCaptureFixture) -> None:
    dog = Watchdog(NOWHERE, "x")
    assert dog._process is not None
    os.kill(dog._process.pid, signal.SIGSTOP)
    begun = time.monotonic()
    dog._say(b"x" * 20_000_000)
    assert time.monotonic() - begun < 5
    assert "does not listen" in caplog.text
    process = dog._process
    os.kill(process.pid, signal.SIGCONT)
    await dog.done()


@pytest.mark.parametrize("endpoint", [
    Endpoint(address="unix://docker.sock", socket="/run/docker.sock"),
    Endpoint(address="tcp://engine.example:2376", host="engine.example", port=2376, tls="/home/me/tls", tls_verify=False),
    Endpoint(address="https://engine", host="engine", port=2376, tls=""),
])  # fmt: skip
def test_it_is_told_the_resolved_endpoint(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[bytes] = []
    monkeypatch.setattr(Watchdog, "_say", lambda _, what: said.append(what))
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", ["", "relative", *sys.path])
    dog = Watchdog(endpoint, "the instance")
    line, _, rest = said[0].partition(b"\n")
    instance, where, path = json.loads(line)
    assert (instance, rest) == ("the instance", b"")
    assert msgspec.convert(where, Endpoint) == endpoint
    assert path[:2] == ["/", "/relative"]
    assert all(os.path.isabs(folder) for folder in path)  # noqa: PTH117
    assert dog._socket is not None and dog._process is not None
    dog._close(b"")
    assert dog._process.wait(10) == 0


@pytest.mark.parametrize(("received", "removes"), [
    (b"", False), (b'["one", {}, []]\n.', False), (b'["one", {"address": "x"}, []]\n', True),
])  # fmt: skip
def test_it_removes_only_when_its_host_died(received: bytes, removes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    reader, writer = os.pipe()
    os.write(writer, received)
    os.close(writer)
    read = os.read
    monkeypatch.setattr(os, "read", lambda _, size: read(reader, size))
    monkeypatch.setattr(watchdog_process, "remove_all", lambda *given: calls.append(given))
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        watchdog_process.main()
    finally:
        os.close(reader)
    assert calls == ([("one", {"address": "x"})] if removes else [])
