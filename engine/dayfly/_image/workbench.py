"""One container without a network that puts the runner and the wheels on a root file system, and is
committed."""

from __future__ import annotations

import importlib.util
import re
import secrets
import tarfile
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from dayfly import _seccomp as seccomp
from dayfly import _spec as spec
from dayfly._engine_api import EngineAPI
from dayfly._errors import DayflyError, EngineRefused
from dayfly._messages import PROTOCOL
from dayfly._names import PRELOAD_LABEL, PROTOCOL_LABEL
from dayfly._stdcopy import STDOUT, StreamDecoder
from dayfly._version import __version__

from .answers import DEADLINE, quietly
from .processes import Progress, pieces, scratch_folder, shown
from .recipe import Done, Facts, Recipe, Said, digest
from .wheels import fetch_wheels

WORKBENCH_MEMORY_BYTES = 2_000_000_000
WORKBENCH_PIDS = 512
UNREAD_BYTES = 1_048_576
"""What a build container may say without a line's end, and what is kept of its stderr."""
ABANDONED_AFTER = 60.0
"""Seconds that a build container may lie there before it is started; it takes some milliseconds."""

_NAME = re.compile(r"/?dayfly-build-[0-9a-f]{16}")
_HOSTS = f"""127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
127.0.0.1\t{spec.HOSTNAME}
"""
"""What Docker writes into a container with a network, and the container's own name."""

_PATH = next(entry for entry in spec.ENVIRONMENT if entry.startswith("PATH="))
"""Where the base must have its python3: a container of the image is started with no other."""
_PROGRAM = (Path(__file__).parent / "workbench_program.py").read_text(encoding="utf-8")

_NO_PIP = "pip: this sandbox has no network; packages are part of its image: dayfly image build --pip NAME"
_NO_PIP_COMMAND = f"""#!/bin/sh
echo "{_NO_PIP}" >&2
exit 1
"""
_NO_PIP_MODULE = f"""import sys
if __name__ != "__main__":
    raise ModuleNotFoundError("No module named 'pip'", name="pip")
sys.exit("{_NO_PIP}")
"""
"""`pip` and `python -m pip` of an image that has none. Programs call them, and should learn why
they fail."""


def inputs_digest(origin: str, recipe: Recipe) -> str:
    """Return what an image on the root `origin` is made from, as a digest: today's image is the old
    one where it is the same."""
    return digest(
        origin, recipe.python2, recipe.pip, recipe.preload, _PROGRAM, _NO_PIP_COMMAND, _NO_PIP_MODULE, _HOSTS, __version__, _runner_files()
    )


async def finish(engine: EngineAPI, recipe: Recipe, root: str, inputs: str, say: Progress) -> str:
    """Put the runner and the wheels on the root, commit and tag it; return the image's id."""
    name = f"dayfly-build-{secrets.token_hex(8)}"
    bench = Workbench(engine, name, recipe.base)
    try:
        await _sweep(engine, await engine.create(name, create_body(root)))
        with anyio.fail_after(DEADLINE), scratch_folder() as scratch:
            facts = await bench.start()
            if recipe.python2 and facts.python2 is None:
                raise DayflyError(f"{recipe.base} has no python2.7")
            context = await _context(recipe, facts, scratch, say)
            say("installing the runner" + (" and the wheels" if recipe.pip else "") + ", compiling the standard library")
            await bench.send(context)
            await bench.next(Done)
        pythons = {"3": facts.version, **({"2": facts.python2} if facts.python2 else {})}
        say("committing the image")
        return await _commit(engine, name, recipe, {"dayfly.inputs": inputs, "dayfly.pythons": msgspec.json.encode(pythons).decode()})
    except TimeoutError:
        raise DayflyError(f"building on {recipe.base} took more than {DEADLINE:g} s") from None
    finally:
        await bench.aclose()
        await quietly(engine.remove(name))


def create_body(root: str) -> dict[str, Any]:
    """Return the body of the workbench's `POST /containers/create`."""
    return {
        "Image": root,
        "Entrypoint": ["python3", "-c", _PROGRAM],
        "Cmd": [],
        "Env": [_PATH],
        "User": "0:0",
        "WorkingDir": "/",
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE", "FOWNER"],  # to take bits off files of other owners
            # What runs here came from a base or a wheel that may be anybody's.
            "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp.profile(loopback=False)}"],
            "Memory": WORKBENCH_MEMORY_BYTES,
            "MemorySwap": WORKBENCH_MEMORY_BYTES,
            "PidsLimit": WORKBENCH_PIDS,
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }


async def _commit(engine: EngineAPI, container: str, recipe: Recipe, labels: dict[str, str]) -> str:
    config = {
        "Entrypoint": [],
        "Cmd": ["python3"],
        "User": "65534:65534",
        "Env": [_PATH],
        "Labels": {
            **labels,
            PROTOCOL_LABEL: str(PROTOCOL),
            "dayfly.version": __version__,
            "dayfly.base": recipe.base,
            "dayfly.pip": " ".join(recipe.pip),
            "dayfly.apt": " ".join(recipe.apt),
            PRELOAD_LABEL: " ".join(recipe.preload),
        },
    }
    repository, colon, tag = recipe.tag.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = recipe.tag, "latest"
    # Not paused: the workbench is done and waits.
    query = {"container": container, "repo": repository, "tag": tag, "pause": "0", "comment": "dayfly image build"}
    answer = await engine.ask("POST", "/commit", query=query, body=config, deadline=DEADLINE)
    return str((await engine.inspect_image(str(answer["Id"])))["Id"])


