"""What the tests share: the engine, the images, and the check that nothing is left behind.

The engine is real, and it is looked at here by raw HTTP over its socket, not through dayfly: what
dayfly says of itself is what is tested. A missing engine or image is a failure, not a skip.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, settings

from dayfly import __version__

ON_THE_ENGINE = frozenset({"adapters", "engine", "attacks", "faults", "server"})
"""Folders of tests after which no container may be left."""
GONE_WITHIN = 10.0
"""Seconds. The engine takes a third of one to remove a container on an idle machine."""

# A property is tested for what it says, not for how fast it can be shown, nor by luck: the same
# examples each time, so that a change fails for what it changed. New ones are looked for by
# `make fuzz`.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("steady"), derandomize=False, max_examples=3_000)
settings.load_profile(os.environ.get("DAYFLY_TEST_EXAMPLES", "steady"))


# A shell that starts a job in the background has it ignore SIGINT, and so would every process that
# a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if what is inside took longer, on the clock."""
    begun = time.monotonic()
    yield
    taken = time.monotonic() - begun
    assert taken < seconds, f"it took {taken:.1f} s"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Note which tests were skipped, for what `make test` says at its end."""
    if name := os.environ.get("DAYFLY_TEST_LEFT_OUT"):
        skipped = terminalreporter.getreports("skipped")
        reasons = [f"{report.nodeid}: {report.longrepr[2].removeprefix('Skipped: ')}\n" for report in skipped]
        with Path(name).open("a", encoding="utf-8") as file:
            file.writelines(reasons)


class Engine:
    """The Docker Engine at a Unix socket, as it is."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(self, method: str, path: str, **query: Any) -> tuple[int, Any]:
        """Return the status and the answer, decoded where it is JSON. A query value that is not a
        str is sent as JSON."""
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        with contextlib.closing(connection):
            connection.sock.connect(self.path)
            encoded = urlencode({name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()})
            connection.request(method, f"{path}?{encoded}")
            response = connection.getresponse()
            body = response.read()
        try:
            return response.status, json.loads(body)
        except ValueError:
            return response.status, body

    def containers(self, pid: int | None = None) -> list[dict[str, Any]]:
        """Every container, in any state, that dayfly made; or that one process made with it. Others
        may use the engine too."""
        labels = ["dayfly.instance", *([] if pid is None else [f"dayfly.pid={pid}"])]
        status, rows = self.call("GET", "/containers/json", all="1", filters={"label": labels})
        assert status == 200, rows
        # 20.10 may go on listing what it has removed if the kernel had killed that at its
        # memory limit; it says itself that there is no such container.
        return [row for row in rows if row["State"] != "removing" or self.call("GET", f"/containers/{row['Id']}/json")[0] != 404]


@pytest.fixture(scope="session")
def docker_host() -> str:
    """The engine's address, `unix:///path`."""
    candidates = [os.environ.get("DOCKER_HOST", ""), "unix:///var/run/docker.sock", f"unix:///run/user/{os.getuid()}/docker.sock"]
    for address in filter(None, candidates):
        if address.startswith("unix://") and Path(address.removeprefix("unix://")).is_socket():
            return address
    pytest.fail(f"no Docker Engine at any of {', '.join(filter(None, candidates))}: run  make setup")


@pytest.fixture(scope="session")
def engine(docker_host: str) -> Engine:
    return Engine(docker_host.removeprefix("unix://"))


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The id of the default image."""
    return _image(engine, f"dayfly/python:{__version__}", "make setup")


@pytest.fixture(scope="session")
def image_python2(engine: Engine) -> str:
    """The id of the image that has Python 2.7 as well."""
    return _image(engine, f"dayfly/python2:{__version__}", "dayfly image build --python2")


def _image(engine: Engine, name: str, command: str) -> str:
    status, answer = engine.call("GET", f"/images/{name}/json")
    if status != 200:
        pytest.fail(f"the image {name} is missing: run  {command}")
    return str(answer["Id"])


@pytest.fixture(scope="session", autouse=True)
def _no_process_outlives_the_tests() -> Iterator[None]:
    """An engine that is made to hang or vanish keeps a sandbox's watch process waiting for it:
    those are ended here."""
    mark = f"DAYFLY_TEST_RUN={os.getpid()}.{time.time_ns()}"
    name, _, value = mark.partition("=")
    os.environ[name] = value
    yield
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes() and b"watchdog_process.py" in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


@pytest.fixture(scope="module", autouse=True)
def _nothing_left_by_the_module(request: pytest.FixtureRequest) -> Iterator[set[str]]:
    yield from _nothing_left(request, set())


@pytest.fixture(autouse=True)
def _nothing_left_by_the_test(request: pytest.FixtureRequest, _nothing_left_by_the_module: set[str]) -> Iterator[set[str]]:
    yield from _nothing_left(request, _nothing_left_by_the_module)


def _nothing_left(request: pytest.FixtureRequest, before: set[str]) -> Iterator[set[str]]:
    """Fail if containers are left of sandboxes that were not there before.

    A sandbox of a wider scope goes on making containers, and may have none when the test begins: a
    module hands the set of those that were seen from one of its tests to the next.
    """
    if not ON_THE_ENGINE.intersection(request.path.parts):
        yield before
        return
    engine: Engine = request.getfixturevalue("engine")
    before |= {row["Labels"]["dayfly.instance"] for row in engine.containers()}
    yield set(before)
    deadline = time.monotonic() + GONE_WITHIN
    while left := [row for row in engine.containers() if row["Labels"]["dayfly.instance"] not in before and is_ours(row)]:
        if time.monotonic() > deadline:
            shown = [f"{row['Names'][0]} ({row['State']}, process {row['Labels'].get('dayfly.pid')})" for row in left]
            for row in left:
                engine.call("DELETE", f"/containers/{row['Id']}", force="1", v="1")
            pytest.fail(f"left behind {GONE_WITHIN:g} s after the test: {', '.join(shown)}")
        time.sleep(0.05)


def is_ours(row: dict[str, Any]) -> bool:
    """Whether this test run made the container, in this process or a living child of it; others may
    use the engine too.

    A test that kills a process looks after its containers by itself.
    """
    pid = row["Labels"].get("dayfly.pid", "")
    while pid not in ("", "0", str(os.getpid())):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        pid = stat.rpartition(")")[2].split()[1]  # the parent's
    return str(pid) == str(os.getpid())
