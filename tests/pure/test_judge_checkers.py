"""The checkers: against slow reference implementations, and by the cases that others got wrong."""

from __future__ import annotations

import contextlib
import decimal
import inspect
import itertools
import math
import re
import string
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly.judge import Answer, Checker, Exact, Floats, Json, Lines, Program, SetEq, Tokens, dmoj, kattis, lcb, sandbox_fusion
from dayfly.judge._programs import AnyChecker

TEXT = st.text(alphabet="ab1. \n\t-eE0nNaif", max_size=30).map(str.encode)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(string.ascii_letters, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(string.ascii_letters, max_size=3), inner, max_size=3),
    max_leaves=12,
)


def right(checker: Checker, expected: bytes, output: bytes) -> bool:
    answer = checker.check(expected, output)
    assert answer.score in (0.0, 1.0)
    assert (answer.feedback == "") == (answer.score == 1.0)
    assert len(answer.feedback) <= 256
    return answer.score == 1.0


def same_value(checker: Checker, expected: Any, value: Any) -> bool:
    return checker.check_value(expected, value).score == 1.0


@given(TEXT, TEXT)
def test_exact_is_equality(expected: bytes, output: bytes) -> None:
    assert right(Exact(), expected, output) == (expected == output)
    assert right(Exact(), expected, expected)


@given(TEXT, TEXT)
def test_lines_ignore_what_is_at_their_ends(expected: bytes, output: bytes) -> None:
    def slow(data: bytes) -> list[bytes]:
        lines = [line.rstrip() for line in data.split(b"\n")]
        while lines and not lines[-1]:
            lines.pop()
        return lines or [b""]

    assert right(Lines(), expected, output) == (slow(expected) == slow(output))


@given(TEXT, TEXT, st.booleans())
def test_tokens_are_what_white_space_separates(expected: bytes, output: bytes, case: bool) -> None:
    def slow(data: bytes) -> list[str]:
        text = data.decode() if case else data.decode().lower()
        return [word for word in text.replace("\n", " ").replace("\t", " ").split(" ") if word]

    assert right(Tokens(case=case), expected, output) == (slow(expected) == slow(output))


@given(TEXT, TEXT, st.sampled_from([0.0, 1e-6, 0.5]), st.sampled_from([0.0, 1e-6, 0.5]))
def test_floats_follow_the_expected_side(expected: bytes, output: bytes, rel: float, absolute: float) -> None:
    def alike(one: str, other: str) -> bool:
        try:
            wanted = float(one)
        except ValueError:
            return one == other
        try:
            found = float(other)
        except ValueError:
            return False
        return not math.isnan(wanted) and (
            wanted == found or math.isclose(wanted, found, rel_tol=0, abs_tol=max(absolute, rel * abs(wanted)))
        )

    ours, theirs = expected.decode().split(), output.decode().split()
    slow = len(ours) == len(theirs) and all(alike(one, other) for one, other in zip(ours, theirs, strict=True))
    assert right(Floats(rel=rel, abs=absolute), expected, output) == slow


# Pairs of which many are nearly the same: the same words, written in another way.
ALIKE = [
    ("1", "1.0", "01", "1.00001", "1.001", "1e0", "2"),
    ("-0.0", "0", "1e-7", "x"),
    ("50000000000000000", "50000000000000001", "5e16"),
    ("yes", "YES", "yes.", "no"),
    ("nan", "NaN", "inf"),
]
BLANKS = st.sampled_from([" ", "\n", " ", "\n", "  ", "\t", "\n\n", " \n", "\r\n", "\r"])


@st.composite
def near_pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    words = draw(st.lists(st.sampled_from(ALIKE), max_size=5))
    blanks = [draw(BLANKS) for _ in words]
    same = draw(st.booleans())

    def text() -> bytes:
        parts = [draw(st.sampled_from(word)) + (blank if same else draw(BLANKS)) for word, blank in zip(words, blanks, strict=True)]
        return "".join(parts).encode()

    expected = text()
    return expected, draw(st.sampled_from([expected, expected + b"\n", expected.upper(), text(), text() + b" 1", b""]))


@given(near_pairs(), st.booleans())
def test_a_set_is_its_sorted_lines(pair: tuple[bytes, bytes], counts: bool) -> None:
    def slow(data: bytes) -> list[list[bytes]]:
        lines = sorted(line.split() for line in data.split(b"\n") if line.split())
        return lines if counts else [line for at, line in enumerate(lines) if line not in lines[:at]]

    assert right(SetEq(counts=counts), *pair) == (slow(pair[0]) == slow(pair[1]))