async def _sweep(engine: EngineAPI, own: str) -> None:
    """Remove workbenches that were created and never started: the one state in which the engine
    does not remove them by itself.

    One may be another build's, just about to be started. Its age tells, by the engine's clock: that
    of our own new one is 0. No label of an owner, as other containers have: the image that is
    committed would inherit it. So the name and the form tell whose it is.
    """
    filters = msgspec.json.encode({"name": ["dayfly-build-"], "status": ["created"]}).decode()
    rows = await engine.ask("GET", "/containers/json", query={"all": "1", "filters": filters}) or []
    created = {str(row["Id"]): float(row.get("Created") or 0) for row in rows if any(map(_NAME.fullmatch, row.get("Names") or []))}
    for container, since in created.items():
        if container != own and since <= created.get(own, 0.0) - ABANDONED_AFTER:
            await quietly(_remove_workbench(engine, container))


async def _remove_workbench(engine: EngineAPI, container: str) -> None:
    """Remove a container that has the form of a workbench; its program may be another version's."""
    found = await engine.inspect(container)
    config, host = found.get("Config") or {}, found.get("HostConfig") or {}
    entrypoint = config.get("Entrypoint") or []
    alike = (
        (len(entrypoint) == 3 and entrypoint[:2] == ["python3", "-c"])
        and (config.get("User") == "0:0" and config.get("OpenStdin") and config.get("StdinOnce"))
        and (host.get("AutoRemove") and host.get("NetworkMode") == "none")
        and not found.get("Mounts")
    )
    if alike:
        await engine.remove(container)


_Line = TypeVar("_Line", Facts, Done)


class Workbench:
    """The running container, from the host's side: lines of JSON out of it, one tar into it."""

    def __init__(self, engine: EngineAPI, name: str, base: str) -> None:
        self._engine, self._name, self._base = engine, name, base
        self._decoder = StreamDecoder()
        self._stdout, self._stderr = bytearray(), bytearray()
        self._stream: Any = None

    async def start(self) -> Facts:
        self._stream = await self._engine.attach(self._name)
        try:
            await self._engine.start(self._name)
        except EngineRefused as error:
            if "executable file not found" in str(error) or "no such file" in str(error):
                raise DayflyError(f"{self._base} has no python3 in its {_PATH}: the base must have Python 3.8 or newer") from error
            raise
        return await self.next(Facts)

    async def send(self, tar: Path) -> None:
        async for piece in pieces(tar):
            await self._stream.write(piece)

    async def next(self, kind: type[_Line]) -> _Line:
        """Return the next line of its stdout. DayflyError if it is an error, or not what is due."""
        while b"\n" not in self._stdout:
            data = await self._stream.read()
            if not data:
                said = shown(self._stderr[-2_000:].decode(errors="replace").strip())
                raise DayflyError(f"building on {self._base}: the container ended early{': ' + said if said else ''}")
            for stream, piece in self._decoder.feed(data):
                (self._stdout if stream == STDOUT else self._stderr).extend(piece)
            del self._stderr[:-UNREAD_BYTES]
            if len(self._stdout) > UNREAD_BYTES:
                raise DayflyError(f"building on {self._base}: its python3 wrote more than {UNREAD_BYTES:,} bytes that are not an answer")
        line, _, rest = bytes(self._stdout).partition(b"\n")
        self._stdout = bytearray(rest)
        try:
            error = msgspec.json.decode(line, type=Said).error
            if error is None:
                return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise DayflyError(f"building on {self._base}: its python3 answered {line[:200]!a}, which makes no sense here") from None
        raise DayflyError(f"building on {self._base}: {shown(error)}")

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()


async def _context(recipe: Recipe, facts: Facts, scratch: Path, say: Progress) -> Path:
    """Write the tar that the workbench is sent: its order, the runner's files, the wheels."""
    wheels = scratch / "wheels"
    wheels.mkdir()
    if recipe.pip:
        say(f"fetching wheels for Python {facts.version}: {' '.join(recipe.pip)}")
        await fetch_wheels(recipe, facts, wheels, scratch, say)
    files = _runner_files()
    order = {
        "hosts": _HOSTS,
        "pip": recipe.pip,
        "no_pip": _NO_PIP_COMMAND,
        "no_pip_module": _NO_PIP_MODULE,
        "files": sorted({name.partition("/")[0] for name in files}),
        "preload": recipe.preload,
    }
    (scratch / "order.json").write_bytes(msgspec.json.encode(order))
    for name, content in files.items():
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_text(content, encoding="utf-8")
    target = scratch / "context.tar"

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    def write() -> None:
        with tarfile.open(target, "w") as tar:
            for name in ("order.json", "wheels", *order["files"]):
                tar.add(scratch / name, name, filter=plain)

    await anyio.to_thread.run_sync(write, abandon_on_cancel=False)
    return target


def _runner_files() -> dict[str, str]:
    """What goes into the image's site-packages, by relative path: the package, and beside it what
    lies in its folder `site`."""
    found = importlib.util.find_spec("dayfly_runner")  # looked up, never imported
    if found is None or not found.submodule_search_locations:
        raise DayflyError("the package dayfly_runner, which is installed together with dayfly, is missing: install dayfly anew")
    package = Path(next(iter(found.submodule_search_locations)))
    files = {f"dayfly_runner/{file.name}": file for file in package.glob("*.py")} | {
        file.name: file for file in (package / "site").glob("*.p*")
    }
    return {name: file.read_text(encoding="utf-8") for name, file in sorted(files.items())}
