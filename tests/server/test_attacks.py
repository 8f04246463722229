"""What clients did to the server, and do no more: each attack against a real server process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from dayfly._endpoint import resolve
from dayfly._server.config import Config
from dayfly._server.service import Service
from dayfly._server.tracing import Tracing

from ..conftest import Engine
from .conftest import NewServer, Server, key_new, wait_for
from .test_api import problem
from .test_http import AS_JSON, answer_to


def memory(server: Server) -> tuple[int, int]:
    """Resident memory now and at its peak, in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return int(fields["VmRSS"].split()[0]) * 1_024, int(fields["VmHWM"].split()[0]) * 1_024


def processor(server: Server) -> float:
    """Seconds of processor time that the server has used."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def flood(port: int, count: int, say: bytes = b"") -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            made.append(connection)
            with contextlib.suppress(OSError):
                connection.sendall(say)
        yield made
    finally:
        for connection in made:
            connection.close()


# S1: descriptors, connections, tasks that keep the server alive, the log.


def in_a_shell(image: str, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A server under `ulimit -n 1024`, which no child can raise."""
    command = [sys.executable, "-m", "dayfly", "serve", "--image", image, *arguments]
    own = {k: v for k, v in os.environ.items() if not k.startswith("DAYFLY_")}
    with log.open("wb") as stream:
        return subprocess.Popen(
            ["sh", "-c", 'ulimit -n 1024; exec "$@"', "sh", *command], env=own, stderr=stream, stdout=subprocess.DEVNULL
        )


def test_idle_connections_keep_nobody_out(image: str, tmp_path: Path) -> None:
    keys, log = tmp_path / "keys", tmp_path / "log"
    key = key_new("alice", keys)
    process = in_a_shell(image, log, "--port", "0", "--pool-size", "1", "--keys-file", str(keys))
    try:

        def listening() -> str | None:
            found = re.search(rb'"url": "([^"]+)"', log.read_bytes())
            return found[1].decode() if found else None

        url = wait_for(listening)
        with httpx.Client(base_url=url, timeout=15, trust_env=False, headers={"X-API-Key": key}) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200 or None)
        with flood(int(url.rpartition(":")[2]), 1_100):
            begun = time.monotonic()
            with httpx.Client(base_url=url, timeout=15, trust_env=False, headers={"X-API-Key": key}) as client:
                assert client.post("/v1/run", json={"code": "print(1)"}).json()["stdout"] == "1\n"
            assert time.monotonic() - begun < 5
            time.sleep(3)
        begun = time.monotonic()
        with httpx.Client(base_url=url, timeout=15, trust_env=False, headers={"X-API-Key": key}) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200 or None)
        assert time.monotonic() - begun < 5
        assert log.stat().st_size < 100_000
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("text", ["{", '{"currentContext": 5', "\x00"])
def test_a_half_written_docker_config_is_survived(serve: NewServer, engine: Engine, tmp_path: Path, text: str) -> None:
    context = tmp_path / ".docker" / "contexts" / "meta" / hashlib.sha256(b"own").hexdigest() / "meta.json"
    context.parent.mkdir(parents=True)
    context.write_text(json.dumps({"Endpoints": {"docker": {"Host": f"unix://{engine.path}"}}}))
    config = tmp_path / ".docker" / "config.json"
    config.write_text('{"currentContext": "own"}')
    server = serve("--pool-size", "1", environment={"HOME": str(tmp_path), "DOCKER_HOST": "", "DOCKER_CONFIG": ""}).ready()
    config.write_text(text)
    time.sleep(5)  # two looks at the engine
    with server.client() as client:
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/run", json={"code": "print(1)"}).json()["stdout"] == "1\n"
    assert server.stop() == 0


