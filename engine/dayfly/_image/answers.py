"""What a build asks of the engine beside the calls that all of dayfly makes, and how its answers
are read."""

from __future__ import annotations

import contextlib
from typing import Any

import anyio
import msgspec

from dayfly._engine_api import EngineAPI
from dayfly._errors import EngineError, ImageMissing

from .processes import Progress, shown

DEADLINE = 1_800.0
"""Seconds for one step: an import, a pull, an installation of wheels."""


def last_status(answer: bytes, doing: str) -> str:
    """The last status of a stream of JSON objects. The engine says 200 first, and tells errors
    inside."""
    status = ""
    for line in answer.splitlines():
        said = msgspec.json.decode(line) if line.strip() else {}
        if not isinstance(said, dict):
            raise EngineError(f"{doing}: the engine answered {line[:80]!a}")
        if said.get("error") is not None:
            raise EngineError(f"{doing}: {shown(said['error'])}")
        status = str(said.get("status") or status)
    return status


async def base_image(engine: EngineAPI, name: str, say: Progress) -> str:
    """Return the base's id, pulled if it is not there."""
    try:
        found = await engine.inspect_image(name)
    except ImageMissing:
        say(f"pulling {name}")
        query = {"fromImage": name if ":" in name.rpartition("/")[2] else f"{name}:latest"}
        try:
            last_status(await engine.call("POST", "/images/create", query=query, deadline=DEADLINE), f"pulling {name}")
            found = await engine.inspect_image(name)
        except EngineError as error:
            raise ImageMissing(
                f"the engine has no image {name!r}, and could not pull it ({error}); or use a base debian:SUITE, which needs no registry"
            ) from error
    volumes = (found.get("Config") or {}).get("Volumes")
    if volumes:
        raise ValueError(
            f"base={name!r} declares the VOLUME {', '.join(volumes)}: a directory of the host in each container, without a limit"
        )
    return str(found["Id"])


async def quietly(awaitable: Any) -> None:
    """Clean up: to the end though cancelled, and without an error of its own."""
    with anyio.CancelScope(shield=True), contextlib.suppress(EngineError):
        await awaitable