@given(near_pairs())
def test_lcb_compares_lines_of_decimals(pair: tuple[bytes, bytes]) -> None:
    def same(one: str, other: str) -> bool:
        try:
            numbers = [[decimal.Decimal(word) for word in line.split()] for line in (one, other)]
        except decimal.InvalidOperation:
            return one == other
        return one == other or numbers[0] == numbers[1]

    wanted, found = ([line.strip() for line in data.decode().strip().split("\n")] for data in pair)
    slow = len(wanted) == len(found) and all(map(same, wanted, found))
    assert right(lcb(), *pair) == slow


@given(near_pairs())
def test_sandbox_fusion_compares_lines_or_numbers(pair: tuple[bytes, bytes]) -> None:
    def same(one: str, other: str) -> bool:
        try:
            wanted, found = float(one), float(other)
        except ValueError:
            return one == other
        return one == other or abs(found - wanted) / max(abs(wanted), 1e-10) < 1e-5

    wanted, found = ([line.strip() for line in data.decode().strip().lower().split("\n")] for data in pair)
    assert right(sandbox_fusion(), *pair) == (len(wanted) == len(found) and all(map(same, wanted, found)))


@given(near_pairs(), st.booleans(), st.booleans(), st.sampled_from([None, 0.0, 1e-3]), st.sampled_from([None, 0.0, 1e-3]))
def test_kattis_compares_tokens(
    pair: tuple[bytes, bytes], case: bool, spaces: bool, absolute: float | None, relative: float | None
) -> None:
    def finite(word: bytes) -> float | None:
        return float(word) if re.fullmatch(rb"[+-]?([0-9]*\.[0-9]+|[0-9]+\.?)([eE][+-]?[0-9]+)?", word) else None

    def same(one: bytes, other: bytes) -> bool:
        wanted, found = finite(one), finite(other)
        if (absolute, relative) == (None, None) or wanted is None:
            return one == other or (not case and one.lower() == other.lower())
        if found is None:
            return False
        return abs(found - wanted) <= (absolute or 0.0) or abs(found - wanted) <= (relative or 0.0) * abs(wanted)

    wanted, found = (data.split() for data in pair)
    slow = len(wanted) == len(found) and all(map(same, wanted, found))
    if spaces:
        blanks, others = (re.split(rb"[^ \n\r\t]+", data) for data in pair)
        slow = slow and blanks == others
    checker = kattis(case_sensitive=case, space_change_sensitive=spaces, float_absolute=absolute, float_relative=relative)
    assert right(checker, *pair) == slow


@given(near_pairs(), st.sampled_from([None, 0, 3, 6]), st.sampled_from(["default", "absolute", "relative"]))
def test_dmoj_compares_tokens_of_lines(pair: tuple[bytes, bytes], precision: int | None, mode: Any) -> None:
    def same(one: bytes, other: bytes) -> bool:
        try:
            wanted = float(one) if precision is not None else None
        except ValueError:
            wanted = None
        if wanted is None or precision is None:
            return one == other
        try:
            found = float(other)
        except ValueError:
            return False
        epsilon = 10.0**-precision
        bounds = sorted([wanted * (1 - epsilon), wanted * (1 + epsilon)])
        if mode == "relative":
            return bounds[0] <= found <= bounds[1]
        near = abs(found - wanted) <= epsilon
        return near or (mode == "default" and abs(wanted) >= epsilon and abs(1 - found / wanted) <= epsilon)

    lines = [[line.split() for line in re.split(rb"[\r\n]", data) if line and (precision is not None or line.split())] for data in pair]
    slow = list(map(len, lines[0])) == list(map(len, lines[1])) and all(
        same(one, other) for ours, theirs in zip(*lines, strict=True) for one, other in zip(ours, theirs, strict=True)
    )
    assert right(dmoj(precision=precision, mode=mode), *pair) == slow


