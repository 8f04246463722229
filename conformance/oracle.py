"""The judge's own eyes: what containers exist, with which settings, in which state, and what became
of them.

Everything is read from the Docker Engine API itself, through requests-unixsocket, and from the
engine's stream of events. Nothing here may import the implementation under test, or believe a word
of it. To tell its containers from those of others on the same engine, each sandbox under test is
given an image of its own: the runner image with one more label, `MARK`. The engine copies an
image's labels to every container made from it, and shows them with every event.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import socket
import struct
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
import requests_unixsocket

MARK = "conformance.mark"
PATIENCE = float(os.environ.get("CONFORMANCE_PATIENCE", "20"))
"""Seconds that the engine is given for what should be a matter of milliseconds: the machine may be
busy, or emulated."""
GONE = frozenset({"destroy", "remove"})
"""Docker's and Podman's word for a container's removal."""
DIED = frozenset({"die", "died"})


def address() -> str:
    """Return the engine's address: DOCKER_HOST, or the usual socket."""
    found = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if not found.startswith("unix://"):
        raise ValueError(f"the suite speaks to a Unix socket, not to {found}")
    return found


def eventually(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Return the condition's value once it is true. AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


class Oracle:
    """One Docker Engine, at a Unix socket."""

    def __init__(self, docker_host: str) -> None:
        self.docker_host = docker_host
        self.socket = docker_host.removeprefix("unix://")
        self._base = f"http+unix://{quote(self.socket, safe='')}"
        self.events: list[dict[str, Any]] = []
        self._new_event = threading.Condition()
        self._session_id = uuid.uuid4().hex
        self._images: list[str] = []
        listening = threading.Event()
        threading.Thread(target=self._listen, args=(listening,), daemon=True).start()
        assert listening.wait(PATIENCE), f"the engine at {docker_host} gives no stream of events"

    def call(self, method: str, path: str, body: Any = None, *, data: bytes | None = None, ok: bool = True, **query: Any) -> Any:
        """Make one API call and return the decoded answer, or None for an empty one. A query value
        that is not a str is sent as JSON."""
        params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in query.items()}
        headers = {"Content-Type": "application/x-tar"} if data is not None else {}
        with requests_unixsocket.Session() as session:
            answer = session.request(
                method, self._base + path, params=params, json=body, data=data, headers=headers, timeout=100 + PATIENCE
            )
            if ok and answer.status_code >= 400:
                raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
            try:
                return answer.json()
            except ValueError:
                return answer.content or None

    # Events.

    def _listen(self, listening: threading.Event) -> None:
        filters = json.dumps({"type": ["container"]})
        with contextlib.suppress(requests.RequestException), requests_unixsocket.Session() as session:
            params = {"filters": filters, "since": f"{time.time():.3f}"}
            with session.get(f"{self._base}/events", params=params, stream=True, timeout=(10, None)) as answer:
                answer.raise_for_status()
                listening.set()
                rest = b""
                for piece in answer.iter_content(chunk_size=None):
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in filter(None, (line.strip() for line in lines)):
                        with self._new_event:
                            self.events.append(json.loads(line))
                            self._new_event.notify_all()

    def catch_up(self, image: str) -> None:
        """Return when all that has happened until now has been heard of: events come in order, so
        one of our own is waited for."""
        name = f"conformance-{uuid.uuid4().hex[:12]}"
        made = self.call("POST", "/containers/create", {"Image": image, "Cmd": ["true"], "Labels": {MARK: "none"}}, name=name)["Id"]
        self.call("DELETE", f"/containers/{made}", force="1")
        eventually(lambda: GONE & set(self.actions(made)), "the engine's stream of events is up to date")

    def actions(self, container: str) -> list[str]:
        """Return what the event stream has told of one container so far, in order."""
        with self._new_event:
            return [_action(event) for event in self.events if _subject(event) == container]

    def event(self, container: str, actions: frozenset[str]) -> dict[str, Any] | None:
        """Return the attributes of the first of these events of a container."""
        with self._new_event:
            found = (event for event in self.events if _subject(event) == container and _action(event) in actions)
            return next((event["Actor"]["Attributes"] for event in found), None)

    # Images and marks.

    def mark(self, image: str, files: Mapping[str, bytes] | None = None) -> Marked:
        """Make an image that differs from `image` in one label, by which its containers are known,
        and in these files."""
        mark = f"{self._session_id}.{len(self._images)}"
        template = self.call("POST", "/containers/create", {"Image": image, "Labels": {MARK: "none"}})["Id"]
        tag = f"conformance-{self._session_id[:12]}:{len(self._images)}"
        name, _, version = tag.partition(":")
        try:
            if files:
                self.call("PUT", f"/containers/{template}/archive?path=/", data=_tar(files))
            self.call("POST", "/commit", {}, container=template, repo=name, tag=version, pause="0", changes=f"LABEL {MARK}={mark}")
        finally:
            self.call("DELETE", f"/containers/{template}", force="1")
        self._images.append(tag)
        return Marked(self, mark, tag)

    def close(self) -> None:
        """Remove the images that were made, and containers that are still left of them."""
        for row in self.call("GET", "/containers/json", all="1", filters={"label": [MARK]}):
            if str(row["Labels"].get(MARK)).startswith(self._session_id):
                self.call("DELETE", f"/containers/{row['Id']}", force="1", ok=False)
        for tag in self._images:
            self.call("DELETE", f"/images/{tag}", force="1", ok=False)

    # Containers of our own.

    @contextlib.contextmanager
    def attached(self, body: Mapping[str, Any]) -> Iterator[Attached]:
        """Create, attach to and start a container as `body` says, with stdin; it is removed at the
        end."""
        streams = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "OpenStdin": True, "StdinOnce": True}
        whole = {**body, **streams, "Labels": {MARK: f"{self._session_id}.own"}, "NetworkDisabled": True}
        whole["HostConfig"] = {"NetworkMode": "none", "LogConfig": {"Type": "none"}, **body.get("HostConfig", {})}
        container = self.call("POST", "/containers/create", whole)["Id"]
        attached = None
        try:
            attached = Attached(self, container)
            yield attached
        finally:
            if attached is not None:
                attached.close()
            self.call("DELETE", f"/containers/{container}", force="1", ok=False)


