"""A runner as a real process: process 1 of a pid namespace of its own, root without capabilities,
driven over its two pipes.

What the driver here says and checks follows conformance/PROTOCOL.md by hand, and uses neither
side's codec. The interpreter under test is this one, or the one that DAYFLY_TEST_PYTHON names; its
site-packages is a scratch one.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "runner_stdio" / "dayfly_runner"
TOKEN = "0123456789abcdef0123456789abcdef"
RUN_TOKEN = "fedcba9876543210fedcba9876543210"
HELLO: dict[str, Any] = {"type": "hello", "protocol": 2, "token": TOKEN, "preload": []}
RUN: dict[str, Any] = {
    "type": "run",
    "token": RUN_TOKEN,
    "clean": False,
    "python": "3",
    "args": [],
    "env": {},
    "stdin": False,
    "merge_stderr": False,
    "seed": None,
    "timeout_ms": 20_000,
    "cpu_limit_ms": None,
    "open_files": 256,
    "stdout_limit": 1_000_000,
    "stderr_limit": 1_000_000,
    "on_output_limit": "truncate",
    "message_limit": 1_000_000,
    "message_count": 1_000,
    "display_limit": 1_000_000,
    "display_count": 100,
    "figures": False,
    "last_value": False,
    "fetch": [],
    "file_limit": 1_000_000,
    "file_count": 100,
}
PIECE, WINDOW = 49_152, 131_072
PATIENCE = 30.0


class Ended:
    """What a run came to: its frames, and their contents put together."""

    def __init__(self, frames: list[dict[str, Any]], status: int) -> None:
        self.frames = frames
        self.status = status
        self.exit: dict[str, Any] = next((frame for frame in frames if frame["type"] == "exit"), {})
        self.error: str | None = frames[-1]["message"] if frames and frames[-1]["type"] == "error" else None
        self.messages, self.displays = (
            [base64.b64decode(frame["data"]) for frame in frames if frame["type"] == kind] for kind in ("message", "display")
        )
        self.files: dict[str, bytes] = {}
        for frame in frames:
            if frame["type"] == "file":
                self.files[frame["path"]] = self.files.get(frame["path"], b"") + base64.b64decode(frame["data"])
        self.skipped = {frame["path"]: frame["why"] for frame in frames if frame["type"] == "skipped"}
        self.stdout, self.stderr = (
            b"".join(base64.b64decode(frame["data"]) for frame in frames if frame["type"] == "output" and frame["stream"] == stream)
            for stream in ("stdout", "stderr")
        )


class Runner:
    """The process, and the host's end of the dialogue with it."""

    def __init__(
        self,
        python: Path,
        folder: Path,
        env: dict[str, str] | None = None,
        *,
        process_1: bool = True,
        alone: bool = False,
        pass_fds: tuple[int, ...] = (),
    ) -> None:
        command = [str(python), "-u", "-X", "dayfly_runner", "main.py"]
        if process_1:
            command = [*NAMESPACE, *command]
        if alone:
            # What a session cleans up is the whole namespace's.
            command[1:1] = ["--ipc", "--net"]
        pipe = subprocess.PIPE
        self.unsent: bytes | None = None
        self.opened = False
        self.process = subprocess.Popen(
            command, cwd=folder, env={**ENVIRONMENT, **(env or {})}, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, pass_fds=pass_fds
        )

    def send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def say(self, frame: dict[str, Any]) -> None:
        body = json.dumps(frame).encode()
        self.send(len(body).to_bytes(4, "big") + body)

    def hello(self, **members: Any) -> dict[str, Any]:
        self.say({**HELLO, **members})
        ready = self.next()
        assert ready is not None
        assert ready["type"] == "ready", ready
        return ready

    def open(self, files: list[str], scratch: list[str]) -> None:
        self.say({"type": "open", "files": files, "scratch": scratch})
        assert self.next() == {"type": "next"}
        self.opened = True

    def run(self, code: str | bytes | None, *, stdin: str | None = None, files: dict[str, bytes] | None = None, **members: Any) -> None:
        """Hand a program over, or with None the files alone; `stdin` is base64."""
        contents = files or {}
        if code is not None:
            contents = {**contents, "main.py": code.encode() if isinstance(code, str) else code}
        self.say({**RUN, "stdin": stdin is not None, **members})
        for path, content in contents.items():
            for start in range(0, len(content) or 1, PIECE):
                last = path == list(contents)[-1] and start + PIECE >= len(content)
                self.put(path, content[start : start + PIECE], last=last)
        self.unsent = None if stdin is None else base64.b64decode(stdin)
        self.more_stdin(WINDOW)

    def put(self, path: str, data: bytes, *, last: bool) -> None:
        self.say({"type": "put", "path": path, "data": base64.b64encode(data).decode(), "last": last})

    def more_stdin(self, size: int) -> None:
        while size and self.unsent is not None:
            piece, rest = self.unsent[: min(size, PIECE)], self.unsent[min(size, PIECE) :]
            size -= len(piece)
            self.unsent = rest or None
            try:
                self.say({"type": "stdin", "data": base64.b64encode(piece).decode(), "last": not rest})
            except BrokenPipeError:
                return  # the program has ended, and the runner with it

    def started(self) -> dict[str, Any]:
        frame = self.next()
        assert frame == {"type": "started", "preloaded": frame and frame.get("preloaded")}
        return frame

    def read(self, size: int) -> bytes:
        """Return `size` bytes of the runner's stdout, fewer at its end; fail when it says nothing
        for too long."""
        assert self.process.stdout is not None
        file, pieces, deadline = self.process.stdout.fileno(), b"", time.monotonic() + PATIENCE
        while len(pieces) < size:
            if not select.select([file], [], [], deadline - time.monotonic())[0]:
                pytest.fail(f"the runner said nothing for {PATIENCE} s")
            piece = os.read(file, size - len(pieces))
            if not piece:
                break
            pieces += piece
        return pieces

    def next(self) -> dict[str, Any] | None:
        """Return the next frame, None at the end."""
        header = self.read(4)
        if not header:
            return None
        assert len(header) == 4
        length = int.from_bytes(header, "big")
        assert 0 < length <= 1_024 + 4 * 67_108_864 // 3
        body = self.read(length)
        assert len(body) == length
        frame = json.loads(body.decode("utf-8"))
        assert isinstance(frame, dict)
        if frame["type"] not in {"message", "display"}:
            assert length <= 131_072
        if frame["type"] == "want":
            self.more_stdin(frame["bytes"])
            return self.next()
        if frame["type"] == "output":
            assert 1 <= len(base64.b64decode(frame["data"], validate=True)) <= 65_536
        return frame

    def session_run(self, code: str | bytes, **members: Any) -> Ended:
        """Run one program of a session, and wait until the runner is done with it; the last frame
        tells how."""
        self.run(code, **members)
        frames: list[dict[str, Any]] = []
        while not frames or frames[-1]["type"] not in {"next", "spent", "error"}:
            frame = self.next()
            assert frame is not None, frames
            frames.append(frame)
        return Ended(frames, -1)

    def finish(self) -> Ended:
        """Return what the run came to, when the runner has left. This side is closed after `exit`,
        as PROTOCOL.md has it."""
        frames = []
        while (frame := self.next()) is not None:
            frames.append(frame)
            if frame["type"] == "exit" and not self.opened:
                assert self.process.stdin is not None
                self.process.stdin.close()
        return Ended(frames, self.process.wait(PATIENCE))

    def pids(self) -> list[int]:
        """Return the processes of the runner's namespace as this side numbers them, the runner
        first."""
        return _descendants(_descendants(self.process.pid)[0], itself=True)

    def close(self) -> None:
        with self.process:
            self.process.kill()


