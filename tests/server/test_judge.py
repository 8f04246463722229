"""Judging over HTTP: the routes, their bounds, and `dayfly.remote` on top of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest

from dayfly._server import bodies
from dayfly._server.case_sets import memory
from dayfly._server.judging import cases_decoder
from dayfly._server.service import off_loop
from dayfly.judge import Call, Case, CaseLimits, CaseResult, Cases, Group, Program, Tokens, Verdict
from dayfly.remote import AsyncRemoteSandbox, RemoteSandbox

from .conftest import Server, servers

CODE = "print(int(input()) + 1)"
CASES = [{"stdin": str(n), "expected": str(n + 1)} for n in range(3)]


@pytest.fixture(scope="module")
def there(image: str) -> Iterator[Server]:
    with servers(image) as new:
        options = ["--pool-size", "2", "--rate-per-minute", "0", "--max-timeout-ms", "20000", "--case-sets-bytes", "8000"]
        yield new(*options, "--judge-seconds", "20").ready()


@pytest.fixture
def web(there: Server) -> Iterator[httpx.Client]:
    with there.client() as client:
        yield client


@pytest.fixture(scope="module")
def remote(there: Server) -> Iterator[RemoteSandbox]:
    with RemoteSandbox(there.url) as sandbox:
        yield sandbox


def events(text: str) -> list[tuple[str, Any]]:
    blocks = [block.partition("\ndata: ") for block in text.strip().split("\n\n") if not block.startswith(":")]
    return [(name.removeprefix("event: "), json.loads(data)) for name, _, data in blocks]


def test_a_judging(web: httpx.Client) -> None:
    answer = web.post("/v1/judge", json={"code": CODE, "cases": {"cases": CASES}, "concurrency": 2}).raise_for_status().json()
    assert (answer["verdict"], answer["passed"], answer["score"], answer["counts"]) == ("accepted", 3, 3.0, {"accepted": 3})
    assert answer["cases"][1]["result"]["stdout"] == "2\n"


def test_everything_that_can_be_asked_for(web: httpx.Client) -> None:
    given = {
        "codeBytes": "cHJpbnQoaW5wdXQoKSk=",
        "cases": {
            "cases": [
                {"stdin": "1", "expected": "1.0", "group": "a", "limits": {"cpuMs": 100}},
                {"stdin": "2", "expected": "3", "group": "b"},
            ],
            "groups": [{"name": "a", "score": "all", "points": 5}],
        },
        "checker": {"type": "floats", "abs": 0.1},
        "limits": {"wallMs": 5_000, "outputBytes": 100},
        "stop": "first",
        "keepOutput": 0,
    }
    answer = web.post("/v1/judge", json=given).raise_for_status().json()
    assert [case["verdict"] for case in answer["cases"]] == ["accepted", "wrong_answer"]
    assert (answer["score"], answer["maxScore"]) == (5.0, 6.0)
    assert answer["cases"][0]["result"]["stdout"] == ""
    assert answer["cases"][0]["cut"] is True


def test_a_stream_tells_of_each_case_in_order(web: httpx.Client) -> None:
    told = events(web.post("/v1/judge/stream", json={"code": CODE, "cases": {"cases": CASES}}).raise_for_status().text)
    assert [name for name, _ in told] == ["started", "case", "case", "case", "verdict"]
    assert [data["verdict"] for name, data in told if name == "case"] == ["accepted"] * 3
    assert told[-1][1]["verdict"] == "accepted"


def test_cases_are_sent_once_and_forgotten_by_size(web: httpx.Client) -> None:
    body = json.dumps({"cases": CASES}).encode()
    headers = {"Content-Type": "application/json"}
    kept = web.post("/v1/cases", content=body, headers=headers)
    assert kept.status_code == 201
    assert kept.json() == {"id": hashlib.sha256(body).hexdigest(), "cases": 3}
    judged = {"code": CODE, "caseSet": kept.json()["id"]}
    assert web.post("/v1/judge", json=judged).raise_for_status().json()["passed"] == 3
    other = json.dumps({"cases": [{"stdin": "x" * 6_000}]}).encode()
    assert web.post("/v1/cases", content=other, headers=headers).status_code == 201
    answer = web.post("/v1/judge", json=judged)
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/no-cases")
    most = web.get("/v1/limits").json()["caseSetsBytes"]
    large = json.dumps({"cases": [{"stdin": "x" * (most + 100)}]}).encode()
    answer = web.post("/v1/cases", content=large, headers=headers)
    assert (answer.status_code, f"case_sets_bytes is {most:,}" in answer.json()["detail"]) == (413, True)


def test_many_small_cases_do_not_pass_for_few_bytes(web: httpx.Client) -> None:
    answer = web.post("/v1/cases", content=b'{"cases": [' + b",".join([b"{}"] * 50) + b"]}", headers={"Content-Type": "application/json"})
    assert (answer.status_code, "bytes of memory" in answer.json()["detail"]) == (413, True)


@pytest.mark.parametrize(("count", "in_thread"), [(10, False), (5_000, True)])
def test_many_cases_are_looked_at_in_a_thread(count: int, in_thread: bool) -> None:
    class Decoder:
        def decode(self, _body: bytes) -> int:
            return threading.get_ident()

    async def idents() -> list[int]:
        body = b'{"cases": [' + b",".join([b"{}"] * count) + b"]}"
        return [await bodies.decode(Decoder(), body, most_values=100_000), await off_loop(count, threading.get_ident)]

    assert [ident != threading.get_ident() for ident in asyncio.run(idents())] == [in_thread] * 2


@pytest.mark.parametrize(
    "item",
    [
        "{}",
        '{"name": "abc", "stdin": "1", "expected": "2"}',
        '{"filesText": {"a": "b"}, "args": ["a"], "limits": {"cpuMs": 1}, "checker": {"type": "exact"}}',
        '{"call": {"function": "f", "args": [[1, 1.5, "ab", [], [1], {}, {"a": 1}]]}}',
        '{"call": {"function": "f"}, "expected": [' + ",".join(['{"a":{}}'] * 50) + "]}",
        '{"stdin": "' + "x" * 1_000 + '\U0001f600"}',
        '{"stdin": "' + "x" * 1_000 + '\\ud83d\\ude00"}',
    ],
)
def test_the_memory_of_a_set_is_not_underrated(item: str) -> None:
    count = 500
    body = ('{"cases": [' + ",".join([item] * count) + "]}").encode()
    tracemalloc.start()
    try:
        cases = cases_decoder.decode(body)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cases) == count
    assert held <= memory(body, count) <= 12 * held


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"cases": {"cases": CASES}}, 422, "give one of code and codeBytes"),
        ({"code": "1", "codeBytes": "MQ==", "cases": {"cases": CASES}}, 422, "give one of code and codeBytes"),
        ({"code": "1"}, 422, "give one of cases and caseSet"),
        ({"code": "1", "caseSet": ""}, 404, "there are no cases with this id"),
        ({"code": "1", "cases": {"cases": CASES}, "caseSet": "x"}, 422, "give one of cases and caseSet"),
        ({"code": "1", "cases": {"cases": []}}, 422, "from 1 to 10,000"),
        ({"code": "1", "cases": {"cases": [{"stdin": 1}]}}, 422, "stdin"),
        ({"code": "1", "cases": {"cases": [{"call": {"function": "f"}, "checker": {"type": "tokens"}}]}}, 422, "use Json or SetEq"),
        ({"code": "1", "cases": {"cases": CASES}, "checker": {"type": "any"}}, 422, "Invalid value 'any'"),
        ({"code": "1", "cases": {"cases": CASES}, "stop": "all"}, 422, "stop must be"),
        ({"code": "1", "cases": {"cases": CASES}, "concurrency": 0}, 422, "concurrency"),
        ({"code": "1", "cases": {"cases": CASES}, "keepOutput": -1}, 422, "keepOutput"),
        ({"code": "1", "cases": {"cases": CASES}, "limits": {"wallMs": 30_000}}, 422, "20000 (max_timeout_ms)"),
        ({"code": "1", "cases": {"cases": [{"limits": {"cpuMs": 30_000}}]}}, 422, "20000 (max_timeout_ms)"),
        ({"code": "1", "cases": {"cases": CASES}, "limits": {"wallMs": 0}}, 422, "wallMs must be a finite number from 1 to 20000 (max"),
        ({"code": "1", "cases": {"cases": [{"limits": {"cpuMs": 1e300}}]}}, 422, "cpuMs must be a finite number from 1 to 20000 (max"),
        ({"code": "1", "cases": {"cases": CASES, "limits": {"outputBytes": 0}}}, 422, "cases.limits: outputBytes must be from 1"),
        ({"code": "1" * 2_000_000, "cases": {"cases": CASES}}, 422, "code_bytes"),
        ({"code": "1", "cases": {"cases": CASES}, "x": 1}, 422, "unknown field"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("route", ["/v1/judge", "/v1/judge/stream"])
def test_what_cannot_be_judged_is_refused(web: httpx.Client, route: str, body: dict[str, Any], status: int, says: str) -> None:
    answer = web.post(route, json=body)
    assert answer.status_code == status
    assert says in answer.json()["detail"]


def test_a_request_of_many_values_is_refused_unbuilt(web: httpx.Client) -> None:
    text = '{"code": "1", "cases": {"cases": [' + "{}," * 600_000 + "{}]}}"
    answer = web.post("/v1/judge", content=text, headers={"Content-Type": "application/json"})
    assert (answer.status_code, "JSON values; 500,000 are allowed" in answer.json()["detail"]) == (422, True)
    inputs = {"code": "print(1)", "cases": {"cases": [{"stdin": "1," * 600_000, "expected": "1"}]}}
    assert web.post("/v1/judge", json=inputs).json()["verdict"] == "accepted"


def test_a_judging_that_takes_too_long_ends_in_judge_errors(there: Server) -> None:
    with there.client() as client:
        given = {"code": "import time; time.sleep(8); print(1)", "cases": {"cases": [{"expected": "1"}] * 4}, "limits": {"wallMs": 15_000}}
        answer = client.post("/v1/judge", json=given, timeout=60).raise_for_status().json()
    assert [case["verdict"] for case in answer["cases"]] == ["accepted", "accepted", "judge_error", "judge_error"]
    assert "max_seconds" in answer["cases"][3]["error"]


def test_a_client_that_goes_away_ends_its_judging(there: Server) -> None:
    given = {"code": "import time; time.sleep(10)", "cases": {"cases": [{}] * 2}}
    with there.client(headers={}) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/judge", json=given, timeout=1.0)
    with there.client() as client:
        assert client.post("/v1/judge", json={"code": CODE, "cases": {"cases": CASES}}).json()["verdict"] == "accepted"


def test_judgings_are_counted(web: httpx.Client, there: Server) -> None:
    before = there.metric("dayfly_judgings_total")
    web.post("/v1/judge", json={"code": "", "cases": {"cases": [{}]}}).raise_for_status()
    assert there.metric("dayfly_judgings_total") == before + 1


# dayfly.remote


def numbers(count: int) -> list[Case]:
    return [Case(stdin=str(n), expected=str(n + 1), name=str(n)) for n in range(count)]


def test_a_remote_judging_is_as_a_local_one(remote: RemoteSandbox) -> None:
    seen: list[CaseResult] = []
    threads: set[int] = set()

    def told(case: CaseResult) -> None:
        seen.append(case)
        threads.add(threading.get_ident())

    verdict = remote.judge(CODE.encode(), numbers(3), checker=Tokens(), limits=CaseLimits(cpu_ms=1_000), on_case=told, concurrency=2)
    assert verdict.verdict is Verdict.ACCEPTED
    assert [case.name for case in seen] == ["0", "1", "2"]
    assert threads == {threading.get_ident()}
    assert verdict.cases[0].result is not None
    assert verdict.cases[0].result.stdout == "1\n"
    calls = [Case(call=Call("f", [1]), expected=2, group="g")]
    assert remote.judge("def f(n): return n + 1", calls, groups=[Group("g", score="all", points=3)]).score == 3.0


def test_cases_are_named_by_their_hash(remote: RemoteSandbox, there: Server) -> None:
    cases = Cases(cases=numbers(2))
    remote.judge(CODE, cases)

    def sent() -> int:
        return sum(entry.get("path") == "/v1/cases" for entry in there.log)

    before = sent()
    assert remote.judge(CODE, cases).passed == 2
    assert sent() == before
    with pytest.raises(ValueError, match="case_sets_bytes"):
        remote.judge(CODE, Cases(cases=numbers(100)))


def test_groups_win_over_those_of_the_cases(remote: RemoteSandbox) -> None:
    cases = Cases(cases=numbers(2), groups=[Group("", score="all", points=3)])
    assert remote.judge(CODE, cases).max_score == 3.0
    assert remote.judge(CODE, cases, groups=[Group("", score="all", points=5)]).max_score == 5.0


def test_what_cannot_be_sent_is_refused(remote: RemoteSandbox) -> None:
    with pytest.raises(TypeError, match="cannot be sent"):
        remote.judge(CODE, numbers(1), checker=bool)
    with pytest.raises(TypeError, match="no keyword 'limit'"):
        remote.judge(CODE, numbers(1), limit=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="judge_seconds"):
        remote.judge(CODE, numbers(1), max_seconds=3)
    with pytest.raises(ValueError, match="max_timeout_ms"):
        remote.judge(CODE, numbers(1), limits=CaseLimits(wall_ms=90_000))


def test_a_checker_that_is_a_program_is_sent(remote: RemoteSandbox) -> None:
    checker = Program(code="import sys; sys.exit(open('output').read() != open('answer').read() + '\\n')")
    assert remote.judge(CODE, numbers(2), checker=checker).verdict is Verdict.ACCEPTED


async def test_the_async_client_judges_too(there: Server, anyio_backend: str) -> None:
    async with AsyncRemoteSandbox(there.url) as sandbox:
        assert (await sandbox.judge(CODE, numbers(2))).passed == 2
        with anyio.move_on_after(1.0) as scope:
            await sandbox.judge("import time; time.sleep(9)", numbers(1))
        assert scope.cancelled_caught


def test_the_wait_for_the_first_containers_has_an_end(image: str) -> None:
    """Two judgings with programs as checkers take two containers each, and there are two."""
    checker = {"type": "program", "code": "import sys; sys.exit(0)"}
    given = {"code": "import time; time.sleep(6)", "cases": {"cases": [{}]}, "checker": checker}
    with servers(image) as new:
        options = ["--pool-size", "1", "--max-containers", "2", "--queue-timeout-ms", "1000", "--rate-per-minute", "0"]
        there = new(*options, "--concurrency", "0").ready()
        with there.client() as web, there.client() as other, web.stream("POST", "/v1/judge/stream", json=given) as first:
            lines = first.iter_lines()
            assert next(lines) == "event: started"
            answer = other.post("/v1/judge", json=given)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/queue-timeout"), answer.text
            assert any('"verdict":"accepted"' in line for line in lines)
