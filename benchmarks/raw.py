"""The Docker Engine over bare sockets, with nothing in between: what the floor and the ceiling are
measured with.

Two do-nothing containers stand in for the runner. `ECHO`, in the runner's own image with its
interpreter and settings: answers one frame with itself, and ends. `static_image`, of one small
static program, does the same without any interpreter. Their settings are dayfly's own, field by
field, so that what is left between them and dayfly is dayfly's.

Blocking sockets and threads on purpose: an event loop would be measured with them.
"""

from __future__ import annotations

import io
import itertools
import json
import secrets
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from dayfly import Limits
from dayfly import _spec as spec

API = "/v1.41"
LABEL = "dayfly.benchmark"
ECHO = ["python3", "-u", "-c", "import os; os.write(1, os.read(0, 65536))"]
"""The same interpreter, with the same start, as the runner's; then nothing but one read and one
write."""
ECHO_FOREVER = ["python3", "-u", "-c", "import os\nwhile x := os.read(0, 65536): os.write(1, x)"]
FRAME = b"x" * 254
"""As long as the frame that hands over `print("hi")`."""
_STATIC = r"""
#include <unistd.h>
int main(void) { char b[65536]; ssize_t n = read(0, b, sizeof b); return n > 0 && write(1, b, n) == n ? 0 : 1; }
"""
_uids = itertools.count(1_800_000_000 + secrets.randbelow(90_000_000))


class Engine:
    """One keep-alive connection to the engine. Not for two threads at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        head = f"{method} {API}{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        if self._socket is None:
            self._socket = self._connect()
        self._socket.sendall(head + body)
        with self._socket.makefile("rb") as answer:
            status, headers = _head(answer)
            if status in (204, 304):
                return status, b""
            if "content-length" in headers:
                return status, answer.read(int(headers["content-length"]))
            parts = []
            while size := int(answer.readline(), 16):
                parts.append(answer.read(size))
                answer.readline()
            answer.readline()
            return status, b"".join(parts)

    def attach(self, container: str) -> socket.socket:
        """Return the container's attached stream, upgraded."""
        stream = self._connect()
        query = "stream=1&stdin=1&stdout=1&stderr=1"
        head = f"POST {API}/containers/{container}/attach?{query} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        stream.sendall(head.encode())
        with stream.makefile("rb", buffering=0) as answer:
            status, _ = _head(answer)
        if status != 101:
            raise RuntimeError(f"attach: the engine answered {status}")
        return stream

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(60)
        connection.connect(self.path)
        return connection


def _head(answer: Any) -> tuple[int, dict[str, str]]:
    status = int(answer.readline().split()[1])
    headers = {}
    while line := answer.readline().strip():
        name, _, value = line.partition(b":")
        headers[name.decode().lower()] = value.decode().strip()
    return status, headers


class DoNothing:
    """Makes containers with dayfly's settings that answer one frame with itself."""

    def __init__(self, path: str, image: str, command: list[str], *, runtime: str | None = None) -> None:
        self.path = path
        self._command = command
        profile = spec.Profile(image_id=image, limits=Limits(), runtime=runtime, labels={LABEL: "1"})
        self._blueprint = spec.Blueprint(profile)

    def create(self, engine: Engine) -> str:
        """Create: the container's id."""
        return create(engine, {**self._blueprint.body(next(_uids)), "Entrypoint": self._command})

    def make(self, engine: Engine) -> socket.socket:
        """Create, attach, start: the container's stream."""
        return start(engine, self.create(engine))

    def single_use(self, engine: Engine) -> None:
        """One container's life: made, used for one frame, ended, and removed by the engine."""
        use(self.make(engine))


def make(engine: Engine, body: dict[str, Any]) -> socket.socket:
    """Create, attach, start: the container's stream."""
    return start(engine, create(engine, body))