def _tar(files: Mapping[str, bytes]) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mtime = len(content), int(time.time())
            tar.addfile(member, io.BytesIO(content))
    return whole.getvalue()


def _action(event: Mapping[str, Any]) -> str:
    return str(event.get("Action") or event.get("status")).partition(":")[0]


def _subject(event: Mapping[str, Any]) -> str:
    return str((event.get("Actor") or {}).get("ID") or event.get("id"))


class Marked:
    """The containers made from one marked image, as the engine tells of them."""

    def __init__(self, oracle: Oracle, mark: str, image: str) -> None:
        self.oracle = oracle
        self.image = image
        self._mark = mark

    def listed(self, *states: str) -> dict[str, dict[str, Any]]:
        """Return the engine's rows, by id, of the containers that exist now; in these states, or in
        any."""
        rows = self.oracle.call("GET", "/containers/json", all="1", filters={"label": [f"{MARK}={self._mark}"]})
        return {row["Id"]: row for row in rows if not states or row["State"] in states}

    def inspected(self) -> list[dict[str, Any]]:
        """Return the inspect answers of the containers that exist now."""
        found = (self.oracle.call("GET", f"/containers/{container}/json", ok=False) for container in self.listed())
        return [answer for answer in found if answer and "HostConfig" in answer]

    def history(self) -> dict[str, list[str]]:
        """Return, for each container that ever was, its events in order."""
        history: dict[str, list[str]] = {}
        for event in list(self.oracle.events):
            if (event.get("Actor") or {}).get("Attributes", {}).get(MARK) == self._mark:
                history.setdefault(_subject(event), []).append(_action(event))
        return history

    def which(self, actions: frozenset[str]) -> set[str]:
        """Return the containers to which one of these has happened."""
        return {container for container, happened in self.history().items() if actions & set(happened)}

    def catch_up(self) -> None:
        """See Oracle.catch_up."""
        self.oracle.catch_up(self.image)

    def none_left(self, seconds: float = PATIENCE) -> None:
        """Wait until there is no container any more, and the stream has told the end of each.
        AssertionError if that does not come."""
        eventually(lambda: not self.listed(), "no container is left", seconds)
        self.catch_up()
        left = self.which(frozenset({"create"})) - self.which(GONE)
        assert not left, f"the engine's stream of events does not tell that these were removed: {left}"


