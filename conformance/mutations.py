"""Implementations that are broken on purpose, each in one place: what shows that the clauses can
fail.

Each is dayfly with one thing changed, an adapter that spoils one thing, or both. `clause` names the
clause that must fail for it, and `because` what that failure must say, so that a failure for
another reason does not pass for the right one. Of the product only this file and the adapter know
the inside, and only this one changes it.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from unittest import mock

from conformance import adapter
from conformance.oracle import Oracle, PlainContainer

Answer = dict[str, Any]
Body = dict[str, Any]


class Broken(adapter.Dayfly):
    """dayfly with one thing broken."""

    clause: ClassVar[str]
    because: ClassVar[str]

    def __init__(self, docker_host: str, runtime: str | None) -> None:
        super().__init__(docker_host, runtime)
        self.spoil()

    def spoil(self) -> None:
        """Break dayfly itself."""

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the settings to use instead of those given."""
        return given

    def job(self, given: Any) -> Any:
        """Return the job to run instead of the one given."""
        return given

    def answer(self, given: Answer) -> Answer:
        """Return the answer to give instead of the true one."""
        return given

    def sandbox(self, image: str, settings: Mapping[str, Any]) -> adapter.Sandbox:
        """See Implementation."""
        sandbox = super().sandbox(image, self.settings(dict(settings)))
        run = sandbox.run
        sandbox.run = lambda job: self.answer(run(self.job(job)))  # type: ignore[method-assign]
        return sandbox


class BrokenBody(Broken):
    """Containers that are created otherwise than they should be, with the checks that would notice
    turned off."""

    def change(self, body: Body, host: Body) -> None:
        """Change the body of `POST /containers/create`; `host` is its HostConfig."""
        raise NotImplementedError

    def spoil(self) -> None:
        """See Broken."""
        from dayfly import _spec as spec  # noqa: PLC0415

        true: Callable[..., dict[str, Any]] = spec.Blueprint.body

        def body(blueprint: spec.Blueprint, uid: int) -> dict[str, Any]:
            changed = copy.deepcopy(true(blueprint, uid))
            self.change(changed, changed["HostConfig"])
            return changed

        mock.patch.object(spec.Blueprint, "body", body).start()
        mock.patch.object(spec, "check_status", return_value=[]).start()


class NetworkOn(BrokenBody):
    """The host's network."""

    clause, because = "limit.network", "'host' == 'none'"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        body["NetworkDisabled"] = False
        del body["Hostname"]  # the host's, then
        host |= {"NetworkMode": "host", "Sysctls": {}}


class ContainersTalk(NetworkOn):
    """One network for all containers."""

    clause, because = "pool.isolated", "'net'|net"


class MemoryLimitDropped(BrokenBody):
    """No memory limit."""

    clause, because = "confined.memory", r"\(0, 0\) == \(40000000, 40000000\)"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host |= {"Memory": 0, "MemorySwap": 0}


class SwapOpen(BrokenBody):
    """As much swap as memory: the engine's default."""

    clause, because = "limit.swap", r"\(40000000, 80000000\) == \(40000000, 40000000\)"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["MemorySwap"] = 2 * host["Memory"]


class UserIsRoot(BrokenBody):
    """The program is root in its container."""

    clause, because = "confined.user", "'0' not in"
    user: ClassVar[int] = 0

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        body["User"] = f"{self.user}:{self.user}"
        owner = f"uid={self.user},gid={self.user}"
        host["Tmpfs"] = {path: re.sub(r"uid=\d+,gid=\d+", owner, options) for path, options in host["Tmpfs"].items()}


class UserIsShared(UserIsRoot):
    """All containers have the same user."""

    clause, because = "limit.uid", "1 == 6|1 == 5"
    user = 1_999_999_997


class CapabilitiesKept(BrokenBody):
    """The engine's default capabilities stay within reach."""

    clause, because = "confined.container", "CapBnd"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["CapDrop"] = []


class RootWritable(BrokenBody):
    """The container's root can be written, on the host's disk."""

    clause, because = "limit.disk", "False is True"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["ReadonlyRootfs"] = False


class FilterOff(BrokenBody):
    """No filter of system calls: the program takes from process 1 what it needs to go on."""

    clause, because = "limit.syscalls", "done|Left contains|cannot go on"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["SecurityOpt"] = ["no-new-privileges", "seccomp=unconfined"]


class PidsOpen(BrokenBody):
    """Three times the processes."""

    clause, because = "limit.pids", r"\d\d < 20"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["PidsLimit"] *= 3


class LeftBehind(BrokenBody):
    """Containers that have ended stay."""

    clause, because = "end.close", "containers are left"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["AutoRemove"] = False

    def spoil(self) -> None:
        """See Broken."""
        super().spoil()
        from dayfly._cleaner import Cleaner  # noqa: PLC0415

        async def nothing(*_: Any, **__: Any) -> Any:
            return [], True

        async def none(*_: Any, **__: Any) -> Any:
            return []

        mock.patch.object(Cleaner, "remove", nothing).start()
        mock.patch.object(Cleaner, "sweep", nothing).start()
        mock.patch.object(Cleaner, "finish", none).start()


