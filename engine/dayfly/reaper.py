"""Leftovers: finding them by label, and seeing to it that what should be gone is gone.

Three users: the Janitor of a sandbox, for its own containers whose end was not seen or failed; `leftovers`, for those of host processes
that are dead; and the Watch, which has a process of its own look after a sandbox's containers when this one is killed (`undertaker`).
None of them touches a live sibling's.

Most containers end by themselves and are removed by the engine. That is believed for a second, then looked up: one listing for all
of them, whatever their number. A creation whose answer was lost may succeed later, so its name stays suspect for a while.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from . import undertaker
from ._version import __version__
from .engine_api import EngineAPI
from .errors import EngineError
from .forks import hold, let_go, release

log = logging.getLogger("dayfly")

LABEL = "dayfly.instance"
LOOK_AFTER = 1.0
OOM_LOOK_AFTER = 10.0
"""Seconds that the engine has to remove a container by itself; longer, where it has had to take note of kills for want of memory: a removal
by force that overtakes such news leaves a row in the engine's list that nothing can remove (seen with 20.10: "Removal In Progress")."""
SUSPECT_FOR = 60.0
"""Seconds. dockerd carries on with a creation whose client has gone; what hung for longer is swept at close or the next start."""
FINISH_PAUSE = 0.05
STRANGER_AGE = 600.0
"""Seconds after which a container that does not run, of a host process that cannot be seen from here, counts as left over."""

_instances: set[str] = set()


def labels() -> dict[str, str]:
    """Return the labels that tell whose a container is, for a new sandbox of this process."""
    instance = secrets.token_hex(16)
    _instances.add(instance)
    return {
        LABEL: instance,
        "dayfly.boot": _boot(),
        "dayfly.pidns": _namespace(),
        "dayfly.pid": str(os.getpid()),
        "dayfly.started": _started(os.getpid()),
        "dayfly.version": __version__,
    }


def retire(instance: str) -> None:
    """Note that a sandbox of this process is closed: what carries its label is a leftover from now on."""
    _instances.discard(instance)


def is_left_over(container: Mapping[str, Any], *, same_host: bool, now: float) -> bool:
    """Judge one row of the engine's list: is whoever made this container dead?

    `same_host`: the engine runs on this kernel. Where the maker cannot be seen (another host, another pid namespace),
    only a container that does not run, and has not for ten minutes, is a leftover: a running one ends with its maker's connection.
    """
    label = container.get("Labels") or {}
    if LABEL not in label or label[LABEL] in _instances:
        return False
    runs = container.get("State") in ("running", "paused")
    boot, pid = label.get("dayfly.boot"), label.get("dayfly.pid", "")
    # What cannot be read, be it that no descriptor is free, proves nothing.
    if same_host and boot and _boot() and boot != _boot():
        return not runs  # none has run on since then
    if same_host and boot and boot == _boot() and label.get("dayfly.pidns") == _namespace() != "" and pid.isdecimal():
        return pid == str(os.getpid()) or _is_dead(int(pid[:20]), label.get("dayfly.started", ""))
    return not runs and now - float(container.get("Created") or now) > STRANGER_AGE


async def leftovers(engine: EngineAPI) -> list[dict[str, Any]]:
    """Return the engine's rows of all containers whose makers are dead."""
    rows = await engine.containers(LABEL)
    # A Unix socket may lead to another host: over ssh, say, where others' containers would look like those of an earlier boot.
    same_host = engine.local and bool(rows) and (await engine.info()).get("Name") == os.uname().nodename
    return [row for row in rows if is_left_over(row, same_host=same_host, now=time.time())]


async def reap(engine: EngineAPI) -> list[dict[str, Any]]:
    """Remove all leftovers, and return the rows of those that are gone now."""
    gone = []
    for row in await leftovers(engine):
        try:
            await engine.remove(row["Id"])
        except EngineError as error:
            log.warning("a leftover container could not be removed: %s", error)
        else:
            gone.append(row)
    return gone


class Watch:
    """A process that outlives this one, and removes the containers of a sandbox if this one dies without saying `done`."""

    def __init__(self, engine: EngineAPI, instance: str) -> None:
        instructions = json.dumps([instance, engine.address, [os.path.abspath(folder) for folder in sys.path]])  # noqa: PTH100
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: int | None = None
        try:
            reader, self._pipe = os.pipe()
        except OSError as error:
            log.warning("there is no pipe for the process that is to look after this one's containers: %s", error)
            return
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this very interpreter, and a file of this package
                [sys.executable, "-I", "-S", undertaker.__file__],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C at the terminal is for the host
                cwd="/",
            )
        except OSError as error:
            log.warning("no process can be started to look after this one's containers, should it be killed: %s", error)
        os.close(reader)
        self._say(f"{instructions}\n".encode())
        hold(self)

    async def done(self) -> None:
        """All containers are gone: the process is not needed any more."""
        self._end(undertaker.ALL_DONE)
        if self._process is not None:
            await anyio.to_thread.run_sync(self._process.wait)

    def go_on(self) -> None:
        """Not all containers are certain to be gone: it sees to them from now on, as if this process were dead."""
        self._end(b"")
        self._let_alone()

    def _end(self, last_word: bytes) -> None:
        release(self)
        if self._pipe is not None:
            self._say(last_word)
            os.close(self._pipe)

    def _let_alone(self) -> None:
        if self._process is not None:
            self._process.returncode = 0  # else Popen would warn of a process that is left alone on purpose

    def forget(self) -> None:
        """In a fork of this process: let go of the pipe, whose end says that the host is dead."""
        assert self._pipe is not None
        let_go(self._pipe)
        self._let_alone()  # it is no child of the fork's

    def _say(self, what: bytes) -> None:
        assert self._pipe is not None
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it, or it never was
            os.write(self._pipe, what)


