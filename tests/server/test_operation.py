"""The server as a process: a start without an engine, a stop and a kill under load, many clients
for a while, any request at all.

DAYFLY_TEST_LOAD_SECONDS and DAYFLY_TEST_LOAD_CLIENTS make the load longer or larger.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from ..conftest import Engine
from .conftest import NewServer, Server, wait_for

LOAD_SECONDS = float(os.environ.get("DAYFLY_TEST_LOAD_SECONDS", "10"))
LOAD_CLIENTS = int(os.environ.get("DAYFLY_TEST_LOAD_CLIENTS", "200"))


def containers_of(engine: Engine, server: Server) -> list[str]:
    return [row["Id"] for row in engine.containers(server.process.pid)]


def test_the_server_starts_without_an_engine(serve: NewServer, engine: Engine, tmp_path: Path) -> None:
    place = tmp_path / "docker.sock"
    server = serve("--pool-size", "1", "--docker-host", f"unix://{place}")
    with server.client() as client:
        answer = wait_for(lambda: found if "cannot" in (found := client.get("/readyz")).text else None, server)
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert "EngineUnreachable" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200
        refused = client.post("/v1/run", json={"code": "print(1)"})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/not-ready")
        assert "retry-after" in refused.headers
        assert server.metric('dayfly_sandbox_starts_total{result="failed"}') >= 1
        assert server.metric("dayfly_engine_errors_total") >= 1
        place.symlink_to(engine.path)
        server.ready()
        assert client.post("/v1/run", json={"code": "print(1)"}).json()["stdout"] == "1\n"
        place.unlink()  # new connections fail from here on; the ones that stand go on
        wait_for(lambda: True if client.get("/readyz").status_code == 503 else None, server)
        assert server.metric("dayfly_ready") == 0
        place.symlink_to(engine.path)
        server.ready()


async def client_of(url: str, number: int, over: Callable[[], bool], seen: collections.Counter[str]) -> None:
    """One client: a run at a time, each with an output that nobody else's has. A refusal is waited
    out, as it asks for."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False) as client:
        turn = 0
        while not over():
            turn += 1
            mark = f"client {number} turn {turn}"
            try:
                answer = await client.post("/v1/run", json={"code": f"print({mark!r})"})
            except httpx.TransportError:
                seen["gone"] += 1
                await asyncio.sleep(0.05)
                continue
            seen[str(answer.status_code)] += 1
            if answer.status_code == 200:
                assert answer.json()["stdout"] == mark + "\n", answer.text
            elif answer.status_code in (429, 503):
                assert int(answer.headers["retry-after"]) >= 1
                await asyncio.sleep(0.5)


async def crowd(url: str, clients: int, seconds: float, seen: collections.Counter[str]) -> None:
    until = time.monotonic() + seconds
    await asyncio.gather(*(client_of(url, number, lambda: time.monotonic() > until, seen) for number in range(clients)))


async def until_one_is_served(seen: collections.Counter[str]) -> None:
    while not seen["200"]:
        await asyncio.sleep(0.02)


