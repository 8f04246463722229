"""Whether an answer is right. Pure functions of bytes or JSON values: linear in time, without
regular expressions.

Output of a program is bytes; the value that a function returned is a JSON value. The expected side
decides what is a number. Feedback quotes at most a few tokens, what is expected among them: it is
for whoever judges, not for the submission.
"""

from __future__ import annotations

import decimal
import json
import math
from collections import Counter
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec

from dayfly._limits import integer, number

QUOTED = 60
"""Characters of a token that feedback shows."""
FEEDBACK = 256
"""Characters of feedback."""


class Answer(NamedTuple):
    """A checker's answer."""

    score: float
    """0.0 is wrong, 1.0 is right; between them the answer is right in part."""
    feedback: str = ""


RIGHT = Answer(1.0)


class Checker(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True, omit_defaults=True):
    """Base of the checkers. In JSON, `type` names one: `{"type": "tokens"}`."""

    values: ClassVar[bool] = False
    """Whether it compares values that functions return, too."""

    def check(self, expected: bytes, output: bytes) -> Answer:
        """Compare what a program wrote to stdout."""
        raise NotImplementedError

    def check_value(self, expected: Any, value: Any) -> Answer:
        """Compare what a function returned."""
        raise NotImplementedError


class Exact(Checker, frozen=True, tag="exact"):
    """The very bytes."""

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        if expected == output:
            return RIGHT
        shorter = min(len(expected), len(output))
        at = next((at for at in range(shorter) if expected[at] != output[at]), shorter)
        return _wrong(f"byte {at + 1:,}", expected[at : at + QUOTED], output[at : at + QUOTED])


class Lines(Checker, frozen=True, tag="lines"):
    """Line by line, without the white space at the end of each line and of the whole."""

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        wanted, found = ([line.rstrip() for line in data.rstrip().split(b"\n")] for data in (expected, output))
        return _same("line", wanted, found)


class Tokens(Checker, frozen=True, tag="tokens"):
    """Token by token; tokens are what ASCII white space separates."""

    case: bool = True
    """Whether A and a differ."""

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        if not self.case:
            expected, output = expected.lower(), output.lower()
        return _same("token", expected.split(), output.split())


class Floats(Checker, frozen=True, tag="floats"):
    """Token by token; where the expected token is a number, within a tolerance.

    Right is `|output - expected| <= abs` or `<= rel * |expected|`. NaN is never right, `inf` equals
    `inf`. Integers are numbers too; use Tokens where every digit counts.
    """

    rel: float = 1e-6
    abs: float = 1e-6

    def __post_init__(self) -> None:
        number("rel", self.rel, least=0, most=1e300)
        number("abs", self.abs, least=0, most=1e300)

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        return _each("token", expected.split(), output.split(), self._alike)

    def _alike(self, expected: bytes, output: bytes) -> bool:
        wanted = _number(expected)
        if wanted is None:
            return expected == output
        found = _number(output)
        return found is not None and _near(wanted, found, self.rel, self.abs)


class Json(Checker, frozen=True, tag="json"):
    """JSON values: keys in any order; numbers by value, within a tolerance if one is given. true is
    not 1."""

    values: ClassVar[bool] = True
    rel: float = 0.0
    abs: float = 0.0

    def __post_init__(self) -> None:
        number("rel", self.rel, least=0, most=1e300)
        number("abs", self.abs, least=0, most=1e300)

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        return _parsed(self, expected, output)

    def check_value(self, expected: Any, value: Any) -> Answer:
        """See Checker."""
        path = _difference(expected, value, self.rel, self.abs)
        return RIGHT if path is None else Answer(0.0, f"differs{path}"[:FEEDBACK])


