"""The API as a client sees it: the contract of /compile, /v1, who may come in, bounds, and problems
told apart."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from dayfly import Result

from .conftest import NewServer, Server, key_new, wait_for


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["type"]) == (status, f"/problems/{kind}"), body
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["detail"] == body["error"]
    assert body["instance"].endswith(answer.headers["x-request-id"])
    if status in (429, 503):
        assert int(answer.headers["retry-after"]) >= 1
    return body


# /compile: what code-execution-api-demo documents.


def test_compile_answers_with_the_documented_names(client: httpx.Client) -> None:
    answer = client.post("/compile", json={"code": "import sys; print('out'); print('err', file=sys.stderr)"})
    assert answer.status_code == 200
    assert answer.json() == {
        "stdout": "out\n",
        "stderr": "err\n",
        "combined": "out\nerr\n",
        "isError": False,
        "timedOut": False,
        "killedByContainer": False,
    }


def test_compile_reports_an_error_and_a_time_out(client: httpx.Client) -> None:
    failed = client.post("/compile", json={"code": "1/0"}).json()
    assert (failed["isError"], failed["timedOut"], failed["killedByContainer"]) == (True, False, False)
    assert "ZeroDivisionError" in failed["stderr"]
    late = client.post("/compile", json={"code": "print('begun', flush=True)\nwhile True: pass", "timeoutMs": 400}).json()
    assert (late["isError"], late["timedOut"], late["killedByContainer"], late["stdout"]) == (True, True, True, "begun\n")


def test_compile_takes_v3_data_and_fields_that_it_does_not_know(client: httpx.Client) -> None:
    job = {"code": "import sandbox, sys; print(sandbox.data['x'], sys.version_info[0])", "v3": True, "data": {"x": "ü"}, "other": 1}
    assert client.post("/compile", json=job).json()["stdout"] == "ü 3\n"


@pytest.mark.parametrize("body", [b"", b"{}", b'{"code": ""}', b'{"v3": true}'])
def test_compile_without_code_is_a_400(client: httpx.Client, body: bytes) -> None:
    told = problem(client.post("/compile", content=body, headers={"content-type": "application/json"}), 400, "no-code")
    assert told["error"] == "No code provided"


# /v1


@pytest.mark.parametrize("route", ["/v1/run", "/v1/run/stream"])
@pytest.mark.parametrize("body", [b"{}", b'{"code": null, "stdin": "1"}', b'{"codeBytes": null}'])
def test_a_run_without_code(client: httpx.Client, route: str, body: bytes) -> None:
    told = problem(client.post(route, content=body, headers={"content-type": "application/json"}), 400, "no-code")
    assert told["detail"] == "give one of code and codeBytes"


def test_run_takes_a_full_job_and_returns_a_full_result(client: httpx.Client) -> None:
    code = "import os, sandbox, sys; print(sys.stdin.read(), sys.argv[1:], os.environ['K']); sandbox.send(sandbox.data); sys.exit(3)"
    job = {"code": code, "stdin": "in", "args": ["a", "b"], "env": {"K": "v"}, "data": [1, None, {"é": 2.5}], "timeoutMs": 5000, "v3": True}
    answer = client.post("/v1/run", json=job)
    result = msgspec.json.decode(answer.content, type=Result)
    assert (result.outcome, result.exit_code, result.stdout) == ("error", 3, "in ['a', 'b'] v\n")
    assert result.messages == [[1, None, {"é": 2.5}]]
    assert result.wall_ms > 0
    assert result.peak_memory_bytes
    assert set(answer.json()) == {field.encode_name for field in msgspec.structs.fields(Result)}
    assert "queue;dur=" in answer.headers["server-timing"]


FILES = "import os; os.makedirs('out/a'); open('out/a/b', 'wb').write(open('in/x', 'rb').read() + open('y').read().encode())"


@pytest.mark.parametrize("place", ["/v1/run", "/v1/run/stream", "{}/run", "{}/run/stream"])
def test_files_go_in_and_come_out(client: httpx.Client, place: str) -> None:
    session = "/v1/sessions/" + client.post("/v1/sessions", json={}).raise_for_status().json()["id"]
    path = place.format(session)
    job = {"code": FILES, "files": {"in/x": "AP8="}, "filesText": {"y": "\u0439"}, "fetch": ["out/**", "none", "out"]}
    answer = client.post(path, json=job).raise_for_status()
    result = answer.json() if path.endswith("run") else dict(events(iter(answer.text.splitlines())))["result"]
    assert (result["outcome"], result["files"]) == ("ok", {"out/a/b": "AP/QuQ=="})
    assert result["filesSkipped"] == [{"path": "none", "why": "missing"}, {"path": "out", "why": "not_regular"}]
    assert result["filesSkippedDropped"] == 0
    client.delete(session).raise_for_status()


def test_files_beyond_the_limits_are_named_with_the_reason(client: httpx.Client) -> None:
    limits = client.get("/v1/limits").json()
    count, size = limits["fileCount"], limits["fileBytes"]
    code = f"open('a', 'wb').truncate({size}); open('b', 'w').write('x'); [open(f'c{{i:03}}', 'w') for i in range({count})]"
    result = client.post("/v1/run", json={"code": code, "fetch": ["*"]}).raise_for_status().json()
    assert len(result["files"]["a"]) == -(-size // 3) * 4
    assert result["filesSkipped"] == [{"path": "b", "why": "too_large"}, {"path": f"c{count - 1:03}", "why": "too_many"}]


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_stream_brings_live_output_and_the_result_last(shared: Server, client: httpx.Client) -> None:
    # The program ends only when the test has seen its first line: output that came with the result
    # would be a time-out.
    code = "import sys, time\nprint('first')\nprint('err\\n\\nevent: x', file=sys.stderr)\ntime.sleep(1)\nprint('last')"
    seen: list[tuple[str, Any]] = []
    times: dict[str, float] = {}
    with client.stream("POST", "/v1/run/stream", json={"code": code}) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        for name, value in events(answer.iter_lines()):
            seen.append((name, value))
            times.setdefault(value.get("text", name).strip(), time.monotonic())
    assert seen[0][0] == "started"
    assert seen[0][1]["queueMs"] >= 0
    assert times["result"] - times["first"] > 0.5
    text = {of: "".join(v["text"] for name, v in seen if name == "output" and v["stream"] == of) for of in ("stdout", "stderr")}
    assert text == {"stdout": "first\nlast\n", "stderr": "err\n\nevent: x\n"}
    assert seen[-1][0] == "result"
    assert (seen[-1][1]["outcome"], seen[-1][1]["stdout"]) == ("ok", "first\nlast\n")


@pytest.mark.parametrize("end", ["", "os._exit(3)", "os.kill(os.getpid(), 9)", "time.sleep(60)"])
def test_the_pieces_of_a_stream_make_up_its_result(client: httpx.Client, end: str) -> None:
    code = f"""
