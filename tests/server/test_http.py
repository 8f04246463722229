"""HTTP itself: methods, sizes, encodings of requests, and messages that say what is wrong."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import httpx
import pytest

from .conftest import Server
from .test_api import problem

AS_JSON = {"content-type": "application/json"}


def answer_to(server: Server, request: bytes, seconds: float = 10) -> bytes:
    """Everything that the server answers to raw bytes, until it closes or is silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(request)
        seen = b""
        try:
            while chunk := connection.recv(65_536):
                seen += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return seen


@pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/readyz", "/v1/limits", "/metrics", "/schema", "/schema/openapi.json"])
def test_head_is_get_without_the_body(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # which changes with every request
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_of_a_post_route_is_refused(client: httpx.Client) -> None:
    assert client.head("/v1/run").status_code == 405
    assert client.head("/nothing").status_code == 404
    assert "HEAD" in client.options("/healthz").headers["allow"]
    assert "HEAD" in client.post("/healthz").headers["allow"]
    assert client.get("/healthz").status_code == 200  # the connection is in step


@pytest.mark.parametrize("letter", ["й", "\x01", "😀", "x"])
def test_whatever_the_limits_allow_fits_its_json(client: httpx.Client, letter: str) -> None:
    limits = client.get("/v1/limits").json()
    size = len(letter.encode())
    stdin = letter * ((limits["inputBytes"] - 4) // size)
    code = "print('whole')\n#" + letter * ((limits["codeBytes"] - 20) // size)
    if letter == "\x01":
        code = "print('whole')"
    job = {"code": code, "stdin": stdin, "timeoutMs": 20_000}
    answer = client.post("/v1/run", content=json.dumps(job), headers=AS_JSON)
    # The limits of this container's memory may end it: that is a result.
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] in ("ok", "out_of_memory")


def test_escaped_data_counts_as_its_letters(client: httpx.Client) -> None:
    job = {"code": "import sandbox; print(len(sandbox.data))", "data": "й" * 100_000}
    assert client.post("/v1/run", content=json.dumps(job), headers=AS_JSON).json()["stdout"] == "100000\n"
    job["data"] = "й" * 1_900_000  # 3.8 MB, and 11.4 MB in ASCII
    answer = client.post("/v1/run", content=json.dumps(job), headers=AS_JSON)
    assert answer.status_code == 200, answer.text
    job["data"] = "й" * 2_100_000
    told = problem(client.post("/v1/run", content=json.dumps(job), headers=AS_JSON), 422, "invalid")
    assert "4,200,002 bytes together; the limit (input_bytes) is 4,000,000" in told["detail"]


@pytest.mark.parametrize(
    "data",
    [
        '[1, 2.50, {"a" : null}]',
        '"\\u0022\\u005c\\u000a\\\\u0041 \\ud83d\\ude00 \\u0439\\u0416 \\n\\t"',
        '"\\\\\\u0439\\\\\\\\u0439"',
        "123456789012345678901234567890",
        '{"a": 1, "a": 2}',
    ],
)
def test_data_arrives_as_it_was_meant(client: httpx.Client, data: str) -> None:
    code = "import json, sandbox, sys; sandbox.send(sandbox.data); print(json.load(sys.stdin) == sandbox.data)"
    text = f'{{"code": {json.dumps(code)}, "data": {data}}}'
    result = client.post("/v1/run", content=text, headers=AS_JSON).json()
    assert (result["messages"], result["stdout"]) == ([json.loads(data)], "True\n")


def test_data_is_one_line_of_stdin(client: httpx.Client) -> None:
    text = '{"code": "print(open(0).read().count(chr(10)))", "data": [\n1,\n2\n]}'
    assert client.post("/v1/run", content=text, headers=AS_JSON).json()["stdout"] == "1\n"


@pytest.mark.parametrize("path", ["/v1/run", "/v1/run/stream", "/compile"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "x"])
def test_a_compressed_request_is_a_415(client: httpx.Client, path: str, encoding: str) -> None:
    content = gzip.compress(b'{"code": "1"}')
    headers = {**AS_JSON, "content-encoding": encoding}
    answer = client.post(path, content=content, headers=headers)
    assert encoding in problem(answer, 415, "encoded")["detail"]
    assert answer.headers["accept-encoding"] == "identity"


def test_identity_and_a_byte_order_mark_are_nothing(client: httpx.Client) -> None:
    headers = {**AS_JSON, "content-encoding": "identity"}
    content = b'\xef\xbb\xbf{"code": "print(1)"}'
    assert client.post("/v1/run", content=content, headers=headers).json()["stdout"] == "1\n"
    assert client.post("/compile", content=content, headers=headers).json()["stdout"] == "1\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"code": "\\ud83d"}', "escape \\ud83d at byte 10 is a lone surrogate, not text"),
        (b'{"code": "\\ud83d x"}', "escape \\ud83d at byte 10 is a lone surrogate, not text"),
        (b'{"code": "\\\\\\uDC00"}', "escape \\uDC00 at byte 12 is a lone surrogate, not text"),
        (b'{"code": "1", "data": ["\\ud83d"]}', "escape \\ud83d at byte 24 is a lone surrogate, not text"),
        (b'{"code": "\\ud83d\\ude00\\ude00"}', "escape \\ude00 at byte 22 is a lone surrogate, not text"),
        (b'{"code": "ab\xff"}', "not valid UTF-8: invalid start byte at byte 12"),
        (b'{"code": "1", "data": "ab\xff"}', "not valid UTF-8: invalid start byte at byte 25"),
        (b'{"code": "1", "data": "\xed\xa0\x80"}', "not valid UTF-8"),
        (b'{"code": "1"', "Input data was truncated"),
        (b'{"code": "1", "data": NaN}', "JSON is malformed: invalid character (byte 22)"),
        (b'{"code": "1", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b" \n", "the body is empty"),
    ],
)
def test_messages_say_what_cannot_be_read(client: httpx.Client, content: bytes, told: str) -> None:
    answer = client.post("/v1/run", content=content, headers=AS_JSON)
    assert told in problem(answer, 400, "malformed")["detail"]


@pytest.mark.parametrize("path", ["/v1/run", "/v1/run/stream", "/compile"])
@pytest.mark.parametrize("timeout", [0, -1, 0.5, 20_001, 1e300])
def test_a_time_out_out_of_bounds_names_the_bounds(client: httpx.Client, path: str, timeout: float) -> None:
    told = problem(client.post(path, json={"code": "1", "timeoutMs": timeout}), 422, "invalid")["detail"]
    assert told.startswith(f"timeoutMs is {timeout:g};")
    assert "this server takes 1 to 20000" in told


def test_two_lengths_are_a_400(shared: Server) -> None:
    head = b"POST /v1/run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for extra in (
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Host: localhost\r\n",
    ):
        answer = answer_to(shared, head + extra + b"\r\n0\r\n\r\n", seconds=2)
        assert answer.startswith(b"HTTP/1.1 400 "), answer