class LeftByTheKilled(BrokenBody):
    """Containers do not notice that their host is dead, and nobody else can tell whose they are."""

    clause, because = "end.killed", "no container is left"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        body |= {"StdinOnce": False, "Labels": {}}


class OutputLost(Broken):
    """The last piece of output is lost."""

    clause, because = "answer.stdout", "assert '.*' == '.*'"

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "stdout": given["stdout"][: -len(given["stdout"]) // 8]}


class DefaultPool(Broken):
    """Another default for pool_size."""

    clause, because = "new.pool-size-default", "too many values to unpack"

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """See Broken."""
        return {"pool_size": 2, **given}


class DefaultTimeout(Broken):
    """Another default for timeout_ms."""

    clause, because = "new.timeout-default", "8 <"

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """See Broken."""
        return {"timeout_ms": 5_000, **given}


class DefaultMemory(Broken):
    """Another default for memory_limit_mb: binary megabytes."""

    clause, because = "new.memory-default", "52428800 == 50000000"

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """See Broken."""
        return {"memory_limit_mb": 50 * 2**20 / 1e6, **given}


class TimeoutIgnored(Broken):
    """A run's own time limit is ignored."""

    clause, because = "run.timeout", "False is True"

    def job(self, given: Any) -> Any:
        """See Broken."""
        return {name: value for name, value in given.items() if name != "timeoutMs"} if isinstance(given, dict) else given


class VersionIgnored(Broken):
    """v3 is ignored."""

    clause, because = "run.v3", r"'2\\n' == '3\\n'"

    def job(self, given: Any) -> Any:
        """See Broken."""
        return {name: value for name, value in given.items() if name != "v3"} if isinstance(given, dict) else given


class OrderLost(Broken):
    """combined is one stream behind the other."""

    clause, because = "answer.combined", r"0\\n2\\n1\\n3"

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "combined": given["stdout"] + given["stderr"]}


class ErrorByStderr(Broken):
    """A program that writes to stderr passes for one that failed."""

    clause, because = "answer.is-error", r"\((True|False), (True|False)\) == "

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "isError": bool(given["stderr"])}


class FailureRaised(Broken):
    """A program's failure passes for an error of the sandbox."""

    clause, because = "failure.exception", "the program failed"

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        if given["isError"]:
            raise RuntimeError("the program failed")
        return given


class MessagesLost(Broken):
    """What the program sends does not come back."""

    clause, because = "data.out", r"assert \[\] =="

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "messages": []}


class TracebackShortened(Broken):
    """Tracebacks are made prettier than Python's."""

    clause, because = "exact.corpus", "assert \\(1, "

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "stderr": given["stderr"].replace("/sandbox/main.py", "main.py")}


class _Reused(adapter.DayflySandbox):
    """Runs every program in one and the same container."""

    def __init__(self, oracle: Oracle, image: str, sandbox: Any) -> None:
        super().__init__(sandbox)
        self._oracle, self._image = oracle, image
        self._open = contextlib.ExitStack()

    def initialize(self) -> None:
        super().initialize()
        body = {
            "User": "1999999996:1999999996",
            "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/sandbox", "LANG=C.UTF-8"],
            "WorkingDir": "/sandbox",
            "Hostname": "sandbox",
        }
        self._container = self._open.enter_context(PlainContainer.started(self._oracle, self._image, {"Config": body}))

    def run(self, job: Any) -> Answer:
        code = job if isinstance(job, str) else job["code"]
        timeout = 5 if isinstance(job, str) else job.get("timeoutMs", 5_000) / 1_000
        status, stdout, stderr = self._container.run(
            ["timeout", "-s", "9", str(timeout), "python3", "-u", "main.py"], {"main.py": code.encode()}
        )
        return {"stdout": stdout.decode(), "stderr": stderr.decode(), "isError": status != 0, "timedOut": status == 137}

    def close(self) -> None:
        self._open.close()
        super().close()


class ContainerReused(Broken):
    """One container serves all programs."""

    clause, because = "pool.single-use", "programs have run, and as many containers are gone"

    def sandbox(self, image: str, settings: Mapping[str, Any]) -> adapter.Sandbox:
        """See Implementation."""
        docker_host = self._options["docker_host"]
        assert docker_host is not None
        return _Reused(Oracle(docker_host), image, super(Broken, self).sandbox(image, settings).sandbox)  # type: ignore[attr-defined]


class TracesVisible(ContainerReused):
    """The same, seen by what one program leaves for the next."""

    clause, because = "pool.traceless", "/tmp"


ALL: dict[str, type[Broken]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Broken) and hasattr(value, "because")
}
