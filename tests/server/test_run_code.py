"""POST /run_code as SandboxFusion's own client and training loops use it."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
import sandbox_fusion
from sandbox_fusion import RunCodeRequest, RunCodeResponse

from dayfly import ContainerLost, DayflyError, Job, PoolClosed, StartFailed
from dayfly._server import fusion as fusion_route
from dayfly._server.config import Config
from dayfly._server.context import RequestContext
from dayfly._server.keys import ANONYMOUS
from dayfly._server.quotas import Quotas

from ..conftest import Engine
from .conftest import NewServer, Server, key_new, servers, wait_for
from .test_api import problem


@pytest.fixture(scope="module")
def fusion(image: str) -> Iterator[Server]:
    with servers(image) as new:
        yield new("--run-code", "--pool-size", "2", "--rate-per-minute", "0", "--timeout-ms", "3000", "--max-timeout-ms", "3000").ready()


@pytest.fixture
def client(fusion: Server) -> Iterator[httpx.Client]:
    with fusion.client() as client:
        yield client


def ask(server: Server, code: str, **members: Any) -> RunCodeResponse:
    request = RunCodeRequest(code=code, language="python", **members)
    return sandbox_fusion.run_code(request, endpoint=server.url, max_attempts=1, client_timeout=30)


@pytest.mark.parametrize(
    ("code", "status", "run_status", "return_code"),
    [
        ("print('out'); import sys; print('err', file=sys.stderr)", "Success", "Finished", 0),
        ("print('out'); import sys; print('err', file=sys.stderr); sys.exit(3)", "Failed", "Finished", 3),
        ("print('out'); import os, sys; print('err', file=sys.stderr); os.kill(os.getpid(), 11)", "Failed", "Finished", -11),
        ("print('out'); import sys; print('err', file=sys.stderr)\nwhile True: pass", "Failed", "TimeLimitExceeded", None),
    ],
)
def test_the_client_reads_each_end(fusion: Server, code: str, status: str, run_status: str, return_code: int | None) -> None:
    answer = ask(fusion, code, run_timeout=1)
    assert (answer.status, answer.compile_result, answer.message) == (status, None, "")
    assert answer.run_result is not None
    assert (answer.run_result.status, answer.run_result.return_code) == (run_status, return_code)
    assert (answer.run_result.stdout, answer.run_result.stderr) == ("out\n", "err\n")
    assert answer.run_result.execution_time is not None
    assert 0 < answer.run_result.execution_time < 10


def test_out_of_memory_says_so_on_stderr(fusion: Server) -> None:
    answer = ask(fusion, "x = [bytearray(10**6) for _ in range(10**3)]")
    assert answer.run_result is not None
    assert (answer.status, answer.run_result.status, answer.run_result.return_code) == ("Failed", "Finished", -9)
    assert "memory limit of 50 MB" in answer.run_result.stderr


def test_files_go_in_and_come_out(fusion: Server) -> None:
    files = {"in/data.csv": base64.b64encode(b"1\n2\n").decode(), "none.txt": None}
    code = "import os; open('out.txt', 'w').write(open('in/data.csv').read() * 2); print(os.path.exists('none.txt'), input())"
    answer = ask(fusion, code, files=files, fetch_files=["out.txt", "missing.txt"], stdin="line")
    assert answer.run_result is not None
    assert answer.run_result.stdout == "False line\n"
    assert {path: base64.b64decode(content) for path, content in answer.files.items()} == {"out.txt": b"1\n2\n1\n2\n"}


def test_limits_are_clamped_not_refused(client: httpx.Client) -> None:
    body = {"code": "print(1)", "run_timeout": 10_000, "memory_limit_MB": 1024, "compile_timeout": 0, "unknown": 1}
    assert client.post("/run_code", json=body).json()["run_result"]["stdout"] == "1\n"
    begun = time.monotonic()
    late = client.post("/run_code", json={"code": "while True: pass", "run_timeout": 10_000}).json()
    assert late["run_result"]["status"] == "TimeLimitExceeded"
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"code": "print(1)", "language": "cpp"}, "language"),
        ({"code": "print(1)", "files": {"../x": ""}}, "../x"),
        ({"code": "print(1)", "files": {"/x": ""}}, "/x"),
        ({"code": "print(1)", "files": {"x": "no base64"}}, "files"),
        ({"code": "print(1)", "fetch_files": ["../x"]}, "../x"),
        ({"language": "python"}, "code"),
        ({"code": "print(1)", "run_timeout": None}, "run_timeout"),
        ({"code": "print(1)", "files": {str(number): "" for number in range(5_000)}}, "files"),
    ],
)
def test_what_makes_no_sense_is_a_422(client: httpx.Client, body: Any, told: str) -> None:
    assert told in problem(client.post("/run_code", json=body), 422, "invalid")["detail"]


def test_ping_is_pong_and_neither_is_there_unasked(client: httpx.Client, serve: NewServer) -> None:
    assert client.get("/v1/ping").json() == "pong"
    with serve("--pool-size", "1").ready().client() as other:
        for answer in (other.get("/v1/ping"), other.post("/run_code", json={"code": "print(1)"})):
            assert answer.status_code == 404


def test_it_takes_a_key_unless_it_is_told_otherwise(serve: NewServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    key = key_new("alice", file)
    body = {"code": "print(1)"}
    with serve("--run-code", "--pool-size", "1", "--keys-file", str(file)).ready().client() as client:
        problem(client.post("/run_code", json=body), 403, "key")
        assert client.post("/run_code", json=body, headers={"X-API-Key": key}).json()["status"] == "Success"
    server = serve("--run-code", "--run-code-without-key", "--pool-size", "1", "--keys-file", str(file)).ready()
    with server.client() as client:
        assert client.post("/run_code", json=body).json()["status"] == "Success"
        problem(client.post("/run_code", json=body, headers={"X-API-Key": "wrong"}), 403, "key")
        problem(client.post("/run_code", json=body, headers={"Origin": "https://elsewhere.example"}), 403, "origin")
        problem(client.post("/v1/run", json=body), 403, "key")


def test_a_full_server_is_waited_for_and_then_a_504(serve: NewServer) -> None:
    small = ["--pool-size", "1", "--max-containers", "1", "--max-waiting", "0", "--concurrency", "2"]
    server = serve("--run-code", "--run-code-wait-seconds", "0.5", *small).ready()
    with server.client() as client, ThreadPoolExecutor(2) as threads:
        long = threads.submit(client.post, "/run_code", json={"code": "import time; time.sleep(3); print(1)", "compile_timeout": 0})
        time.sleep(0.8)
        begun = time.monotonic()
        told = problem(client.post("/run_code", json={"code": "print(2)", "compile_timeout": 0.5}), 504, "run-code-timeout")
        assert told["delivered"] is False
        assert 0.9 < time.monotonic() - begun < 2.5
        patient = threads.submit(client.post, "/run_code", json={"code": "print(3)", "compile_timeout": 10})
        assert long.result().json()["run_result"]["stdout"] == "1\n"
        assert patient.result().json()["run_result"]["stdout"] == "3\n"


def test_waiting_takes_one_token_and_is_no_error(serve: NewServer) -> None:
    small = ["--pool-size", "1", "--max-containers", "1", "--max-waiting", "0"]
    server = serve("--run-code", *small, "--rate-per-minute", "1", "--rate-burst", "3").ready()
    with server.client() as client, ThreadPoolExecutor(2) as threads:
        long = threads.submit(client.post, "/run_code", json={"code": "import time; time.sleep(3); print(1)"})
        wait_for(lambda: server.metric('dayfly_containers{state="running"}') or None, server)
        patient = client.post("/run_code", json={"code": "print(2)"})
        assert patient.json()["run_result"]["stdout"] == "2\n"
        assert long.result().json()["run_result"]["stdout"] == "1\n"
        # Of three tokens it has taken two.
        assert client.post("/v1/run", json={"code": "print(3)"}).json()["stdout"] == "3\n"
        problem(client.post("/v1/run", json={"code": "print(4)"}), 429, "rate-exceeded")
        text = client.get("/metrics").text
    assert "dayfly_run_errors_total{" not in text
    assert "dayfly_queue_seconds_count 3.0" in text


def test_too_many_requests_are_a_504_too(serve: NewServer) -> None:
    server = serve("--run-code", "--pool-size", "1", "--max-requests", "1").ready()
    with server.client() as client, ThreadPoolExecutor(1) as threads:
        long = threads.submit(client.post, "/run_code", json={"code": "import time; time.sleep(2)"})
        while client.get("/metrics").status_code != 503:
            if long.done():  # a request for the metrics was in its way
                long = threads.submit(client.post, "/run_code", json={"code": "import time; time.sleep(2)"})
        told = problem(client.post("/run_code", json={"code": "print(1)"}), 504, "run-code-timeout")
        assert told["delivered"] is False
        assert long.result().json()["status"] == "Success"


def test_memory_for_a_body_is_waited_for(serve: NewServer) -> None:
    sizes = ["--request-bytes", "1000000", "--max-bodies-bytes", "2000000", "--pool-size", "2"]
    server = serve("--run-code", "--run-code-wait-seconds", "4", *sizes).ready()
    body = {"code": "import time; time.sleep(1); print(len(input()))", "stdin": "x" * 900_000}
    with server.client() as client, ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: client.post("/run_code", json=body), range(2)))
        assert [answer.json()["run_result"]["stdout"] for answer in answers] == ["900000\n"] * 2
        held = threads.submit(client.post, "/run_code", json={**body, "code": "import time; time.sleep(7)"})
        wait_for(lambda: server.metric('dayfly_containers{state="running"}') or None, server)
        problem(client.post("/run_code", json=body), 504, "run-code-timeout")
        assert held.result().json()["status"] == "Success"


def test_those_without_a_key_leave_half_to_the_keys(serve: NewServer, tmp_path: Path) -> None:
    key = key_new("alice", tmp_path / "keys")
    options = ["--run-code", "--run-code-without-key", "--keys-file", str(tmp_path / "keys"), "--max-timeout-ms", "20000"]
    server = serve(*options, "--pool-size", "1", "--max-containers", "2", "--queue-timeout-ms", "8000").ready()
    with server.client() as client, ThreadPoolExecutor(4) as threads:
        long = {"code": "import time; time.sleep(7)", "run_timeout": 20}
        loop = [threads.submit(client.post, "/run_code", json=long, timeout=60) for _ in range(3)]
        wait_for(lambda: server.metric("dayfly_queue_length", **{"X-API-Key": key}) == 2 or None, server)
        answer = client.post("/v1/run", json={"code": "print(1)"}, headers={"X-API-Key": key})
        assert answer.json().get("stdout") == "1\n", answer.text
        assert not any(one.done() for one in loop)
        for one in loop:
            one.result()


def test_a_sandbox_that_is_lost_is_a_sandbox_error(engine: Engine, fusion: Server) -> None:
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(ask, fusion, "import time; time.sleep(3)")
        wait_for(lambda: fusion.metric('dayfly_containers{state="running"}') or None, fusion)
        fusion.lose_containers(engine)
        with pytest.raises(Exception, match="Sandbox responded with error: the sandbox failed: ContainerLost"):
            running.result()  # so does their client tell a SandboxError
    fusion.warm()


@pytest.mark.parametrize(
    "error", [ContainerLost("", delivered=False), ContainerLost("", delivered=True), PoolClosed("", delivered=True), StartFailed("")]
)
def test_what_fails_is_a_sandbox_error_whether_it_ran_or_not(error: DayflyError) -> None:
    class Failing:
        async def run(self, *_: Any, **__: Any) -> None:
            raise error

    quotas = Quotas(per_minute=0, burst=1, concurrency=0)
    app: Any = SimpleNamespace(service=Failing(), quotas=quotas, config=Config())
    context = RequestContext("id", "client", key=ANONYMOUS)
    answer = asyncio.run(fusion_route._answer(app, context, Job(code=""), time.monotonic() + 5))
    assert (answer.status, answer.message, answer.run_result) == ("SandboxError", f"the sandbox failed: {type(error).__name__}", None)


def test_too_much_output_is_a_kill_if_it_is_asked_for(serve: NewServer) -> None:
    limits = ["--limits-stdout-bytes", "1000", "--limits-on-output-limit", "kill"]
    answer = ask(serve("--run-code", "--pool-size", "1", *limits).ready(), "print('x' * 5000)")
    assert answer.run_result is not None
    assert (answer.status, answer.run_result.status, answer.run_result.return_code) == ("Failed", "Finished", -9)
    assert len(answer.run_result.stdout or "") == 1000


def test_names_to_fetch_are_no_patterns(client: httpx.Client) -> None:
    code = "for name in ('a*.txt', 'ab.txt', 'c'): open(name, 'w').write(name)"
    answer = client.post("/run_code", json={"code": code, "fetch_files": ["a*.txt", "c?", "c"]}).json()
    assert {path: base64.b64decode(content) for path, content in answer["files"].items()} == {"a*.txt": b"a*.txt", "c": b"c"}


@pytest.mark.parametrize("timeout", [-1, 0, 1e300])
def test_a_time_of_any_size_is_clamped(client: httpx.Client, timeout: float) -> None:
    answer = client.post("/run_code", json={"code": "while True: pass", "run_timeout": timeout, "compile_timeout": timeout}).json()
    assert answer["run_result"]["status"] == "TimeLimitExceeded"


def reward(url: str, answer: int, correct: bool, timeout: float) -> tuple[int, str]:
    """Judge one case as training loops do: 504 is tried again, three times in all; anything else
    but 200 is a lost reward, -1."""
    code = f"print(int(input()) + {0 if correct else 1})"
    payload = {
        "compile_timeout": timeout,
        "run_timeout": timeout,
        "code": code,
        "stdin": str(answer),
        "memory_limit_MB": 1024,
        "language": "python",
        "files": {},
        "fetch_files": [],
    }
    for attempt in range(3):
        try:
            got = requests.post(url, data=json.dumps(payload), headers={"Content-Type": "application/json"}, timeout=2 * timeout + 10)
        except requests.RequestException as error:
            return -1, repr(error)
        if got.status_code == 504:
            time.sleep(attempt + 1)
            continue
        if got.status_code != 200:
            return -1, got.text
        told = got.json()
        if told["status"] == "Success":
            return int(told["run_result"]["stdout"] == f"{answer}\n"), ""
        return -1, got.text
    return -1, "504 three times"


def test_a_training_loop_with_64_calls_in_flight_loses_no_reward(fusion: Server) -> None:
    with ThreadPoolExecutor(64) as threads:
        cases = [(number, number % 3 != 0) for number in range(96)]
        scores = list(threads.map(lambda case: reward(f"{fusion.url}/run_code", case[0], case[1], timeout=10), cases))
    assert [why for score, why in scores if score == -1] == []
    assert [score for score, _ in scores] == [int(correct) for _, correct in cases]
    assert Counter(score for score, _ in scores)[1] == 64
