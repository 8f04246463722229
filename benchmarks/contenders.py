"""Who is measured. Each contender runs in a process of its own, and is told over its stdin what to
do next.

    python -m benchmarks.contenders NAME IMAGE      then one JSON object a line in, one out

Nothing outside the standard library is imported here but by the contender that needs it: peers live
in an environment of their own. Each of them is given the same image, and the same limits as far as
it has words for them: no network, 50 MB, one processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dayfly import Result

T = TypeVar("T")

CODE = 'print("hi")'
MEMORY = 50_000_000
LIMITS = {
    "network_mode": "none",
    "mem_limit": MEMORY,
    "memswap_limit": MEMORY,
    "nano_cpus": 1_000_000_000,
    "pids_limit": 64,
    "stop_signal": "SIGKILL",  # a peer whose process 1 does not end by SIGTERM would wait for it, ten seconds
}
"""docker-py's words for the limits, for the peers that pass them on."""


class Contender:
    """One way of running a program, `CODE` unless `prepare` says otherwise. `once` does it, and
    checks the output; it is called from several threads at once."""

    why = ""
    """What a reader of the table must know."""

    code, says = CODE, "hi"
    preload: tuple[str, ...] = ()
    memory = MEMORY
    path: str | None = None

    def __init__(self, image: str) -> None:
        self.image = image

    def prepare(self, code: str, says: str, preload: Sequence[str] = (), memory: int = MEMORY, path: str | None = None) -> None:
        """Take another program, before `open`: its output, what a sandbox preloads for it, its
        memory in bytes, and where the bare host's interpreter finds modules."""
        self.code, self.says, self.preload, self.memory, self.path = code, says, tuple(preload), memory, path

    def check(self, said: str | None) -> None:
        """A contender that did not do the work is not measured."""
        if (said or "").strip() != self.says:
            raise RuntimeError(f"expected the output {self.says!r}, not {said!r:.300}")

    def open(self, size: int) -> None:
        """Get ready for `size` callers at once."""

    def close(self) -> None:
        """Clean up."""

    def wait(self) -> None:
        """Wait until the next run meets what a run is meant to meet: a full pool."""

    def once(self) -> None:
        """One run."""
        raise NotImplementedError

    def sample(self) -> float:
        """One run, in ms."""
        self.wait()
        begun = time.perf_counter()
        self.once()
        return (time.perf_counter() - begun) * 1_000

    def case(self, number: int) -> None:
        """One case of a judging, whose input is `number`: the program prints what follows it."""
        raise NotImplementedError

    def judge(self, cases: int) -> float:
        """Cases per second, as many at once as there are processors."""
        numbers = range(cases)
        begun = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(self.case, numbers))
        return cases / (time.perf_counter() - begun)

    def opening(self, size: int) -> float:
        """How long it takes until `size` containers are warm, in ms."""
        begun = time.perf_counter()
        self.open(size)
        took = (time.perf_counter() - begun) * 1_000
        self.close()
        return took

    def cold(self) -> float:
        """From nothing to the first result, in ms."""
        begun = time.perf_counter()
        self.open(1)
        try:
            self.once()
            return (time.perf_counter() - begun) * 1_000
        finally:
            self.close()


