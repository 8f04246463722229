"""Wheels for the image's Python, fetched by pip on this host, or built here from source where that
was asked for."""

from __future__ import annotations

import logging
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from dayfly._errors import DayflyError

from .processes import Progress, run
from .recipe import Facts, Recipe


class _Download(msgspec.Struct, frozen=True):
    url: str


class _Metadata(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([\w.-]{0,98}[A-Za-z0-9])?$")]
    version: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,98}$")]


class _Chosen(msgspec.Struct, frozen=True):
    metadata: _Metadata
    download_info: _Download


class _Report(msgspec.Struct, frozen=True):
    """What `pip install --report` writes."""

    install: list[_Chosen]


log = logging.getLogger("dayfly.image")

MOST_BUILT = 100
"""Wheels that are built because pip misses them, one after the other."""

_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


async def fetch_wheels(recipe: Recipe, facts: Facts, wheels: Path, scratch: Path, say: Progress) -> None:
    if recipe.allow_source:
        await _build_planned(recipe.pip, facts, wheels, scratch, say)
    major, minor = facts.version.split(".")[:2]
    machine = facts.platform.partition("-")[2].replace("-", "_").replace(".", "_")
    if facts.glibc:
        newest = int(facts.glibc.split(".")[1])
        platforms = [f"manylinux_2_{number}_{machine}" for number in range(newest, 4, -1)] + [f"manylinux2014_{machine}"]
    else:
        platforms = [f"musllinux_1_{number}_{machine}" for number in (2, 1, 0)]
    log_file = scratch / "pip.log"
    command = [*_PIP, "--log", str(log_file), "download", "--only-binary=:all:", "--find-links", str(wheels)]
    command += ["--dest", str(wheels), "--implementation", "cp", "--python-version", f"{major}.{minor}"]
    command += [f"--platform={platform}" for platform in (*platforms, f"linux_{machine}")]
    built: set[str] = set()
    while True:
        try:
            # pip itself comes along: the base need not have one.
            await run([*command, "pip", *recipe.pip], scratch, lambda _: None)
            break
        except DayflyError as error:
            missing = re.search(r"No matching distribution found for (([A-Za-z0-9][\w.-]*)[^;\s]*)", str(error))
            if missing is None or missing[2] in built or len(built) == MOST_BUILT or not await _has_source(missing[2], scratch):
                raise
            if not recipe.allow_source:
                raise DayflyError(
                    f"no wheel of {missing[1]} fits Python {facts.version} of the image. The index has source distributions of "
                    f"{missing[2]}: allow_source=True (--allow-source) builds a wheel of it, which runs its setup code on this host; "
                    f"{error}"
                ) from error
            built.add(missing[2])
            await _build_wheel(missing[1], facts, wheels, scratch, say)
    # Where a newer version needs what has no wheel, pip takes an older one and says so in its log
    # alone.
    advice = "" if recipe.allow_source else " (--allow-source builds wheels from source, which runs setup code on this host)"
    text = log_file.read_text(errors="replace") if log_file.exists() else ""
    for name in sorted(set(re.findall(r"pip is looking at multiple versions of ([\w.-]+) to determine", text))):
        say(f"  {name}: pip passed over newer versions, since a wheel of what they need does not fit or is missing{advice}")


async def _has_source(name: str, scratch: Path) -> bool:
    """Whether the index has source distributions of a package. None of their code is run."""
    try:
        await run([*_PIP, "index", "versions", "--no-binary=:all:", name], scratch, lambda _: None)
    except DayflyError:
        return False
    return True


async def _build_planned(requirements: Sequence[str], facts: Facts, wheels: Path, scratch: Path, say: Progress) -> None:
    """Build wheels of what pip would install from source on this host, dependencies too.

    The image's Python may need more: this is asked first because pip would rather take an older
    version that has a wheel than say that one is missing.
    """
    report = scratch / "report.json"
    plan = ["install", "--dry-run", "--ignore-installed", "--report", str(report), *requirements]
    say("looking for packages that have no wheel; the setup code of such packages runs on this host")
    try:
        await run([*_PIP, *plan], scratch, lambda _: None)
    except DayflyError as error:
        log.info("no plan for this host's Python: %s", error)
        return  # the image's may have what this one may not; what is missing is said later
    try:
        chosen = msgspec.json.decode(report.read_bytes(), type=_Report).install
    except (OSError, ValueError) as error:
        raise DayflyError(f"pip's report could not be read ({error}); pip 22.2 or newer is needed") from None
    for one in chosen:
        if not one.download_info.url.partition("#")[0].endswith(".whl"):
            await _build_wheel(f"{one.metadata.name}=={one.metadata.version}", facts, wheels, scratch, say)


async def _build_wheel(requirement: str, facts: Facts, wheels: Path, scratch: Path, say: Progress) -> None:
    say(f"building a wheel of {requirement} from source")
    folder = scratch / "built"
    folder.mkdir()
    name = re.split("[^A-Za-z0-9._-]", requirement)[0]
    await run([*_PIP, "wheel", "--no-deps", f"--no-binary={name}", "--wheel-dir", str(folder), requirement], scratch, lambda _: None)
    for wheel in folder.glob("*.whl"):
        if not wheel.name.endswith("-any.whl") and not _runs_in_image(facts):
            raise DayflyError(
                f"{requirement} has extension modules. Those built here are for Python {platform.python_version()} and this host's C "
                f"library; the image has Python {facts.version}, and maybe an older C library or another one: build on a host with the "
                "image's release, or use a base image that has the package"
            )
        wheel.rename(wheels / wheel.name)
    folder.rmdir()


def _runs_in_image(facts: Facts) -> bool:
    """Whether what is compiled on this host can be loaded in the image, as far as the versions of
    Python and of the C library go."""
    if facts.version.split(".")[:2] != platform.python_version().split(".")[:2]:
        return False
    library, version = platform.libc_ver()
    numbers = [[int(part) for part in text.split(".")] for text in (version, facts.glibc) if re.fullmatch(r"[0-9.]*[0-9]", text)]
    return library == "glibc" and len(numbers) == 2 and numbers[0] <= numbers[1]