class Attached:
    """A running container's stdin, stdout and stderr, over the hijacked connection of an attach."""

    def __init__(self, oracle: Oracle, container: str) -> None:
        self.container = container
        self._oracle = oracle
        self._buffer = bytearray()
        self.stderr = bytearray()
        try:
            self._connection = self._attach()
            oracle.call("POST", f"/containers/{container}/start")
        except ConnectionRefusedError:  # Podman attaches to a running container only
            oracle.call("POST", f"/containers/{container}/start")
            self._connection = self._attach()

    def _attach(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(self._oracle.socket)
        path = f"/containers/{self.container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        request = f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(request.encode())
        head = bytearray()
        while b"\r\n\r\n" not in head:
            piece = connection.recv(1)
            assert piece, "the engine closed the connection"
            head += piece
        if b" 101 " not in head and b" 200 " not in head.split(b"\r\n")[0]:
            connection.close()
            raise ConnectionRefusedError(bytes(head).decode())
        return connection

    def write(self, data: bytes) -> None:
        """Write to the container's stdin."""
        self._connection.sendall(data)

    def end_input(self) -> None:
        """Close the container's stdin."""
        self._connection.shutdown(socket.SHUT_WR)

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            piece = self._connection.recv(size - len(data))
            if not piece:
                return b""
            data += piece
        return bytes(data)

    def read(self) -> bytes:
        """Return the next bytes of stdout; b"" at its end. Docker puts 8 bytes before each piece:
        stream, three zeros, length."""
        while header := self._exactly(8):
            stream, length = struct.unpack(">BxxxL", header)
            data = self._exactly(length)
            if stream == 1:
                return data
            self.stderr += data
        return b""

    def line(self) -> bytes:
        """Return the next line of stdout."""
        while b"\n" not in self._buffer:
            data = self.read()
            assert data, f"the container ended: {bytes(self.stderr).decode(errors='replace')[-2000:]}"
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    def status(self) -> int:
        """Wait for the container's end, and return its exit status."""
        code: int = self._oracle.call("POST", f"/containers/{self.container}/wait")["StatusCode"]
        return code

    def close(self) -> None:
        """Let go of the container."""
        self._connection.close()


# Runs as process 1 of a plain container: one program after the other, each a process of its own in
# the working directory, as a shell would start it. The Python of the image runs it, whatever its
# version.
_LAUNCHER = r"""
import array, base64, fcntl, json, os, shutil, signal, subprocess, sys, termios, threading, time
for line in sys.stdin:
    order = json.loads(line)
    for name in os.listdir("."):
        shutil.rmtree(name) if os.path.isdir(name) and not os.path.islink(name) else os.unlink(name)
    for name, text in order["files"].items():
        with open(name, "wb") as file:
            file.write(base64.b64decode(text))
    stdin = subprocess.DEVNULL if order["stdin"] is None else subprocess.PIPE
    process = subprocess.Popen(order["argv"], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    answer = {"stdout": bytearray(), "stderr": bytearray()}
    def read(name):
        while piece := getattr(process, name).read1():
            answer[name] += piece
    def until(condition):
        while not condition() and process.poll() is None:
            time.sleep(0.003)
    def unread():
        count = array.array("i", [0])
        fcntl.ioctl(process.stdin, termios.FIONREAD, count)
        return count[0]
    def write():
        try:
            for text, count, data in order["stdin"]:
                until(lambda: answer["stdout"].count(text.encode()) >= count)
                process.stdin.write(base64.b64decode(data))
                process.stdin.flush()
            until(lambda: not unread())
            process.stdin.close()
        except OSError:
            pass
    threads = [threading.Thread(target=read, args=(name,)) for name in answer]
    threads += [threading.Thread(target=write)] if order["stdin"] is not None else []
    [thread.start() for thread in threads]
    try:
        status = process.wait(60)
    except subprocess.TimeoutExpired:
        status = None
    try:
        os.kill(-1, signal.SIGKILL)  # what it has left behind, which may hold its pipes
        process.wait()
        while True:
            os.waitpid(-1, 0)
    except OSError:
        pass
    [thread.join() for thread in threads]
    answer = {name: base64.b64encode(data).decode() for name, data in answer.items()}
    print(json.dumps({"status": status, **answer}), flush=True)
"""
Step = tuple[str, int, bytes]
"""What is written to a command's standard input, once this text has been so often in its output."""


class PlainContainer:
    """A container of an image, without any of the implementation's hardening, that runs commands
    one after the other.

    `like` is the inspect answer of a container under test: environment, working directory and host
    name are taken from it.
    """

    def __init__(self, attached: Attached) -> None:
        self._attached = attached

    @staticmethod
    @contextlib.contextmanager
    def started(oracle: Oracle, image: str, like: Mapping[str, Any], *, user: int = 1_999_999_999, **host: Any) -> Iterator[PlainContainer]:
        """Start one, as this user; `host` is added to its HostConfig."""
        config = like["Config"]
        body = {
            "Image": image,
            "Entrypoint": ["python3", "-I", "-c", _LAUNCHER],
            "Cmd": [],
            "User": f"{user}:{user}",
            "Env": config["Env"],
            "WorkingDir": config["WorkingDir"],
            "Hostname": config["Hostname"],
            # A directory that the user may write to, in the same place; without it the engine makes
            # one of root's.
            "HostConfig": {"Tmpfs": {config["WorkingDir"]: f"rw,exec,mode=0755,uid={user},gid={user}"}, **host},
        }
        with oracle.attached(body) as attached:
            yield PlainContainer(attached)

    def run(self, argv: list[str], files: Mapping[str, bytes], stdin: Sequence[Step] | None = None) -> tuple[int | None, bytes, bytes]:
        """Run a command beside these files; return its exit status (minus the signal's number; None
        after a minute), stdout, stderr.

        Its standard input ends when the command has taken the last step's bytes from its pipe.
        """
        order: dict[str, Any] = {
            "argv": argv,
            "files": {name: base64.b64encode(data).decode() for name, data in files.items()},
            "stdin": stdin if stdin is None else [(text, count, base64.b64encode(data).decode()) for text, count, data in stdin],
        }
        self._attached.write(json.dumps(order).encode() + b"\n")
        answer = json.loads(self._attached.line())
        return answer["status"], base64.b64decode(answer["stdout"]), base64.b64decode(answer["stderr"])


def repository() -> Path:
    """Return the folder that holds this package."""
    return Path(__file__).resolve().parents[1]
