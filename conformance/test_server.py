"""The contract of POST /compile, as code-execution-api-demo has it, and what HTTP itself demands,
judged on a server process over a real socket."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conformance import adapter
from conformance.oracle import eventually
from conformance.report import clause

KEY, OTHER_KEY = "a key of this suite's own", "another of them"
STARTS_WITHIN = 60.0


Asked = tuple[int, dict[str, str], bytes]


class Served:
    """A server, and what it answers."""

    def __init__(self, port: int) -> None:
        self.port = port

    def compile(self, body: Any = None, *, key: str | None = KEY, kind: str = "application/json") -> tuple[int, dict[str, Any]]:
        """Post to /compile, and return the status and the answer."""
        return self.call("POST", "/compile", body, key=key, kind=kind)

    def call(self, method: str, path: str, body: Any = None, *, key: str | None = KEY, kind: str = "application/json") -> tuple[int, Any]:
        """Call a route, and return the status and the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.ask(method, path, data, {"Content-Type": kind, "X-API-Key": key})
        return status, json.loads(answer or b"null")

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str | None] | None = None) -> Asked:
        """Send a request, and return the status, the headers by their names in small letters, and
        the body. A header of None is left out."""
        given = {name: value for name, value in (headers or {"X-API-Key": KEY}).items() if value is not None}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@contextlib.contextmanager
def served(implementation: adapter.Implementation, image: str, **settings: Any) -> Iterator[Served]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(implementation.server(image, port=port, keys=[KEY, OTHER_KEY], settings=settings), stderr=subprocess.DEVNULL)
    try:
        server = Served(port)
        deadline = time.monotonic() + STARTS_WITHIN
        status = 0
        while status not in (200, 403):  # 503 until its pool is there
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < deadline, f"not ready after {STARTS_WITHIN:g} s: {status}"
            with contextlib.suppress(OSError):
                status, _ = server.compile({"code": "1"})
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def server(implementation: adapter.Implementation, image: str, refusal: str) -> Iterator[Served]:
    if refusal:  # then no test gets this far
        yield Served(0)
        return
    with served(implementation, image) as server:
        yield server


@clause("compile.result")
def test_a_result_has_the_documented_names(server: Served) -> None:
    status, answer = server.compile({"code": "import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)"})
    assert status == 200
    expected = {
        "stdout": "out\n",
        "stderr": "err\n",
        "combined": "out\nerr\n",
        "isError": True,
        "timedOut": False,
        "killedByContainer": False,
    }
    assert answer == expected
    assert server.compile({"code": "pass"})[1] == {**expected, "stdout": "", "stderr": "", "combined": "", "isError": False}


@clause("compile.job")
def test_a_job_may_have_more_than_code(server: Served) -> None:
    code = "import json, sys\nprint(sys.version_info[0], json.load(sys.stdin)['x'])"
    status, answer = server.compile({"code": code, "v3": True, "timeoutMs": 9_000, "data": {"x": "ü"}, "unheard": ["of"]})
    assert (status, answer["stdout"]) == (200, "3 ü\n")


@clause("compile.timeout")
def test_a_time_out_is_told(server: Served) -> None:
    status, answer = server.compile({"code": "print('begun')\nwhile True: pass", "timeoutMs": 500})
    assert status == 200
    assert answer == {
        "stdout": "begun\n",
        "stderr": "",
        "combined": "begun\n",
        "isError": True,
        "timedOut": True,
        "killedByContainer": True,
    }


@clause("compile.no-code")
@pytest.mark.parametrize(("body", "kind"), [(b"", "application/json"), (b"{}", "application/json"), (b'{"code": "1"}', "text/plain")])
def test_no_code_is_a_bad_request(server: Served, body: bytes, kind: str) -> None:
    status, answer = server.compile(body, kind=kind)
    assert (status, answer["status"], answer["error"]) == (400, 400, "No code provided")


@clause("compile.key")
@pytest.mark.parametrize("key", [None, "", "another", KEY + "x", KEY[:-1]])
def test_no_key_is_forbidden(server: Served, key: str | None) -> None:
    status, answer = server.compile({"code": "print(1)"}, key=key)
    assert (status, answer["status"], answer["error"]) == (403, 403, "No API key or incorrect value provided")


@clause("compile.address")
def test_an_address_that_is_not_allowed_is_forbidden(implementation: adapter.Implementation, image: str) -> None:
    with served(implementation, image, allowed_networks=["192.0.2.0/24"]) as strict:
        status, answer = strict.compile({"code": "print(1)"})
    assert (status, answer["status"]) == (403, 403)
    assert "127.0.0.1" in answer["error"]


