"""Sessions over HTTP: whose they are, their bounds and ends, and what they leave to single runs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import Engine
from .conftest import NewServer, Server, key_new, servers, wait_for
from .test_api import problem
from .test_operation import containers_of

BUSY = "print('begun', flush=True)\nimport time; time.sleep(60)"


@pytest.fixture(scope="module")
def keyed(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server with two keys, three containers, of which two may be sessions, and one for each
    key."""
    file = tmp_path_factory.mktemp("keys") / "keys"
    keys = key_new("alice", file), key_new("bob", file)
    with servers(image) as new:
        server = new("--keys-file", str(file), "--pool-size", "1", "--max-containers", "3", "--max-sessions", "2", "--rate-per-minute", "0")
        yield (server.ready(), *keys)


@pytest.fixture
def alice(keyed: tuple[Server, str, str]) -> Iterator[httpx.Client]:
    yield from emptied(keyed[0], keyed[1])


@pytest.fixture
def bob(keyed: tuple[Server, str, str]) -> Iterator[httpx.Client]:
    yield from emptied(keyed[0], keyed[2])


def emptied(server: Server, key: str) -> Iterator[httpx.Client]:
    with server.client(headers={"X-API-Key": key}) as client:
        yield client
        for one in client.get("/v1/sessions").json():
            client.delete(f"/v1/sessions/{one['id']}")
        wait_for(lambda: True if client.get("/v1/sessions").json() == [] else None, server)


def opened(client: httpx.Client, **wanted: float) -> str:
    answer = client.post("/v1/sessions", json=wanted)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/sessions/{answer.json()['id']}"
    return answer.headers["Location"]


def run(client: httpx.Client, session: str, code: str, **more: Any) -> Any:
    return client.post(f"{session}/run", json={"code": code}, **more).raise_for_status().json()


def test_files_stay_from_one_program_to_the_next(alice: httpx.Client) -> None:
    session = opened(alice, maxRuns=10, maxSeconds=60, idleSeconds=30)
    run(alice, session, "open('a.txt', 'w').write('1')")
    assert run(alice, session, "print(open('a.txt').read())")["stdout"] == "1\n"
    assert run(alice, session, "1/0")["outcome"] == "error"
    assert run(alice, session, "import os; print(os.listdir())", params={"clean": True})["stdout"] == "['main.py']\n"
    told = alice.get(session).json()
    assert told.pop("ageSeconds") > 0
    assert told == {
        "id": session.rpartition("/")[2],
        "running": False,
        "runs": 4,
        "maxRuns": 10,
        "maxSeconds": 60,
        "idleSeconds": 30,
    }
    assert len(told["id"]) >= 32


def test_a_stream_is_that_of_a_single_run(alice: httpx.Client) -> None:
    session = opened(alice)
    with alice.stream("POST", f"{session}/run/stream", json={"code": "print(1)"}) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith(("event", "data"))]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    assert (names[0], {*names[1:-1]}, names[-1]) == ("started", {"output"}, "result")
    assert json.loads(lines[-1].removeprefix("data: "))["outcome"] == "ok"


def test_a_session_is_nobody_elses(alice: httpx.Client, bob: httpx.Client) -> None:
    session = opened(alice)
    for method, path in [("GET", ""), ("DELETE", ""), ("POST", "/run"), ("POST", "/run/stream")]:
        body: dict[str, Any] = {"json": {"code": "print(1)"}} if method == "POST" else {}
        problem(bob.request(method, session + path, **body), 404, "no-session")
        problem(alice.request(method, f"/v1/sessions/{'x' * 32}{path}", **body), 404, "no-session")
        with httpx.Client(base_url=alice.base_url, trust_env=False) as stranger:
            problem(stranger.request(method, session + path, **body), 403, "key")
    assert bob.get("/v1/sessions").json() == []
    assert [f"/v1/sessions/{one['id']}" for one in alice.get("/v1/sessions").json()] == [session]


def test_maxima_for_a_key_and_in_all(keyed: tuple[Server, str, str], alice: httpx.Client, bob: httpx.Client) -> None:
    server, key = keyed[0], keyed[1]
    session = opened(alice)
    problem(alice.post("/v1/sessions", json={}), 429, "sessions-exceeded")
    opened(bob)
    assert server.metric("dayfly_sessions", **{"X-API-Key": key}) == 2
    # All places are taken, and single runs go on.
    for client in (alice, bob):
        assert client.post("/v1/run", json={"code": "print(1)"}).json()["stdout"] == "1\n"
    assert alice.delete(session).status_code == 204
    problem(alice.get(session), 410, "session-ended")
    wait_for(lambda: True if alice.post("/v1/sessions", json={}).status_code == 201 else None, server)


def test_the_maximum_in_all_is_a_503(serve: NewServer, tmp_path: Path) -> None:
    keys = [key_new(name, tmp_path / "keys") for name in ("alice", "bob")]
    server = serve("--keys-file", str(tmp_path / "keys"), "--pool-size", "1", "--sessions-per-key", "1").ready()
    with server.client(headers={"X-API-Key": keys[0]}) as alice, server.client(headers={"X-API-Key": keys[1]}) as bob:
        opened(alice)
        problem(bob.post("/v1/sessions", json={}), 503, "sessions-full")
        assert bob.get("/v1/limits").json()["sessions"] == 1
    off = serve("--pool-size", "1", "--max-sessions", "0").ready()
    with off.client() as client:
        problem(client.post("/v1/sessions", json={}), 404, "no-sessions")