@pytest.mark.parametrize("host", ["[::1].evil.example", "localhost:x@evil", "localhost.evil", "localhost:1:2", "[::1", ""])
def test_only_a_plain_local_host_needs_no_key(shared: Server, host: str) -> None:
    request = f"GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
    assert answer_to(shared, request).startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_without_a_key_other_origins_are_refused(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    assert client.post("/v1/run", json={"code": "1"}, headers=headers).status_code == status
    own = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert client.post("/v1/run", json={"code": "1"}, headers=own).status_code == 200


def events_of(text: str) -> list[tuple[str, Any]]:
    parts = [part.split("\n") for part in text.strip().split("\n\n") if not part.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


def test_combined_can_be_left_out(client: httpx.Client) -> None:
    job = {"code": "import sys; sys.stdout.write('\\0' * 1_000_000); sys.stderr.write('\\0' * 1_000_000)"}
    whole = client.post("/v1/run", json=job)
    less = client.post("/v1/run?combined=false", json=job)
    assert "combined" in whole.json()
    assert "combined" not in less.json()
    assert len(less.content) < 0.55 * len(whole.content)
    streamed = client.post("/v1/run/stream?combined=false", json={"code": "print(1)"}).text
    assert "combined" not in events_of(streamed)[-1][1]
    problem(client.post("/v1/run?combined=x", json={"code": "1"}), 422, "invalid")