class SetEq(Checker, frozen=True, tag="set"):
    """In any order: the lines of an output, or the elements of a list."""

    values: ClassVar[bool] = True
    counts: bool = True
    """Whether it matters how often each is there."""

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker. A line is its tokens; empty lines do not count."""
        return self._compare(*([b" ".join(line.split()) for line in text.split(b"\n") if line.strip()] for text in (expected, output)))

    def check_value(self, expected: Any, value: Any) -> Answer:
        """See Checker. A value that is not a list must be equal."""
        if not isinstance(expected, list) or not isinstance(value, list):
            return Json().check_value(expected, value)
        return self._compare(*([_canonical(item) for item in items] for items in (expected, value)))

    def _compare(self, expected: list[bytes], output: list[bytes]) -> Answer:
        wanted, found = Counter(expected), Counter(output)
        if not self.counts:
            wanted, found = Counter(set(expected)), Counter(set(output))
        if missing := wanted - found:
            return Answer(0.0, f"missing: {_quoted(next(iter(missing)))}"[:FEEDBACK])
        if extra := found - wanted:
            return Answer(0.0, f"not expected: {_quoted(next(iter(extra)))}"[:FEEDBACK])
        return RIGHT


class Lcb(Checker, frozen=True, tag="lcb"):
    """As LiveCodeBench does: stripped lines, or their tokens as decimal numbers; values by Python's
    ==."""

    values: ClassVar[bool] = True

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        wanted, found = ([line.strip() for line in _text(data).strip().split("\n")] for data in (expected, output))
        return _each("line", wanted, found, _same_decimals)

    def check_value(self, expected: Any, value: Any) -> Answer:
        """See Checker. A tuple is a list at any depth; there, only the outermost is."""
        return RIGHT if value == expected else Answer(0.0, "the value differs")


class SandboxFusion(Checker, frozen=True, tag="sandbox_fusion"):
    """As SandboxFusion's common cases: stripped lines in lower case, a line that is one number
    within 1e-5 of it."""

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        wanted, found = (_text(data).strip().lower().split("\n") for data in (expected, output))
        return _each("line", [line.strip() for line in wanted], [line.strip() for line in found], _fusion_alike)


class Kattis(Checker, frozen=True, tag="kattis", rename="camel"):
    """As the default output validator of the Kattis problem format: tokens, without regard to case
    unless asked."""

    case_sensitive: bool = False
    space_change_sensitive: bool = False
    float_absolute: float | None = None
    float_relative: float | None = None

    def __post_init__(self) -> None:
        for name in ("float_absolute", "float_relative"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), least=0, most=1e300)

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        answer = _each("token", expected.split(), output.split(), self._alike)
        if answer is RIGHT and self.space_change_sensitive:
            return _each("white space", _spaces(expected), _spaces(output), bytes.__eq__)
        return answer

    def _alike(self, expected: bytes, output: bytes) -> bool:
        if self.float_absolute is not None or self.float_relative is not None:
            wanted = _scanned(expected)
            if wanted is not None:
                found = _scanned(output)
                within = [self.float_absolute, None if self.float_relative is None else self.float_relative * abs(wanted)]
                return found is not None and any(bound is not None and abs(wanted - found) <= bound for bound in within)
        return expected == output if self.case_sensitive else expected.lower() == output.lower()


class Dmoj(Checker, frozen=True, tag="dmoj"):
    """As DMOJ's checkers `standard` (no precision) and `floats`: the tokens of each line that is
    not empty."""

    precision: int | None = None
    """Digits behind the point."""
    mode: Literal["default", "absolute", "relative"] = "default"

    def __post_init__(self) -> None:
        if self.precision is not None:
            integer("precision", self.precision, least=0, most=300)
        if self.mode not in ("default", "absolute", "relative"):
            raise ValueError(f"mode must be 'default', 'absolute' or 'relative', not {self.mode!r:.80}")

    def check(self, expected: bytes, output: bytes) -> Answer:
        """See Checker."""
        lines = ([line.split() for line in data.replace(b"\r", b"\n").split(b"\n") if line] for data in (expected, output))
        # With a precision, a line of blanks alone counts.
        wanted, found = ([line for line in data if line or self.precision is not None] for data in lines)
        return _each("line", wanted, found, self._same_line)

    def _same_line(self, expected: list[bytes], output: list[bytes]) -> bool:
        return len(expected) == len(output) and all(map(self._alike, expected, output))

    def _alike(self, expected: bytes, output: bytes) -> bool:
        try:
            wanted = None if self.precision is None else float(expected)
        except ValueError:
            wanted = None
        if wanted is None or self.precision is None:
            return expected == output
        try:
            found = float(output)
        except ValueError:
            return False
        epsilon = 10.0**-self.precision
        # Written so that a NaN is never right.
        if self.mode == "relative":
            low, high = sorted((wanted * (1 - epsilon), wanted * (1 + epsilon)))
            return low <= found <= high
        near = abs(found - wanted) <= epsilon
        return near or (self.mode == "default" and abs(wanted) >= epsilon and abs(1.0 - found / wanted) <= epsilon)


BuiltIn = Exact | Lines | Tokens | Floats | Json | SetEq | Lcb | SandboxFusion | Kattis | Dmoj


def lcb() -> Checker:
    """Compare as LiveCodeBench does."""
    return Lcb()


def sandbox_fusion() -> Checker:
    """Compare as SandboxFusion's common cases do."""
    return SandboxFusion()


def kattis(
    *,
    case_sensitive: bool = False,
    space_change_sensitive: bool = False,
    float_absolute: float | None = None,
    float_relative: float | None = None,
) -> Checker:
    """Compare as the default output validator of the Kattis problem format does, with its
    arguments."""
    return Kattis(
        case_sensitive=case_sensitive,
        space_change_sensitive=space_change_sensitive,
        float_absolute=float_absolute,
        float_relative=float_relative,
    )


def dmoj(*, precision: int | None = None, mode: Literal["default", "absolute", "relative"] = "default") -> Checker:
    """Compare as DMOJ's `standard` does, or with a precision as its `floats`."""
    return Dmoj(precision=precision, mode=mode)


def visible(text: str) -> str:
    """Return text that moves no cursor: what a program wrote may be in it."""
    return "".join(character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text)


# How things compare.


