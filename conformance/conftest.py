"""What the clauses' tests share: the engine as the oracle sees it, the implementation, and
sandboxes that are closed behind each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conformance import adapter
from conformance.oracle import Marked, Oracle, PlainContainer, address

pytest_plugins = ["conformance.report"]


class Box:
    """One sandbox under test, and the oracle's view of its containers."""

    def __init__(self, sandbox: adapter.Sandbox, seen: Marked) -> None:
        self.sandbox = sandbox
        self.seen = seen
        self.run = sandbox.run

    def together(self, jobs: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Run all of them at the same time, and return their answers in order."""
        with ThreadPoolExecutor(len(jobs)) as threads:
            return list(threads.map(self.run, jobs))


NewBox = Callable[..., Box]


@pytest.fixture(scope="session")
def oracle(request: pytest.FixtureRequest) -> Iterator[Oracle]:
    oracle = Oracle(address())
    version, info = oracle.call("GET", "/version"), oracle.call("GET", "/info")
    name = "Podman" if "Podman" in str(version.get("Components")) else "Docker"
    report: Any = request.config.pluginmanager.get_plugin("conformance-report")
    runtime = request.config.option.runtime
    report.engine |= {
        "engine": f"{name} {version['Version']}",
        "API": version["ApiVersion"],
        "runtime": runtime or info.get("DefaultRuntime", "?"),
        "cgroup": f"v{info.get('CgroupVersion', '1')}",
        "kernel": version.get("KernelVersion") or info.get("KernelVersion", "?"),
    }
    yield oracle
    oracle.close()


@pytest.fixture(scope="session")
def podman(oracle: Oracle) -> bool:
    return "Podman" in str(oracle.call("GET", "/version").get("Components"))


OOM_UNDER_GVISOR = "a program that is out of memory ends its whole container under gVisor"


@pytest.fixture(scope="session")
def gvisor(request: pytest.FixtureRequest) -> bool:
    """Whether programs run under gVisor, which has a kernel of its own."""
    return "runsc" in (request.config.option.runtime or "")


@pytest.fixture(scope="session")
def implementation(request: pytest.FixtureRequest, oracle: Oracle) -> adapter.Implementation:
    option = request.config.option
    made = adapter.load(option.adapter, oracle.docker_host, option.runtime)
    request.config.pluginmanager.get_plugin("conformance-report").engine["implementation"] = f"{option.adapter} {made.version}"  # type: ignore[union-attr]
    return made


@pytest.fixture(scope="session", autouse=True)
def refusal(request: pytest.FixtureRequest) -> str:
    """Why the implementation refuses this engine, or nothing. Of Docker a refusal is a failure like
    any other; Podman is asked first."""
    if not request.config.option.engine_only or not request.getfixturevalue("podman"):
        return ""
    oracle: Oracle = request.getfixturevalue("oracle")
    implementation: adapter.Implementation = request.getfixturevalue("implementation")
    seen = oracle.mark(implementation.image())
    sandbox = implementation.sandbox(seen.image, {})
    try:
        sandbox.initialize()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is reported
        return " ".join(f"{type(error).__name__}: {error}".split())
    finally:
        sandbox.close()
    return ""


def _unless_refused(refusal: str) -> None:
    from conformance.report import not_applicable  # noqa: PLC0415 - pytest must have loaded it as a plugin before

    if refusal:
        not_applicable(f"the implementation refuses this engine: {refusal if len(refusal) < 200 else f'{refusal[:60]} … {refusal[-120:]}'}")


@pytest.fixture(autouse=True)
def _refused(refusal: str, request: pytest.FixtureRequest) -> None:
    if "initialize.refused" not in [name for mark in request.node.iter_markers("clause") for name in mark.args]:
        _unless_refused(refusal)


@pytest.fixture(scope="session")
def image(implementation: adapter.Implementation, oracle: Oracle) -> str:
    return _present(oracle, implementation.image())


@pytest.fixture(scope="session")
def image_python2(implementation: adapter.Implementation, oracle: Oracle) -> str:
    return _present(oracle, implementation.image(python2=True))


def _present(oracle: Oracle, name: str) -> str:
    answer = oracle.call("GET", f"/images/{name}/json", ok=False)
    if not isinstance(answer, dict) or "Id" not in answer:
        pytest.fail(f"the engine has no image {name}: build it first (dayfly image build, dayfly image build --python2)")
    return name


@pytest.fixture
def new_box(implementation: adapter.Implementation, oracle: Oracle, image: str, request: pytest.FixtureRequest) -> Iterator[NewBox]:
    """Makes a sandbox with the given settings, initialized unless told otherwise."""
    made: list[Box] = []

    def new(*, initialize: bool = True, python2: bool = False, **settings: Any) -> Box:
        seen = oracle.mark(request.getfixturevalue("image_python2") if python2 else image)
        box = Box(implementation.sandbox(seen.image, settings), seen)
        made.append(box)
        if initialize:
            box.sandbox.initialize()
        return box

    yield new
    for box in made:
        box.sandbox.close()


def _shared(implementation: adapter.Implementation, seen: Marked, settings: Mapping[str, Any], refusal: str) -> Iterator[Box]:
    _unless_refused(refusal)
    box = Box(implementation.sandbox(seen.image, settings), seen)
    try:
        box.sandbox.initialize()
        yield box
    finally:
        box.sandbox.close()


@pytest.fixture(scope="session")
def box(implementation: adapter.Implementation, oracle: Oracle, image: str, refusal: str, gvisor: bool) -> Iterator[Box]:
    """A sandbox for all tests that only run programs. Default settings but for its size, and for
    the memory that gVisor's kernel takes."""
    yield from _shared(implementation, oracle.mark(image), {"pool_size": 2, **({"memory_limit_mb": 150} if gvisor else {})}, refusal)


@pytest.fixture(scope="session")
def box_python2(implementation: adapter.Implementation, oracle: Oracle, image_python2: str, refusal: str) -> Iterator[Box]:
    """The same with the documented default for the interpreter, on an image that has both."""
    yield from _shared(implementation, oracle.mark(image_python2), {"pool_size": 1, "python": "2"}, refusal)


@pytest.fixture(scope="session")
def small(implementation: adapter.Implementation, oracle: Oracle, image: str, refusal: str) -> Iterator[Box]:
    """A sandbox with narrow limits."""
    limits = {
        "tmpfs_bytes": 2_000_000,
        "tmpfs_inodes": 100,
        "shm_bytes": 1_000_000,
        "file_size_bytes": 3_000_000,
        "open_files": 40,
        "pids": 20,
        "stdout_bytes": 1_000,
        "stderr_bytes": 1_000,
        "messages": 10,
        "message_bytes": 1_000,
    }
    yield from _shared(implementation, oracle.mark(image), {"pool_size": 1, "limits": limits}, refusal)


@pytest.fixture(scope="session")
def plain(box: Box, oracle: Oracle, image: str) -> Iterator[PlainContainer]:
    """A plain container of the same image, with the working directory, environment and host name
    that programs have."""
    with PlainContainer.started(oracle, image, box.seen.inspected()[0]) as plain:
        yield plain