NAMESPACE = [
    shutil.which("unshare") or "unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]),
    "--pid", "--fork", "--kill-child", "--mount-proc",
    shutil.which("setpriv") or "setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
]  # fmt: skip
"""A pid namespace with its own /proc, and root without the capabilities that would excuse it from
every check."""

ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/sandbox", "LANG": "C.UTF-8", "USER": "sandbox", "PYTHONDONTWRITEBYTECODE": "1"}


def _descendants(pid: int, *, itself: bool = False) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    found = [pid] if itself else []
    for child in children:
        found += _descendants(int(child), itself=True)
    return found


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of an interpreter whose site-packages holds the runner as an image's does."""
    folder = tmp_path_factory.mktemp("python")
    base = os.environ.get("DAYFLY_TEST_PYTHON", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    shutil.copytree(PACKAGE, packages / "dayfly_runner", ignore=shutil.ignore_patterns("__pycache__", "site"))
    for file in (PACKAGE / "site").iterdir():
        if file.is_file():
            shutil.copy(file, packages)
    return folder / "bin" / "python3"


@pytest.fixture
def start(python: Path, tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Start runners in `tmp_path`, the program's working directory; end them with the test."""
    runners: list[Runner] = []

    def start(interpreter: Path = python, **options: Any) -> Runner:
        runners.append(Runner(interpreter, tmp_path, **options))
        return runners[-1]

    yield start
    for runner in runners:
        runner.close()


@pytest.fixture
def run(start: Callable[..., Runner]) -> Callable[..., Ended]:
    """Run code to its end: `run(code, **members of the run frame)`."""

    def run(code: str, **members: Any) -> Ended:
        runner = start()
        runner.hello()
        runner.run(code, **members)
        runner.started()
        return runner.finish()

    return run


@pytest.fixture
def session(start: Callable[..., Runner], tmp_path: Path) -> Callable[..., Runner]:
    """Start a runner, open a session; its folders are `tmp_path`, the working directory, and two
    beside it."""

    def session(env: dict[str, str] | None = None, **members: Any) -> Runner:
        folders = [tmp_path.with_name(f"{tmp_path.name}-{name}") for name in ("tmp", "shm")]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        runner = start(alone=True, env=env)
        kept, scratch = ([str(path) for path in paths] for paths in ([tmp_path, folders[0]], [folders[1]]))
        runner.hello(**members)
        runner.open(kept, scratch)
        return runner

    return session


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment that the runner starts with."""
    return dict(ENVIRONMENT)


@pytest.fixture
def leaky(start: Callable[..., Runner], tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Start a runner that inherits a descriptor beyond the three."""
    file = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(file, True)
    yield lambda: start(pass_fds=(file,))
    os.close(file)
