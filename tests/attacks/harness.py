"""What an attack is, and what must hold after every one, whatever it did.

An attack is one file in `programs/`. The comment lines at its beginning are TOML: which rows of
`rows.toml` it covers, what it may come to, and what else must be true of its result (`Case`).
`[[runs]]` gives several runs of the one program; what stands there wins over what stands before it.
The first line of the docstring says what it tries. An attack that is refused asserts so by itself.

`Arena` runs one and looks at the world before and after: at the engine by raw HTTP, at this process
by /proc. dayfly is not asked about itself but for its pool's size.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from dayfly import ContainerLost, Limits, Outcome, Piece, Result, RunnerMisbehaved, Sandbox, Session, SessionLost
from dayfly._spec import is_gvisor

from ..conftest import Engine

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = float(os.environ.get("DAYFLY_TEST_PATIENCE", "1"))
"""How many times slower than others this machine is: it may be an emulated one."""
GRACE = 3.0 * PATIENCE
"""Seconds over its deadline that a run may take, on a machine that is busy with the rest of the
suite."""
GONE_WITHIN, GVISOR_GONE_WITHIN = 2.0 * PATIENCE, 5.0 * PATIENCE
TRACELESS_WITHIN = 5.0 * PATIENCE
"""Seconds until the container has no process of the runtime's and no cgroup: the engine cleans
those up after it."""
FULL_WITHIN = 10.0 * PATIENCE
HEAD_START = 0.3 * PATIENCE
"""Seconds that an attack has before its neighbour starts."""
IDLE_CONNECTIONS = 8
"""Connections to the engine that a sandbox may keep open between calls."""

CANARY = f"canary{uuid.uuid4().hex}"
"""A secret in the environment of the host process: no output of any attack may have it."""
os.environ["DAYFLY_TEST_CANARY"] = CANARY

HOST_FILES = (
    "kernel/core_pattern",
    "kernel/hostname",
    "kernel/modprobe",
    "kernel/sysrq",
    "kernel/domainname",
    "fs/aio-nr",
    "vm/drop_caches",
)
"""Under /proc/sys: what no attack may change."""


CGROUPS = ("docker/{}", "*/docker/{}", "system.slice/docker-{}.scope", "*/system.slice/docker-{}.scope")
"""Where a container's cgroups are, on both versions and with both drivers."""


