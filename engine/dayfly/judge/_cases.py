"""What is asked of a submission: cases, their groups and limits. Values only; TypeError and
ValueError for what cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET

from dayfly._job import Job
from dayfly._limits import MAX_TIMEOUT_MS, integer, number
from dayfly._result import MESSAGE_DEPTH, is_json

from ._checkers import Checker
from ._programs import SUBMISSION, AnyChecker, Interactor

if TYPE_CHECKING:
    Text = str | bytes | None
    Content = str | bytes
    Chosen = Checker | None
else:
    # What JSON may hold: one string cannot be two types, and a type of object must be known.
    Text = str | None
    Content = bytes
    Chosen = AnyChecker | None

MAX_CASES = 10_000
NAME_LENGTH = 200


WALL_FACTOR, WALL_MARGIN = 3.0, 1_000.0
"""Wall time that a CPU limit implies: times, and milliseconds on top. A waiting program must end, a
loaded host must not matter."""


class CaseLimits(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Limits of one case. None: those of the sandbox."""

    cpu_ms: float | None = None
    """Milliseconds of processor time, of all processes together. None: no limit but `wall_ms`."""
    wall_ms: float | None = None
    """Milliseconds of wall time. None: with `cpu_ms`, three times that and a second; else the
    sandbox's time-out."""
    output_bytes: int | None = None
    """Bytes of stdout, and of stderr; at most the sandbox's own limits. The program is killed at
    more."""

    def __post_init__(self) -> None:
        for name in ("cpu_ms", "wall_ms"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), least=1, most=MAX_TIMEOUT_MS)
        if self.output_bytes is not None:
            integer("output_bytes", self.output_bytes, least=1, most=2**40)

    def wall(self, otherwise: float) -> float:
        """Return the limit of wall time: what is asked for, or what `cpu_ms` implies, or
        `otherwise`."""
        if self.wall_ms is not None:
            return self.wall_ms
        return otherwise if self.cpu_ms is None else self.cpu_ms * WALL_FACTOR + WALL_MARGIN

    def over(self, other: CaseLimits) -> CaseLimits:
        """Return these limits, with the other's in place of None."""
        return CaseLimits(
            cpu_ms=self.cpu_ms if self.cpu_ms is not None else other.cpu_ms,
            wall_ms=self.wall_ms if self.wall_ms is not None else other.wall_ms,
            output_bytes=self.output_bytes if self.output_bytes is not None else other.output_bytes,
        )


class Call(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """A call of a function that the submission defines: a method of its class `Solution`, or else a
    global.

    Arguments are JSON values. The returned value is compared on the host.
    """

    function: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}

    def __post_init__(self) -> None:
        if type(self.function) is not str or not self.function.isidentifier():
            raise ValueError(f"a call needs the name of a function, not {self.function!r:.80}")
        if isinstance(self.args, (str, bytes)) or not isinstance(self.args, Sequence):
            raise TypeError(f"a call's args must be a sequence of JSON values, not {type(self.args).__name__}")
        if not isinstance(self.kwargs, Mapping):
            raise TypeError(f"a call's kwargs must be a mapping, not {type(self.kwargs).__name__}")

    def data(self) -> dict[str, Any]:
        """Return what the harness reads."""
        return {"function": self.function, "args": list(self.args), "kwargs": dict(self.kwargs)}


