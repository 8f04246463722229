"""The steps of a build, in their order; and the list of what was built."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence

import msgspec

from dayfly._engine_api import EngineAPI
from dayfly._errors import DayflyError, ImageMissing
from dayfly._names import DEFAULT_IMAGE_SCIENCE, PRELOAD_LABEL, PROTOCOL_LABEL

from .answers import base_image, quietly
from .debian import find_root, import_debian, root_digest
from .processes import Progress
from .recipe import checked
from .workbench import finish, inputs_digest

SCIENCE = ("matplotlib", "numpy", "pandas", "pillow", "scipy", "sympy")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One runner image that the engine has."""

    id: str
    tags: list[str]
    version: str
    """Of dayfly; a sandbox of another version may refuse it."""
    protocol: int
    pythons: dict[str, str]
    """`{"3": "3.11.2"}`, and "2" where it has Python 2.7."""
    base: str
    pip: list[str]
    apt: list[str]
    preload: list[str]
    size_bytes: int
    created: float
    """Seconds since the epoch, by the engine's clock."""


async def build(
    engine: EngineAPI,
    *,
    base: str | None = None,
    tag: str | None = None,
    python2: bool = False,
    pip: Sequence[str] = (),
    apt: Sequence[str] = (),
    science: bool = False,
    allow_source: bool = False,
    preload: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> str:
    """Build a runner image, tag it, and return its id; return at once if `tag` is what these inputs
    gave last time.

    `base` is `debian:SUITE` or an image with Python 3.8 or newer, which is pulled if the engine
    lacks it; `python2` asks for Python 2.7 as well. `pip` are requirements (`numpy>=2`), installed
    from wheels; `apt` Debian packages, for a Debian base only. `science` adds SCIENCE to `pip`, and
    gives the tag another default. `allow_source` lets packages of
    `pip`, and what they need, be built from source where they have no wheel: their setup code then
    runs on this host, as this user. `preload` names modules that sandboxes of this image preload
    unless they say otherwise; each is imported here, in a container of the build. `force` builds
    anew from today's packages. `progress` is called with lines of text.

    Raises ValueError or TypeError for a bad argument, EngineError for what the engine refuses, and
    DayflyError for everything else that keeps it from being built, saying what to do. Nothing is
    left behind then.
    """
    if science:
        pip, tag = (*pip, *SCIENCE), tag or DEFAULT_IMAGE_SCIENCE
    recipe = checked(base, tag, pip, apt, preload, python2=python2, allow_source=allow_source)
    say = progress or (lambda _: None)
    if recipe.suite and shutil.which("mmdebstrap") is None:
        raise DayflyError(
            f"{recipe.base} is made with mmdebstrap, which is not here: install mmdebstrap (and, on Ubuntu, debian-archive-keyring), "
            "or give a base image that has Python (python:3.13-slim)"
        )
    if recipe.pip and importlib.util.find_spec("pip") is None:
        raise DayflyError(f"pip is needed to fetch wheels, and {sys.executable} has none: run  {sys.executable} -m ensurepip")

    origin = root_digest(recipe) if recipe.suite else await base_image(engine, recipe.base, say)
    inputs = inputs_digest(origin, recipe)
    if not force and (built := await _built(engine, recipe.tag, inputs)):
        say(f"{recipe.tag} is up to date")
        return built

    imported = None
    if recipe.suite:
        root = None if force else await find_root(engine, origin)
        if root is None:
            root = imported = await import_debian(engine, recipe, origin, say)
    else:
        root = origin
    try:
        image = await finish(engine, recipe, root, inputs, say)
    except BaseException:
        if imported:
            await quietly(engine.remove_image(imported))
        raise
    say(f"{recipe.tag} is built: {image}")
    return image


async def ls(engine: EngineAPI) -> list[Image]:
    """Return the runner images that the engine has, newest first."""
    found = []
    for row in await engine.list_images(PROTOCOL_LABEL):
        label = row.get("Labels") or {}
        try:
            found.append(
                Image(
                    id=row["Id"],
                    tags=[tag for tag in row.get("RepoTags") or [] if tag != "<none>:<none>"],
                    version=label.get("dayfly.version", ""),
                    protocol=int(label[PROTOCOL_LABEL]),
                    pythons=msgspec.json.decode(label.get("dayfly.pythons", "{}"), type=dict[str, str]),
                    base=label.get("dayfly.base", ""),
                    pip=label.get("dayfly.pip", "").split(),
                    apt=label.get("dayfly.apt", "").split(),
                    preload=label.get(PRELOAD_LABEL, "").split(),
                    size_bytes=int(row["Size"]),
                    created=float(row["Created"]),
                )
            )
        except (KeyError, TypeError, ValueError):
            continue  # somebody else's label of that name
    return sorted(found, key=lambda image: image.created, reverse=True)


async def _built(engine: EngineAPI, tag: str, inputs: str) -> str | None:
    try:
        found = await engine.inspect_image(tag)
    except ImageMissing:
        return None
    labels = (found.get("Config") or {}).get("Labels") or {}
    return str(found["Id"]) if labels.get("dayfly.inputs") == inputs else None