class Janitor:
    """Sees to it that the containers of one sandbox go. Containers are known by their names, which are given before they exist."""

    def __init__(self, engine: EngineAPI, instance: str) -> None:
        self._engine = engine
        self._instance = instance
        self._live: set[str] = set()
        self._doubtful: dict[str, tuple[float, float]] = {}
        self._wanted = anyio.Event()
        self._sees = True
        self.forced = 0
        """Removals that had to be forced."""

    def expect(self, name: str) -> bool:
        """A container of this name is about to be created: it is no leftover from now on. False if there is one already."""
        if name in self._live:
            return False
        self._live.add(name)
        return True

    def disown(self, name: str) -> None:
        """The container of this name is not ours: it was never created."""
        self._live.discard(name)

    def leave(self, name: str, *, oom: bool = False) -> None:
        """The container has ended and the engine is removing it. `oom`: the kernel has killed in it for want of memory."""
        self._live.discard(name)
        self._doubt(name, OOM_LOOK_AFTER if oom else LOOK_AFTER, 0)

    async def remove(self, name: str, *, created: bool, deadline: float) -> None:
        """Remove a container. Never raises: what fails is tried again later. `created` is False if it is not known whether it exists."""
        self._live.discard(name)
        self.forced += 1
        try:
            await self._engine.remove(name, deadline=deadline)
        except EngineError as error:
            log.warning("container %s could not be removed, and will be tried again: %s", name, error)
            created = False
        # Where even its creation may still be under way, it is looked after for longer.
        self._doubt(name, LOOK_AFTER if created else 0, 0 if created else SUSPECT_FOR)

    async def work(self) -> None:
        """Look after doubtful containers until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            while self._doubtful:
                await anyio.sleep(LOOK_AFTER)
                await self.sweep()

    async def finish(self, seconds: float) -> list[str]:
        """Remove all that is left, and wait until it is gone. Return the names of which that is not certain. Never raises."""
        end = time.monotonic() + seconds
        while True:
            listed, sure = await self.sweep(deadline=max(0.1, end - time.monotonic()))
            if (sure and not listed) or time.monotonic() + FINISH_PAUSE > end:
                # A creation whose answer was lost may still succeed.
                return sorted({*listed, *self._lost()} if sure else self._doubtful)
            await anyio.sleep(FINISH_PAUSE)

    async def sweep(self, *, patient: bool = True, deadline: float | None = None) -> tuple[list[str], bool]:
        """Remove whatever carries this sandbox's label and is not live. Return the names that are not gone yet, and if all were seen.

        If `patient`, a container that has just ended is left to the engine, which is removing it. Never raises.
        """
        begun = time.monotonic()
        left: list[str] = []
        try:
            rows = await self._engine.containers(f"{LABEL}={self._instance}", deadline=deadline)
        except EngineError as error:
            if self._sees:
                log.warning("containers cannot be listed, which will be tried again: %s", error)
            self._sees = False
            # An engine that does not answer does not go on with its creations either: their time starts anew.
            for name in self._lost():
                self._doubt(name, 0, SUSPECT_FOR)
            return left, False
        self._sees = True
        for row in rows:
            name = str((row.get("Names") or ["/"])[0]).lstrip("/")
            if name in self._live:
                continue
            if patient and self._doubtful.get(name, (0.0, 0.0))[0] > begun:
                left.append(name)
                continue
            try:
                if not await self._engine.remove(row["Id"], deadline=deadline):
                    left.append(name)
            except EngineError as error:  # nothing to keep the others for
                log.warning("container %s could not be removed, and will be tried again: %s", name, error)
                left.append(name)
        self._doubtful = {name: (since, until) for name, (since, until) in self._doubtful.items() if until >= begun or name in left}
        return left, True

    def _lost(self) -> list[str]:
        return [name for name, (since, until) in self._doubtful.items() if until - since >= SUSPECT_FOR]

    def _doubt(self, name: str, after: float, seconds: float) -> None:
        """Look after a container from `after` seconds from now, for `seconds`, and until a listing has not shown it any more."""
        since = time.monotonic() + after
        self._doubtful[name] = since, since + seconds
        self._wanted.set()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()  # a process may have any bytes for a name
    except OSError:
        return ""


def _boot() -> str:
    return _read("/proc/sys/kernel/random/boot_id")


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _is_dead(pid: int, started: str) -> bool:
    """Whether the process of this pid and start time is no more; False where that cannot be told."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # it lives, and is another user's
    now = _started(pid)
    return now not in ("", started)


def _started(pid: int) -> str:
    """A process's start time in clock ticks since boot (proc(5), stat, field 22), which with its pid names it for good; empty if dead."""
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else ""
