"""POST /api/v2/execute as a client of Piston's uses it, and by Piston's documented examples."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import piston_rspy
import pytest

from dayfly._server.piston import matches

from ..conftest import Engine
from .conftest import NewServer, Server, key_new, servers, wait_for


@pytest.fixture(scope="module")
def piston(image: str) -> Iterator[Server]:
    with servers(image) as new:
        limits = ["--limits-stdout-bytes", "1000", "--limits-stderr-bytes", "1000", "--limits-on-output-limit", "kill"]
        yield new("--piston", "--pool-size", "2", "--rate-per-minute", "0", "--max-timeout-ms", "10000", *limits).ready()


@pytest.fixture
def client(piston: Server) -> Iterator[httpx.Client]:
    with piston.client() as client:
        yield client


def execute(client: httpx.Client, code: str, **members: Any) -> Any:
    body = {"language": "python", "version": "3.x", "files": [{"content": code}], **members}
    return client.post("/api/v2/execute", json=body).raise_for_status().json()


def test_the_client_runs_programs_and_lists_runtimes(piston: Server) -> None:
    async def talk() -> None:
        client = piston_rspy.Client.with_url(f"{piston.url}/api/v2")
        (runtime,) = [one for one in await client.fetch_runtimes() if one.language == "python"]
        assert runtime.version.startswith("3.")
        assert "py" in runtime.aliases
        executor = piston_rspy.Executor().set_language("python").set_version("*").set_stdin("line").add_arg("one")
        executor = executor.add_file(piston_rspy.File("cool.py", "import sys; print(input(), sys.argv[1:]); sys.exit(3)"))
        answer = await client.execute(executor)
        assert (answer.status, answer.language, answer.version) == (200, "python", runtime.version)
        assert (answer.run.stdout, answer.run.stderr, answer.run.code, answer.run.signal) == ("line ['one']\n", "", 3, None)
        assert answer.compile is None
        refused = await client.execute(executor.set_language("brainfuck"))
        assert refused.status == 400

    asyncio.run(talk())


def test_the_documented_example(client: httpx.Client) -> None:
    body = {
        "language": "py",
        "version": ">=3.6",
        "files": [
            {"name": "my_cool_code.py", "content": "import sys, other; print(sys.argv[1:], input(), other.x, open('b.bin', 'rb').read())"},
            {"name": "other.py", "content": "x = 1"},
            {"name": "b.bin", "content": base64.b64encode(b"\xff").decode(), "encoding": "base64"},
            {"name": "c.bin", "content": "ff00", "encoding": "hex"},
        ],
        "stdin": "in",
        "args": ["1", "2", "3"],
        "compile_timeout": 10000,
        "run_timeout": 3000,
        "compile_cpu_time": 10000,
        "run_cpu_time": 3000,
        "compile_memory_limit": -1,
        "run_memory_limit": -1,
    }
    told = client.post("/api/v2/execute", json=body).raise_for_status().json()
    run = told.pop("run")
    assert told["language"] == "python"
    assert run["stdout"] == run["output"] == "['1', '2', '3'] in 1 b'\\xff'\n"
    assert (run["code"], run["signal"], run["status"], run["message"], run["stderr"]) == (0, None, None, None, "")
    assert run["cpu_time"] > 0 and run["wall_time"] > 0 and run["memory"] > 0


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "signal"),
    [
        ("1/0", "RE", 1, None),
        ("import os; os.abort()", "SG", None, "SIGABRT"),
        ("while True: pass", "TO", None, "SIGKILL"),
        ("print('x' * 5000)", "OL", None, "SIGKILL"),
        ("import sys; print('x' * 5000, file=sys.stderr)", "EL", None, "SIGKILL"),
        ("x = [bytearray(10**6) for _ in range(10**3)]", "SG", None, "SIGKILL"),
    ],
)
def test_each_end_has_its_status(client: httpx.Client, code: str, status: str, exit_code: int | None, signal: str | None) -> None:
    run = execute(client, code, run_timeout=1500 if status == "TO" else 10_000)["run"]
    assert (run["status"], run["code"], run["signal"]) == (status, exit_code, signal)
    assert run["message"]


def test_processor_time_is_bounded(client: httpx.Client) -> None:
    run = execute(client, "while True: pass", run_cpu_time=200, run_timeout=10_000)["run"]
    assert (run["status"], run["signal"]) == ("TO", "SIGKILL")
    assert run["cpu_time"] >= 200
    assert execute(client, "print(1)", run_cpu_time=-1)["run"]["status"] is None
    assert execute(client, "while True: pass", run_cpu_time=0.5)["run"]["status"] == "TO"


def test_a_time_below_a_millisecond_is_one(client: httpx.Client) -> None:
    assert execute(client, "while True: pass", run_timeout=0.5)["run"]["status"] == "TO"


def test_the_program_may_be_named_main_py(client: httpx.Client) -> None:
    files = [{"name": "main.py", "content": "import other; print(other.x)"}, {"name": "other.py", "content": "x = 1"}]
    assert execute(client, "", files=files)["run"]["stdout"] == "1\n"


def test_large_output_comes_back(client: httpx.Client, serve: NewServer) -> None:
    server = serve("--piston", "--pool-size", "1").ready()
    with server.client() as other:
        assert execute(other, "print('x' * 900_000)")["run"]["output"] == "x" * 900_000 + "\n"


def test_before_there_is_a_sandbox_it_is_a_503(serve: NewServer, tmp_path: Path) -> None:
    server = serve("--piston", "--docker-host", f"unix://{tmp_path}/none.sock")
    with server.client() as client:
        body = {"language": "python", "version": "*", "files": [{"content": ""}]}
        for answer in (client.get("/api/v2/runtimes"), client.post("/api/v2/execute", json=body)):
            assert (answer.status_code, list(answer.json())) == (503, ["message"])


def test_a_program_whose_sandbox_is_lost_is_xx(engine: Engine, piston: Server, client: httpx.Client) -> None:
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(execute, client, "import time; time.sleep(8)", run_timeout=9_000)
        wait_for(lambda: piston.metric('dayfly_containers{state="running"}') or None, piston)
        piston.lose_containers(engine)
        run = running.result()["run"]
    assert (run["status"], run["code"], run["stdout"]) == ("XX", None, "")
    piston.warm()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "language is required as a string"),
        ({"language": "python"}, "version is required as a string"),
        ({"language": "python", "version": "*"}, "files is required as an array"),
        ({"language": "python", "version": "*", "files": [{}]}, "files[0].content is required as a string"),
        ({"language": "rust", "version": "*", "files": [{"content": ""}]}, "rust-* runtime is unknown"),
        ({"language": "python", "version": "9", "files": [{"content": ""}]}, "python-9 runtime is unknown"),
        (
            {"language": "python", "version": "*", "files": [{"content": "00", "encoding": "hex"}]},
            "files must include at least one utf8 encoded file",
        ),
        (
            {"language": "python", "version": "*", "files": [{"content": ""}], "run_timeout": 10_001},
            "run_timeout cannot exceed the configured limit of 10000",
        ),
        ({"language": "python", "version": "*", "files": [{"content": ""}], "run_timeout": "1"}, "run_timeout must be a number"),
        ({"language": "python", "version": "*", "files": [{"content": ""}], "stdin": 1}, "if present, stdin"),
        ({"language": "python", "version": "*", "files": [{"content": ""}], "args": "1"}, "args"),
        ({"language": "python", "version": "*", "files": [{"content": "", "name": "../x"}]}, "../x"),
        ({"language": "python", "version": "*", "files": [{"content": ""}, {"content": "zz", "encoding": "hex"}]}, "files[1]"),
        ({"language": "python", "version": "*", "files": [{"content": ""}, {"content": "", "name": 1}]}, "files[1].name must be a string"),
        (
            {"language": "python", "version": "*", "files": [{"content": "", "name": "a"}, {"content": "", "name": "a"}]},
            "files[1].name is 'a', as that of another file",
        ),
        (
            {"language": "python", "version": "*", "files": [{"content": "", "name": "a"}, {"content": "", "name": "main.py"}]},
            "the program is 'a'",
        ),
        (
            {"language": "python", "version": "*", "files": [{"content": ""}], "run_timeout": -1},
            "run_timeout must be non-negative",
        ),
        ({"language": "python", "version": "*", "files": [{"content": ""}] * 20_000}, "40,003 JSON values"),
        ([], "Expected"),
    ],
)
def test_what_cannot_be_run_is_a_400_with_a_message(client: httpx.Client, body: Any, told: str) -> None:
    answer = client.post("/api/v2/execute", json=body)
    assert answer.status_code == 400
    assert told in answer.json()["message"]


def test_other_refusals_have_a_message_too(client: httpx.Client, serve: NewServer, tmp_path: Path) -> None:
    text = client.post("/api/v2/execute", content="x", headers={"Content-Type": "text/plain"})
    assert (text.status_code, set(text.json())) == (415, {"message"})
    key = key_new("alice", tmp_path / "keys")
    with serve("--piston", "--pool-size", "1", "--keys-file", str(tmp_path / "keys")).ready().client() as other:
        assert other.get("/api/v2/runtimes").status_code == 403
        answer = other.get("/api/v2/runtimes", headers={"Authorization": key})
        assert answer.json()[0]["language"] == "python"
    with serve("--pool-size", "1").ready().client() as other:
        assert other.get("/api/v2/runtimes").status_code == 404


@pytest.mark.parametrize("selector", ["*", "x", "3", "3.x", "3.11", "3.11.2", "^3.10", "^3.11.2", "~3.11", "~3.11.1", ">=3.8", "=3.11.2"])
def test_a_selector_that_means_the_version(selector: str) -> None:
    assert matches(selector, "3.11.2")


@pytest.mark.parametrize(
    "selector", ["2", "4.x", "3.12", "3.11.3", "^3.12", "^2.7", "~3.10", "~3.11.3", ">=3.12", "", "three", ">3", "3.11.2.1"]
)
def test_a_selector_that_means_another(selector: str) -> None:
    assert not matches(selector, "3.11.2")