class Dayfly(Contender):
    """`Sandbox`, from threads."""

    why = "single use, warm"

    def open(self, size: int) -> None:
        from dayfly import Sandbox

        self.sandbox = Sandbox(pool_size=size, image=self.image, preload=self.preload, memory_limit_mb=self.memory / 1e6)
        self.sandbox.initialize()

    def close(self) -> None:
        self.sandbox.close()

    def wait(self) -> None:
        while (stats := self.sandbox.stats()).warm < self.sandbox._sandbox.pool_size or stats.ending:
            time.sleep(0.005)
        time.sleep(0.02)

    def once(self) -> None:
        self.check(self.sandbox.run(self.code).stdout)

    def case(self, number: int) -> None:
        if self.sandbox.run(self.code, stdin=str(number)).stdout != f"{number + 1}\n":
            raise RuntimeError(f"a wrong answer to {number}")

    def late(self, code: str, timeout_ms: int) -> float:
        """How many ms after its deadline a run that never ends by itself has returned."""
        self.wait()
        begun = time.perf_counter()
        result = self.sandbox.run(code, timeout_ms=timeout_ms)
        late = (time.perf_counter() - begun) * 1_000 - timeout_ms
        if not result.timed_out:
            raise RuntimeError(f"expected a time-out, not {result.outcome}: {result.stderr}")
        return late

    def moving(self, megabytes: int) -> dict[str, float]:
        """One run each, in ms: without a file, with one handed in, with one written, and with that
        one fetched too."""
        size = megabytes * 1_000_000
        writes = f"open('a', 'wb').write(b'x' * {size})"
        kinds: dict[str, Callable[[], Result]] = {
            "none": lambda: self.sandbox.run("pass"),
            "in": lambda: self.sandbox.run("pass", files={"a": b"x" * size}),
            "written": lambda: self.sandbox.run(writes),
            "out": lambda: self.sandbox.run(writes, fetch=("a",)),
        }
        took = {}
        for name, run in kinds.items():
            self.wait()
            begun = time.perf_counter()
            result = run()
            took[name] = (time.perf_counter() - begun) * 1_000
            if result.is_error or len(result.files.get("a", b"")) != (size if name == "out" else 0):
                raise RuntimeError(f"{name}: {result.outcome}, files {[*result.files]}, {result.stderr}")
        return took


class DayflyJudge(Dayfly):
    """`Sandbox.judge`: a session for each processor, a fresh process for each case."""

    why = "one container for each processor, a fresh process for each case"

    def judge(self, cases: int) -> float:
        from dayfly.judge import Case

        made = [Case(stdin=str(number), expected=str(number + 1)) for number in range(cases)]
        self.wait()
        begun = time.perf_counter()
        told = self.sandbox.judge(self.code, made, concurrency=os.cpu_count() or 1)
        took = time.perf_counter() - begun
        if told.passed != cases:
            raise RuntimeError(f"not all cases passed: {told.counts}")
        return cases / took

    def hold(self, cases: int, size: int) -> float:
        """How many MB this process grows by at most, in a judging whose cases print `size` bytes
        each."""
        from dayfly.judge import Case, Verdict

        from . import meters

        made = [Case(expected="x") for _ in range(cases)]
        self.wait()
        gc.collect()
        meters.reset_peak()
        before = meters.status_kb("self", "VmRSS")
        told = self.sandbox.judge(f"print('x' * {size - 1})", made, concurrency=os.cpu_count() or 1, stop=None)
        if [case.verdict for case in told.cases] != [Verdict.WRONG_ANSWER] * cases:
            raise RuntimeError(f"expected wrong answers, not {told.counts}")
        return (meters.status_kb("self", "VmHWM") - before) / 1e3


class DayflySession(Contender):
    """`Session.run`: a fresh process each, all in one container; a session for each caller."""

    why = "one container, a fresh process per run"

    def open(self, size: int) -> None:
        from dayfly import Sandbox

        self.sandbox = Sandbox(pool_size=size, image=self.image, preload=self.preload, memory_limit_mb=self.memory / 1e6)
        self.sandbox.initialize()
        self.sessions = [self.sandbox.session(max_runs=1_000_000, max_seconds=3_600) for _ in range(size)]
        for session in self.sessions:
            session.open()

    def close(self) -> None:
        self.sandbox.close()

    def once(self) -> None:
        session = self.sessions.pop()
        try:
            self.check(session.run(self.code).stdout)
        finally:
            self.sessions.append(session)


