"""`examples/deploy/haproxy.cfg` with the real HAProxy before three servers. What each server was
sent is recorded on the way to it."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from dayfly import ContainerLost, Piece, PoolClosed, SessionLost
from dayfly.judge import Case, Cases, Verdict
from dayfly.remote import RemoteSandbox

from .. import documents
from .conftest import NewServer, Server, servers, wait_for

CONFIG = Path(__file__).parents[2] / "examples" / "deploy" / "haproxy.cfg"
REFUSAL = b'HTTP/1.1 503 x\r\nContent-Type: application/problem+json\r\nContent-Length: 33\r\n\r\n{"type":"/problems/queue-full"}  '


class Wire:
    """A port before one server, which notes the requests that go through, each with the status that
    came back, before the client has it: so what several wires note is in the order of events."""

    def __init__(self, note: Callable[[str, bytes], None]) -> None:
        self.port = 0
        self.upstream = 0
        self.refuse_runs = False
        """Answer runs by a 503, as a server with a full queue does."""
        self.seen: set[str] = set()
        """Marks of the jobs that came here (`job-7`)."""
        self._note = note
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            request = client.recv(65536)
            while (head := request.find(b"\r\n\r\n")) >= 0 and len(request) < head + 4 + _length(request):
                request += client.recv(65536)
            mark = _mark(request)
            if self.refuse_runs and request.startswith(b"POST"):
                self._saw(mark, b"503")
                client.sendall(REFUSAL)
                return
            with socket.create_connection(("127.0.0.1", self.upstream)) as server:
                server.sendall(request)
                back = threading.Thread(target=_gone, args=(client, server), daemon=True)
                back.start()
                status = b""
                try:
                    while data := server.recv(65536):
                        if not status:
                            status = data.split(b" ", 2)[1]
                            self._saw(mark, status)
                        client.sendall(data)
                finally:
                    if not status:
                        self._saw(mark, b"")
                    with contextlib.suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)

    def _saw(self, mark: str, status: bytes) -> None:
        if mark:
            self.seen.add(mark)
            self._note(mark, status)


def _mark(request: bytes) -> str:
    found = re.search(rb"job-\d+", request)
    return found[0].decode() if found else ""


def _length(request: bytes) -> int:
    found = re.search(rb"(?i)content-length: *(\d+)", request)
    return int(found[1]) if found else 0


def _gone(client: socket.socket, server: socket.socket) -> None:
    """A client that hangs up hangs up on the server."""
    with contextlib.suppress(OSError):
        try:
            while client.recv(65536):
                pass
        finally:
            server.shutdown(socket.SHUT_RDWR)


class Site:
    """HAProxy, three servers, and the wires between them."""

    def __init__(self, new: NewServer, folder: Path) -> None:
        self.sent: dict[str, list[bytes]] = {}
        """Statuses of each job in the order of events, one for each time that a server got it."""
        self.wires = [Wire(lambda mark, status: self.sent.setdefault(mark, []).append(status)) for _ in range(3)]
        self.servers = [new("--pool-size", "2", "--rate-per-minute", "0", "--concurrency", "0") for _ in range(3)]
        for wire, server in zip(self.wires, self.servers, strict=True):
            wire.upstream = server.ready().port
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        text = CONFIG.read_text().replace("bind :8000", f"bind 127.0.0.1:{port}")
        for number, wire in enumerate(self.wires, 1):
            text = text.replace(f"10.0.0.{number}:8000", f"127.0.0.1:{wire.port}")
        file = folder / "haproxy.cfg"
        file.write_text(text)
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([program(), "-db", "-f", str(file)], stdout=log, stderr=log)
        wait_for(lambda: self.answers() or None)

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        return False

    def kill(self, number: int) -> None:
        """Kill a server, as a machine is lost."""
        self.wires[number].close()
        self.servers[number].stop(signal.SIGKILL)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        for wire in self.wires:
            with contextlib.suppress(OSError):
                wire.close()


def program() -> str:
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    assert found, "HAProxy is missing: run  make test-haproxy,  or install the package haproxy"
    return found


@contextlib.contextmanager
def sites(image: str, folder: Path) -> Iterator[Site]:
    with servers(image) as new:
        made = Site(new, folder)
        yield made
        made.close()


@pytest.fixture(scope="module")
def site(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with sites(image, tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def doomed(image: str, tmp_path: Path) -> Iterator[Site]:
    """One whose servers are killed."""
    with sites(image, tmp_path) as made:
        yield made


def test_it_is_valid_by_the_command_of_the_page() -> None:
    (command,) = documents.block("docs/machines.md", "haproxy -c").splitlines()
    words = shlex.split(command.replace("/etc/haproxy/haproxy.cfg", str(CONFIG)), comments=True)
    assert subprocess.run([program(), *words[1:]], capture_output=True, check=False).returncode == 0


def test_a_server_killed_under_load_costs_its_own_runs_only(doomed: Site) -> None:
    numbers = itertools.count()
    lost: list[str] = []
    right: list[str] = []
    until = time.monotonic() + 60

    def work(sandbox: RemoteSandbox) -> None:
        while len(right) < 120 and time.monotonic() < until:
            number = next(numbers)
            try:
                result = sandbox.run(f"import time; time.sleep(0.05); print({number} ** 2)", args=[f"job-{number}"])
            except ContainerLost as error:
                assert error.delivered
                lost.append(f"job-{number}")
            else:
                assert result.stdout == f"{number**2}\n"
                right.append(f"job-{number}")

    with RemoteSandbox(doomed.url) as sandbox, ThreadPoolExecutor(12) as pool:
        working = [pool.submit(work, sandbox) for _ in range(12)]
        wait_for(lambda: len(right) >= 20 or None)
        doomed.kill(0)
        for one in working:
            one.result()
    assert len(right) >= 120
    assert len(lost) <= 12
    # What was answered, or may have run, was sent once; what a server has refused before it ran was
    # sent on.
    carried = {mark: [status for status in statuses if status != b"503"] for mark, statuses in doomed.sent.items()}
    assert {mark: carried[mark] for mark in right if carried[mark] != [b"200"]} == {}
    assert {mark: carried[mark] for mark in lost if len(carried[mark]) != 1} == {}
    assert set(lost) <= doomed.wires[0].seen
    assert doomed.servers[1].metric("dayfly_runs_total") + doomed.servers[2].metric("dayfly_runs_total") >= 80


def test_what_a_server_says_it_has_not_run_another_one_runs(site: Site) -> None:
    site.wires[0].refuse_runs = True
    with RemoteSandbox(site.url, queue_timeout_ms=1) as sandbox:
        for number in range(9):
            assert sandbox.run(f"print({number})", args=[f"job-{number}"]).stdout == f"{number}\n"
    assert site.wires[0].seen
    assert all(statuses[-1] == b"200" and set(statuses[:-1]) <= {b"503"} for statuses in site.sent.values())
    # Where all refuse, the client is told so.
    for wire in site.wires:
        wire.refuse_runs = True
    answer = httpx.post(f"{site.url}/v1/run", json={"code": ""}, trust_env=False)
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-full")
    for wire in site.wires:
        wire.refuse_runs = False


def test_a_stream_comes_as_written_and_leaving_it_ends_the_run(site: Site) -> None:
    with RemoteSandbox(site.url) as sandbox:
        pieces = sandbox.stream("import os, time; os.write(1, b'a'); time.sleep(50)", timeout_ms=55_000)
        assert next(pieces) == Piece("stdout", b"a", "a")
        assert running(*site.servers) == 1
        pieces.close()  # type: ignore[attr-defined]
        wait_for(lambda: running(*site.servers) == 0 or None)


def test_a_set_of_cases_need_not_be_where_it_was_sent(site: Site) -> None:
    cases = Cases(cases=[Case(stdin="1", expected="2")])
    with RemoteSandbox(site.url) as sandbox, ThreadPoolExecutor(6) as threads:
        told = [*threads.map(lambda _: sandbox.judge("print(int(input()) + 1)", cases), range(12))]
    assert [one.verdict for one in told] == [Verdict.ACCEPTED] * 12


def test_a_client_that_goes_ends_its_run(site: Site) -> None:
    asked = {"code": "import time; time.sleep(50)", "timeoutMs": 55_000}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{site.url}/v1/run", json=asked, timeout=httpx.Timeout(20, read=2), trust_env=False)
    wait_for(lambda: running(*site.servers) == 0 or None)


def running(*those: Server) -> float:
    return sum(server.metric('dayfly_containers{state="running"}') for server in those)


def test_a_session_stays_on_its_server_and_is_lost_with_it(doomed: Site) -> None:
    with RemoteSandbox(doomed.url) as sandbox, contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(sandbox.session()) for _ in range(3)]
        for _ in range(3):
            for session in sessions:
                session.run("open('a', 'a').write('+')")
        assert [session.run("print(open('a').read())").stdout for session in sessions] == ["+++\n"] * 3
        held = [number for number, server in enumerate(doomed.servers) if running(server)]
        doomed.kill(held[0])
        outcomes = [attempt(session.run) for session in sessions]
        assert 1 <= outcomes.count("lost") < 3
        assert set(outcomes) == {"lost", "+++\n"}
        assert sandbox.run("print(1)").stdout == "1\n"


def attempt(run: Callable[..., object]) -> str:
    try:
        return str(run("print(open('a').read())").stdout)  # type: ignore[attr-defined]
    except SessionLost as error:
        assert not error.delivered
        return "lost"


def test_without_a_server_the_answer_is_that_nothing_has_run(doomed: Site) -> None:
    with RemoteSandbox(doomed.url, queue_timeout_ms=100) as sandbox:
        for number in range(3):
            doomed.kill(number)
        with pytest.raises(PoolClosed, match="no server takes runs"):
            sandbox.run("")
    answer = httpx.post(f"{doomed.url}/run_code", json={"code": ""}, trust_env=False)  # which training loops try again
    assert (answer.status_code, answer.json()["delivered"]) == (504, False)
