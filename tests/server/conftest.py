"""Server processes as a user starts them, over real sockets on loopback and with the real engine.

A server says its address in its log, so each takes a free port; all that it logs is kept and can be
looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import Engine

SECONDS = 40.0
"""How long a test waits for what must come at last."""


class Server:
    """One `dayfly serve`."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("DAYFLY_")}
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dayfly", "serve", "--port", "0", *arguments],
            env={**own, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Every line of the log; each must be JSON."""
        return [json.loads(line) for line in list(self.lines)]

    @property
    def url(self) -> str:
        return str(wait_for(lambda: next((entry["url"] for entry in self.log if entry["event"] == "listening"), None), self))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=SECONDS, trust_env=False, verify=False, **options)

    def ready(self) -> Server:
        with self.client() as client:
            wait_for(lambda: client.get("/readyz").status_code == 200 or None, self)
        return self

    def metric(self, name: str, **headers: str) -> float:
        """The sum of a metric's series."""
        with self.client(headers=headers) as client:
            text = client.get("/metrics").raise_for_status().text
        values = [float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        assert values, f"no {name} in\n{text}"
        return sum(values)

    def lose_containers(self, engine: Engine) -> None:
        """Remove all of its containers behind its back."""
        for row in engine.containers(self.process.pid):
            engine.call("DELETE", f"/containers/{row['Id']}", force="1")

    def warm(self) -> None:
        """Wait until a container is warm, which the next test
        expects of the server."""
        wait_for(lambda: self.metric('dayfly_containers{state="warm"}') or None, self)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()


def wait_for(fact: Callable[[], Any], server: Server | None = None) -> Any:
    """Return the first value of `fact` that is not None."""
    deadline = time.monotonic() + SECONDS
    while (value := fact()) is None:
        if server is not None and server.process.poll() is not None:
            pytest.fail(f"the server ended with {server.process.returncode}:\n{''.join(server.lines)}")
        if time.monotonic() > deadline:
            pytest.fail(f"waited for {SECONDS:g} s in vain; the log:\n{''.join(server.lines if server else [])}")
        time.sleep(0.03)
    return value


NewServer = Callable[..., Server]


@contextlib.contextmanager
def servers(image: str) -> Iterator[NewServer]:
    made: list[Server] = []

    def new(*arguments: str, environment: dict[str, str] | None = None) -> Server:
        server = Server("--image", image, *arguments, environment=environment)
        made.append(server)
        return server

    try:
        yield new
    finally:
        for server in made:
            server.stop()
    for server in made:
        assert [entry for entry in server.log if "nobody foresaw" in entry["event"] or "exception" in entry] == []


@pytest.fixture
def serve(image: str) -> Iterator[NewServer]:
    """Starts servers, and stops them at the end of the test."""
    with servers(image) as new:
        yield new


@pytest.fixture(scope="module")
def shared(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one container warm, a page and no key, for all tests of a file."""
    with servers(image) as new:
        yield new("--pool-size", "1", "--playground", "--rate-per-minute", "0", "--max-timeout-ms", "20000").ready()


@pytest.fixture(autouse=True)
def _settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a test leave the shared server with a warm container, which the next test
    expects of it."""
    shared = request.getfixturevalue("shared") if "shared" in request.fixturenames else None
    yield
    if shared is not None:
        wait_for(lambda: shared.metric('dayfly_containers{state="warm"}') or None, shared)


@pytest.fixture
def client(shared: Server) -> Iterator[httpx.Client]:
    with shared.client() as client:
        yield client


def key_new(name: str, file: Path) -> str:
    """Make a key with the real command."""
    command = [sys.executable, "-m", "dayfly", "serve", "key", "new", name, "--file", str(file)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