class BareHost(Contender):
    """`python3 -u main.py` on the host: what a user without a sandbox would do."""

    why = "no sandbox: a process of the host"

    def open(self, size: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        program = Path(self.folder.name, "main.py")
        program.write_text(self.code)
        self.environment = os.environ | ({"PYTHONPATH": self.path} if self.path else {})
        self.command = [bare_python(), "-u", str(program)]

    def close(self) -> None:
        self.folder.cleanup()

    def once(self) -> None:
        self.check(self._output(""))

    def case(self, number: int) -> None:
        if self._output(str(number)) != f"{number + 1}\n":
            raise RuntimeError(f"a wrong answer to {number}")

    def _output(self, stdin: str) -> str:
        return subprocess.run(self.command, input=stdin, env=self.environment, capture_output=True, text=True, check=True).stdout


def bare_python() -> str:
    """The system's interpreter: a version manager's `python3` is a script that starts another."""
    return "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable


class Loop:
    """An event loop that goes on between calls, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, call: Coroutine[Any, Any, T]) -> T:
        """Await something there."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result(170)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class DayflyAsync(Contender):
    """`AsyncSandbox`, on one event loop."""

    why = "single use, warm"

    def open(self, size: int) -> None:
        from dayfly import AsyncSandbox, Limits

        self.loop = Loop()
        limits = Limits(stdout_bytes=64_000_000)
        self.sandbox = AsyncSandbox(
            pool_size=size, image=self.image, preload=self.preload, limits=limits, timeout_ms=60_000, memory_limit_mb=self.memory / 1e6
        )
        self.loop.call(self.sandbox.initialize())

    def close(self) -> None:
        self.loop.call(self.sandbox.close())
        self.loop.close()

    async def full(self) -> None:
        while (stats := self.sandbox.stats()).warm < self.sandbox.pool_size or stats.ending:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)

    def sample(self) -> float:
        async def timed() -> float:
            await self.full()
            begun = time.perf_counter()
            self.check((await self.sandbox.run(self.code)).stdout)
            return (time.perf_counter() - begun) * 1_000

        return self.loop.call(timed())

    def once(self) -> None:
        self.loop.call(self.sandbox.run(self.code))

    def burst(self, runs: int) -> list[float]:
        """Start `runs` at once on a full pool; when each of them was done, in ms."""

        async def one(begun: float) -> float:
            self.check((await self.sandbox.run(self.code)).stdout)
            return (time.perf_counter() - begun) * 1_000

        async def all_of_them() -> list[float]:
            await self.full()
            begun = time.perf_counter()
            return sorted(await asyncio.gather(*(one(begun) for _ in range(runs))))

        return self.loop.call(all_of_them())

    def flood(self, megabytes: int) -> dict[str, Any]:
        """Let a program write, and take every piece of it as it comes: MB/s, and memory of host and
        container."""
        from . import meters

        code = f"import os\npiece = b'x' * 65536\nfor _ in range({megabytes * 1_000_000 // 65_536}):\n    os.write(1, piece)\n"

        async def take() -> dict[str, Any]:
            await self.full()
            meters.reset_peak()
            before, taken = meters.status_kb("self", "VmRSS"), 0

            def on_output(piece: Any) -> None:
                nonlocal taken
                taken += len(piece.data)

            begun = time.perf_counter()
            result = await self.sandbox.run(code, on_output=on_output)
            seconds = time.perf_counter() - begun
            return {
                "mb_per_s": taken / seconds / 1e6,
                "bytes": taken,
                "dropped": result.stdout_dropped,
                "host_kb": meters.status_kb("self", "VmHWM") - before,
                "container_bytes": result.peak_memory_bytes,
            }

        return self.loop.call(take())

    def queued(self, waiting: int, measured: int) -> dict[str, float]:
        """Queue `waiting` runs; the host's own cost of entering the queue, of each of the first
        `measured` runs, and of leaving it."""

        async def one() -> None:
            await self.sandbox.run(self.code)

        async def go() -> dict[str, float]:
            await self.full()
            cpu = time.process_time()
            tasks = [asyncio.ensure_future(one()) for _ in range(waiting)]
            await asyncio.sleep(0)
            entered, begun = time.process_time(), time.perf_counter()
            while sum(self.sandbox.stats().runs.values()) < measured + self.before:
                await asyncio.sleep(0.05)
            done, served = time.process_time(), sum(self.sandbox.stats().runs.values()) - self.before
            seconds = time.perf_counter() - begun
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return {
                "entering_ms": (entered - cpu) * 1_000 / waiting,
                "host_ms": (done - entered) * 1_000 / served,
                "runs_per_s": served / seconds,
                "leaving_ms": (time.process_time() - done) * 1_000 / waiting,
            }

        self.before = sum(self.sandbox.stats().runs.values())
        return self.loop.call(go())

    def cost(self, runs: int) -> dict[str, float]:
        """Host processor ms, and wall ms, of one run after another on a full pool: its whole life,
        the making of the next one included."""

        async def go() -> dict[str, float]:
            await self.full()
            cpu, walls = time.process_time(), []
            for _ in range(runs):
                begun = time.perf_counter()
                self.check((await self.sandbox.run(self.code)).stdout)
                walls.append((time.perf_counter() - begun) * 1_000)
                while (stats := self.sandbox.stats()).warm < self.sandbox.pool_size or stats.ending:
                    await asyncio.sleep(0.02)
            return {"host_ms": (time.process_time() - cpu) * 1_000 / runs, "wall_ms": sorted(walls)[len(walls) // 2]}

        return self.loop.call(go())

    def footprint(self) -> dict[str, Any]:
        """Memory and descriptors of this process, and of one warm container."""
        from . import meters

        self.loop.call(self.full())
        pool = self.sandbox._pool
        assert pool is not None
        container = next(iter(pool._workers.values()))
        pids = meters.pids_of_uid(container.uid)
        shim = meters.shim_of(container.id)
        charged, cache = meters.cgroup_bytes(pids[0])
        return {
            "host_kb": meters.pss_kb("self"),
            "descriptors": len(list(Path("/proc/self/fd").iterdir())),
            "cgroup_bytes": charged,
            "cgroup_cache_bytes": cache,
            "container_pss_kb": sum(meters.pss_kb(pid) for pid in pids),
            "shim_pss_kb": None if shim is None else meters.pss_kb(shim),
        }


class Floor(Contender):
    """A frame there and back through an attached stream, with nothing of dayfly's."""

    why = "the floor: an echo through an attached stream"

    def open(self, size: int) -> None:
        from . import raw

        path = raw.engine_socket()
        self.stream = raw.DoNothing(path, self.image, raw.ECHO_FOREVER).make(raw.Engine(path))
        raw.echo(self.stream)

    def close(self) -> None:
        self.stream.close()

    def once(self) -> None:
        from . import raw

        raw.echo(self.stream)


class Ceiling(Contender):
    """Single-use containers as fast as the engine makes them: the runner's interpreter, doing
    nothing."""

    why = "the ceiling: dayfly's settings, a Python that does nothing, bare sockets"

    def open(self, size: int) -> None:
        from . import raw

        self.local = threading.local()
        self.path = raw.engine_socket()
        self.containers = raw.DoNothing(self.path, *self.program(self.path))

    def program(self, path: str) -> tuple[str, list[str]]:
        from . import raw

        return self.image, raw.ECHO

    def once(self) -> None:
        from . import raw

        if not hasattr(self.local, "engine"):
            self.local.engine = raw.Engine(self.path)
        self.containers.single_use(self.local.engine)


class StaticCeiling(Ceiling):
    """The same with a static program of a few instructions."""

    why = "the ceiling without any interpreter"

    def program(self, path: str) -> tuple[str, list[str]]:
        from . import raw

        return raw.static_image(path)


class DockerRun(Contender):
    """The `docker` command."""

    why = "a container per run"

    def once(self) -> None:
        self.check(self._output(""))

    def case(self, number: int) -> None:
        if self._output(str(number)) != f"{number + 1}\n":
            raise RuntimeError(f"a wrong answer to {number}")

    def _output(self, stdin: str) -> str:
        options = [
            "--network=none",
            f"--memory={self.memory}",
            f"--memory-swap={self.memory}",
            "--cpus=1",
            "--pids-limit=64",
            "--cap-drop=ALL",
        ]
        options += ["--read-only", "--security-opt=no-new-privileges", "--log-driver=none"]
        command = ["docker", "run", "--rm", "-i", *options, self.image, "python3", "-c", self.code]
        return subprocess.run(command, input=stdin, check=True, capture_output=True, text=True).stdout


class DockerPy(Contender):
    """docker-py's `containers.run`."""

    why = "a container per run"

    def open(self, size: int) -> None:
        import docker

        self.client = docker.from_env(max_pool_size=size + 2)

    def close(self) -> None:
        self.client.close()

    def once(self) -> None:
        said = self.client.containers.run(
            self.image,
            ["python3", "-c", CODE],
            remove=True,
            **LIMITS,
            cap_drop=["ALL"],
            read_only=True,
            security_opt=["no-new-privileges"],
        )
        self.check(said.decode())


class Epicbox(Contender):
    """epicbox."""

    why = "a container per run"

    def open(self, size: int) -> None:
        import logging

        import epicbox

        logging.getLogger("epicbox").setLevel(logging.ERROR)
        self.module = epicbox
        epicbox.configure(profiles=[epicbox.Profile("python", self.image, read_only=True)])

    def once(self) -> None:
        result = self.module.run("python", f"python3 -c '{CODE}'", limits={"memory": 50, "cputime": 10, "realtime": 10, "processes": 64})
        self.check(result["stdout"].decode())


class LLMSandbox(Contender):
    """llm-sandbox, without its pool."""

    why = "a container per run"

    def open(self, size: int) -> None:
        import docker

        self.client = docker.from_env(max_pool_size=2 * size + 2)

    def once(self) -> None:
        from llm_sandbox import SandboxSession

        with SandboxSession(
            client=self.client,
            lang="python",
            image=self.image,
            keep_template=True,
            skip_environment_setup=True,
            workdir="/sandbox",
            runtime_configs=dict(LIMITS),
        ) as session:
            self.check(session.run(CODE).stdout)

    def close(self) -> None:
        self.client.close()


class LLMSandboxPool(LLMSandbox):
    """llm-sandbox with its pool, whose containers serve one caller after another."""

    why = "containers are used again"

    def open(self, size: int) -> None:
        from llm_sandbox.pool import PoolConfig, create_pool_manager

        super().open(size)
        self.pool = create_pool_manager(
            client=self.client,
            backend="docker",
            config=PoolConfig(max_pool_size=size, min_pool_size=size),
            lang="python",
            image=self.image,
            keep_template=True,
            skip_environment_setup=True,
            workdir="/sandbox",
            runtime_configs=dict(LIMITS),
        )

    def once(self) -> None:
        from llm_sandbox.pool import PooledSandboxSession

        with PooledSandboxSession(pool_manager=self.pool, workdir="/sandbox") as session:
            self.check(session.run(CODE).stdout)

    def close(self) -> None:
        self.pool.close()
        super().close()


class Autogen(Contender):
    """autogen-ext's Docker executor: one container, in which every caller's code runs."""

    why = "one container, used again and again"

    def open(self, size: int) -> None:
        import docker.models.containers
        from autogen_core import CancellationToken
        from autogen_core.code_executor import CodeBlock
        from autogen_ext.code_executors.docker import DockerCommandLineCodeExecutor

        self.folder = tempfile.TemporaryDirectory()
        Path(self.folder.name).chmod(0o755)  # the image's user is not root
        self.loop = Loop()
        create = docker.models.containers.ContainerCollection.create
        # It has no words for a container without a network, nor for any limit.
        docker.models.containers.ContainerCollection.create = lambda *given, **named: create(*given, **{**named, **LIMITS})
        self.executor = DockerCommandLineCodeExecutor(image=self.image, work_dir=self.folder.name, delete_tmp_files=True)
        self.block, self.token = CodeBlock(code=CODE, language="python"), CancellationToken
        self.loop.call(self.executor.start())

    def once(self) -> None:
        self.check(self.loop.call(self.executor.execute_code_blocks([self.block], self.token())).output)

    def close(self) -> None:
        self.loop.call(self.executor.stop())
        self.loop.close()
        self.folder.cleanup()


OURS: dict[str, type[Contender]] = {
    "dayfly": Dayfly,
    "dayfly async": DayflyAsync,
    "dayfly session": DayflySession,
    "dayfly judge": DayflyJudge,
    "bare host": BareHost,
    "echo floor": Floor,
    "ceiling": Ceiling,
    "static ceiling": StaticCeiling,
}
PEERS: dict[str, type[Contender]] = {
    "docker run": DockerRun,
    "docker-py": DockerPy,
    "epicbox": Epicbox,
    "llm-sandbox": LLMSandbox,
    "llm-sandbox pool": LLMSandboxPool,
    "autogen-ext": Autogen,
}
SINGLE_USE = ("docker run", "docker-py", "epicbox", "llm-sandbox")
"""The peers that start a container per run."""


def sustain(contender: Contender, callers: int, warm_up: float, seconds: float) -> dict[str, float]:
    """Let `callers` threads run without a pause; count what ends within `seconds`, after `warm_up`,
    and what the machine spent on it."""
    from . import meters

    ends: list[float] = []
    errors: list[Exception] = []
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            try:
                contender.once()
            except Exception as error:
                errors.append(error)
                return
            ends.append(time.perf_counter())

    def own_cpu() -> float:
        """Of this process, and of the commands it ran."""
        return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))

    threads = [threading.Thread(target=call) for _ in range(callers)]
    for thread in threads:
        thread.start()
    time.sleep(warm_up)
    begun, own, machine, before = time.perf_counter(), own_cpu(), meters.machine_cpu_ms(), len(ends)
    time.sleep(seconds)
    over, own, machine, runs = time.perf_counter(), own_cpu() - own, meters.machine_cpu_ms() - machine, len(ends) - before
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    runs = max(runs, 1)
    # The span from the last end before the window to the last one in it: a count over a fixed
    # window is off by up to one run.
    span = ends[before + runs - 1] - (ends[before - 1] if before else begun) if len(ends) >= before + runs else over - begun
    return {"runs_per_s": runs / span, "runs": runs, "machine_ms": machine / runs, "own_ms": own * 1_000 / runs}


def serve(contender: Contender, say: Callable[[Any], None]) -> None:
    """Do what stdin asks for, one line at a time, until it ends. What is open then is closed: who
    has failed is not asked to, and would leave its containers behind."""
    opened = False
    for line in sys.stdin:
        name, options = json.loads(line)
        opened = name == "open" or (opened and name != "close")
        try:
            if name == "sustain":
                say({"ok": sustain(contender, **options)})
            else:
                say({"ok": getattr(contender, name)(**options)})
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"[:500]})
    if opened:
        with contextlib.suppress(Exception):
            contender.close()


def main() -> None:
    """Be one contender."""
    name, image = sys.argv[1:]
    # What a library prints must not get in between.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")

    with contextlib.suppress(KeyboardInterrupt):
        serve({**OURS, **PEERS}[name](image), say)


if __name__ == "__main__":
    main()
