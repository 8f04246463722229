"""Whose container is it: the labels of a sandbox's containers, and the removal of orphans.

An orphan is a container whose host process is dead. It is found by its labels, which say what
process of what boot made it. A container of a living process, or one that merely has a label of
ours, is never touched.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._engine_api import EngineAPI
from ._errors import EngineError, ImageMissing
from ._names import PROTOCOL_LABEL
from ._version import __version__

log = logging.getLogger("dayfly.orphans")

LABEL = "dayfly.instance"
"""The label that every container has. Its value names the sandbox."""
STRANGER_AGE = 600.0
"""Seconds after which a container that does not run counts as an orphan, where its host process
cannot be seen from here."""

_NAME = re.compile(r"/?dayfly-[0-9]+")
_instances: set[str] = set()


def labels() -> dict[str, str]:
    """Return the labels of the containers of a new sandbox of this process."""
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
    """Note that a sandbox of this process is closed: what still has its label is an orphan."""
    _instances.discard(instance)


def is_orphan(container: Mapping[str, Any], *, same_host: bool, now: float) -> bool:
    """Judge one row of the engine's list: is it dayfly's, and is the process that made it dead?

    `same_host`: the engine runs on this kernel. Where the process cannot be seen (another host,
    another pid namespace), only a container that does not run, and has not for ten minutes, is an
    orphan: a running one ends with the connection of its host process.
    """
    label = container.get("Labels") or {}
    if LABEL not in label or PROTOCOL_LABEL not in label or label[LABEL] in _instances:
        return False
    if not any(_NAME.fullmatch(name) for name in container.get("Names") or []):
        return False
    runs = container.get("State") in ("running", "paused")
    boot, pid = label.get("dayfly.boot"), label.get("dayfly.pid", "")
    # What cannot be read, as where no descriptor is free, proves nothing.
    if same_host and boot and _boot() and boot != _boot():
        return not runs  # none has been running since that boot
    if same_host and boot and boot == _boot() and label.get("dayfly.pidns") == _namespace() != "" and pid.isdecimal():
        return pid == str(os.getpid()) or _is_dead(int(pid[:20]), label.get("dayfly.started", ""))
    return not runs and now - float(container.get("Created") or now) > STRANGER_AGE


async def find(engine: EngineAPI) -> list[dict[str, Any]]:
    """Return the engine's rows of all orphans."""
    rows = await engine.containers(LABEL)
    # A Unix socket may lead to another host, over ssh say. There the containers of others would
    # look like those of an earlier boot.
    same_host = engine.local and bool(rows) and (await engine.info()).get("Name") == os.uname().nodename
    found = [row for row in rows if is_orphan(row, same_host=same_host, now=time.time())]
    # A container has its image's labels too. Where LABEL is one of those, dayfly did not set it.
    images = {str(row.get("ImageID") or "") for row in found}
    ours = {image for image in images if image and await _is_clean(engine, image)}
    return [row for row in found if row.get("ImageID") in ours]


async def _is_clean(engine: EngineAPI, image: str) -> bool:
    try:
        config = (await engine.inspect_image(image)).get("Config") or {}
    except ImageMissing:
        return False
    return LABEL not in (config.get("Labels") or {})


async def reap(engine: EngineAPI) -> list[dict[str, Any]]:
    """Remove all orphans, and return the rows of those that are gone now."""
    gone = []
    for row in await find(engine):
        try:
            await engine.remove(row["Id"])
        except EngineError as error:
            log.warning("an orphaned container could not be removed: %s", error)
        else:
            gone.append(row)
    return gone


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
    """Whether the process of this pid and start time is dead; False where that cannot be told."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # it lives, and is another user's
    now = _started(pid)
    return now not in ("", started)


def _started(pid: int) -> str:
    """Return a process's start time in clock ticks since boot (proc(5), stat, field 22), or "".

    With its pid it names a process for good.
    """
    stat = _read(f"/proc/{pid}/stat")
    return stat.rpartition(")")[2].split()[19] if stat else ""
