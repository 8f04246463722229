"""What floods and busy containers do to the host process and to the report: little, and nothing."""

from __future__ import annotations

import time

import anyio
import pytest

from dayfly import AsyncSandbox, Limits, Outcome, Sandbox
from dayfly._spec import is_gvisor

from .harness import forget_the_peak, memory

SPINNERS = """
import os
chunks, chunk = 14, 4_096
gate = os.pipe()
try:
    for _ in range({most}):
        if os.fork() == 0:
            os.close(gate[1])
            os.read(gate[0], 1)
            while True:
                pass
except BlockingIOError:
    pass
for number in range(chunks):
    os.write(1, bytes([65 + number]) * chunk)
with open("written", "w") as file:
    file.write(str(chunks * chunk))
os.close(gate[1])
while True:
    pass
"""


@pytest.mark.parametrize("cpus", [1.0, 0.1])
@pytest.mark.parametrize("timeout_ms", [2_000, 2_030, 2_070])
def test_spinning_children_lose_no_output(image: str, runtime: str, cpus: float, timeout_ms: int) -> None:
    """As many processes as there may be keep the processor from the runner, from the moment at
    which all is written until the deadline."""
    gvisor = is_gvisor(runtime)  # only memory bounds processes there, and each takes more of it
    code, memory_mb = SPINNERS.replace("{most}", "40" if gvisor else "10_000"), 300 if gvisor else 100
    with Sandbox(1, memory_limit_mb=memory_mb, runtime=runtime, limits=Limits(cpus=cpus)) as sandbox:
        result = sandbox.run(code, timeout_ms=timeout_ms, fetch=["written"])
    assert result.outcome is Outcome.TIMEOUT
    if result.stdout_truncated is None:  # the host judged alone, and says that it does not know
        return
    if gvisor and cpus == 0.1:  # 40 processes take longer to start than the program has
        assert (result.stdout_truncated, result.stdout, result.files) == (False, "", {})
        return
    assert (result.stdout_truncated, result.files) == (False, {"written": b"57344"})
    assert result.stdout == "".join(chr(65 + number) * 4_096 for number in range(14))


NESTED = """
import os, struct
body = {body}
data = (struct.pack(">I", len(body)) + body) * 1_000
while data:
    data = data[os.write(1000, data):]
"""
SHAPES = {
    "deep": (b"[" * 490 + b"]" * 490, 0),
    "as deep as may be": ((b"[" * 99 + b"]" * 99 + b",") * 4, 1_000),
    "wide": (b"{}," * 326, 1_000),
}
"""JSON of 1 kB without the brackets around it -> how many of a thousand are kept."""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_nested_messages_cost_the_host_little(image: str, runtime: str, shape: str) -> None:
    """No value is built of them while they arrive. When it was, a thousand took 0.3 s of the host's
    processor, of which the event loop was held up for half at once, and 44 MB."""
    inner, kept = SHAPES[shape]
    body = b"[" + inner.rstrip(b",") + b"]"
    turns = [0.0]

    async def beat() -> None:
        while True:
            begun = time.thread_time()
            await anyio.sleep(0.005)
            turns.append(time.thread_time() - begun)

    async with AsyncSandbox(1, runtime=runtime) as sandbox:
        await sandbox.run("pass")
        while sandbox.stats().warm == 0:
            await anyio.sleep(0.02)
        size = memory("VmRSS")
        forget_the_peak()
        async with anyio.create_task_group() as group:
            group.start_soon(beat)
            busy = time.process_time()
            result = await sandbox.run(NESTED.format(body=body))
            busy = time.process_time() - busy
            group.cancel_scope.cancel()
        grown = memory("VmHWM") - size
    assert (result.outcome, result.stderr) == (Outcome.OK, "")
    assert (len(result.messages_raw), result.messages_dropped) == (kept, 1_000 - kept)
    assert grown < 16_000_000
    assert busy < 0.2
    assert max(turns) < 0.1
