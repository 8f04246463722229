"""Every limit at its bounds, and everything that is not a limit. A bad value never becomes
"unlimited": it is a TypeError or a ValueError."""

from __future__ import annotations

import decimal
import enum
import fractions
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import AsyncSandbox, Limits, Sandbox
from dayfly._limits import MAX_RUN_BYTES, integer, number

BOUNDS: dict[str, tuple[float, float]] = {
    "cpus": (0.01, 4_096),
    "pids": (8, 4_194_304),
    "tmpfs_bytes": (65_536, 2**40),
    "tmpfs_inodes": (16, 2**31),
    "shm_bytes": (65_536, 2**40),
    "open_files": (16, 1_000_000),
    "file_size_bytes": (65_536, 2**40),
    "stdout_bytes": (1, 2**40),
    "stderr_bytes": (1, 2**40),
    "messages": (0, 1_000_000),
    "message_bytes": (0, MAX_RUN_BYTES),
    "displays": (0, 1_000_000),
    "display_bytes": (0, MAX_RUN_BYTES),
    "file_count": (0, 1_000_000),
    "file_bytes": (0, 2**40),
    "code_bytes": (1, MAX_RUN_BYTES),
    "input_bytes": (0, MAX_RUN_BYTES),
}


class Liar(int):
    """An int that is within every bound."""

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True


class Float64(float):
    """As numpy's: a float by descent."""


class Size(enum.IntEnum):
    SIXTEEN = 16


class Word(str):
    __slots__ = ()


class Indexable:
    """As numpy's int64: an int by behaviour only."""

    def __index__(self) -> int:
        return 64

    __int__ = __index__


def each(values: list[Any]) -> list[Any]:
    """Parameters for values that have no name of their own, and some of which cannot even be
    written out."""
    return [pytest.param(value, id=f"{index} {type(value).__name__}") for index, value in enumerate(values)]


def limits(name: str, value: Any) -> Limits:
    fields: dict[str, Any] = {name: value}
    return Limits(**fields)


NO_NUMBERS: list[Any] = [None, True, False, "64", b"64", "", [64], (64,), {}, decimal.Decimal(64), fractions.Fraction(64), 64j, Liar(-1),
              Float64(64), Size.SIXTEEN, Indexable(), int, Limits]  # fmt: skip
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]
HUGE = [10**30, -(10**30), 10**400, -(10**400), 10**5_000, 2**64, 1e300, -1e300]


def test_there_is_a_row_for_every_number_of_limits() -> None:
    assert {field.name for field in msgspec.structs.fields(Limits)} == {*BOUNDS, "loopback", "on_output_limit"}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_bounds_are_allowed_and_what_is_beyond_them_is_not(name: str) -> None:
    least, most = BOUNDS[name]
    for value in (least, most):
        assert getattr(limits(name, value), name) == value
    for value in (least - (1e-9 if name == "cpus" else 1), most + 1, -1, -(2**63)):
        with pytest.raises(ValueError, match=rf"^{name} must be"):
            limits(name, value)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", each(NO_NUMBERS))
