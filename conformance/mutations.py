"""Implementations that are broken on purpose, each in one place: what shows that the clauses can
fail.

Each is dayfly with one thing changed, an adapter that spoils one thing, or both. `clause` names the
clause that must fail for it, and `because` what that failure must say, so that a failure for
another reason does not pass for the right one. Of the product only this file and the adapter know
the inside, and only this one changes it.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import copy
import functools
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar
from unittest import mock

import msgspec
from conformance import adapter
from conformance.oracle import Oracle, PlainContainer

Answer = dict[str, Any]
Body = dict[str, Any]
Run = Callable[..., Answer]


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

    def bounds(self, given: dict[str, float]) -> dict[str, float]:
        """Return the bounds of a session to use instead of those given."""
        return given

    def report(self, given: Answer) -> Answer:
        """Return the report on a submission to give instead of the true one."""
        return given

    def run(self, true: Run, job: Any, **options: Any) -> Answer:
        """Run a job, in a session or not; `true` does it as it should be done."""
        return self.answer(true(self.job(job), **options))

    def judge(self, true: Run, *arguments: Any, **options: Any) -> Answer:
        """Judge a submission, likewise."""
        return self.report(true(*arguments, **options))

    def sandbox(self, image: str, settings: Mapping[str, Any]) -> adapter.Sandbox:
        """See Implementation."""
        sandbox = super().sandbox(image, self.settings(dict(settings)))
        session = sandbox.session

        def opened(**bounds: float) -> adapter.Session:
            made = session(**self.bounds(bounds))
            made.run = functools.partial(self.run, made.run)  # type: ignore[method-assign]
            return made

        sandbox.session = opened  # type: ignore[method-assign]
        sandbox.run = functools.partial(self.run, sandbox.run)  # type: ignore[method-assign]
        sandbox.judge = functools.partial(self.judge, sandbox.judge)  # type: ignore[method-assign]
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


class NameUnknown(BrokenBody):
    """The container has a name that it cannot resolve."""

    clause, because = "confined.names", "gaierror"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        body["Hostname"] = "another"


class LimitsHard(BrokenBody):
    """No limit may be raised."""

    clause, because = "limit.raised", "not allowed to raise"

    def change(self, body: Body, host: Body) -> None:
        """See BrokenBody."""
        host["Ulimits"] = [{**limit, "Hard": limit["Soft"]} for limit in host["Ulimits"]]


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


class Ignored(Broken):
    """A member of the job is ignored."""

    member: ClassVar[str]

    def job(self, given: Any) -> Any:
        """See Broken."""
        return {name: value for name, value in given.items() if name != self.member} if isinstance(given, dict) else given


class TimeoutIgnored(Ignored):
    """A run's own time limit is ignored."""

    clause, because = "run.timeout", "False is True"
    member = "timeoutMs"


class VersionIgnored(Ignored):
    """v3 is ignored."""

    clause, because = "run.v3", r"'2\\n' == '3\\n'"
    member = "v3"


class ProcessorTimeIgnored(Ignored):
    """A limit of processor time is ignored."""

    clause, because = "limit.cpu-time", r"'timeout', T.*== \('timeout', T"
    member = "cpuLimitMs"


class ArgsIgnored(Ignored):
    """args are ignored."""

    clause, because = "run.args", r"\['main.py'\]"
    member = "args"


class EnvIgnored(Ignored):
    """env is ignored."""

    clause, because = "run.env", "None"
    member = "env"


class StdinIgnored(Ignored):
    """Bytes of standard input are ignored."""

    clause, because = "run.stdin", "'0 "
    member = "stdinBytes"


class SeedIgnored(Ignored):
    """seed is ignored."""

    clause, because = "run.seed", r"assert '\["
    member = "seed"


class MergeIgnored(Ignored):
    """mergeStderr is ignored."""

    clause, because = "answer.merged", "0002"
    member = "mergeStderr"


class FilesIgnored(Ignored):
    """files are ignored."""

    clause, because = "files.in", "text.txt"
    member = "files"


class FetchIgnored(Ignored):
    """fetch is ignored."""

    clause, because = "files.out", "{} == {"
    member = "fetch"


class BytesDecoded(Broken):
    """Bytes of code pass for UTF-8."""

    clause, because = "run.bytes", "assert"

    def job(self, given: Any) -> Any:
        """See Broken."""
        return {"code": base64.b64decode(given["codeBytes"]).decode(errors="replace")} if "codeBytes" in given else given


class TextRefused(Broken):
    """Text that is not UTF-8 is refused as code."""

    clause, because = "run.text", "surrogates not allowed"

    def job(self, given: Any) -> Any:
        """See Broken."""
        if isinstance(given, dict):
            given["code"].encode()
        return given


