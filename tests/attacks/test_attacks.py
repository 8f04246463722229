"""Every attack, on every runtime, and the world after it. See `harness` for what is checked,
`programs/` for what is tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..conftest import Engine
from .harness import Arena, cases

CASES = cases()


@pytest.fixture(scope="module")
def arena(engine: Engine, image: str, runtime: str) -> Iterator[Arena]:
    arena = Arena(engine, runtime)
    yield arena
    arena.close()


@pytest.mark.parametrize("name", CASES)
def test_attack(arena: Arena, name: str) -> None:
    arena.attack(*cases(arena.runtime)[name])