def _each(what: str, expected: list[Any], output: list[Any], alike: Any) -> Answer:
    for at, (one, other) in enumerate(zip(expected, output, strict=False)):
        if not alike(one, other):
            return _wrong(f"{what} {at + 1:,}", one, other)
    if len(expected) != len(output):
        return Answer(0.0, f"{len(output):,} {what}s; {len(expected):,} are expected")
    return RIGHT


def _same(what: str, expected: list[bytes], output: list[bytes]) -> Answer:
    if expected == output:
        return RIGHT
    for at, (one, other) in enumerate(zip(expected, output, strict=False)):
        if one != other:
            return _wrong(f"{what} {at + 1:,}", one, other)
    return Answer(0.0, f"{len(output):,} {what}s; {len(expected):,} are expected")


def _wrong(where: str, expected: Any, output: Any) -> Answer:
    return Answer(0.0, f"{where}: expected {_quoted(expected)}, found {_quoted(output)}"[:FEEDBACK])


def _quoted(what: Any) -> str:
    if isinstance(what, list):
        what = b" ".join(what)
    text = _text(what[:QUOTED]) if isinstance(what, bytes) else what[:QUOTED]
    return f"{text!r}{'…' * (len(what) > QUOTED)}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _number(token: bytes) -> float | None:
    """Return what Python's float makes of the token, without underscores; None if it is not a
    number."""
    try:
        return None if b"_" in token else float(token)
    except ValueError:
        return None


def _near(expected: float, output: float, rel: float, absolute: float) -> bool:
    if math.isinf(expected) or math.isinf(output):
        return expected == output
    # Written so that a NaN is never right.
    return abs(output - expected) <= absolute or abs(output - expected) <= rel * abs(expected)


def _scanned(token: bytes) -> float | None:
    """Return what C's `%lf` reads, if it reads all of the token and that is finite."""
    try:
        text = token.decode("ascii")
        value = float.fromhex(text) if "x" in text.lower() else float(text)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and "_" not in text else None


def _spaces(data: bytes) -> list[bytes]:
    """Return the white space around each token."""
    found, at = [], 0
    for token in data.split():
        begin = data.index(token, at)
        found.append(data[at:begin])
        at = begin + len(token)
    return [*found, data[at:]]


def _same_decimals(expected: str, output: str) -> bool:
    if expected == output:
        return True
    try:
        return [decimal.Decimal(token) for token in output.split()] == [decimal.Decimal(token) for token in expected.split()]
    except decimal.InvalidOperation:
        return False


def _fusion_alike(expected: str, output: str) -> bool:
    if expected == output:
        return True
    try:
        wanted, found = float(expected), float(output)
    except ValueError:
        return False
    return abs(found - wanted) / max(abs(wanted), 1e-10) < 1e-5


def _parsed(checker: Checker, expected: bytes, output: bytes) -> Answer:
    # What is expected and cannot be read is the judge's fault: it raises.
    wanted = msgspec.json.decode(expected)
    # A hostile output may nest as deeply as it likes: what builds it must say so, not end the
    # interpreter.
    try:
        value = msgspec.json.decode(output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Answer(0.0, f"the output is not valid JSON: {error}"[:FEEDBACK])
    return checker.check_value(wanted, value)


def _difference(expected: Any, value: Any, rel: float, absolute: float) -> str | None:
    """Return where two JSON values differ, or None. They may nest deeper than Python recurses."""
    left = [("", expected, value)]
    while left:
        path, one, other = left.pop()
        if isinstance(one, list) and isinstance(other, list):
            if len(one) != len(other):
                return f"{_place(path)}: {len(other):,} elements; {len(one):,} are expected"
            left += [(f"{path}[{at}]"[:QUOTED], *pair) for at, pair in reversed(list(enumerate(zip(one, other, strict=True))))]
        elif isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return f"{_place(path)}: other keys"
            left += [(f"{path}.{key:.20}"[:QUOTED], one[key], other[key]) for key in reversed(one)]
        elif not _equal(one, other, rel, absolute):
            return _at(path, one, other)
    return None


def _equal(expected: Any, value: Any, rel: float, absolute: float) -> bool:
    if type(expected) not in (int, float) or type(value) not in (int, float):
        return type(expected) is type(value) and bool(expected == value)
    try:
        return bool(expected == value) or ((rel or absolute) > 0 and _near(float(expected), float(value), rel, absolute))
    except OverflowError:
        return False


def _place(path: str) -> str:
    return f" at {path}" if path else ""


def _at(path: str, expected: Any, value: Any) -> str:
    return f"{_place(path)}: expected {_shown(expected)}, found {_shown(value)}"


def _shown(value: Any) -> str:
    return json.dumps(value)[:QUOTED] if not isinstance(value, (list, dict)) else f"a {type(value).__name__}"


def _canonical(value: Any) -> bytes:
    """Return the same text for values that are equal: 1 and 1.0 are."""
    return json.dumps(_whole(value), sort_keys=True).encode()


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return int(value) if isinstance(value, float) and value.is_integer() else value
