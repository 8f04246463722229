"""The tree of errors is as it is drawn, and an error survives being copied and sent to another
process."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import dayfly
from dayfly import _errors as errors
from dayfly._errors import (
    ContainerLost,
    DayflyError,
    EngineRefused,
    PoolTimeout,
    ProtocolViolation,
    RunnerMisbehaved,
    SandboxError,
    StartFailed,
)


def drawn() -> dict[str, str | None]:
    """The drawing in the module's docstring: each class, and the one that it hangs on."""
    assert errors.__doc__ is not None
    tree: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"    ([\u2502\u251c\u2514\u2500 ]*)([A-Z]\w+)", line):
            depth, name = len(found[1]), found[2]
            path = [one for one in path if one[0] < depth]
            tree[name] = path[-1][1] if path else None
            path.append((depth, name))
    return tree


CLASSES = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, DayflyError)}
MADE = [
    kind("said", status=500) if kind is EngineRefused
    else kind("said", delivered=True) if issubclass(kind, SandboxError)
    else kind("said")
    for kind in CLASSES.values()
]  # fmt: skip


def test_the_drawing_is_the_tree_of_the_classes() -> None:
    bases = {name: kind.__bases__[0].__name__ for name, kind in CLASSES.items()}
    assert drawn() | {"DayflyError": "Exception"} == bases


def test_all_of_them_are_public_and_the_internal_one_is_not() -> None:
    assert {name for name in CLASSES if name not in dayfly.__all__} == set()
    assert not issubclass(ProtocolViolation, DayflyError)
    assert "ProtocolViolation" not in dayfly.__all__


@pytest.mark.parametrize("kind", CLASSES.values())
def test_each_has_a_docstring(kind: type) -> None:
    assert kind.__doc__


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
def test_an_error_can_be_copied_and_pickled(error: DayflyError) -> None:
    for other in (
        copy.copy(error),
        copy.deepcopy(error),
        *(pickle.loads(pickle.dumps(error, n)) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert type(other) is type(error)
        assert str(other) == "said"
        assert other.__dict__ == error.__dict__


def test_a_retry_can_be_judged_by_delivered() -> None:
    assert StartFailed("x").delivered is False
    kinds: list[Any] = [SandboxError, RunnerMisbehaved, ContainerLost]
    for kind in kinds:
        assert kind("x", delivered=True).delivered is True
        with pytest.raises(TypeError):
            kind("x")
    assert EngineRefused("x", status=404).status == 404


def test_an_error_from_another_process_is_the_same() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_fail).exception(60)
    assert isinstance(error, ContainerLost)
    assert error.delivered is True


def _fail() -> None:
    raise ContainerLost("gone", delivered=True)


def test_a_pool_timeout_is_no_timeout_error() -> None:
    # Who catches TimeoutError around his own deadline must not swallow ours.
    assert not issubclass(PoolTimeout, (TimeoutError, OSError))