def create(engine: Engine, body: dict[str, Any]) -> str:
    """Create: the container's id. Its name is that of its uid."""
    status, answer = engine.call("POST", f"/containers/create?name=dayfly-{body['User'].partition(':')[0]}", json.dumps(body).encode())
    if status != 201:
        raise RuntimeError(f"create: the engine answered {status}: {answer[:200]!r}")
    return str(json.loads(answer)["Id"])


def start(engine: Engine, container: str) -> socket.socket:
    """Attach, start: the container's stream."""
    stream = engine.attach(container)
    status, answer = engine.call("POST", f"/containers/{container}/start")
    if status != 204:
        raise RuntimeError(f"start: the engine answered {status}: {answer[:200]!r}")
    return stream


def use(stream: socket.socket) -> None:
    """One frame there and back, the end of the container, and that of its stream."""
    with stream:
        echo(stream)
        while stream.recv(65_536):
            pass


def echo(stream: socket.socket) -> None:
    """Send one frame, and wait until it has come back, in Docker's header of 8 bytes."""
    stream.sendall(FRAME)
    left = 8 + len(FRAME)
    while left:
        piece = stream.recv(left)
        if not piece:
            raise RuntimeError("the echo container ended early")
        left -= len(piece)


def image_id(path: str, name: str) -> str:
    """The id of an image; an error says what to do."""
    status, answer = Engine(path).call("GET", f"/images/{name}/json")
    if status != 200:
        raise SystemExit(f"the engine has no image {name}: run  make setup")
    return str(json.loads(answer)["Id"])


def static_image(path: str) -> tuple[str, list[str]]:
    """Build the image of the static do-nothing program; return its id and command. Needs gcc and
    the C library's static half."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "nothing.c"), Path(folder, "nothing")
        source.write_text(_STATIC)
        try:
            subprocess.run(["gcc", "-O2", "-static", "-s", "-o", program, source], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise RuntimeError(f"gcc and the static C library (gcc, libc6-dev) are needed: {error}") from error
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name in ("proc", "sys", "dev", "tmp", "sandbox", "etc"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            tar.add(program, "nothing")
    engine = Engine(path)
    status, answer = engine.call("POST", "/images/create?fromSrc=-&repo=dayfly-benchmark&tag=nothing", file.getvalue(), "application/x-tar")
    if status != 200:
        raise RuntimeError(f"the engine does not import an image: {status}: {answer[:200]!r}")
    return image_id(path, "dayfly-benchmark:nothing"), ["/nothing"]


def peers_image(path: str, image: str) -> str:
    """Build the runner image with two links that llm-sandbox needs, `python` and its own virtual
    environment's; return its name."""
    links = _tar([("usr/bin/python", "python3"), ("sandbox/.sandbox-venv/bin/python", "/usr/bin/python3")], {})
    context = _tar([], {"Dockerfile": f"FROM {image}\nADD links.tar /\n".encode(), "links.tar": links})
    engine, name = Engine(path), "dayfly-benchmark:peers"
    status, answer = engine.call("POST", f"/build?t={name}&networkmode=none&rm=1", context, "application/x-tar")
    if status != 200 or b"errorDetail" in answer:
        raise RuntimeError(f"the engine does not build an image: {status}: {answer[-300:]!r}")
    return name


def _tar(links: list[tuple[str, str]], files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, target in links:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def engine_socket() -> str:
    """The path of the engine's Unix socket, where dayfly finds it."""
    from dayfly._endpoint import resolve

    found = resolve(None).socket
    if found is None:
        raise SystemExit("the benchmark needs an engine on a Unix socket")
    return found


def sweep(path: str) -> None:
    """Remove what an interrupted benchmark left."""
    engine = Engine(path)
    filters = json.dumps({"label": [LABEL]})
    _, answer = engine.call("GET", f"/containers/json?all=1&filters={filters.replace(' ', '')}")
    for row in json.loads(answer):
        engine.call("DELETE", f"/containers/{row['Id']}?force=1")
