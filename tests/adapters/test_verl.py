"""The reward function as verl calls it, by keywords and from many threads, against a real
server."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dayfly import ContainerLost
from dayfly.adapters import verl
from dayfly.adapters.verl import code_of, compute_score
from dayfly.judge import JudgeResult

from ..server.conftest import Server, servers

RIGHT = "Let me think.\n```python\nprint(0)\n```\nBetter:\n```python\nn = int(input())\nprint(n + 1)\n```\nDone."
HALF = "```\nn = int(input())\nprint(n + 1 if n < 2 else 0)\n```"
LCB = {"inputs": ["1", "2"], "outputs": ["2\n", "3\n"], "fn_name": None}
FUSION = [{"input": {"stdin": "1"}, "output": {"stdout": "2"}}]


@pytest.fixture(scope="module")
def server(image: str) -> Iterator[Server]:
    with servers(image) as new:
        yield new("--pool-size", "2", "--rate-per-minute", "0", "--concurrency", "0").ready()


def score(server: Server, answer: str, truth: Any, **more: Any) -> float:
    return compute_score(data_source="apps", solution_str=answer, ground_truth=truth, extra_info={}, url=server.url, **more)


def test_an_answer_is_scored_by_its_last_block_of_code(server: Server) -> None:
    assert score(server, RIGHT, LCB) == 1.0
    assert score(server, RIGHT, json.dumps(LCB), reward_router_address=None) == 1.0
    assert score(server, RIGHT, json.dumps(FUSION)) == 1.0
    assert score(server, HALF, LCB) == 0.0
    assert score(server, HALF, LCB, continuous=True) == 0.5
    assert score(server, "no code", LCB) == 0.0
    assert score(server, "```python\nwhile True: pass\n```", LCB, wall_ms=300) == 0.0
    called = {"inputs": ["[1, 2]\n3"], "outputs": ["6"], "fn_name": "total"}
    assert score(server, "```python\ndef total(a, b): return sum(a) + b\n```", called) == 1.0
    assert code_of("``` python\nx\n```") is None
    with pytest.raises(ValueError, match=r"input\.stdin"):
        score(server, RIGHT, [1])


def test_it_works_as_verl_loads_it_by_its_path(server: Server) -> None:
    found = importlib.util.spec_from_file_location("custom_module", verl.__file__)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)  # and verl does not put it into sys.modules
    with ThreadPoolExecutor(8) as threads:
        scores = threads.map(lambda _: module.compute_score("apps", RIGHT, LCB, {}, url=server.url), range(8))
        assert [*scores] == [1.0] * 8
    assert module._made.cache_info().misses == 1
    module._sandbox(server.url, None).close()


def test_a_failure_of_the_sandbox_is_judged_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, failures = verl._sandbox(server.url, None).judge, 2

    def failing(*given: Any, **options: Any) -> JudgeResult:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ContainerLost("on its way", delivered=True)
        return judge(*given, **options)

    monkeypatch.setattr(verl._sandbox(server.url, None), "judge", failing)
    assert score(server, RIGHT, LCB) == 1.0
    failures = 3
    with pytest.raises(ContainerLost):
        score(server, RIGHT, LCB)


def test_a_step_of_training_is_scored_whole(server: Server) -> None:
    with ThreadPoolExecutor(16) as threads:
        answers = [RIGHT, HALF] * 16
        assert [*threads.map(lambda answer: score(server, answer, LCB), answers)] == [1.0, 0.0] * 16


def test_a_lost_server_is_no_wrong_answer(image: str) -> None:
    with servers(image) as new, ThreadPoolExecutor(1) as thread:
        lost = new("--pool-size", "1", "--rate-per-minute", "0").ready()
        slow = "```python\nimport time; time.sleep(20)\n```"
        judging = thread.submit(score, lost, slow, LCB, wall_ms=30_000, tries=1)
        while not lost.metric('dayfly_containers{state="running"}'):
            pass
        lost.stop(signal.SIGKILL)
        with pytest.raises(ContainerLost):
            judging.result()