def test_any_exception_while_starting_is_tried_again() -> None:
    code = """
import asyncio
import logging
from dayfly._endpoint import resolve
from dayfly._server import config, service
from dayfly._server.tracing import Tracing

tries = []

class Broken:
    async def initialize(self):
        tries.append(1)
        raise MemoryError("none left") if len(tries) % 2 else KeyError("x")

def sandbox(*_):
    if len(tries) == 3:
        tries.append(1)
        raise OSError(24, "Too many open files")
    return Broken()

logging.basicConfig()

async def main():
    settings = config.Config()
    config.Config.sandbox = sandbox
    service.FIRST_PAUSE = 0.001
    service.LONGEST_PAUSE = 0.01
    dead = lambda: print("dead")
    one = service.Service(settings, Tracing(wanted=False), resolve("unix:///x"), on_death=dead)
    one.start()
    while len(tries) < 8:
        await asyncio.sleep(0.01)
    print(one.not_ready.partition(":")[0])
    await one.stop()

asyncio.run(asyncio.wait_for(main(), 30))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "the sandbox cannot be started\n"
    for name in ("MemoryError", "KeyError", "OSError"):
        assert f"\n{name}: " in done.stderr  # each with its traceback


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stop_is_not_lost_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        async def initialize(self) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                raise AttributeError("in place of the cancellation") from None

    monkeypatch.setattr(Config, "sandbox", lambda *_: Broken())
    one = Service(Config(), Tracing(wanted=False), resolve("unix:///x"))
    one.start()
    await asyncio.sleep(0.05)
    await asyncio.wait_for(one.stop(), 5)


def test_a_dead_keep_up_task_ends_the_process(image: str) -> None:
    code = (
        "import asyncio, sys\n"
        "from dayfly._server import service\n"
        "async def dies(self):\n"
        "    await asyncio.sleep(1)\n"
        "    raise RuntimeError('a bug')\n"
        "service.Service._keep_up = dies\n"
        "sys.argv[1:] = ['serve', '--port', '0']\n"
        "from dayfly._cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "a bug" in done.stderr
    assert "so does the server" in done.stderr


def test_strangers_cannot_fill_the_log(serve: NewServer, tmp_path: Path) -> None:
    key = key_new("alice", tmp_path / "keys")
    server = serve("--pool-size", "1", "--keys-file", str(tmp_path / "keys")).ready()
    junk = [
        b"nonsense\r\n\r\n",
        b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 10_000),
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ]
    before = sum(map(len, server.lines))
    for turn in range(40):
        with flood(server.port, 30, junk[turn % 3]):
            pass
    with server.client() as client:
        for _ in range(300):
            problem(client.post("/v1/run", json={"code": "1"}), 403, "key")
    assert sum(map(len, server.lines)) - before < 150_000
    with server.client(headers={"X-API-Key": key}) as client:  # others' lines are all there
        ids = [client.get("/metrics").headers["x-request-id"] for _ in range(50)]
    wait_for(lambda: set(ids) <= {entry.get("request_id") for entry in server.log} or None, server)


def test_those_let_in_without_a_key_cannot_fill_the_log(serve: NewServer, tmp_path: Path) -> None:
    key = key_new("alice", tmp_path / "keys")
    server = serve("--run-code", "--run-code-without-key", "--pool-size", "1", "--keys-file", str(tmp_path / "keys")).ready()
    count = 500
    with server.client() as client:
        for _ in range(count):
            assert client.post("/run_code", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    with server.client(headers={"X-API-Key": key}) as client:
        last = client.get("/metrics").headers["x-request-id"]
    wait_for(lambda: last in [entry.get("request_id") for entry in server.log] or None, server)
    lines = [entry for entry in server.log if entry.get("path") == "/run_code"]
    assert 0 < len(lines) < count / 2
    assert any(entry.get("lines_left_out") for entry in lines)


def test_heads_are_bounded(serve: NewServer) -> None:
    server = serve("--pool-size", "1").ready()
    before = memory(server)[1]
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    for request in (
        line + b"".join(b"a%d: b\r\n" % number for number in range(200)) + b"\r\n",
        line + b"x: " + b"a" * 100_000 + b"\r\n\r\n",
        line + b"a:b\r\n" * 400_000,
        b"GET /" + b"a" * 20_000_000,
    ):
        answer = b""
        with contextlib.suppress(OSError):
            answer = answer_to(server, request, seconds=3)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert memory(server)[1] - before < 10_000_000
    assert answer_to(server, line + b"Connection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


# S2: bodies.


def test_bodies_cost_little_more_than_their_size(serve: NewServer) -> None:
    server = serve("--pool-size", "1").ready()
    body = b'{"code":"import time; time.sleep(1)","data":[' + b"{}," * 1_300_000 + b"0]}"
    before = memory(server)[0]
    worst = 0.0
    with server.client() as client, ThreadPoolExecutor(5) as threads:
        sent = [threads.submit(client.post, "/v1/run", content=body, headers=AS_JSON) for _ in range(5)]
        while not all(one.done() for one in sent):
            begun = time.monotonic()
            assert client.get("/healthz").status_code == 200
            worst = max(worst, time.monotonic() - begun)
            time.sleep(0.02)
        assert {one.result().status_code for one in sent} == {200}
    # Five bodies of 3.9 MB: each is there as text, as data, and as a frame for the runner.
    assert memory(server)[1] - before < 150_000_000
    assert worst < 2


MANY = b"{}," * 3_300_000 + b"{}"
SHAPES = {
    "/compile": b'{"code":"1","x":[%b]}',
    "/v1/run": b'{"code":"1","args":[%b]}',
    "/v1/run/stream": b'{"code":"1","fetch":[%b]}',
    "/v1/judge": b'{"code":"1","cases":{"cases":[%b]}}',
    "/v1/judge/stream": b'{"code":"1","cases":{"cases":[%b]}}',
    "/v1/cases": b'{"cases":[%b]}',
    "/run_code": b'{"code":"1","files":[%b]}',
    "/api/v2/execute": b'{"language":"python","version":"*","files":[%b]}',
    "/mcp": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"run_python","arguments":{"code":[%b]}}}',
}


@pytest.fixture(scope="module")
def all_routes(image: str) -> Iterator[Server]:
    from .conftest import servers

    with servers(image) as new:
        yield new("--run-code", "--piston", "--mcp", "--pool-size", "1", "--rate-per-minute", "0").ready()


@pytest.mark.parametrize("route", SHAPES)
def test_no_route_builds_what_a_body_of_ten_megabytes_says(all_routes: Server, route: str) -> None:
    with all_routes.client() as client:
        assert client.post(route, content=b"{}", headers=AS_JSON).status_code in (400, 404, 422)
        before = memory(all_routes)[1]
        answer = client.post(route, content=SHAPES[route] % MANY, headers=AS_JSON)
        assert (answer.status_code == 200) == (route == "/compile"), answer.text  # which skips what it does not know
        # Its text some times over: 400 MB, if each value were built.
        assert memory(all_routes)[1] - before < 60_000_000


def test_what_is_too_large_or_too_much_is_not_read(serve: NewServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = key_new("alice", file)
    file.write_text(file.read_text().strip() + " concurrency=1\n")
    server = serve("--pool-size", "1", "--keys-file", str(file)).ready()

    def first_line(headers: bytes) -> bytes:
        """The answer's first line to a request whose body never comes."""
        head = b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        return answer_to(server, head + headers + b"\r\n", seconds=3).partition(b"\r\n")[0]

    known = b"X-API-Key: " + key.encode() + b"\r\n"
    assert first_line(known + b"Content-Length: 40000000\r\n").startswith(b"HTTP/1.1 413 ")
    assert first_line(b"Content-Length: 100\r\n").startswith(b"HTTP/1.1 403 ")
    with server.client(headers={"X-API-Key": key}) as client, ThreadPoolExecutor(1) as threads:
        running = threads.submit(client.post, "/v1/run", json={"code": "import time; time.sleep(4)"})
        wait_for(lambda: server.metric('dayfly_containers{state="running"}', **{"X-API-Key": key}) or None, server)
        assert first_line(known + b"Content-Length: 100\r\n").startswith(b"HTTP/1.1 429 ")
        running.result()
    assert first_line(known + b"Content-Length: 100\r\n").startswith(b"HTTP/1.1 100 ")


