"""What was asked for, and what the workbench answers: values, and the checks of both. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec

from dayfly._messages import MAX_MODULES
from dayfly._names import DEFAULT_IMAGE, DEFAULT_IMAGE_PYTHON2

DEFAULT_BASE = "debian:bookworm"
DEFAULT_BASE_PYTHON2 = "debian:bullseye"

SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid")
"""Debian's releases whose Python 3 the runner knows; bullseye is the last with Python 2.7."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    base: str
    tag: str
    python2: bool
    pip: tuple[str, ...]
    apt: tuple[str, ...]
    allow_source: bool
    preload: tuple[str, ...]

    @property
    def suite(self) -> str | None:
        name, _, suite = self.base.partition(":")
        return suite if name == "debian" else None


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the base's own python3 says of itself. The base may be anybody's: it is believed in
    nothing."""

    version: Annotated[str, msgspec.Meta(pattern=r"^3\.[0-9]{1,3}\.[0-9A-Za-z.+]{1,20}$")]
    platform: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,20}-[A-Za-z0-9_.-]{1,30}$")]
    glibc: Annotated[str, msgspec.Meta(pattern=r"^(2\.[0-9]{1,3}(\.[0-9]{1,3})?)?$")]
    """"2.36"; empty where the C library is another."""
    python2: Annotated[str, msgspec.Meta(pattern=r"^2\.7\.[0-9A-Za-z.+]{1,20}$")] | None


class Done(msgspec.Struct, frozen=True, kw_only=True):
    done: Literal[True]


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What every line of the workbench may have."""

    error: str | None = None


def checked(
    base: str | None, tag: str | None, pip: Sequence[str], apt: Sequence[str], preload: Sequence[str], *, python2: bool, allow_source: bool
) -> Recipe:
    for name, flag in (("python2", python2), ("allow_source", allow_source)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, not {type(flag).__name__}")
    if base is None:
        base = DEFAULT_BASE_PYTHON2 if python2 else DEFAULT_BASE
    if tag is None:
        tag = DEFAULT_IMAGE_PYTHON2 if python2 else DEFAULT_IMAGE
    recipe = Recipe(
        base=_matching("base", base, r"[a-z0-9][\w.:/@-]*", "the name of an image, or debian:SUITE"),
        tag=_matching("tag", tag, r"[a-z0-9][a-z0-9._:/-]*(:[\w][\w.-]{0,127})?", "a name for an image (dayfly/python:mine)"),
        python2=python2,
        # Sorted: their order makes no other image. That of preload may.
        pip=tuple(
            sorted(_all_matching("pip", pip, r"[A-Za-z0-9][\w.-]*\s*(\[[\w.,\s-]+\])?\s*([=<>!~][^;@/\s]*)?", "a requirement (numpy>=2)"))
        ),
        apt=tuple(sorted(_all_matching("apt", apt, r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]", "a Debian package"))),
        allow_source=allow_source,
        preload=_all_matching("preload", preload, r"[^\W\d]\w*(\.[^\W\d]\w*)*", "the name of a module"),
    )
    if len(recipe.preload) > MAX_MODULES:
        raise ValueError(f"preload has {len(recipe.preload)} modules; {MAX_MODULES} are allowed")
    if re.search(r"(^|/)\.*(/|$)", recipe.base):
        # It becomes part of a path of the Engine API, where a/../.. would be another call.
        raise ValueError(f"base={base!r}: an empty part, or one of dots alone, is not part of the name of an image")
    if recipe.suite is not None and recipe.suite not in SUITES:
        raise ValueError(f"base={base!r}: no such Debian suite is known here, only {', '.join(SUITES)}")
    if recipe.suite not in (None, "bullseye") and python2:
        raise ValueError(f"base={base!r}: only bullseye has Python 2.7; use debian:bullseye, or an image that has it")
    if recipe.suite is None and apt:
        raise ValueError(
            f"base={base!r}: apt packages need a base debian:SUITE, since no build container has a network; or use a base that has them"
        )
    return recipe


def _matching(name: str, value: Any, pattern: str, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}: {value!r:.80}")
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{name}: {value!r:.80} is not {what}")
    return value


def _all_matching(name: str, values: Sequence[str], pattern: str, what: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be a sequence of str, not one str: {values!r:.80}")
    # Without spaces, so that a list of them can be written into a label and split again.
    return tuple(dict.fromkeys(re.sub(r"\s", "", _matching(name, value, pattern, what)) for value in values))


def digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