@pytest.mark.parametrize(
    ("checker", "expected", "output", "is_right"),
    [
        (Floats(), b"nan", b"nan", False),
        (Floats(), b"1.0", b"nan", False),
        (Floats(), b"inf", b"inf", True),
        (Floats(), b"inf", b"1e308", False),
        (Floats(), b"1e308", b"inf", False),
        (Floats(), b"x 0.5", b"x 0.5000001", True),
        (Floats(), b"1_0", b"10", False),
        (Floats(rel=0, abs=0), b"1", b"1.0", True),
        (Floats(), b"1", b"x", False),
        (Lines(), b"a\nb\n", b"a  \nb\n\n\n", True),
        (Lines(), b"a\nb", b"a\n b", False),
        (Lines(), b"a", b"a\nb", False),
        (Tokens(), b"", b"", True),
        (Tokens(), b"1 2", b"1", False),
        (Json(), b'{"a": [1, 2.5]}', b'{ "a":[1,2.5] }\n', True),
        (Json(), b"[1]", b"[1", False),
        (Json(), b"[1]", b"[" * 900 + b"]" * 900, False),
        (Json(), b"[1]", b"[" * 100_000, False),
        (Json(), b"[1]", b'"\xff"', False),
        (SetEq(), b"1 2\n3\n", b"3\n\n1  2\n", True),
        (SetEq(), b"1\n1\n2", b"1\n2\n2", False),
        (SetEq(), b"1", b"1\n2", False),
        (SetEq(counts=False), b"1\n1\n2", b"1\n2\n2", True),
        # LiveCodeBench: decimals, so that large numbers are not equal because floats are.
        (lcb(), b"50000000000000000", b"50000000000000001", False),
        (lcb(), b"1.50 2", b"1.5 2.0", True),
        (lcb(), b"a\n", b"  a  ", True),
        (lcb(), b"a", b"b", False),
        (lcb(), b"1 x", b"1.0 x", False),
        (lcb(), b"a", b"a\nb", False),
        # SandboxFusion: lower case, a line that is one number.
        (sandbox_fusion(), b"YES", b"yes\n", True),
        (sandbox_fusion(), b"100000.1", b"100000", True),
        (sandbox_fusion(), b"1 2", b"1.0 2", False),
        (sandbox_fusion(), b"nan", b"1", False),
        (sandbox_fusion(), b"1", b"2", False),
        (sandbox_fusion(), b"0", b"9e-16", True),
        (sandbox_fusion(), b"0", b"2e-15", False),
        # Kattis: without regard to case, unless asked.
        (kattis(), b"Yes", b"yes", True),
        (kattis(case_sensitive=True), b"Yes", b"yes", False),
        (kattis(case_sensitive=True), b"Yes", b"Yes", True),
        (kattis(), b"1.0", b"1", False),
        (kattis(float_absolute=0.1), b"1.0", b"1.05", True),
        (kattis(float_absolute=0.1), b"1.0", b"x", False),
        (kattis(float_absolute=0.1), b"1.0", b"nan", False),
        (kattis(float_relative=0.1), b"100", b"109", True),
        (kattis(float_relative=0.1), b"100", b"111", False),
        (kattis(float_absolute=0.5), b"0x10", b"16.25", True),
        (kattis(float_absolute=0.5), b"inf", b"INF", True),
        (kattis(float_absolute=0.5), b"\xff", b"\xff", True),
        (kattis(float_absolute=0.5), b"0x", b"0x", True),
        (kattis(float_absolute=0.5), b"1_0", b"1_0", True),
        # Stricter than theirs on purpose: what only C's scanf reads, and what is behind a NUL.
        (kattis(float_absolute=0.5), b"1", b"1e", False),
        (kattis(), b"1\0a", b"1\0b", False),
        (kattis(space_change_sensitive=True), b"a b\n", b"a  b\n", False),
        (kattis(space_change_sensitive=True), b"a b\n", b"a b\n", True),
        (kattis(space_change_sensitive=True), b"a b\n", b"a b", False),
        # DMOJ: lines count, empty ones do not.
        (dmoj(), b"1 2\n3", b"1  2\r\n\n3\n", True),
        (dmoj(), b"1 2\n3", b"1 2 3", False),
        (dmoj(), b"1", b"1.0", False),
        (dmoj(precision=3), b"1 x", b"1.0005 x", True),
        (dmoj(precision=3), b"1 x", b"1.0005 y", False),
        (dmoj(precision=3), b"nan", b"nan", False),
        (dmoj(precision=3), b"1", b"x", False),
        (dmoj(precision=3, mode="absolute"), b"1000", b"1000.5", False),
        (dmoj(precision=3, mode="relative"), b"1000", b"1000.5", True),
        (dmoj(precision=3, mode="relative"), b"0", b"0.0001", False),
        (dmoj(precision=3), b"1 2", b"1", False),
        (dmoj(precision=3), b"1\n2", b"1\n \n2", False),
        (dmoj(), b"1\n2", b"1\n \n2", True),
        (dmoj(precision=3), b"1_0", b"10", True),
        (dmoj(precision=3), b"1000", b"1000.5", True),
        (dmoj(precision=3), b"inf", b"inf", False),
        (dmoj(precision=3, mode="absolute"), b"inf", b"inf", False),
        (dmoj(precision=3, mode="relative"), b"inf", b"inf", True),
    ],
)  # fmt: skip
def test_known_pairs(checker: Checker, expected: bytes, output: bytes, is_right: bool) -> None:
    assert right(checker, expected, output) == is_right


@given(VALUES)
def test_a_value_equals_itself(value: Any) -> None:
    for checker in (Json(), Json(rel=1e-9), SetEq(), lcb()):
        assert same_value(checker, value, msgspec.json.decode(msgspec.json.encode(value)))