def test_bodies_together_are_bounded(serve: NewServer) -> None:
    sizes = ("--request-bytes", "4000000", "--max-bodies-bytes", "8000000")
    server = serve("--pool-size", "1", "--timeout-ms", "4000", *sizes).ready()
    job = {"code": "import time; time.sleep(2)", "stdin": "x" * 2_500_000}
    with server.client() as client, ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: client.post("/v1/run", json=job), range(3)))
        assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
        problem(next(answer for answer in answers if answer.status_code == 503), 503, "overloaded")
        assert client.post("/v1/run", json={**job, "code": "print(1)"}).json()["stdout"] == "1\n"


# S3: fair turns.


def test_one_key_does_not_starve_another(serve: NewServer, tmp_path: Path) -> None:
    keys = {name: key_new(name, tmp_path / "keys") for name in ("alice", "bob")}
    server = serve("--pool-size", "1", "--max-containers", "2", "--keys-file", str(tmp_path / "keys"), "--max-waiting", "6").ready()
    long = {"code": "import time; time.sleep(6)"}
    with server.client() as client, ThreadPoolExecutor(6) as threads:
        held = [threads.submit(client.post, "/v1/run", json=long, headers={"X-API-Key": keys["alice"]}) for _ in range(6)]
        wait_for(lambda: server.metric("dayfly_queue_length", **{"X-API-Key": keys["alice"]}) >= 5 or None, server)
        for _ in range(3):
            begun = time.monotonic()
            answer = client.post("/v1/run", json={"code": "print(1)"}, headers={"X-API-Key": keys["bob"]})
            assert (answer.status_code, time.monotonic() - begun < 5) == (200, True), answer.text
        statuses = sorted(one.result().status_code for one in held)
    assert statuses[0] == 200
    assert set(statuses) <= {200, 503}