def test_a_client_that_goes_away_ends_its_run(keyed: tuple[Server, str, str], alice: httpx.Client) -> None:
    session = opened(alice)
    run(alice, session, "open('a.txt', 'w').write('1')")
    with alice.stream("POST", f"{session}/run/stream", json={"code": BUSY}) as answer:
        lines = answer.iter_lines()
        assert any("begun" in line for line in lines)
    wait_for(lambda: True if not alice.get(session).json()["running"] else None, keyed[0])
    assert run(alice, session, "print(open('a.txt').read())")["stdout"] == "1\n"


def test_one_program_at_a_time(alice: httpx.Client) -> None:
    session = opened(alice)
    with alice.stream("POST", f"{session}/run/stream", json={"code": BUSY}) as answer:
        lines = answer.iter_lines()
        assert any("begun" in line for line in lines)
        assert alice.get(session).json()["running"]
        problem(alice.post(f"{session}/run", json={"code": "print(1)"}), 409, "session-busy")
        # The end of the session is the end of its program, and is said to its client.
        assert alice.delete(session).status_code == 204
        assert any("container-lost" in line for line in lines)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"maxRuns": 1}, "it has run 1 programs (max_runs)"),
        ({"idleSeconds": 0.5}, "no program was run for 0.5 s (idle_seconds)"),
        ({"maxSeconds": 0.5}, "older than 0.5 s (max_seconds)"),
    ],
)
def test_an_ended_session_says_why(keyed: tuple[Server, str, str], alice: httpx.Client, wanted: dict[str, float], why: str) -> None:
    server, key = keyed[0], keyed[1]
    session = opened(alice, **wanted)
    if "maxRuns" in wanted:
        run(alice, session, "print(1)")
    told = wait_for(lambda: answer if (answer := alice.get(session)).status_code == 410 else None, server)
    assert why in problem(told, 410, "session-ended")["detail"]
    refused = problem(alice.post(f"{session}/run", json={"code": "print(1)"}), 410, "session-ended")
    assert refused["delivered"] is False
    assert alice.get("/v1/sessions").json() == []
    wait_for(lambda: True if server.metric("dayfly_sessions", **{"X-API-Key": key}) == 0 else None, server)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"maxRuns": 1001}, "maxRuns is 1001; this server takes 1 to 1000 (session_runs)"),
        ({"maxRuns": 0}, "maxRuns is 0"),
        ({"maxSeconds": 3601}, "session_seconds"),
        ({"idleSeconds": 301}, "session_idle_seconds"),
        ({"idleSeconds": "1"}, "idleSeconds: Expected"),
        ({"runs": 1}, "unknown field"),
        ([], "Expected `object`"),
    ],
)
def test_bounds_of_a_session_are_the_servers(alice: httpx.Client, body: Any, told: str) -> None:
    assert told in problem(alice.post("/v1/sessions", json=body), 422, "invalid")["detail"]


def test_a_run_costs_a_place_in_the_quotas(serve: NewServer, tmp_path: Path) -> None:
    key = key_new("alice", tmp_path / "keys")
    server = serve("--keys-file", str(tmp_path / "keys"), "--pool-size", "1", "--rate-per-minute", "1", "--rate-burst", "3").ready()
    with server.client(headers={"X-API-Key": key}) as client:
        session = opened(client)
        for _ in range(2):
            assert run(client, session, "print(1)")["stdout"] == "1\n"
        problem(client.post(f"{session}/run", json={"code": "print(1)"}), 429, "rate-exceeded")


def test_sessions_leave_a_container_to_single_runs(serve: NewServer) -> None:
    server = serve("--pool-size", "2", "--rate-per-minute", "0", "--concurrency", "0", "--queue-timeout-ms", "30000").ready()
    over = threading.Event()

    def greedy() -> int:
        """Open sessions without a pause, and run in them."""
        ran = 0
        with server.client() as client:
            while not over.is_set():
                answer = client.post("/v1/sessions", json={"maxRuns": 3})
                if answer.status_code != 201:
                    time.sleep(0.05)
                    continue
                for _ in range(3):
                    client.post(f"/v1/sessions/{answer.json()['id']}/run", json={"code": "print(1)"}).raise_for_status()
                    ran += 1
        return ran

    with ThreadPoolExecutor(6) as threads, server.client() as client:
        busy = [threads.submit(greedy) for _ in range(6)]
        try:
            for number in range(10):
                assert client.post("/v1/run", json={"code": f"print({number})"}).json()["stdout"] == f"{number}\n"
        finally:
            over.set()
        assert sum(each.result() for each in busy) > 0


def test_a_stop_drains_a_session_and_a_kill_leaves_nothing(serve: NewServer, engine: Engine) -> None:
    server = serve("--pool-size", "1").ready()
    with server.client() as client, ThreadPoolExecutor(1) as thread:
        session = opened(client)
        last = thread.submit(run, client, session, "import time; time.sleep(1); print('done')")
        wait_for(lambda: True if server.metric('dayfly_sessions_opened_total{key="anonymous"}') == 1 else None, server)
        time.sleep(0.4)
        assert server.stop() == 0
        assert last.result()["stdout"] == "done\n"
    assert containers_of(engine, server) == []
    server = serve("--pool-size", "1").ready()
    with server.client() as client:
        opened(client)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: True if containers_of(engine, server) == [] else None)
