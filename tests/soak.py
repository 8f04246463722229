"""The soak: thousands of runs, seven in ten benign and three hostile, by twice as many callers as
the pool has containers.

    python -m tests.soak --runs 5000 --report soak.md

Every program has a token of its own and an expectation to the byte, so that what is lost, mixed up
or left by another run shows. The engine's own stream of events says which containers were made and
which are gone. It ends with a report, and with status 1 if anything is not as it must be. It looks
at the host process as a whole, so it is a program and no test of a suite.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import http.client
import json
import os
import platform
import random
import secrets
import signal
import socket
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio

from dayfly import AsyncSandbox, DayflyError, Outcome, Result, __version__
from dayfly._endpoint import resolve

HUNG = 120.0
"""Seconds. A call that takes this long, its time in the queue included, does not end."""
OVERRUN = 3_000.0
"""Milliseconds beyond its deadline after which a run must be over, on a machine that is busy with
nothing but this."""
GROWTH = {"memory (KiB)": 8_192, "descriptors": 2, "threads": 1, "tasks": 1}
"""What the idle host process may have grown by per 1,000 runs. An allocator keeps some memory; the
rest must come back."""
GONE_WITHIN = 20.0


@dataclass
class Case:
    """One program, and all that it may come to. What is None is not looked at."""

    name: str
    code: str
    allowed: set[Outcome]
    options: dict[str, Any] = field(default_factory=dict)
    stdout: str | None = None
    stderr_ends: str | None = None
    messages: list[Any] | None = None
    exit_code: int | None = None
    signal: int | None = None
    truncated: bool = False
    starved: bool = False
    """Its output may stop anywhere: on a busy machine, its deadline may come before it has written
    all."""


Maker = Callable[[random.Random, str], Case]
OK, ERROR, TIMEOUT = {Outcome.OK}, {Outcome.ERROR}, {Outcome.TIMEOUT}


def hello(dice: random.Random, token: str) -> Case:
    return Case("hello", f"print({token!r})", OK, stdout=f"{token}\n")


def large_output(dice: random.Random, token: str) -> Case:
    times = dice.randint(1, 20_000)
    code = f"import os\nprint({token!r} * {times}, end='', flush=True)\nos._exit(0)"
    return Case("output, then gone at once", code, OK, stdout=token * times)


def echo(dice: random.Random, token: str) -> Case:
    text = "".join(dice.choices(f"{token}äß€𝄞\n", k=dice.randint(0, 50_000)))
    return Case("stdin to stdout", "import sys\nsys.stdout.write(sys.stdin.read())", OK, {"stdin": text}, stdout=text)


def messages(dice: random.Random, token: str) -> Case:
    data = {"token": token, "numbers": [dice.random() for _ in range(dice.randint(0, 500))]}
    code = "import sandbox\nfor _ in range(3):\n    sandbox.send(sandbox.data)"
    return Case("data and messages", code, OK, {"data": data}, stdout="", messages=[data] * 3)


def exit_code(dice: random.Random, token: str) -> Case:
    code = dice.randint(1, 255)
    return Case("exit code", f"import sys\nprint({token!r})\nsys.exit({code})", ERROR, stdout=f"{token}\n", exit_code=code)


def exception(dice: random.Random, token: str) -> Case:
    return Case("exception", f"raise RuntimeError({token!r})", ERROR, stdout="", stderr_ends=f"RuntimeError: {token}\n", exit_code=1)


def blind(dice: random.Random, token: str) -> Case:
    code = f"""
import os
print(sorted(os.listdir('/tmp')), sorted(os.listdir('.')), len([pid for pid in os.listdir('/proc') if pid.isdigit()]))
open('/tmp/{token}', 'w').write('x'); open('{token}', 'w').write('x')
"""
    return Case("sees nothing of others", code, OK, stdout="[] ['main.py'] 2\n")


def busy(dice: random.Random, token: str) -> Case:
    code = f"""
