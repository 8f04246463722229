"""SECURITY.md is true: what it names exists, and the engine is asked for nothing that its table
lacks."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from dayfly import AsyncSandbox, ContainerLost, Outcome
from dayfly import _seccomp as seccomp

from ..conftest import Engine
from ..faults.proxy import Exchange, Proxy, no_fault
from .harness import PROGRAMS, eventually
from .test_kernel_memory import kinds

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = (REPOSITORY / "SECURITY.md").read_text()
CALLS = {f"{method} {path}": user for method, path, user in re.findall(r"^\| `([A-Z]+) (/\S+)` \|.*\| (\w+) \|$", PAGE, re.MULTILINE)}
"""Every call of the table -> who makes it."""


def test_every_promise_is_probed_by_what_exists() -> None:
    promises = re.findall(r"^\| P(\d+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in promises] == list(range(1, len(promises) + 1)) and len(promises) > 15
    for number, _, probes in promises:
        assert re.findall(r"`([^`]+)`", probes), number
    named = re.findall(r"`(tests/[^`:]+)(?:::(\w+))?`", PAGE)
    for file, name in named:
        assert (REPOSITORY / file).exists(), file
        assert not name or re.search(rf"^(async )?def {name}\(", (REPOSITORY / file).read_text(), re.MULTILINE), (file, name)
    for program in re.findall(r"`([a-z]\d\d_\w+)`", PAGE):
        assert (PROGRAMS / f"{program}.py").exists(), program


def test_what_the_filter_does_with_a_call_is_told() -> None:
    table = PAGE.partition("## What the filter answers differently\n")[2].partition("\n## ")[0]
    told = {name for cell in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)", cell)}
    rules = [seccomp.CONDITIONS, *seccomp.ANSWERS.values()]
    assert {name for calls in rules for names in calls for name in names.split()} | {"socket"} <= told


def test_the_table_of_objects_has_every_kind() -> None:
    table = PAGE.partition("## What the kernel holds, and what is charged\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| ([a-z0-9 ]+) \| [\d,]+ \|", table, re.MULTILINE) == [kind.replace("_", " ") for kind in kinds()]


def test_the_table_of_calls_is_the_source_s() -> None:
    asked = set()
    package = REPOSITORY / "engine" / "dayfly"
    # `remote` calls a server of dayfly's, not the engine, and the server does not call the engine
    # by itself.
    for path in (*package.glob("_*.py"), *package.glob("_image/*.py")):
        text = path.read_text()
        asked |= set(re.findall(r'"(GET|POST|PUT|DELETE|HEAD)",\s*f?"(/[^"?]+)"', text))
        asked |= {("POST", target) for target in re.findall(r'path = f"(/[^"]+)"', text)}
        asked |= set(re.findall(r'name="(GET) (/[^"]+)"', text))  # a stream: its target has a prefix
    assert {f"{method} {re.sub(r'{[^}]*}', '*', target)}" for method, target in asked} == {re.sub(r"{[^}]*}", "*", call) for call in CALLS}


class AllowList(Proxy):
    """A proxy as a careful operator would put before the socket: the calls of the table, and 403
    for all others."""

    def __init__(self, engine: str, calls: set[str]) -> None:
        super().__init__(engine)
        self.patterns = {call: re.sub(r"{[^}]*}", "[^/]+" if "containers" in call else ".+", call) for call in calls}
        self.made: set[str] = set()
        self.refused: list[str] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        exchange = Exchange(self, head, await reader.readexactly(int(length[1]) if length else 0), (reader, writer))
        method, target = head.decode().split()[:2]
        line = f"{method} {re.sub(r'^/v1[.][0-9]+', '', target.partition('?')[0])}"
        call = next((call for call, pattern in self.patterns.items() if re.fullmatch(pattern, line)), None)
        try:
            if call is None:
                self.refused.append(line)
                await exchange.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            else:
                self.made.add(call)
                await no_fault(exchange)
        finally:
            exchange.close()


@pytest.fixture
def proxy(engine: Engine) -> Iterator[AllowList]:
    proxy = AllowList(engine.path, {call for call, user in CALLS.items() if user in ("sandbox", "all")})
    with proxy:
        yield proxy


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


HOST = """
import sys, time
from dayfly import Sandbox
sandbox = Sandbox(2, docker_host=sys.argv[1])
sandbox.initialize()
print("warm", flush=True)
time.sleep(60)
"""


def kill_a_host(proxy: AllowList, engine: Engine) -> None:
    """And wait until its containers are gone: a process that it had started beside it sees to that,
    through the proxy too."""
    with subprocess.Popen([sys.executable, "-c", HOST, proxy.address], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"warm\n"
        host.send_signal(signal.SIGKILL)
    assert eventually(lambda: not engine.containers(host.pid), 10)


@pytest.mark.alone
async def test_a_sandbox_makes_these_calls_and_no_others(proxy: AllowList, engine: Engine) -> None:
    async with AsyncSandbox(pool_size=2, docker_host=proxy.address) as sandbox:
        assert (await sandbox.run("print(1)")).outcome is Outcome.OK
        assert (await sandbox.run("while True: pass", timeout_ms=300)).outcome is Outcome.TIMEOUT
        assert (await sandbox.run("x = []\nwhile True: x.append(bytearray(10**6))")).outcome is Outcome.OUT_OF_MEMORY
        with anyio.move_on_after(0.3):
            await sandbox.run("while True: pass")
        with pytest.raises(ContainerLost):
            async for _ in sandbox.stream("print('begun', flush=True)\nwhile True: pass"):
                for row in engine.containers(os.getpid()):
                    engine.call("POST", f"/containers/{row['Id']}/kill")
    await anyio.to_thread.run_sync(kill_a_host, proxy, engine)
    assert proxy.refused == []
    assert proxy.made == proxy.patterns.keys(), json.dumps(sorted(proxy.patterns.keys() - proxy.made))