class HeardLate(Broken):
    """What is to be heard is told at the end."""

    clause, because = "answer.streamed", "came at the end"

    def run(self, true: Run, job: Any, *, heard: adapter.Heard | None = None, **options: Any) -> Answer:
        """See Broken."""
        answer = true(job, **options)
        if heard:
            heard("stdout", answer["stdout"])
        return answer


class CutLost(Broken):
    """What is cut off at the end of the output is lost."""

    clause, because = "answer.streamed", "ufffd|\ufffd"

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "stdout": given["stdout"].rstrip("\ufffd")}


class PreloadIgnored(Broken):
    """preload is ignored."""

    clause, because = "preload.there", "False False"

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """See Broken."""
        return {name: value for name, value in given.items() if name != "preload"}


class PreloadUnnoticed(PreloadIgnored):
    """The same: so what cannot be imported is not noticed."""

    clause, because = "preload.refused", "DID NOT RAISE"


class RoomIgnored(Broken):
    """preload may leave a program no memory."""

    clause, because = "preload.memory", "DID NOT RAISE|memory_limit_mb"

    def spoil(self) -> None:
        """See Broken."""
        from dayfly import _container  # noqa: PLC0415

        mock.patch.object(_container, "ROOM_FOR_A_PROGRAM", 0).start()


class FiguresIgnored(Ignored):
    """figures is ignored."""

    clause, because = "figures.shown", r"\[b'png 1'"
    member = "figures"


class FiguresAlways(Broken):
    """Figures come from every program."""

    clause, because = "figures.unasked", "image/png"

    def job(self, given: Any) -> Any:
        """See Broken."""
        return {**given, "figures": True}


class OneFormShown(Broken):
    """A display has text only."""

    clause, because = "display.forms", "image/png"

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "displays": [{"text/plain": display.get("text/plain")} for display in given["displays"]]}


class DisplayLimitsIgnored(Broken):
    """The limits of displays are ignored."""

    clause, because = "display.bounds", r"\['0', '1', '2', '3'"

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """See Broken."""
        return {name: value for name, value in given.items() if name != "limits"}


class LastValueIgnored(Ignored):
    """lastValue is ignored."""

    clause, because = "value.last", "None == {"
    member = "lastValue"


class FileLimitsIgnored(Broken):
    """The limits of files are ignored."""

    clause, because = "files.bounds", r"\['f0', 'f1'"

    def settings(self, given: dict[str, Any]) -> dict[str, Any]:
        """See Broken."""
        return {name: value for name, value in given.items() if name != "limits"}


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

    def run(self, job: Any, *, heard: adapter.Heard | None = None) -> Answer:
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


# Sessions.


class SessionLeftOpen(Broken):
    """A session that is closed keeps its container."""

    clause, because = "session.container", "the session is closed"

    def spoil(self) -> None:
        """See Broken."""
        from dayfly._session import AsyncSession  # noqa: PLC0415

        async def close(_: AsyncSession) -> None:
            """End nothing."""

        mock.patch.object(AsyncSession, "close", close).start()


class StateKept(Broken):
    """A program finds an object of an earlier one."""

    clause, because = "session.fresh", r"\[True, "

    def job(self, given: Any) -> Any:
        """See Broken."""
        return f"import builtins\nbuiltins.kept = 'kept'\n{given}"


class CleanIgnored(Broken):
    """clean is ignored."""

    clause, because = "session.files", "main.py"

    def run(self, true: Run, job: Any, *, clean: bool = False, **options: Any) -> Answer:
        """See Broken."""
        return true(job, **options)


class SecondWaits(Broken):
    """A second program at once waits for the first."""

    clause, because = "session.one", "DID NOT RAISE"

    def spoil(self) -> None:
        """See Broken."""
        self._lock = threading.Lock()

    def run(self, true: Run, job: Any, **options: Any) -> Answer:
        """See Broken."""
        with self._lock:
            return true(job, **options)


class FailureEndsAll(Broken):
    """A session ends with the first program that fails."""

    clause, because = "session.survives", "a program has failed"
    failed = False

    def run(self, true: Run, job: Any, **options: Any) -> Answer:
        """See Broken."""
        if self.failed:
            raise adapter.SessionOver("a program has failed", delivered=False)
        answer = true(job, **options)
        self.failed = answer["isError"]
        return answer


class StopIgnored(Broken):
    """A program that its caller has left goes on."""

    clause, because = "session.stopped", "'early'"

    def spoil(self) -> None:
        """See Broken."""
        from dayfly._container import Container  # noqa: PLC0415

        mock.patch.object(Container, "stop").start()