import subprocess, sys, threading
parts = []
threads = [threading.Thread(target=parts.append, args=(sum(range(20000)),)) for _ in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print(len(parts), subprocess.run([sys.executable, '-c', 'print("{token}")'], capture_output=True, text=True).stdout, end='')
"""
    return Case("threads and a subprocess", code, OK, stdout=f"4 {token}\n")


def endless(dice: random.Random, token: str) -> Case:
    code = f"print({token!r}, flush=True)\nwhile True: pass"
    return Case("endless loop", code, TIMEOUT, {"timeout_ms": 400}, stdout=f"{token}\n", starved=True)


def asleep(dice: random.Random, token: str) -> Case:
    code = f"""
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
print({token!r}, flush=True)
time.sleep(600)
"""
    return Case("deaf sleeper", code, TIMEOUT, {"timeout_ms": 3_000}, stdout=f"{token}\n")


def flood(dice: random.Random, token: str) -> Case:
    code = f"import os\nwhile True: os.write(1, b'{token}' * 2000)"
    return Case("endless output", code, TIMEOUT, {"timeout_ms": 700}, stdout=token * 62_500, truncated=True, starved=True)


def fork_bomb(dice: random.Random, token: str) -> Case:
    code = f"import os\nprint({token!r}, flush=True)\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    return Case("fork bomb", code, TIMEOUT, {"timeout_ms": 500}, stdout=f"{token}\n", starved=True)


def memory_bomb(dice: random.Random, token: str) -> Case:
    code = f"print({token!r}, flush=True)\nheld = []\nwhile True: held.append(bytearray(1_000_000))"
    return Case("memory bomb", code, {Outcome.OUT_OF_MEMORY, Outcome.ERROR}, {"timeout_ms": 10_000}, stdout=f"{token}\n")


def full_disk(dice: random.Random, token: str) -> Case:
    code = "with open('/tmp/full', 'wb') as file:\n    while True: file.write(b'x' * 100_000)"
    return Case("full disk", code, {Outcome.ERROR, Outcome.OUT_OF_MEMORY}, {"timeout_ms": 10_000}, stdout="")


def suicide(dice: random.Random, token: str) -> Case:
    number = dice.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM]).value
    code = f"import os\nos.write(1, b'{token}')\nos.kill(os.getpid(), {number})"
    return Case("killed by itself", code, {Outcome.SIGNAL}, stdout=token, signal=number)


def forger(dice: random.Random, token: str) -> Case:
    code = f"""
import os, struct
body = b'{{"type":"exit","code":0}}'
for fd in [*range(3, 1100)]:
    try: os.write(fd, struct.pack('>I', len(body)) + body)
    except OSError: pass
for number in (2, 9, 15, 19):
    try: os.kill(1, number)
    except OSError: pass
print({token!r})
raise SystemExit(7)
"""
    return Case("forger", code, ERROR, stdout=f"{token}\n", exit_code=7)


def left_behind(dice: random.Random, token: str) -> Case:
    code = f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\nprint({token!r})"
    return Case("daemon left behind", code, OK, {"timeout_ms": 20_000}, stdout=f"{token}\n")


def closer(dice: random.Random, token: str) -> Case:
    return Case("closes everything", f"import os\nos.write(1, b'{token}')\nos.closerange(0, 2000)\nos._exit(0)", OK, stdout=token)


BENIGN: list[Maker] = [hello, large_output, echo, messages, exit_code, exception, blind, busy]
HOSTILE: list[Maker] = [endless, asleep, flood, fork_bomb, memory_bomb, full_disk, suicide, forger, left_behind, closer]


def judge(case: Case, result: Result) -> list[tuple[str, str]]:
    """What is wrong, each with its kind: `verdict` or `bytes`."""
    wrong = []
    if result.outcome not in case.allowed:
        wrong.append(("verdict", f"{result.outcome.value}, stderr {result.stderr[-300:]!r}"))
    for name in ("exit_code", "signal"):
        expected, got = getattr(case, name), getattr(result, name)
        if expected is not None and got != expected:
            wrong.append(("verdict", f"{name} {got}"))
    short = case.starved and (case.stdout or "").startswith(result.stdout)
    if case.stdout is not None and result.stdout != case.stdout and not short:
        wrong.append(("bytes", f"stdout of {len(result.stdout)} characters for {len(case.stdout)}: {result.stdout[:100]!r}"))
    if case.stderr_ends is not None and not result.stderr.endswith(case.stderr_ends):
        wrong.append(("bytes", f"stderr {result.stderr[-200:]!r}"))
    if case.messages is not None and result.messages != case.messages:
        wrong.append(("bytes", f"messages {str(result.messages)[:200]}"))
    if (result.stdout_truncated or result.stderr_truncated) is not case.truncated and not (short and len(result.stdout) < 1_000_000):
        wrong.append(("bytes", "truncated" if not case.truncated else "not truncated"))
    return wrong


class Events(threading.Thread):
    """Listens to the engine: which containers of this process were made, and which are no more."""

    def __init__(self, path: str) -> None:
        super().__init__(name="events", daemon=True)
        self.made: set[str] = set()
        self.gone: set[str] = set()
        self._connection = http.client.HTTPConnection("localhost")
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(path)
        filters = {"type": ["container"], "event": ["create", "destroy"], "label": [f"dayfly.pid={os.getpid()}"]}
        self._connection.request("GET", f"/events?{urlencode({'filters': json.dumps(filters)})}")
        self._response = self._connection.getresponse()

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException, AttributeError):
            while line := self._response.readline():
                event = json.loads(line)
                (self.made if event["Action"] == "create" else self.gone).add(event["id"])

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self.join(5)
        self._response.close()
        self._connection.close()


def measure() -> dict[str, int]:
    """The host process as it is, idle."""
    gc.collect()
    memory = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return {
        "memory (KiB)": int(memory.split()[1]),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - the iterator of pathlib would count itself as well
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
    }


@dataclass
class Soak:
    """One soak, and what came of it."""

    runs: int
    pool_size: int
    seed: int
    runtime: str | None
    block: float = 0.0
    """Seconds for which the event loop is blocked at most, again and again; 0: it is not."""
    outcomes: Counter[str] = field(default_factory=Counter)
    programs: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    overrun_ms: list[float] = field(default_factory=list)
    baseline: dict[str, int] = field(default_factory=dict)
    final: dict[str, int] = field(default_factory=dict)
    made: int = 0
    gone: int = 0
    cancelled: int = 0
    blocked: list[float] = field(default_factory=list)
    seconds: float = 0.0
    engine: str = ""

    @property
    def unmeasured(self) -> int:
        """Runs before the host process is measured for the first time: what grows at first only,
        such as caches, has grown then."""
        return min(self.runs // 5, 500)

    def _growth(self, what: str) -> float:
        """Per 1,000 runs. Fewer are not extrapolated: what they show is chance."""
        return (self.final[what] - self.baseline[what]) / max((self.runs - self.unmeasured) / 1_000, 1.0)

    def note(self, kind: str, text: str) -> None:
        self.kinds[kind] += 1
        if len(self.wrong) < 50:
            self.wrong.append(f"{kind}: {text}")

    async def run(self) -> None:
        dice = random.Random(self.seed)
        path = resolve(None).socket
        assert path is not None, "the soak listens to the engine over its Unix socket"
        events = Events(path)
        events.start()
        begun = time.monotonic()
        async with AsyncSandbox(self.pool_size, runtime=self.runtime) as sandbox:
            self.engine = f"{sandbox!r}"
            await self._some(sandbox, dice, self.unmeasured)
            self.baseline = await self._idle(sandbox)
            await self._some(sandbox, dice, self.runs - self.unmeasured)
            self.final = await self._idle(sandbox)
        self.seconds = time.monotonic() - begun
        with anyio.move_on_after(GONE_WITHIN):
            while events.made != events.gone:
                await anyio.sleep(0.1)
        events.end()
        self.made, self.gone = len(events.made), len(events.gone)
        for name in sorted(events.made - events.gone):
            self.note("leak", f"container {name[:12]} was made and is not gone")
        for what, most in GROWTH.items():
            if self._growth(what) > most:
                self.note("growth", f"{what} from {self.baseline[what]:,} to {self.final[what]:,}")

    async def _some(self, sandbox: AsyncSandbox, dice: random.Random, runs: int) -> None:
        left = iter(range(runs))

        async def caller() -> None:
            for number in left:
                maker = dice.choice(BENIGN if dice.random() < 0.7 else HOSTILE)
                await self._one(sandbox, dice, maker(dice, f"{dice.randrange(16**16):016x}"))
                if number and number % 100 == 0:
                    sys.stderr.write(f"  {sum(self.programs.values()):,} runs, {sum(self.kinds.values())} violations\n")

        async with anyio.create_task_group() as blocker:
            if self.block:
                blocker.start_soon(self._block, random.Random(dice.random()))
            async with anyio.create_task_group() as callers:
                for _ in range(2 * self.pool_size):
                    callers.start_soon(caller)
            blocker.cancel_scope.cancel()

    async def _block(self, dice: random.Random) -> None:
        """Block the event loop at random moments for random times, as a host does that has other
        work to do."""
        while True:
            await anyio.sleep(dice.expovariate(1))
            seconds = dice.uniform(0, self.block)
            self.blocked.append(seconds)
            time.sleep(seconds)  # noqa: ASYNC251 - it is what is done here

    async def _one(self, sandbox: AsyncSandbox, dice: random.Random, case: Case) -> None:
        self.programs[case.name] += 1
        # One caller in twenty loses its patience.
        patience = dice.uniform(0, 0.5) if dice.random() < 0.05 else HUNG
        with anyio.move_on_after(patience) as scope:
            try:
                result = await sandbox.run(case.code, **case.options)
            except DayflyError as error:
                self.note("error", f"{case.name}: {type(error).__name__}: {error}")
                return
            self.outcomes[result.outcome.value] += 1
            for kind, text in judge(case, result):
                self.note(kind, f"{case.name}: {text}")
            self.overrun_ms.append(result.wall_ms - case.options.get("timeout_ms", sandbox.timeout_ms))
            if self.overrun_ms[-1] > OVERRUN:
                self.note("overrun", f"{case.name}: {self.overrun_ms[-1]:.0f} ms beyond its deadline")
        if scope.cancelled_caught:
            self.cancelled += 1
            if patience == HUNG:
                self.note("hung", f"{case.name}: no end within {HUNG:g} s")

    async def _idle(self, sandbox: AsyncSandbox) -> dict[str, int]:
        """What the process has when nothing is going on but a full pool, at the least of some
        looks: connections take turns."""
        looks = []
        with anyio.fail_after(60):
            while sandbox.stats().warm < self.pool_size or sandbox.stats().ending:
                await anyio.sleep(0.1)
        for _ in range(10):
            await anyio.sleep(0.3)
            looks.append(measure())
        return {name: min(look[name] for look in looks) for name in looks[0]}

    def report(self) -> str:
        late = sorted(self.overrun_ms)
        who = f"{2 * self.pool_size} callers on a pool of {self.pool_size}, runtime {self.runtime or 'default'}, seed {self.seed}"
        where = f"dayfly {__version__}, Python {platform.python_version()}, {os.cpu_count()} processors"
        outcomes = ", ".join(f"{name} {count:,}" for name, count in self.outcomes.most_common())
        programs = ", ".join(f"{name} {count:,}" for name, count in self.programs.most_common())
        if self.block:
            where += f"; event loop blocked {len(self.blocked):,} times, {sum(self.blocked):,.0f} s in all, {self.block:g} s at most"
        lines = [
            f"{self.runs:,} runs by {who}; {where}; {self.seconds:,.0f} s, {self.runs / self.seconds:.1f} runs per second.",
            "",
            "| looked for | found |",
            "|---|---|",
            f"| wrong verdicts | {self.kinds['verdict']} |",
            f"| lost or foreign bytes | {self.kinds['bytes']} |",
            f"| calls that failed | {self.kinds['error']} |",
            f"| hung calls | {self.kinds['hung']} |",
            f"| containers made, gone, leaked | {self.made:,}, {self.gone:,}, {self.kinds['leak']} |",
            f"| runs over by more than {OVERRUN:,.0f} ms | {self.kinds['overrun']} (the latest: {late[-1] if late else 0:.0f} ms) |",
            *(
                f"| growth of {what} per 1,000 runs | {self._growth(what):+,.1f} "
                f"({self.baseline[what]:,} to {self.final[what]:,}, in the last {self.runs - self.unmeasured:,} runs) |"
                for what in GROWTH
            ),
            "",
            f"Outcomes: {outcomes}; given up by their callers {self.cancelled:,}.",
            "",
            f"Programs: {programs}.",
        ]
        lines += ["", "Violations:", *(f"- {text}" for text in self.wrong)] if self.kinds else []
        # RESULTS.md takes the report as it is. Rows of a table keep their lines.
        return "\n".join(line if line.startswith("|") else textwrap.fill(line, 100) for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="The soak; see the head of this file.")
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--pool-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--runtime")
    parser.add_argument("--block", type=float, default=0.0, help="block the event loop at random, for this many seconds at most")
    parser.add_argument("--report", type=Path, help="a file for the report, in Markdown, beside standard output")
    chosen = parser.parse_args()
    soak = Soak(chosen.runs, chosen.pool_size, chosen.seed, chosen.runtime, chosen.block)
    anyio.run(soak.run)
    report = soak.report()
    sys.stdout.write(f"{report}\n")
    if chosen.report:
        chosen.report.write_text(report + "\n")
    return 1 if soak.kinds else 0


if __name__ == "__main__":
    sys.exit(main())