class Case(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One case: what the submission is given, and what is expected of it.

    What is expected never enters the submission's container.
    """

    stdin: Text = None
    """Standard input. Bytes are taken for `stdin_bytes`."""
    stdin_bytes: bytes | None = None
    expected: Any = UNSET
    """Expected output as str or bytes; for a call, the expected JSON value. UNSET: the case passes
    if the program ends with exit code 0."""
    expected_bytes: bytes | None = None
    call: Call | None = None
    """A function to call; without it the submission is run as a program."""
    asserts: str | None = None
    """Source that runs behind the submission, in its namespace: it passes if it ends without an
    exception. It is in the container, so a submission that looks for it can read what it expects: a
    hurdle, not a proof."""
    args: Sequence[str] = ()
    """`sys.argv[1:]`."""
    files: Mapping[str, Content] = {}
    """Files in the working directory, as in `Job.files`; base64 in JSON."""
    files_text: Mapping[str, str] = {}
    """The same as text, for JSON."""
    name: str = ""
    group: str = ""
    points: float = 1.0
    limits: CaseLimits | None = None
    """Limits of its own; what is None in them is the judging's."""
    checker: Chosen = None
    """A checker of its own. None: the judging's."""

    def __post_init__(self) -> None:
        if type(self.stdin) is bytes:
            msgspec.structs.force_setattr(self, "stdin_bytes", self.stdin)
            msgspec.structs.force_setattr(self, "stdin", None)
        if type(self.expected) is bytes:
            msgspec.structs.force_setattr(self, "expected_bytes", self.expected)
            msgspec.structs.force_setattr(self, "expected", UNSET)
        for name, kind in (("stdin", str), ("stdin_bytes", bytes), ("expected_bytes", bytes), ("call", Call), ("limits", CaseLimits)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"a case's {name} must be {kind.__name__} or None, not {type(value).__name__}")
        check_checker(self.checker)
        for name in ("name", "group"):
            value = getattr(self, name)
            if type(value) is not str or len(value) > NAME_LENGTH or not value.isprintable():
                raise ValueError(f"a case's {name} must be a printable str of at most {NAME_LENGTH} characters, not {value!r:.80}")
        number("points", self.points, least=0, most=1e9)
        if self.asserts is not None:
            self._check_asserts(self.asserts)
        elif self.call is not None:
            self._check_call(self.call)
        else:
            self._check_text()
        if self.stdin is not None and self.stdin_bytes is not None:
            raise ValueError("stdin and stdin_bytes are both given; one of them is enough")
        self.job(b"")  # TypeError or ValueError for args and files that no program can have

    def _check_text(self) -> None:
        if self.expected is not UNSET and not isinstance(self.expected, str):
            raise TypeError(f"expected must be a str or bytes for a case without a call, not {type(self.expected).__name__}")
        if self.expected is not UNSET and self.expected_bytes is not None:
            raise ValueError("expected and expected_bytes are both given; one of them is enough")

    def _check_asserts(self, asserts: str) -> None:
        if type(asserts) is not str:
            raise TypeError(f"asserts must be a str, not {type(asserts).__name__}")
        if self.call is not None or self.compares:
            raise ValueError("a case with asserts has neither call nor expected")
        self._check_imported()

    def _check_imported(self) -> None:
        if SUBMISSION in self.files or SUBMISSION in self.files_text:
            raise ValueError(f"the file {SUBMISSION!r} is the submission")

    def _check_call(self, call: Call) -> None:
        if self.args:
            raise ValueError("a case with a call has no args; give them to the call")
        if self.expected_bytes is not None:
            raise TypeError("expected must be a JSON value for a case with a call, not bytes")
        self._check_imported()
        # A tuple is a list here, as it is in what comes back.
        _plain("a call's arguments", call.data())
        if self.expected is not UNSET:
            msgspec.structs.force_setattr(self, "expected", _plain("expected", self.expected))

    @property
    def harness(self) -> Any:
        """What the harness is to do with the submission, as JSON; None where the submission is the
        program itself."""
        return {"asserts": self.asserts} if self.asserts is not None else None if self.call is None else self.call.data()

    @property
    def compares(self) -> bool:
        """Whether something is expected."""
        return self.expected is not UNSET or self.expected_bytes is not None

    @property
    def expected_output(self) -> bytes:
        """What is expected of stdout, as bytes."""
        if self.expected_bytes is not None:
            return self.expected_bytes
        return self.expected.encode("utf-8", "surrogatepass") if isinstance(self.expected, str) else b""

    @property
    def input(self) -> bytes:
        """Standard input as bytes."""
        return self.stdin_bytes if self.stdin_bytes is not None else _bytes(self.stdin)

    def job(self, source: str | bytes, **changes: Any) -> Job:
        """Return the Job that runs a program with this case's input."""
        given = {"stdin_bytes": self.input, "args": self.args, "files": self.files, "files_text": self.files_text}
        return Job(code=source, **{**given, **changes})


def _bytes(text: str | bytes | None) -> bytes:
    return text.encode() if isinstance(text, str) else text or b""


def _plain(what: str, value: Any) -> Any:
    """Return a value as it is after a journey through JSON. ValueError if it does not survive
    one."""
    try:
        # The standard library's encoder refuses NaN and the infinities, which msgspec writes as
        # null.
        encoded = json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} must be a JSON value: {error}") from None
    if not is_json(encoded):
        raise ValueError(f"{what} is nested deeper than {MESSAGE_DEPTH}, or holds a number that is too large or half a character")
    return msgspec.json.decode(encoded)