def memory(server: Server) -> int:
    """Resident memory of the server process, in bytes."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1_024


@pytest.mark.timeout(180 + 2 * LOAD_SECONDS)
def test_many_clients_each_get_their_output_or_a_refusal(serve: NewServer, engine: Engine) -> None:
    server = serve(
        "--pool-size", "4", "--rate-per-minute", "0", "--concurrency", "150", "--max-waiting", "100", "--queue-timeout-ms", "5000"
    )
    server.ready()
    seen: collections.Counter[str] = collections.Counter()
    asyncio.run(crowd(server.url, LOAD_CLIENTS, LOAD_SECONDS / 3, seen))
    after_a_third = memory(server)
    asyncio.run(crowd(server.url, LOAD_CLIENTS, LOAD_SECONDS * 2 / 3, seen))
    grown = memory(server) - after_a_third
    sys.stdout.write(
        f"\n{LOAD_CLIENTS} clients for {LOAD_SECONDS:g} s: {dict(seen)}, memory {after_a_third / 1e6:.1f} MB, then {grown / 1e6:+.1f} MB\n"
    )
    assert set(seen) <= {"200", "429", "503"}
    assert seen["200"] > LOAD_SECONDS
    assert seen["429"] + seen["503"] > 0  # the bounds were reached
    assert grown < 30e6
    with server.client() as client:
        assert client.post("/v1/run", json={"code": "print('after')"}).json()["stdout"] == "after\n"
    assert server.stop() == 0
    assert containers_of(engine, server) == []


@pytest.mark.timeout(180)
def test_a_stop_under_load_drains_and_leaves_nothing(serve: NewServer, engine: Engine) -> None:
    server = serve("--pool-size", "2", "--rate-per-minute", "0", "--concurrency", "0", "--drain-seconds", "15").ready()
    seen: collections.Counter[str] = collections.Counter()

    async def load() -> tuple[httpx.Response, list[str]]:
        clients = [asyncio.create_task(client_of(server.url, number, lambda: seen["gone"] > 20, seen)) for number in range(20)]
        await until_one_is_served(seen)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False, verify=False) as client:
            lines: list[str] = []
            code = "import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('ended')"

            async def stream() -> None:
                async with client.stream("POST", "/v1/run/stream", json={"code": code}) as answer:
                    async for line in answer.aiter_lines():
                        lines.append(line)  # noqa: PERF401 - others look at it meanwhile

            streaming = asyncio.create_task(stream())
            slow = asyncio.create_task(client.post("/v1/run", json={"code": code}))
            while not any("begun" in line for line in lines):
                await asyncio.sleep(0.02)
            server.process.terminate()
            await asyncio.gather(streaming, *clients)
            return await slow, lines

    slow, lines = asyncio.run(load())
    assert server.stop() == 0
    assert slow.json()["stdout"] == "begun\nended\n"  # what had been taken was finished
    assert any("event: result" in line for line in lines)
    assert set(seen) <= {"200", "503", "gone"}  # gone: refused at the door
    assert seen["200"] > 0
    assert seen["gone"] > 0
    assert containers_of(engine, server) == []
    assert server.log[-1]["event"] == "stopped", server.lines[-10:]


def test_a_stop_does_not_wait_longer_than_it_should(serve: NewServer, engine: Engine) -> None:
    server = serve("--pool-size", "1", "--drain-seconds", "1").ready()
    with server.client() as client, client.stream("POST", "/v1/run/stream", json={"code": "print(1)\nwhile True: pass"}) as answer:
        next(line for line in answer.iter_lines() if "output" in line)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 9  # the program's own limit is 10 s
    assert containers_of(engine, server) == []


@pytest.mark.alone
def test_a_kill_under_load_leaves_nothing(serve: NewServer, engine: Engine) -> None:
    server = serve("--pool-size", "2", "--rate-per-minute", "0", "--concurrency", "0").ready()

    async def load() -> None:
        seen: collections.Counter[str] = collections.Counter()
        clients = [asyncio.create_task(client_of(server.url, number, lambda: False, seen)) for number in range(20)]
        await until_one_is_served(seen)
        await asyncio.sleep(0.5)
        server.process.kill()
        for each in clients:
            each.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    asyncio.run(load())
    assert server.stop() == -signal.SIGKILL
    wait_for(lambda: True if containers_of(engine, server) == [] else None)


def test_sighup_reads_the_keys_again_at_once(serve: NewServer, tmp_path: Path) -> None:
    from .conftest import key_new

    file = tmp_path / "keys"
    key_new("alice", file)
    server = serve("--keys-file", str(file), "--pool-size", "1").ready()
    key_new("bob", file)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: True if any(entry["event"] == "keys read: alice, bob" for entry in server.log) else None, server)


def test_a_port_that_is_taken_is_said_in_one_line(serve: NewServer) -> None:
    port = serve("--pool-size", "1").port
    done = subprocess.run(
        [sys.executable, "-m", "dayfly", "serve", "--port", str(port)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == f"dayfly: host, port: cannot listen at 127.0.0.1 port {port}: Address already in use\n"


@pytest.mark.timeout(240)
def test_no_request_that_the_schema_allows_or_forbids_is_a_500(serve: NewServer) -> None:
    server = serve("--pool-size", "2", "--rate-per-minute", "0", "--timeout-ms", "1000", "--max-timeout-ms", "1000").ready()
    schema = schemathesis.openapi.from_url(f"{server.url}/schema/openapi.json")
    tried: collections.Counter[str] = collections.Counter()
    with server.client() as client:
        for result in schema.get_all_operations():
            operation: Any = cast("Any", result).ok()

            @settings(
                max_examples=12,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.explicit, Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy())
            def try_it(case: Any) -> None:
                options = case.as_transport_kwargs(base_url=server.url)
                options.pop("cookies", None)
                with contextlib.suppress(httpx.InvalidURL):
                    answer = client.request(**options, follow_redirects=False)
                    tried[f"{case.path} {answer.status_code}"] += 1
                    declared = set(case.operation.definition.raw["responses"])
                    assert answer.status_code != 500, answer.text
                    assert str(answer.status_code) in declared, (case, answer.status_code, answer.text)

            try_it()
        # A job has a dozen members by now, and generated ones seldom make sense together: one that
        # does.
        tried[f"/v1/run {client.post('/v1/run', json={'code': 'print(1)'}).status_code}"] += 1
    assert {path for path in ("/compile", "/v1/run", "/v1/run/stream", "/readyz", "/metrics") if tried[f"{path} 200"]} >= {
        "/v1/run",
        "/readyz",
    }