@given(VALUES, VALUES)
def test_values_that_json_calls_equal_are_equal(one: Any, other: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return (type(value) is bool, value)

    assert same_value(Json(), one, other) == (plain(one) == plain(other))


@pytest.mark.parametrize(
    ("checker", "expected", "value", "is_right"),
    [
        (Json(), True, 1, False),
        (lcb(), True, 1, True),
        (Json(), 1, 1.0, True),
        (Json(), 1.0, 1.0000001, False),
        (Json(rel=1e-6), 1.0, 1.0000001, True),
        (Json(abs=0.5), 1, 1.25, True),
        (Json(rel=1.0), 10**400, 1, False),
        (Json(rel=1.0), 10**400, 10**400, True),
        (Json(), [1, [2]], [1, [3]], False),
        (Json(), [1], [1, 2], False),
        (Json(), {"a": 1}, {"b": 1}, False),
        (Json(), {"a": [1]}, {"a": [2]}, False),
        (Json(), [1], {"a": 1}, False),
        (Json(), None, 0, False),
        (Json(), {"$float": "inf"}, {"$float": "inf"}, True),
        (SetEq(), [1, [2, 3]], [[2.0, 3], 1.0], True),
        (SetEq(), [{"a": 1.0}], [{"a": 1}], True),
        (SetEq(), [1, 1], [1], False),
        (SetEq(counts=False), [1, 1], [1], True),
        (SetEq(), [1], [1, 2], False),
        (SetEq(), 1, 1, True),
        (SetEq(), [1], 1, False),
        (lcb(), [1], [2], False),
    ],
)  # fmt: skip
def test_known_values(checker: Checker, expected: Any, value: Any, is_right: bool) -> None:
    assert same_value(checker, expected, value) == is_right


def test_feedback_names_the_place_and_is_bounded() -> None:
    assert Tokens().check(b"1 2", b"1 3") == Answer(0.0, "token 2: expected '2', found '3'")
    assert Json().check_value({"a": [1, 2]}, {"a": [1, 3]}).feedback == "differs at .a[1]: expected 2, found 3"
    assert Json().check_value([1], "x").feedback == 'differs: expected a list, found "x"'
    assert Exact().check(b"ab", b"ac").feedback == "byte 2: expected 'b', found 'c'"
    huge = b"\xff" * 1_000_000
    for checker in (Exact(), Lines(), Tokens(), Floats(), SetEq(), lcb(), kattis(), dmoj(), sandbox_fusion()):
        assert 0 < len(checker.check(b"1", huge).feedback) <= 256
    assert len(Json().check_value({"k" * 1_000: "v" * 1_000}, {"k" * 1_000: 1}).feedback) <= 256


def test_a_value_may_nest_as_deeply_as_it_can_be_read() -> None:
    def deep(inner: bytes) -> bytes:
        return b"[" * 400 + inner + b"]" * 400

    with recursion_limit(500):
        assert Json().check(deep(b"1"), deep(b" 1.0 ")) == Answer(1.0)
        assert Json().check(deep(b"1"), deep(b"2")).feedback.endswith("expected 1, found 2")


@pytest.mark.parametrize("expected", [b"[1", b"[" * 100_000 + b"]" * 100_000, b""])
def test_what_is_expected_must_be_json(expected: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        Json().check(expected, b"[1]")
    with pytest.raises((msgspec.DecodeError, RecursionError)):
        Json().check(expected, b"[1")


@contextlib.contextmanager
def recursion_limit(frames: int) -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + frames)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


def test_the_base_checks_nothing_itself() -> None:
    with pytest.raises(NotImplementedError):
        Checker().check(b"", b"")
    with pytest.raises(NotImplementedError):
        Tokens().check_value(1, 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Floats(rel=-1),
        lambda: Floats(abs=math.nan),
        lambda: Json(rel=math.inf),
        lambda: Json(abs=-1),
        lambda: kattis(float_absolute=math.nan),
        lambda: kattis(float_relative=-1),
    ],
    ids=itertools.count(),
)
def test_a_tolerance_is_a_number(make: Any) -> None:
    with pytest.raises(ValueError, match="finite number"):
        make()


def test_dmoj_s_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="precision"):
        dmoj(precision=-400)
    with pytest.raises(ValueError, match="mode must be"):
        dmoj(mode="best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "checker", [Exact(), Tokens(case=False), Floats(rel=1e-3), SetEq(), lcb(), kattis(float_absolute=1.0), Program(code="1")]
)
def test_a_checker_survives_json(checker: Checker) -> None:
    assert msgspec.json.decode(msgspec.json.encode(checker), type=AnyChecker) == checker