# S4: bodies in crumbs.


def test_a_body_in_crumbs_costs_little(serve: NewServer, tmp_path: Path) -> None:
    key = key_new("alice", tmp_path / "keys")
    server = serve("--pool-size", "1", "--keys-file", str(tmp_path / "keys")).ready()
    head = b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n"
    crumbs = b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"
    time.sleep(1)
    for extra, most in ((b"", 0.3), (b"X-API-Key: " + key.encode() + b"\r\n", 1.0)):
        before = processor(server)
        with contextlib.suppress(OSError):
            answer_to(server, head + extra + b"\r\n" + crumbs)
        assert processor(server) - before < most, extra


# S5, S6, S9.


def test_metrics_do_not_name_other_keys(serve: NewServer, tmp_path: Path) -> None:
    keys = {name: key_new(name, tmp_path / "keys") for name in ("alice", "tenant-b", "tenant-c")}
    server = serve("--pool-size", "1", "--keys-file", str(tmp_path / "keys")).ready()
    with server.client() as client:
        for key in keys.values():
            client.post("/v1/run", json={"code": "1"}, headers={"X-API-Key": key})
        text = client.get("/metrics", headers={"X-API-Key": keys["alice"]}).text
    assert "tenant" not in text
    assert 'dayfly_runs_total{key="alice",outcome="ok"} 1.0' in text
    assert 'dayfly_runs_total{key="others",outcome="ok"} 2.0' in text