def test_what_is_not_a_number_is_a_type_error_with_the_field(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be an int"):
        limits(name, value)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_nan_and_the_infinities_are_refused_everywhere(name: str, value: float) -> None:
    with pytest.raises(ValueError if name == "cpus" else TypeError, match=rf"^{name} must be"):
        limits(name, value)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", each(HUGE))
def test_huge_numbers_are_refused_in_a_short_message(name: str, value: float) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^{name} must be") as caught:
        limits(name, value)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("value", [1.0, 16.5, 1e6])
def test_a_float_is_no_number_of_bytes(value: float) -> None:
    with pytest.raises(TypeError, match="tmpfs_bytes must be an int, not float"):
        Limits(tmpfs_bytes=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "error"), [
    ("", ValueError), ("Kill", ValueError), ("drop", ValueError), ("x" * 10_000, ValueError), (None, TypeError), (True, TypeError),
    (b"kill", TypeError), (["kill"], TypeError), (Word("drop"), TypeError),
])  # fmt: skip
def test_on_output_limit_is_one_of_two_words(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^on_output_limit must be"):
        Limits(on_output_limit=value)
    assert [Limits(on_output_limit=word).on_output_limit for word in ("truncate", "kill")] == ["truncate", "kill"]


@pytest.mark.parametrize("value", each([None, 0, 1, "", "no", []]))
def test_loopback_is_a_bool(value: Any) -> None:
    with pytest.raises(TypeError, match="loopback must be True or False"):
        Limits(loopback=value)
    assert [Limits(loopback=choice).loopback for choice in (True, False)] == [True, False]


@pytest.mark.parametrize("name", ["pid", "memory", "memory_mb", "tmpfs_size", "timeout_ms", "Pids", ""])
def test_a_misspelt_limit_is_refused(name: str) -> None:
    with pytest.raises(TypeError):
        limits(name, 64)


def test_limits_are_values() -> None:
    assert Limits() == Limits(pids=64)
    assert hash(Limits()) == hash(Limits(pids=64))
    assert Limits(pids=65) != Limits()
    with pytest.raises(AttributeError):
        Limits().pids = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        Limits(2.0)  # type: ignore[call-arg]


@given(st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(), st.decimals()))
def test_integer_and_number_return_or_raise_one_of_two_errors(value: Any) -> None:
    for check, kinds in ((integer, {int}), (number, {int, float})):
        least, most = 1, 100
        try:
            returned = check("field", value, least=least, most=most)
        except TypeError:
            assert type(value) not in kinds
        except ValueError:
            assert type(value) in kinds
            assert not least <= value <= most
        else:
            assert type(value) in kinds
            assert returned == value
            assert least <= returned <= most
            assert type(returned) is (int if check is integer else float)


# The constructor of the sandbox has limits too. None of this needs an engine.

MISTAKES: list[tuple[str, list[Any]]] = [
    ("pool_size", [0, -1, 10**6, 1.0, True, "1", None, float("nan"), Liar(5), 10**5_000]),
    ("timeout_ms", [0, 0.5, -1, *NOT_FINITE, 1e300, 10**5_000, True, "5", None, decimal.Decimal(5), Float64(5), [1]]),
    ("memory_limit_mb", [0, -1, 1, 5, 15.9, *NOT_FINITE, 1e300, 10**5_000, True, "50", None, decimal.Decimal(50)]),
    ("image", ["", " ", "a b", "a;b", "$(id)", "a\nb", "../a", "-a", "a\0", "\u00e4", "x" * 513, None, 1, b"a"]),
    ("runtime", ["", "nope!", "a b", "-x", 1, b"runc", True]),
    ("cgroup_parent", ["", "a b", 1, "a\nb"]),
    ("docker_host", ["", "ssh://host", "npipe:////./pipe/docker", "nonsense", "unix://", 1, b"unix:///x", "tcp://", "tcp://a:b"]),
    ("python", ["", "4", "3.11", 3, 2, None, True]),
    ("limits", [{}, {"pids": 64}, 1, "x", Limits]),
    ("max_waiting", [-1, 1.5, True, "1", None, float("inf"), 10**9]),
    ("queue_timeout_ms", [0, -1, *NOT_FINITE, 1e300, True, "1", None]),
    ("max_containers", [0, -1, 1.5, True, "1", 10**6]),
    ("uids", [1000, [1, 2], "1-2", range(0), range(5, 5), range(5), range(-5, 5), range(5, 1, -1), range(1, 9, 2), range(1, 2**31 + 1)]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [
    pytest.param(name, value, id=f"{name} {index}") for name, values in MISTAKES for index, value in enumerate(values)
])  # fmt: skip
@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_a_sandbox_checks_its_arguments_first(kind: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        kind(**{name: value})
    assert type(caught.value) in (TypeError, ValueError)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("kind", [Sandbox, AsyncSandbox])
def test_a_sandbox_refuses_an_option_that_it_does_not_know(kind: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="memory_limit"):
        kind(memory_limit=50)
    with pytest.raises(TypeError):
        kind(1, 10_000, 50, "an image")


def test_max_containers_is_no_less_than_the_pool() -> None:
    with pytest.raises(ValueError, match="max_containers must be from 3"):
        AsyncSandbox(3, max_containers=2)
    assert AsyncSandbox(3).max_containers == 6
    assert AsyncSandbox(3, max_containers=3).max_containers == 3
