"""Making a sandbox: its pool, its defaults."""

from __future__ import annotations

import pytest
from conformance import adapter
from conformance.conftest import NewBox
from conformance.oracle import DIED, Oracle, eventually
from conformance.report import clause

CREATED, STARTED = frozenset({"create"}), frozenset({"start"})
CLOCK = "import time\nbegun = time.monotonic()\nwhile True:\n    print(round(time.monotonic() - begun, 2), flush=True)\n    time.sleep(0.1)"


@clause("new.pool-size-default", "new.idle", "new.memory-default", "difference.python3")
def test_the_defaults_of_a_sandbox(new_box: NewBox) -> None:
    box = new_box(initialize=False)
    box.seen.catch_up()
    assert box.seen.history() == {}, "a container was made before initialize"
    box.sandbox.initialize()
    (container,) = box.seen.inspected()
    assert container["HostConfig"]["Memory"] == 50_000_000
    assert box.run("import sys; print(sys.version_info[0])")["stdout"] == "3\n"


@clause("new.pool-size", "initialize.exact")
@pytest.mark.parametrize("size", [1, 4])
def test_initialize_makes_a_pool_of_that_size_and_no_more(new_box: NewBox, size: int) -> None:
    box = new_box(pool_size=size)
    box.seen.catch_up()
    assert len(box.seen.listed("running")) == len(box.seen.listed()) == size
    assert box.seen.which(CREATED) == box.seen.which(STARTED) == set(box.seen.listed())


@clause("initialize.ready")
def test_containers_take_programs_after_initialize(new_box: NewBox) -> None:
    box = new_box(pool_size=3)
    first = set(box.seen.listed("running"))
    answers = box.together([f"import time; time.sleep(1); print({number})" for number in range(3)])
    assert [answer["stdout"] for answer in answers] == ["0\n", "1\n", "2\n"]
    eventually(lambda: first <= box.seen.which(DIED), "each of the first containers has served")


@clause("new.memory")
@pytest.mark.parametrize("megabytes", [40, 64.5])
def test_memory_is_megabytes_of_a_million_bytes(new_box: NewBox, megabytes: float) -> None:
    (container,) = new_box(memory_limit_mb=megabytes).seen.inspected()
    assert container["HostConfig"]["Memory"] == megabytes * 1_000_000


@clause("new.timeout-default")
def test_a_program_may_take_ten_seconds_by_default(new_box: NewBox) -> None:
    answer = new_box().run(CLOCK)
    assert answer["timedOut"] is True
    # The program's own clock, and wide margins: the machine may be busy.
    assert 8 < float(answer["stdout"].split()[-1]) < 12


@clause("new.timeout")
def test_the_sandboxes_time_limit_holds_for_runs_that_name_none(new_box: NewBox) -> None:
    box = new_box(timeout_ms=1_000)
    answer = box.run(CLOCK)
    assert answer["timedOut"] is True
    assert float(answer["stdout"].split()[-1]) < 3
    assert box.run({"code": CLOCK.replace("while True", "while time.monotonic() < begun + 2"), "timeoutMs": 20_000})["timedOut"] is False


@clause("initialize.refused")
def test_what_an_engine_lacks_is_refused_at_initialize(request: pytest.FixtureRequest, oracle: Oracle, podman: bool) -> None:
    # Podman lacks enough by itself; of Docker, something is asked for that no engine has.
    runtime = None if podman else "no-such-runtime"
    implementation = adapter.load(request.config.option.adapter, oracle.docker_host, runtime)
    seen = oracle.mark(implementation.image())
    sandbox = implementation.sandbox(seen.image, {})
    with pytest.raises(Exception, match=r"the engine|no-such-runtime"):
        sandbox.initialize()
    sandbox.close()
    seen.none_left()
