"""Programs of the host that a build runs, and its temporary directory. Cancelling ends them, and
they clean up after themselves."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import anyio
import anyio.abc

from dayfly._errors import DayflyError

log = logging.getLogger("dayfly.image")

Progress = Callable[[str], None]


async def run(command: Sequence[str], scratch: Path, say: Progress, *, prefix: Sequence[str] = ()) -> None:
    """Run a program to its end. Its lines go to `say`; if it fails, the last of them are the error.

    Cancelling ends the program, and waits for it to clean up after itself.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(scratch)}
    process = await anyio.open_process(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=12)
    try:
        assert process.stderr is not None
        buffer = b""
        async for data in process.stderr:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                text = shown(line.decode(errors="replace").rstrip())
                tail.append(text)
                if text.startswith("I: ") and "hook" not in text:  # the hook is a script of many lines
                    say(f"  {text.removeprefix('I: ')}")
        tail.append(shown(buffer.decode(errors="replace")))
        if await process.wait() != 0:
            errors = [line for line in tail if re.match(r"(E|ERROR): ?", line, re.IGNORECASE)] or list(tail)
            raise DayflyError(f"{Path(command[0]).name} failed: {'; '.join(line for line in errors if line)[-2_000:]}")
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _stop(process: anyio.abc.Process) -> None:
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):  # on SIGTERM, mmdebstrap unmounts and removes what it made
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with anyio.move_on_after(patience):
                await process.wait()
    await process.aclose()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary directory that mmdebstrap's own user can pass through."""
    path = Path(tempfile.mkdtemp(prefix="dayfly-")).resolve()
    try:
        path.chmod(0o711)
        yield path
    finally:
        # Never into a mount: what is behind it is not ours.
        if not any(point.startswith(f"{path}/") for point in _mount_points()):
            shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            log.warning("the temporary directory %s could not be removed", path)


def _mount_points() -> list[str]:
    try:
        return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return []  # not Linux: mmdebstrap does not run there, and nothing else mounts


def shown(text: object) -> str:
    """What a container, an image or a program of the host said, with control characters as escapes:
    it may reach a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


async def pieces(file: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(file, "rb") as source:
        while piece := await source.read(1_048_576):
            yield piece