@clause("http.session")
def test_a_session_shares_files_until_it_ends(server: Served) -> None:
    status, opened = server.call("POST", "/v1/sessions", {})
    assert status == 201
    path = f"/v1/sessions/{opened['id']}"
    run = {"code": "import os\nprint(sorted(os.listdir()))\nopen('kept', 'w').close()"}
    for query, found in (("", "['main.py']\n"), ("", "['kept', 'main.py']\n"), ("?clean=true", "['main.py']\n")):
        status, answer = server.call("POST", f"{path}/run{query}", run)
        assert status == 200
        assert answer["stdout"] == found
    long = {"code": "import time\ntime.sleep(3)\nprint('ended')", "timeoutMs": 20_000}
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(server.call, "POST", f"{path}/run", long)
        eventually(lambda: server.call("GET", path)[1]["running"], "the first program runs")
        assert server.call("POST", f"{path}/run", run)[0] == 409
        assert first.result()[1]["stdout"] == "ended\n"
    assert server.call("DELETE", path)[0] in (200, 204)
    for method, route in (("GET", path), ("POST", f"{path}/run"), ("POST", f"{path}/run?clean=true")):
        assert server.call(method, route, run)[0] == 410


@clause("http.session-key")
def test_a_session_is_its_keys_alone(server: Served) -> None:
    _, opened = server.call("POST", "/v1/sessions", {})
    path, run = f"/v1/sessions/{opened['id']}", {"code": "print(1)"}
    for route, key in ((path, OTHER_KEY), (path[:-1], KEY)):
        for method, end in (("GET", ""), ("POST", "/run"), ("POST", "/run/stream"), ("DELETE", "")):
            assert server.call(method, route + end, run, key=key)[0] == 404
    assert server.call("POST", f"{path}/run", run, key="a third")[0] in (401, 403)
    status, listed = server.call("GET", "/v1/sessions", key=OTHER_KEY)
    assert status == 200 and opened["id"] not in json.dumps(listed)
    assert server.call("POST", f"{path}/run", run)[1]["stdout"] == "1\n"
    server.call("DELETE", path)


@clause("http.head")
@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/limits", "/metrics", "/schema", "/v1/sessions", "/nothing"])
def test_head_is_get_without_the_body(server: Served, path: str) -> None:
    status, headers, body = server.ask("GET", path)
    told, same, nothing = server.ask("HEAD", path)
    assert (told, same["content-type"], nothing) == (status, headers["content-type"], b"")
    assert status == (404 if path == "/nothing" else 200)
    assert body


JSON = {"X-API-Key": KEY, "Content-Type": "application/json"}


@clause("http.too-large")
@pytest.mark.parametrize("path", ["/v1/run", "/v1/run/stream", "/v1/judge", "/v1/cases", "/v1/sessions", "/compile"])
def test_a_body_over_the_limit_names_it(server: Served, path: str) -> None:
    most = json.loads(server.ask("GET", "/v1/limits")[2])["requestBytes"]
    # The answer comes before the body does.
    status, _, answer = server.ask("POST", path, None, {**JSON, "Content-Length": str(most + 1)})
    assert (status, f"(request_bytes) is {most:,}" in json.loads(answer)["detail"]) == (413, True)


@clause("http.too-large")
def test_what_the_limits_allow_fits_in_any_json_form(server: Served) -> None:
    limits = json.loads(server.ask("GET", "/v1/limits")[2])
    letters = limits["inputBytes"] // 2
    body = json.dumps({"code": "#" * (limits["codeBytes"] - 30) + "\nprint(len(input()))", "stdin": "\u0439" * letters}).encode()
    assert len(body) > 6 * letters
    status, _, answer = server.ask("POST", "/v1/run", body, JSON)
    assert (status, json.loads(answer)["stdout"]) == (200, f"{letters}\n")


@clause("http.encoded")
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "aws-chunked"])
def test_an_encoded_body_is_not_supported(server: Served, encoding: str) -> None:
    status, headers, _ = server.ask("POST", "/v1/run", gzip.compress(b'{"code": "print(1)"}'), {**JSON, "Content-Encoding": encoding})
    assert (status, headers["accept-encoding"]) == (415, "identity")


@clause("http.encoded")
@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"code": "print(1)"}', "text/plain", 415),
        (b'{"code": "print(1)"}', None, 415),
        (b'\xef\xbb\xbf{"code": "print(1)"}', "application/json", 200),
        (b'{"code": "print(1)"}', "Application/JSON; charset=utf-8", 200),
    ],
)
def test_the_type_of_a_body_is_json(server: Served, body: bytes, kind: str | None, status: int) -> None:
    assert server.ask("POST", "/v1/run", body, {"X-API-Key": KEY, "Content-Type": kind})[0] == status
