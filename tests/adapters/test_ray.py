"""dayfly.adapters.ray on a real cluster of several nodes on this machine, which share its engine. A
node is killed under load."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dayfly import ContainerLost, EngineUnreachable, ImageMissing, Job, Outcome, PoolClosed, Result

from .. import documents
from ..conftest import Engine

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
MARKED: dict[str, Any] = {**NODE, "resources": {"dayfly": 1}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without an engine, and two nodes that have one: marked by a resource, and by a label
    too."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anybody
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    made.add_node(**MARKED)
    made.add_node(**MARKED, labels={"engine": "yes"})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def fleet(cluster: Any, image: str) -> Iterator[Any]:
    from dayfly.adapters.ray import Fleet

    with Fleet(pool_size=2, image=image) as made:
        yield made


def test_a_result_is_that_of_a_sandbox_on_the_node(fleet: Any) -> None:
    assert fleet.capacity == 8
    code = "import sandbox, sys; sandbox.send({'x': [1, None]}); print(input()); open('o', 'wb').write(b'\\xff'); sys.exit(3)"
    result = fleet.run(code, stdin="hi", fetch=["o", "p"], data={"y": 1})
    assert isinstance(result, Result)
    assert (result.outcome, result.exit_code, result.stdout, result.messages) == (Outcome.ERROR, 3, "hi\n", [{"x": [1, None]}])
    assert (result.files, [file.why for file in result.files_skipped]) == ({"o": b"\xff"}, ["missing"])
    assert result.wall_ms > 0
    assert result.last_value is None
    value = fleet.run("import sandbox; sandbox.display(1)\n40 + 2", last_value=True)
    assert (value.last_value, value.displays) == ({"repr": "42", "json": 42}, [{"text/plain": "1"}])
    assert fleet.run("import os; os.write(1, b'a\\xff')").stdout_bytes == b"a\xff"
    assert fleet.run("while True: pass", timeout_ms=300).outcome is Outcome.TIMEOUT
    assert msgspec.json.decode(fleet.run(Job(code="print(1)")).to_json())["stdout"] == "1\n"


def test_bad_input_is_an_error_wherever_it_is_found(fleet: Any) -> None:
    with pytest.raises(TypeError, match="code must be"):
        fleet.run(1)
    with pytest.raises(ValueError, match="code_bytes"):  # which the node finds
        fleet.run("#" * 1_000_001)


def test_map_keeps_the_order_and_takes_jobs_as_they_have_room(fleet: Any) -> None:
    taken: list[int] = []
    most = 0

    def jobs() -> Iterator[str]:
        for number in range(40):
            taken.append(number)
            yield f"import time; time.sleep({0.5 if number % 10 == 0 else 0}); print({number})"

    for number, result in enumerate(fleet.map(jobs())):
        assert result.stdout == f"{number}\n"
        most = max(most, len(taken) - number)
    assert len(taken) == 40
    assert most <= 2 * fleet.capacity + 2


def test_as_they_end_each_comes_with_its_number(fleet: Any) -> None:
    codes = ["import time; time.sleep(2); print(0)", "print(1)", "#" * 1_000_001, 7]
    outcomes = [(number, getattr(outcome, "stdout", type(outcome))) for number, outcome in fleet.as_completed(codes)]
    assert sorted(outcomes, key=str) == [(0, "0\n"), (1, "1\n"), (2, ValueError), (3, TypeError)]
    assert outcomes[-1] == (0, "0\n")


def test_leaving_the_loop_ends_what_is_under_way(fleet: Any, engine: Engine) -> None:
    outcomes = fleet.as_completed(["print(1)", *["import time; time.sleep(60)"] * 6], timeout_ms=100_000)
    assert next(outcomes)[1].stdout == "1\n"
    begun = time.monotonic()
    outcomes.close()
    # All places are free again long before the programs would have ended.
    assert [result.stdout for result in fleet.map(["print(2)"] * fleet.capacity)] == ["2\n"] * fleet.capacity
    assert time.monotonic() - begun < 50


def test_a_cluster_without_an_engine_is_refused(cluster: Any, image: str) -> None:
    from dayfly.adapters.ray import Fleet

    with pytest.raises(EngineUnreachable, match="no node of the cluster has the resource or label 'other'"):
        Fleet(mark="other").initialize()
    with pytest.raises(ImageMissing):
        Fleet(image="dayfly/none:1").initialize()
    with pytest.raises(ValueError, match="pool_size"):
        Fleet(pool_size=0)
    with Fleet(image=image, mark="engine") as one:  # a label
        assert one.capacity == 2
        assert one.run("print(1)").stdout == "1\n"
    with pytest.raises(PoolClosed):
        one.run("")


def test_a_submission_is_judged_on_a_node(fleet: Any) -> None:
    from dayfly.judge import Case, Cases, Verdict

    cases = [Case(stdin=f"{number}", expected=f"{number + 1}") for number in range(4)]
    code = "n = int(input()); print(n + 1 if n < 3 else 'x')\nimport sandbox; sandbox.send('x')"
    told = fleet.judge(code, cases, stop="first")
    assert (told.verdict, told.passed, told.total) == (Verdict.WRONG_ANSWER, 3, 4)
    assert told.cases[0].result.stdout == "1\n"
    assert (
        fleet.judge("print(int(input()) + 1)", Cases(cases=cases), checker=lambda run: run.result.stdout == run.case.expected + "\n").passed
        == 4
    )
    with pytest.raises(TypeError):
        fleet.judge(code, [1])
    with ThreadPoolExecutor(12) as threads:
        assert [one.passed for one in threads.map(lambda _: fleet.judge(code, cases), range(12))] == [3] * 12


def test_what_cannot_be_sent_costs_no_place(fleet: Any) -> None:
    from dayfly.judge import Case

    lock = threading.Lock()
    for _ in range(fleet.capacity + 1):
        with pytest.raises(TypeError, match="serialize"):
            fleet.judge("print(1)", [Case(expected="1")], checker=lambda run: run is lock)
    assert [node.flying for node in fleet._nodes.values()] == [0, 0]
    assert fleet.run("print(1)").stdout == "1\n"


def test_cells_of_bytes_are_programs_and_input(image: str) -> None:
    import numpy as np

    from dayfly.adapters.ray import Batches

    codes = ["import sys; print(sys.stdin.read())", "import sys; print(sys.stdin.buffer.read())"]
    batches = Batches(pool_size=1, image=image)
    for column in ([code.encode() for code in codes], np.array(codes, dtype="S"), np.array(codes)):
        done = batches({"code": column, "stdin": np.array(["a", b"\xff"], dtype=object)})
        assert (done["error"], done["stdout"]) == (["", ""], ["a\n", "b'\\xff'\n"])
    assert batches({"code": codes, "stdin": [None, None]})["stdout"] == ["\n", "b''\n"]
    batches._sandbox.close()


def test_batches_of_a_dataset(cluster: Any, image: str) -> None:
    import ray.data

    from dayfly.adapters.ray import Batches

    rows = [{"code": f"print({number} + int(input()))", "stdin": "1\n"} for number in range(20)] + [{"code": "1/0", "stdin": ""}]
    dataset = ray.data.from_items([*rows, {"code": "#" * 1_000_001, "stdin": ""}]).map_batches(
        Batches,
        fn_constructor_kwargs={"pool_size": 2, "image": image},
        concurrency=2,
        resources={"dayfly": 1},
        num_cpus=0,
        max_restarts=0,
        max_task_retries=0,
        batch_size=6,
    )
    done = {row["code"]: row for row in dataset.take_all()}
    assert [done[row["code"]]["stdout"] for row in rows[:20]] == [f"{number + 1}\n" for number in range(20)]
    assert (done["1/0"]["outcome"], done["1/0"]["exit_code"]) == ("error", 1)
    assert done["#" * 1_000_001]["error"].startswith("ValueError: code is 1,000,001 bytes")


def test_the_examples_of_the_page_run(cluster: Any, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.data

    monkeypatch.setattr(ray, "init", lambda: None)  # this process is in the cluster already
    fleet = documents.block("docs/machines.md", "import ray").replace("pool_size=8", "pool_size=1").replace("...", "print(outcome.stdout)")
    printed = documents.run(fleet, {"jobs": ["print(1)", "print(2)"]}).split()
    assert (printed[:3], sorted(printed[3:])) == (["42", "1", "2"], ["1", "2"])
    names: dict[str, Any] = {"dataset": ray.data.from_items([{"code": "print(6 * 7)"}])}
    batches = documents.block("docs/machines.md", "from dayfly.adapters.ray").replace('pool_size": 8', 'pool_size": 1')
    documents.run(batches.replace("concurrency=4", "concurrency=2").replace("\ndataset.map", "\nmade = dataset.map"), names)
    assert [row["stdout"] for row in names["made"].take_all()] == ["42\n"]


def test_a_lost_node_costs_its_own_runs_and_none_runs_twice(cluster: Any, image: str, tmp_path: Path) -> None:
    from dayfly.adapters.ray import Fleet, SandboxActor

    notes = tmp_path / "runs"

    class Noting(SandboxActor):
        async def run(self, job: bytes) -> bytes:
            with notes.open("ab") as file:
                file.write(msgspec.json.decode(job)["args"][0].encode() + b"\n")
            return await super().run(job)

    class Noted(Fleet):
        actor = Noting

    node = cluster.add_node(**NODE, resources={"doomed": 1})
    with Noted(pool_size=2, image=image, mark="doomed") as doomed:
        cluster.add_node(**NODE, resources={"doomed": 1})
        numbers = itertools.count()
        jobs = (Job(code=f"import time; time.sleep(0.2); print({number} ** 2)", args=[str(number)]) for number in numbers)
        right: list[int] = []
        lost: list[int] = []
        for number, outcome in doomed.as_completed(jobs):
            if isinstance(outcome, Exception):
                assert isinstance(outcome, ContainerLost), outcome
                assert outcome.delivered
                lost.append(number)
            else:
                assert outcome.stdout == f"{number**2}\n"
                right.append(number)
            if len(right) == 20:
                cluster.remove_node(node, allow_graceful=False)
            if len(right) >= 60:
                break
        assert 1 <= len(lost) <= 4
        ran = [int(line) for line in notes.read_text().split()]
        assert len(ran) == len(set(ran))
        assert {*right} <= {*ran}
        # The calls of threads go on as well, on the nodes that there are.
        with ThreadPoolExecutor(8) as threads:
            assert [result.stdout for result in threads.map(lambda n: doomed.run("print(1)", args=[f"{10**6 + n}"]), range(16))] == [
                "1\n"
            ] * 16


def test_an_actor_that_dies_is_replaced_on_its_node(cluster: Any, image: str) -> None:
    import ray

    from dayfly.adapters.ray import Fleet

    with Fleet(pool_size=1, image=image, mark="engine") as fleet, ThreadPoolExecutor(1) as thread:
        (node,) = fleet._nodes.values()
        running = thread.submit(fleet.run, "import time; time.sleep(30)", timeout_ms=50_000)
        while not node.flying:
            time.sleep(0.05)
        ray.kill(node.actor)
        with pytest.raises(ContainerLost):
            running.result()
        assert fleet.run("print(1)").stdout == "1\n"