import os, time
for data in b"a\\xf0\\x9f", b"\\xa6\\x8b\\xff", b"\\xe4\\xb8":
    os.write(1, data)
    os.write(2, data[::-1])
    time.sleep(0.1)
os.write(2, b"\\xc3")
{end}
"""
    answer = client.post("/v1/run/stream", json={"code": code, "timeoutMs": 1_500}).raise_for_status()
    told = list(events(iter(answer.text.splitlines())))
    result = told[-1][1]
    assert result["timedOut"] is (end == "time.sleep(60)")
    for name in ("stdout", "stderr"):
        assert "".join(value["text"] for kind, value in told if kind == "output" and value["stream"] == name) == result[name]
        assert result[name].endswith("\ufffd")


def test_a_stream_that_cannot_begin_is_a_plain_problem(client: httpx.Client) -> None:
    problem(client.post("/v1/run/stream", json={"code": "1", "timeoutMs": 10**6}), 422, "invalid")


def test_a_client_that_goes_away_cancels_its_run(shared: Server, client: httpx.Client) -> None:
    gone = shared.metric("dayfly_clients_gone_total")
    code = "import time\nprint('begun')\ntime.sleep(15)"
    with shared.client() as other, other.stream("POST", "/v1/run/stream", json={"code": code}) as answer:
        next(line for line in answer.iter_lines() if "begun" in line)
    wait_for(lambda: shared.metric("dayfly_clients_gone_total") == gone + 1 or None, shared)
    for path in ("/v1/run", "/compile"):  # these watch for it too
        with shared.client() as other, pytest.raises(httpx.ReadTimeout):
            other.post(path, json={"code": code}, timeout=1)
    wait_for(lambda: shared.metric("dayfly_clients_gone_total") == gone + 3 or None, shared)
    begun = time.monotonic()
    assert client.post("/compile", json={"code": "print(1)"}).json()["stdout"] == "1\n"  # nobody's sleep holds a container
    assert time.monotonic() - begun < 10


def test_preloaded_modules_are_there_in_runs_and_sessions(serve: NewServer) -> None:
    server = serve("--preload", "decimal, fractions").ready()
    with server.client() as client:
        assert client.get("/v1/limits").json()["preload"] == ["decimal", "fractions"]
        session = "/v1/sessions/" + client.post("/v1/sessions", json={}).raise_for_status().json()["id"]
        for path in ("/v1/run", f"{session}/run"):
            result = client.post(path, json={"code": "import sys; print({'decimal', 'fractions'} - set(sys.modules))"}).json()
            assert (result["stdout"], result["preloaded"]) == ("set()\n", True)


def test_a_module_that_cannot_be_preloaded_is_logged_by_name(serve: NewServer) -> None:
    server = serve("--preload", "nonesuch")
    with server.client() as client:
        told = wait_for(lambda: next((line for line in server.lines if "the sandbox cannot be started" in line), None), server)
        assert "preload of nonesuch: ModuleNotFoundError" in told
        assert client.get("/readyz").json() == {"ready": False, "detail": "the sandbox cannot be started: StartFailed"}


# Bounds and problems.


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/run", {"code": "1", "timeoutMs": 20_001}, "timeoutMs is 20001; this server takes 1 to 20000"),
        ("/compile", {"code": "1", "timeoutMs": 20_001}, "timeoutMs is 20001; this server takes 1 to 20000"),
        ("/v1/run", {"code": "1", "timeoutMs": 0}, "timeoutMs is 0; this server takes 1 to 20000"),
        ("/v1/run", {"code": "1", "cpuLimitMs": 0}, "cpuLimitMs is 0; this server takes 1 to 20000"),
        ("/v1/run/stream", {"code": "1", "cpuLimitMs": 20_001}, "cpuLimitMs is 20001; this server takes 1 to 20000"),
        ("/v1/run", {"code": "1", "memoryMb": 900}, "unknown field `memoryMb`"),
        ("/v1/run", {"code": "#" * 1_000_001}, "the limit (code_bytes) is 1,000,000"),
        ("/v1/run", {"code": "1", "stdin": "x" * 4_000_001}, "the limit (input_bytes) is 4,000,000"),
        ("/v1/run", {"code": "1", "v3": False}, "has no Python 2"),
        ("/v1/run", {"code": 5}, "code: Expected `str"),
        ("/v1/run", {"code": "1", "stdin": "a", "stdinBytes": "YQ=="}, "stdin and stdinBytes are both given"),
        ("/v1/run", {"code": "1", "filesText": {"../x": ""}}, "the path '../x' of filesText has a part"),
        ("/v1/run", {"code": "1", "files": {"../x": ""}}, "the path '../x' of files has a part that is empty, '.' or '..'"),
        ("/v1/run", {"code": "1", "files": {"x": "%"}}, "files[...]: Invalid base64 encoded string"),
        ("/v1/run", {"code": "1", "files": {"x": ""}, "filesText": {"x": ""}}, "the file 'x' is given twice"),
        ("/v1/run", {"code": "1", "filesText": {"main.py": ""}}, "the file 'main.py' is made from code; give it there"),
        ("/v1/run", {"code": "1", "filesText": {"x": "x" * 4_000_000}}, "the limit (input_bytes) is 4,000,000"),
        ("/v1/run", {"code": "1", "files": {str(i): "" for i in range(1_023)}}, "1,023 files are given; 1,022 are allowed"),
        ("/v1/run", {"code": "1", "files": {str(i): "" for i in range(4_097)}}, "files: Expected `object` of length <= 4096"),
        ("/v1/run", {"code": "1", "fetch": ["*"] * 65}, "fetch has 65 paths; 64 are allowed"),
        ("/v1/run/stream", {"code": "1", "fetch": ["/etc/*"]}, "the pattern '/etc/*' of fetch must be relative"),
        ("/compile", {"code": "1", "v3": "yes"}, "v3"),
        ("/v1/run", [], "Expected `object`"),
    ],
)
def test_what_cannot_be_run_is_a_clear_422(client: httpx.Client, path: str, body: Any, told: str) -> None:
    assert told in problem(client.post(path, json=body), 422, "invalid")["detail"]


def test_what_cannot_be_read_is_a_400_413_or_415(client: httpx.Client) -> None:
    as_json = {"content-type": "application/json"}
    for content in (b"{", b'{"code": "\xff"}', b""):
        problem(client.post("/v1/run", content=content, headers=as_json), 400, "malformed")
    problem(client.post("/v1/run", content=b"[" * 100_000, headers=as_json), 422, "invalid")
    problem(client.post("/v1/run", content=b'{"code": "1"}'), 415, "no-json")
    problem(client.post("/v1/run", content=b'{"code": "1"}', headers={"content-type": "text/plain"}), 415, "no-json")
    most = client.get("/v1/limits").json()["requestBytes"]
    for path in ("/v1/run", "/compile", "/v1/judge", "/v1/cases", "/v1/sessions"):
        contents: list[Any] = [b"x" * (most + 1), (b"x" * 1_000_000 for _ in range(most // 1_000_000 + 1))]
        for content in contents:
            told = problem(client.post(path, content=content, headers=as_json), 413, "too-large")
            assert f"(request_bytes) is {most:,}" in told["detail"]
    # What is below it is taken.
    session = client.post("/v1/sessions", content=b"{" + b" " * 100_000 + b"}", headers=as_json).raise_for_status().json()["id"]
    client.delete(f"/v1/sessions/{session}").raise_for_status()
    problem(client.get("/nothing"), 404, "not-found")
    problem(client.get("/v1/run"), 405, "method-not-allowed")


def test_a_page_elsewhere_cannot_use_a_server_without_keys(client: httpx.Client) -> None:
    problem(client.post("/v1/run", json={"code": "1"}, headers={"host": "evil.example:8000"}), 403, "host")
    assert client.post("/v1/run", json={"code": "1"}, headers={"host": "[::1]:8000"}).status_code == 200
    assert "access-control-allow-origin" not in client.options("/v1/run", headers={"origin": "https://evil.example"}).headers


def test_the_queue_is_bounded_in_length_and_in_time(serve: NewServer) -> None:
    server = serve("--pool-size", "1", "--max-containers", "1", "--max-waiting", "1", "--queue-timeout-ms", "700").ready()
    with server.client() as client, ThreadPoolExecutor(2) as threads:
        holder = threads.submit(client.post, "/v1/run", json={"code": "import time; time.sleep(4)"})
        wait_for(lambda: server.metric('dayfly_containers{state="running"}') or None, server)
        waiter = threads.submit(client.post, "/v1/run/stream", json={"code": "1"})
        wait_for(lambda: server.metric("dayfly_queue_length") or None, server)
        problem(client.post("/v1/run", json={"code": "1"}), 503, "queue-full")
        assert problem(waiter.result(), 503, "queue-timeout")["delivered"] is False
        assert holder.result().json()["outcome"] == "ok"
    assert server.metric('dayfly_run_errors_total{error="PoolFull"}') == 1
    assert server.metric('dayfly_run_errors_total{error="PoolTimeout"}') == 1
    assert server.metric("dayfly_queue_seconds_sum") > 0.5


# Keys, quotas and addresses.


def test_keys_quotas_and_their_reload(serve: NewServer, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    alice, bob = key_new("alice", file), key_new("bob", file)
    file.write_text(file.read_text().replace("\n", " concurrency=1\n", 1))  # alice's
    server = serve("--keys-file", str(file), "--pool-size", "2", "--rate-per-minute", "6", "--rate-burst", "4").ready()
    job = {"code": "print(1)"}
    with server.client() as client:
        for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": "x"}, {"X-API-Key": alice[:-1]}, {"Authorization": f"Basic {alice}"}):
            for path in ("/compile", "/v1/run", "/v1/run/stream"):
                told = problem(client.post(path, json=job, headers=headers), 403, "key")
                assert told["error"] == "No API key or incorrect value provided"
        problem(client.get("/metrics"), 403, "key")
        assert client.get("/healthz").status_code == client.get("/schema").status_code == 200
        assert client.post("/compile", json=job, headers={"X-API-Key": alice}).json()["stdout"] == "1\n"
        assert client.get("/metrics", headers={"Authorization": f"Bearer {bob}"}).status_code == 200

        # One run at a time for alice, as many as the server allows for bob.
        with ThreadPoolExecutor(1) as threads:
            slow = threads.submit(client.post, "/v1/run", json={"code": "import time; time.sleep(1.5)"}, headers={"X-API-Key": alice})
            wait_for(lambda: server.metric('dayfly_containers{state="running"}', authorization=f"Bearer {bob}") or None, server)
            problem(client.post("/v1/run", json=job, headers={"X-API-Key": alice}), 429, "concurrency-exceeded")
            assert client.post("/v1/run", json=job, headers={"X-API-Key": bob}).status_code == 200
            assert slow.result().status_code == 200

        # Four at once, then one in ten seconds.
        for _ in range(3):
            assert client.post("/v1/run", json=job, headers={"X-API-Key": bob}).status_code == 200
        refused = client.post("/v1/run", json=job, headers={"X-API-Key": bob})
        problem(refused, 429, "rate-exceeded")
        assert 1 <= int(refused.headers["retry-after"]) <= 10

        # A new key, and one taken away, without a restart.
        file.write_text("")
        carol = key_new("carol", file)
        wait_for(lambda: client.post("/v1/run", json=job, headers={"X-API-Key": carol}).status_code == 200 or None, server)
        problem(client.post("/v1/run", json=job, headers={"X-API-Key": alice}), 403, "key")
    logged = "".join(server.lines)
    assert not any(secret in logged for secret in (alice, bob, carol, "sha256"))
    wait_for(lambda: {"alice", "bob", "carol"} <= {entry.get("key") for entry in server.log} or None, server)


def test_allowed_networks_and_trusted_proxies(serve: NewServer) -> None:
    strict = serve("--pool-size", "1", "--allowed-networks", "10.0.0.0/8,192.0.2.7", "--trusted-proxies", "127.0.0.0/8,10.9.9.9")
    with strict.client() as client:
        strict.ready()  # probes are always answered
        for forwarded, status in (
            ("10.1.2.3", 200),
            ("192.0.2.7", 200),
            ("192.0.2.8", 403),
            ("10.1.2.3, 192.0.2.8", 403),  # what the client itself wrote does not count
            ("192.0.2.7, 10.9.9.9", 200),  # a second proxy
            ("10.1.2.3, nonsense", 403),
            ("::ffff:10.1.2.3", 200),
        ):
            answer = client.post("/compile", json={"code": "print(1)"}, headers={"x-forwarded-for": forwarded})
            assert answer.status_code == status, forwarded
        told = problem(client.post("/compile", json={"code": "1"}), 403, "address")
        assert told["error"] == "The IP 127.0.0.1 is not allowed to call the API"
    plain = serve("--pool-size", "1", "--allowed-networks", "192.0.2.0/24")
    with plain.client() as client:
        problem(client.post("/compile", json={"code": "1"}, headers={"x-forwarded-for": "192.0.2.7"}), 403, "address")


# The log.


def test_a_request_is_logged_in_one_line_without_its_program(shared: Server, client: httpx.Client) -> None:
    answer = client.post("/v1/run", json={"code": "print('se' + 'cret')"}, headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    odd = client.get("/healthz", headers={b"x-request-id": b'a"b\xe9'})
    assert len(odd.headers["x-request-id"]) == 16
    entry = wait_for(lambda: next((entry for entry in shared.log if entry.get("request_id") == "mine-1"), None), shared)
    assert entry["event"] == "request"
    assert (entry["path"], entry["status"], entry["outcome"], entry["key"]) == ("/v1/run", 200, "ok", "anonymous")
    assert entry["code_bytes"] == 20
    assert not any("secret" in line or "'se'" in line for line in shared.lines)


def test_programs_are_logged_where_it_is_asked_for(serve: NewServer) -> None:
    server = serve("--pool-size", "1", "--log-programs").ready()
    with server.client() as client:
        client.post("/v1/run", json={"code": "print('se' + 'cret')"})
    entry = wait_for(lambda: next((entry for entry in server.log if entry.get("outcome")), None), server)
    assert (entry["code"], entry["stdout"]) == ("print('se' + 'cret')", "secret\n")


def test_metrics_count_what_happened(shared: Server, client: httpx.Client) -> None:
    before = {name: shared.metric(name) for name in ("dayfly_run_seconds_count", "dayfly_queue_seconds_count")}
    client.post("/compile", json={"code": "import os; os.abort()"})
    assert shared.metric('dayfly_runs_total{key="anonymous",outcome="signal"}') >= 1
    for name, value in before.items():
        assert shared.metric(name) == value + 1
    assert shared.metric("dayfly_ready") == 1
    assert shared.metric("dayfly_containers_made_total") > 0
    assert shared.metric('dayfly_sandbox_starts_total{result="ok"}') == 1
    assert shared.metric('dayfly_refused_total{problem="invalid"}') >= 1
    assert shared.metric("dayfly_engine_errors_total") == 0
    assert shared.metric('dayfly_request_seconds_count{route="other",status="404"}') >= 1


# Clients that are slow, or stop half-way.


def test_slow_clients_are_cut_off_and_hold_nobody_up(serve: NewServer) -> None:
    server = serve("--pool-size", "1", "--client-seconds", "1").ready()
    head = b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    halves = [b"", b"POST /v1/run HT", head, head + b"Content-Length: 100\r\n\r\n", head + b'Content-Length: 100\r\n\r\n{"code": "print(']
    connections = [socket.create_connection(("127.0.0.1", server.port), timeout=20) for _ in range(60)]
    try:
        for number, connection in enumerate(connections):
            connection.sendall(halves[number % len(halves)])
        with server.client() as client:  # meanwhile everybody else is served
            assert client.post("/compile", json={"code": "print(1)"}).json()["stdout"] == "1\n"
        for connection in connections:
            try:
                assert connection.recv(1_000) == b""
            except ConnectionResetError:
                pass
    finally:
        for connection in connections:
            connection.close()


def test_a_client_that_stops_reading_a_stream_loses_it(serve: NewServer) -> None:
    limits = ("--limits-stdout-bytes", "30000000", "--memory-mb", "100", "--timeout-ms", "15000")
    server = serve("--pool-size", "1", "--client-seconds", "1", *limits).ready()
    body = json.dumps({"code": "import sys\nfor _ in range(25_000): sys.stdout.write('x' * 1000)\nimport time; time.sleep(10)"}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = b"POST /v1/run/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: server.metric("dayfly_clients_gone_total") or None, server)


def test_traces_are_exported_where_they_are_asked_for(serve: NewServer) -> None:
    received: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def collect() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                length, chunks = 0, b""
                for line in stream:
                    length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else length
                    chunks += line
                    if line == b"\r\n":
                        break
                received.append(chunks + stream.read(length))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{listener.getsockname()[1]}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        }
        server = serve("--pool-size", "1", "--traces", environment=environment).ready()
        trace = "0af7651916cd43dd8448eb211c80319c"
        with server.client() as client:
            headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            assert client.post("/v1/run", json={"code": "print('se' + 'cret')"}, headers=headers).status_code == 200
        assert server.stop() == 0
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    sent = b"".join(received)
    assert b"POST /v1/traces" in sent
    for part in (b"POST /v1/run", b"dayfly.outcome", bytes.fromhex(trace)):
        assert part in sent
    assert b"secret" not in sent