@pytest.mark.parametrize(
    ("hop", "status"),
    [
        ("203.0.113.9:4711", 403),
        ("[2001:db8::1]", 403),
        ("[2001:db8::1]:80", 403),
        ("unknown", 403),
        ("_hidden", 403),
        ("10.0.0.1:4711", 200),
        ("10.0.0.1, unknown", 403),
        ("", 403),
    ],
)
def test_a_forwarded_address_never_becomes_the_proxy(proxied: Server, hop: str, status: int) -> None:
    with proxied.client() as client:
        assert client.get("/v1/limits", headers={"x-forwarded-for": hop}).status_code == status


@pytest.fixture(scope="module")
def proxied(image: str) -> Iterator[Server]:
    from .conftest import servers

    with servers(image) as new:
        yield new("--pool-size", "1", "--allowed-networks", "127.0.0.0/8,10.0.0.0/8", "--trusted-proxies", "127.0.0.1").ready()


@pytest.mark.parametrize("mode", [0o666, 0o660, 0o602])
def test_a_keys_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "keys"
    key_new("alice", file)
    file.chmod(mode)
    command = [sys.executable, "-m", "dayfly", "serve"]
    for arguments in (["key", "new", "bob", "--file", str(file)], ["--keys-file", str(file), "--check-config"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"has mode {mode:04o}" in done.stderr
    assert "bob" not in file.read_text()
    link = tmp_path / "link"
    file.chmod(0o600)
    link.symlink_to(file)
    done = subprocess.run([*command, "key", "new", "bob", "--file", str(link)], capture_output=True, text=True, check=False)
    assert (done.returncode, "symbolic link" in done.stderr) == (2, True)


# P1: what a program sends never turns its result into an error.


@pytest.mark.parametrize("depth", [490, 940, 950, 953, 955, 957, 959, 970, 990, 5_000])
def test_a_nested_message_does_not_cost_the_result(client: httpx.Client, depth: int) -> None:
    code = f"import os, struct; b = b'[' * {depth} + b']' * {depth}; os.write(1000, struct.pack('>I', len(b)) + b); print('here')"
    answer = client.post("/v1/run", json={"code": code})
    assert answer.status_code == 200, answer.text
    # Counted, not decoded: the depth is too much for Python's own decoder.
    kept = answer.text.count("[" * depth)
    assert (kept, int(re.search(r'"messagesDropped":(\d+)', answer.text)[1])) in ((1, 0), (0, 1))  # type: ignore[index]
    assert '"stdout":"here\\n"' in answer.text
    streamed = client.post("/v1/run/stream", json={"code": code}).text
    assert "event: result" in streamed


def test_values_of_every_size_come_back(client: httpx.Client) -> None:
    values = [b"9" * 3_000, b"1e400", b"-0", b'"\\ud83d"', b'{"a":1,"a":2}']
    code = f"import os, struct\nfor b in {values}: os.write(1000, struct.pack('>I', len(b)) + b)"
    answer = client.post("/v1/run", json={"code": code})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["messages"]) + answer.json()["messagesDropped"] == 5


# A client that does not read holds its place, and no more memory than its place allows.


def test_a_client_that_does_not_read_holds_its_place(serve: NewServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = key_new("alice", file)
    file.write_text(file.read_text().strip() + " concurrency=1\n")
    server = serve("--pool-size", "1", "--client-seconds", "3", "--keys-file", str(file)).ready()
    job = json.dumps({"code": "import sys; sys.stdout.write('\\0' * 1_000_000)"}).encode()
    head = b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nX-API-Key: %s\r\nContent-Length: %d\r\n\r\n"
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.sendall(head % (key.encode(), len(job)) + job)
        with server.client(headers={"X-API-Key": key}) as client:
            wait_for(lambda: "dayfly_runs_total{" in client.get("/metrics").text or None, server)
            problem(client.post("/v1/run", json={"code": "1"}), 429, "concurrency-exceeded")
            begun = time.monotonic()
            wait_for(lambda: client.post("/v1/run", json={"code": "1"}).status_code == 200 or None, server)
            assert time.monotonic() - begun < 8