class Group(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """How the cases of one group score together."""

    name: str
    require: Sequence[str] = ()
    """Groups all of whose cases must have been accepted, else the cases of this one are skipped.
    They come earlier in case order."""
    score: Literal["all", "sum", "min"] = "sum"
    """all: `points` if every case is accepted. min: `points` times the smallest share of a case.
    sum: the cases' own points."""
    points: float | None = None
    """With all and min; None: the sum of its cases' points."""

    def __post_init__(self) -> None:
        if isinstance(self.require, str) or not isinstance(self.require, Sequence):
            raise TypeError(f"require must be a sequence of names, not a {type(self.require).__name__}")
        if self.score not in ("all", "sum", "min"):
            raise ValueError(f"a group's score must be 'all', 'sum' or 'min', not {self.score!r:.80}")
        if self.points is not None:
            number("points", self.points, least=0, most=1e9)


def check_checker(checker: Any) -> None:
    """TypeError for what is not a checker."""
    if checker is not None and not isinstance(checker, Checker) and not callable(checker):
        raise TypeError(f"a checker must be a Checker or a function, not {type(checker).__name__}")


def check_cases(cases: Sequence[Case], groups: Sequence[Group]) -> None:
    """TypeError or ValueError for cases and groups that do not fit together."""
    if isinstance(cases, (str, bytes)) or not isinstance(cases, Sequence):
        raise TypeError(f"cases must be a sequence of Case, not {type(cases).__name__}")
    if not 1 <= len(cases) <= MAX_CASES:
        raise ValueError(f"there are {len(cases):,} cases; from 1 to {MAX_CASES:,} are allowed")
    if wrong := [case for case in cases if not isinstance(case, Case)]:
        raise TypeError(f"cases must hold Case, not {type(wrong[0]).__name__}")
    if isinstance(groups, (str, bytes)) or not isinstance(groups, Sequence) or not all(isinstance(group, Group) for group in groups):
        raise TypeError(f"groups must be a sequence of Group, not {groups!r:.80}")
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ValueError(f"the group {next(name for name in names if names.count(name) > 1)!r:.80} is there twice")
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, case in enumerate(cases):
        first.setdefault(case.group, index)
        last[case.group] = index
    for group in groups:
        for other in group.require:
            if other not in last:
                raise ValueError(f"the group {group.name!r:.80} requires {other!r:.80}, which has no cases")
            if other == group.name or last[other] > first.get(group.name, len(cases)):
                raise ValueError(f"the group {group.name!r:.80} requires {other!r:.80}, whose cases must all come before its own")


def check_checkers(cases: Sequence[Case], checker: Checker | None) -> None:
    """ValueError where a checker cannot compare what its case gives."""
    for case in cases:
        chosen = case.checker or checker
        if isinstance(chosen, Interactor) and case.asserts is not None:
            raise ValueError(f"an Interactor talks to a program, and the case {case.name!r:.80} has asserts")
        if isinstance(chosen, Checker) and case.call is not None and not chosen.values:
            name = type(chosen).__name__
            raise ValueError(f"the checker {name} compares output, and the case {case.name!r:.80} gives a value; use Json or SetEq")