class Case(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One run of one attack."""

    outcomes: list[Outcome]
    covers: list[str] = []
    args: list[str] = []
    env: dict[str, str] = {}
    stdin_bytes: int = 0
    timeout_ms: int = 2_000
    kill_on_output: bool = False
    """Run with on_output_limit="kill"."""
    bomb: bool = False
    """It uses up what is shared: a program in another sandbox runs at the same time, and must not
    feel it."""
    neighbour: bool = False
    """The same: it looks for, or works against, others of the kind."""
    before_the_deadline: bool = False
    """The result is there long before the deadline."""
    exit_code: int | None = None
    signal: int | None = None
    stdout: str | None = None
    """A regular expression."""
    stderr: str | None = None
    truncated: bool | None = None
    """Whether stdout or stderr was."""
    messages: list[Any] | None = None
    messages_dropped: int | None = None
    figures: bool = False
    last_value: bool = False
    displays: int | None = None
    """Displays in the result."""
    displays_dropped: int | None = None
    pieces: int | None = None
    """Pieces of output at the most."""
    fetch: list[str] = []
    files: dict[str, str] | None = None
    """All that came back, as text."""
    file_count: int | None = None
    skipped: dict[str, str] | None = None
    """All that was skipped, with the reason."""
    skipped_count: int | None = None
    skipped_dropped: int = 0
    """Files at the least that were skipped beyond those."""
    session: bool = False
    """Run it in a session. The program before it and the one after it must see the same around
    them, and no marker."""
    lost: bool = False
    """It may end its own container: ContainerLost or RunnerMisbehaved, with the program delivered,
    is as good as a result. In a session, the next program may be refused."""
    runs: list[dict[str, Any]] = []
    gvisor: dict[str, Any] = {}
    """What is different under gVisor, whose programs meet a kernel of their own without our filter:
    what that allows, it allows inside itself."""


def head(path: Path) -> dict[str, Any]:
    """The TOML of the comment lines at the beginning of a file."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[2:])
    return tomllib.loads("\n".join(lines))


def cases(runtime: str | None = None) -> dict[str, tuple[Path, Case]]:
    """Every run of every attack, by a name of its own."""
    found = {}
    for path in sorted(PROGRAMS.glob("[a-z][0-9]*.py")):
        common = head(path)
        for number, run in enumerate(common.pop("runs", [{}])):
            case = msgspec.convert({**common, **run}, Case)
            if is_gvisor(runtime):
                case = msgspec.convert({**common, **run, **case.gvisor}, Case)
            case.timeout_ms = round(case.timeout_ms * PATIENCE)
            name = "-".join([path.stem, *([str(number)] if run else []), *("_".join(arg.split()) for arg in case.args)])
            found[name] = path, case
    return found


def code(path: Path) -> str:
    """The program as it is run: with the kit in place of its import."""
    kit = (PROGRAMS / "kit.py").read_text()
    return re.sub(r"^from kit import .*$", lambda _: kit, path.read_text(), flags=re.MULTILINE)


class Arena:
    """Two sandboxes on one runtime, one for the attacks and one beside it, and all that is compared
    before and after."""

    def __init__(self, engine: Engine, runtime: str) -> None:
        self.engine = engine
        self.runtime = runtime
        self.memory_mb = 100 if is_gvisor(runtime) else 50  # gVisor's own is part of it
        self.before = self._of_this_process()
        self._open: dict[str, tuple[Sandbox, str]] = {}
        try:
            self.neighbour, _ = self._sandbox("neighbour")
            self._sandbox("kill", Limits(on_output_limit="kill"))
            self.normal = self._surroundings(self._sandbox("truncate")[0])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for sandbox, _ in self._open.values():
            sandbox.close()
        gc.collect()
        assert eventually(lambda: self._of_this_process() == self.before, 5), (self.before, self._of_this_process())

    def _sandbox(self, name: str, limits: Limits | None = None) -> tuple[Sandbox, str]:
        """The sandbox of this name, and the label of its containers."""
        if name not in self._open:
            others = self._instances()
            sandbox = Sandbox(2 if name == "truncate" else 1, memory_limit_mb=self.memory_mb, runtime=self.runtime, limits=limits)
            sandbox.initialize()
            (instance,) = self._instances() - others
            self._open[name] = sandbox, instance
        return self._open[name]

    def _instances(self) -> set[str]:
        return {row["Labels"]["dayfly.instance"] for row in self.engine.containers(os.getpid())}

    def _states(self, instance: str) -> dict[str, str]:
        return {row["Id"]: row["State"] for row in self.engine.containers() if row["Labels"]["dayfly.instance"] == instance}

    def attack(self, path: Path, case: Case) -> None:
        """Run it, and check what must hold of it, and of everything else, after it."""
        sandbox, instance = self._sandbox("kill" if case.kill_on_output else "truncate")
        self._settle(sandbox, instance)
        warm, host, tasks, size = self._states(instance), _host(), self._tasks(sandbox), memory("VmRSS")
        threads, files = self._of_this_process()
        forget_the_peak()
        try:
            result, pieces, seconds = self._run(sandbox, path, case)
        except (ContainerLost, RunnerMisbehaved, SessionLost) as error:
            assert case.lost and error.delivered, error
        else:
            check(result, case, pieces, seconds)
            assert (result.peak_memory_bytes or 0) <= self.memory_mb * 1_000_000
            # Its share of one processor, give or take some periods of the quota. gVisor counts by
            # itself.
            if result.cpu_ms is not None and not is_gvisor(self.runtime):
                assert result.cpu_ms <= result.wall_ms * 1.2 + 400, result
            assert CANARY not in result.combined + repr(result.messages) + repr(result.displays)
        grown = memory("VmHWM") - size
        limits = sandbox._sandbox.limits
        most = limits.stdout_bytes + limits.stderr_bytes
        most += (limits.file_bytes if case.fetch else 0) + (limits.display_bytes if case.displays else 0)
        assert grown < 3 * most + 2**24, f"the host process grew by {grown:,} bytes"
        within = GVISOR_GONE_WITHIN if is_gvisor(self.runtime) else GONE_WITHIN
        assert eventually(lambda: len(warm.keys() - self._states(instance).keys()) == 1, within), (warm, self._states(instance))
        (used,) = warm.keys() - self._states(instance).keys()
        seen = self._surroundings(sandbox)
        assert seen == self.normal, {name: (seen[name], self.normal[name]) for name in seen if seen[name] != self.normal[name]}
        assert _host() == host
        self._settle(sandbox, instance)
        assert eventually(lambda: not _traces(used), TRACELESS_WITHIN), _traces(used)
        assert eventually(lambda: self._tasks(sandbox) == tasks, 5), (tasks, self._tasks(sandbox))
        now = self._of_this_process()
        assert now[0] == threads and now[1] <= files + IDLE_CONNECTIONS, (threads, files, now)

    def _run(self, sandbox: Sandbox, path: Path, case: Case) -> tuple[Result, int, float]:
        pieces: list[Piece] = []
        options: dict[str, Any] = {"stdin": bytes(case.stdin_bytes)} if case.stdin_bytes else {}
        program = code(path)

        def run() -> tuple[Result, int, float]:
            return self._between(sandbox, case, once) if case.session else once(sandbox)

        def once(place: Sandbox | Session) -> tuple[Result, int, float]:
            begun = time.monotonic()
            result = place.run(
                program,
                timeout_ms=case.timeout_ms,
                args=case.args,
                env=case.env,
                fetch=case.fetch,
                figures=case.figures,
                last_value=case.last_value,
                on_output=pieces.append if case.pieces else None,
                **options,
            )
            return result, len(pieces), time.monotonic() - begun

        if not (case.bomb or case.neighbour):
            return run()
        with ThreadPoolExecutor(1) as executor:
            attack = executor.submit(run)
            time.sleep(HEAD_START)
            beside = self.neighbour.run((PROGRAMS / "_neighbour.py").read_text(), timeout_ms=15_000 * PATIENCE)
            assert (beside.stderr, beside.stdout, beside.outcome) == ("", "well\n", Outcome.OK)
            return attack.result()

    def _between(self, sandbox: Sandbox, case: Case, run: Callable[[Session], tuple[Result, int, float]]) -> tuple[Result, int, float]:
        """Run the attack in a session between two looks around."""
        with sandbox.session() as session:
            before = self._surroundings(session)
            done = run(session)
            try:
                after = self._surroundings(session)
                marked = session.run((PROGRAMS / "_marker.py").read_text())
            except SessionLost as error:
                assert case.lost and not error.delivered, error
                return done
        for seen in (before, after):
            for kept in ("/tmp", "/sandbox"):
                del seen["files"][kept]
        assert after == before, {name: (after[name], before[name]) for name in after if after[name] != before[name]}
        assert (marked.outcome, marked.stderr, marked.stdout) == (Outcome.OK, "", "[]\n")
        assert (marked.messages, marked.messages_dropped) == (["the first message"], 0)
        return done

    def _settle(self, sandbox: Sandbox, instance: str) -> None:
        def full() -> bool:
            states = self._states(instance)
            return sandbox.stats().warm == sandbox._sandbox.pool_size == len(states) and set(states.values()) == {"running"}

        assert eventually(full, FULL_WITHIN), (sandbox.stats(), self._states(instance))

    def _surroundings(self, place: Sandbox | Session) -> dict[str, Any]:
        """What a program sees of the world that it is in."""
        result = place.run((PROGRAMS / "_surroundings.py").read_text())
        assert (result.outcome, result.stderr, result.messages) == (Outcome.OK, "", []), result
        return dict(msgspec.json.decode(result.stdout))

    @staticmethod
    def _tasks(sandbox: Sandbox) -> int:
        async def count() -> int:
            return len(asyncio.all_tasks())

        assert sandbox._loop is not None
        return sandbox._loop.call(count)

    @staticmethod
    def _of_this_process() -> tuple[Counter[str], int]:
        """The names of its threads, and the number of its open files."""
        threads = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
        return Counter(threads), len(list(Path("/proc/self/fd").iterdir()))


def check(result: Result, case: Case, pieces: int, seconds: float) -> None:
    """Hold a result to what its case says, and to what is true of any."""
    assert result.outcome in case.outcomes, result
    for name in ("exit_code", "signal", "messages"):
        expected = getattr(case, name)
        assert expected is None or getattr(result, name) == expected, (name, result)
    for name in ("stdout", "stderr"):
        expected = getattr(case, name)
        assert expected is None or re.search(expected, getattr(result, name)), (name, result)
    assert case.truncated in (None, result.stdout_truncated or result.stderr_truncated), result
    assert case.messages_dropped is None or result.messages_dropped >= case.messages_dropped, result
    assert case.files is None or {path: data.decode() for path, data in result.files.items()} == case.files, result.files
    assert case.file_count is None or len(result.files) == case.file_count, list(result.files)
    skipped = {skipped.path: skipped.why for skipped in result.files_skipped}
    assert case.skipped is None or skipped == case.skipped, skipped
    assert case.skipped_count is None or len(skipped) == case.skipped_count, len(skipped)
    assert result.files_skipped_dropped >= case.skipped_dropped, result.files_skipped_dropped
    assert case.displays is None or len(result.displays) == case.displays, len(result.displays)
    assert case.displays_dropped is None or result.displays_dropped == case.displays_dropped, result.displays_dropped
    assert case.pieces is None or pieces <= case.pieces, pieces
    assert seconds <= case.timeout_ms / 1_000 + GRACE, f"{seconds:.3f} s"
    assert not case.before_the_deadline or seconds < case.timeout_ms / 2_000, f"{seconds:.3f} s"
    assert result.timed_out is (result.outcome is Outcome.TIMEOUT) and result.is_error is (result.outcome is not Outcome.OK)
    assert max(len(result.stdout_bytes), len(result.stderr_bytes)) <= 1_000_000


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _traces(container: str) -> list[str]:
    """What is left of a container on this host: processes that look after it, and its cgroups."""
    found = [str(path) for shape in CGROUPS for path in Path("/sys/fs/cgroup").glob(shape.format(container))]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if container.encode() in path.read_bytes():
                found.append(str(path))
        except OSError:
            pass  # it has just ended
    return found


def forget_the_peak() -> None:
    """VmHWM begins anew."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    gc.collect()
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024


def _host() -> dict[str, str]:
    return {name: Path("/proc/sys", name).read_text() for name in HOST_FILES if os.access(f"/proc/sys/{name}", os.R_OK)}