class BoundsIgnored(Broken):
    """A session's bounds are ignored."""

    clause, because = "session.bounds", "nobody has closed the session"

    def bounds(self, given: dict[str, float]) -> dict[str, float]:
        """See Broken."""
        return {}


class DeliveryUntold(Broken):
    """A lost container's program passes for one that was not handed over."""

    clause, because = "session.lost", "False is True"

    def run(self, true: Run, job: Any, **options: Any) -> Answer:
        """See Broken."""
        try:
            return true(job, **options)
        except adapter.SessionOver as error:
            error.delivered = False
            raise


class CountersSummed(Broken):
    """An answer counts what earlier programs did."""

    clause, because = "session.counters", r"ills': 1"
    kills = 0

    def answer(self, given: Answer) -> Answer:
        """See Broken."""
        self.kills += given["oomKills"]
        return {**given, "oomKills": self.kills}


class SessionOfAnyKey(Broken):
    """The server gives a session to whoever names it."""

    clause, because = "http.session-key", "200 == 404|409 == 404"

    def server(self, image: str, *, port: int, keys: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        """See Implementation."""
        python, _, _, *rest = super().server(image, port=port, keys=keys, settings=settings)
        code = """
from dayfly._server.sessions import Sessions
true = Sessions.find
Sessions.find = lambda self, key, id: true(self, self._open[id].key if id in self._open else key, id)
from dayfly._cli import main
main()
"""
        return [python, "-c", code, *rest]


class CleanUnheard(Broken):
    """The server runs what says clean as any other program."""

    clause, because = "http.session", "kept"

    def server(self, image: str, *, port: int, keys: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        """See Implementation."""
        python, _, _, *rest = super().server(image, port=port, keys=keys, settings=settings)
        code = """
from dayfly import AsyncSession
true = AsyncSession._prepare
AsyncSession._prepare = lambda self, code, options, *, clean: true(self, code, options, clean=False)
from dayfly._cli import main
main()
"""
        return [python, "-c", code, *rest]


class LimitsForgiven(Broken):
    """A program that was killed at its limit passes for one that failed by itself."""

    clause, because = "judge.verdicts", "time_limit"

    def report(self, given: Answer) -> Answer:
        """See Broken."""
        for case in given["cases"]:
            case["verdict"] = case["verdict"].replace("time_limit", "runtime_error")
        return given


class AnswersSent(Broken):
    """What is expected is a file beside the program."""

    clause, because = "judge.secret", r"answer\.tx"

    def spoil(self) -> None:
        """See Broken."""
        from dayfly.judge import _judging  # noqa: PLC0415

        true: Any = vars(_judging)["submission_job"]

        def job(case: Any, source: bytes, **options: Any) -> Any:
            made = true(case, source, **options)
            return msgspec.structs.replace(made, files={**made.files, "answer.txt": case.expected_output})

        mock.patch.object(_judging, "submission_job", job).start()


class OrderOfEnds(Broken):
    """Cases are told in the order in which they end."""

    clause, because = "judge.order", r"\['[^0]'"

    def report(self, given: Answer) -> Answer:
        """See Broken."""
        return {**given, "cases": sorted(given["cases"], key=lambda case: case["wallMs"] or 0)}


class SyntaxUnchecked(Broken):
    """What is not valid Python is a program that fails."""

    clause, because = "judge.compile", "runtime_err"

    def spoil(self) -> None:
        """See Broken."""
        from dayfly.judge import _judging  # noqa: PLC0415

        mock.patch.object(_judging, "may_be_invalid", return_value=False).start()


class CheckerBeside(Broken):
    """A checker runs in the submission's container."""

    clause, because = "judge.checker-apart", "wrong_answer"

    def spoil(self) -> None:
        """See Broken."""
        from dayfly.judge import _judging  # noqa: PLC0415

        true = _judging.Containers
        mock.patch.object(_judging, "Containers", lambda submission, checker: true(submission, checker and submission)).start()


class FaultBlamed(Broken):
    """What the sandbox could not do is the submission's fault."""

    clause, because = "judge.judge-error", "runtime_error"

    def report(self, given: Answer) -> Answer:
        """See Broken."""
        for case in given["cases"]:
            case["verdict"] = case["verdict"].replace("judge_error", "runtime_error")
        return given


# What the runner does.


class BrokenRunner(Broken):
    """The runner in the image is changed in one place: in this module, `old` becomes `new`."""

    file: ClassVar[str]
    old: ClassVar[str]
    new: ClassVar[str]

    def image(self, *, python2: bool = False) -> str:
        """See Implementation."""
        docker_host = self._options["docker_host"]
        assert docker_host is not None
        return _changed(docker_host, super().image(python2=python2), self.file, self.old, self.new)


@functools.cache
def _changed(docker_host: str, image: str, file: str, old: str, new: str) -> str:
    oracle = Oracle(docker_host)
    atexit.register(oracle.close)
    code = f"import dayfly_runner.{file} as m, json, sys; print(json.dumps([m.__file__, m.__cached__, open(m.__file__).read()]))"
    with oracle.attached({"Image": image, "Entrypoint": ["python3", "-c", code], "Cmd": []}) as attached:
        source, cached, text = json.loads(attached.line())
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {source}"
    # An empty file is not a compiled module, so Python reads the source.
    return oracle.mark(image, {source: text.replace(old, new).encode(), cached: b""}).image


class RunnerAgain(BrokenRunner):
    """Each interpreter that a program makes takes itself for the runner."""

    clause, because = "run.interpreters", "assert"
    file, old, new = "__init__", "if os.getpid() != 1:", "if False:"


class TimeOutUntold(BrokenRunner):
    """The runner does not say that the time was up."""

    clause, because = "protocol.dialogue", r"\(False, 9\)"
    file, old, new = "_parent", "run.timed_out and signalled", "False"


class OutputUnbounded(BrokenRunner):
    """The runner sends output beyond its limit."""

    clause, because = "protocol.bounds", "ProtocolError"
    file, old, new = "_parent", "kept = data[: self._left]", "kept = data"


class EndOfInputUntold(BrokenRunner):
    """The runner says another exit status when its stdin has ended."""

    clause, because = "protocol.stdin-end", "== 67"
    file, old, new = "_parent", "= 64, 65, 66, 67, 70", "= 64, 65, 66, 0, 70"


class RefusalUntold(BrokenRunner):
    """The runner says another exit status when the host breaks the protocol."""

    clause, because = "protocol.refusals", "== 64"
    file, old, new = "_parent", "= 64, 65, 66, 67, 70", "= 70, 65, 66, 67, 70"


class MembersUnchecked(BrokenRunner):
    """The runner takes a frame that lacks a member."""

    clause, because = "protocol.vectors", "host_"
    file, old, new = "_frames", "if members.keys() != table.keys():", "if not members.keys() <= table.keys():"


class NotWiped(BrokenRunner):
    """The runner does not wipe files for a program that says clean."""

    clause, because = "protocol.session", "kept"
    file, old, new = "_session", "        _wipe(self._files)", "        pass"


class StopDropped(BrokenRunner):
    """The runner takes a stop, and does nothing."""

    clause, because = "protocol.stop", "'next'"
    file, old, new = "_parent", "self.run.stopped = True", "pass"


class FileCut(BrokenRunner):
    """The runner sends less of a file than there is."""

    clause, because = "protocol.files", "out/copy"
    file, old, new = "_files", "self._send(path, data, not following)", "self._send(path, data[:-1], not following)"


class NothingWanted(BrokenRunner):
    """The runner asks for no more standard input."""

    clause, because = "protocol.want", "timed out"
    file, old, new = "_parent", "if run.fed >= MORE_STDIN and", "if False and"


class InputHoarded(BrokenRunner):
    """The runner asks for standard input whether the program takes it or not."""

    clause, because = "run.input-memory", "bytes of input cost|out_of_memory"
    file, old, new = "_parent", "if run.fed >= MORE_STDIN and", "run.fed = MORE_STDIN\n        if"


class PreloadDropped(BrokenRunner):
    """The runner imports nothing before it is ready."""

    clause, because = "protocol.preload", "False"
    file, old, new = "_parent", 'self.order({"preload": self.preload})', 'self.order({"preload": []})'


class SeededAlike(BrokenRunner):
    """The runner leaves random generators as the fork has made them."""

    clause, because = "session.random", r"assert '\[0"
    file, old, new = "_child", '    _seed(order["seed"], modules, generators)', "    pass"


class LinksFollowed(BrokenRunner):
    """The runner sends what a link leads to."""

    clause, because = "files.kinds", "link"
    file, old, new = "_files", "_READ = os.O_RDONLY | os.O_NOFOLLOW |", "_READ = os.O_RDONLY |"


class ScratchKept(BrokenRunner):
    """The runner leaves shared memory between two programs."""

    clause, because = "session.traceless", "/dev/"
    file, old, new = "_session", "_wipe(self._scratch)", "pass"


ALL: dict[str, type[Broken]] = {
    name: value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, Broken) and hasattr(value, "because")
}
