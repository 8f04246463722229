"""Cases: many of them with what they have in common, from the formats of others and from
folders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ._cases import Call, Case, CaseLimits, Chosen, Group, check_cases
from ._checkers import Checker, kattis, lcb, sandbox_fusion
from ._programs import Program

ANSWERS = (".ans", ".out")
"""How the file of what is expected may end."""


class Cases(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """Cases with their groups, checker and limits: what a folder or another judge's format says."""

    cases: Sequence[Case]
    groups: Sequence[Group] = ()
    checker: Chosen = None
    limits: CaseLimits | None = None

    def __post_init__(self) -> None:
        check_cases(self.cases, self.groups)

    def __len__(self) -> int:
        return len(self.cases)

    @classmethod
    def from_lcb(cls, tests: Mapping[str, Any] | str) -> Cases:
        """Return the cases of LiveCodeBench's shape, as a dict or its JSON: `inputs`, `outputs`,
        and `fn_name` or None.

        With `fn_name` an input is one JSON value a line, each an argument, and an output is JSON.
        `assert_case`, a list of sources, makes a case of each. The checker is `lcb()`. ValueError
        for what is not of this shape.
        """
        shape = _mapping(tests, "inputs, outputs, fn_name, assert_case")
        name, asserts = shape.get("fn_name"), shape.get("assert_case") or ()
        inputs, outputs = shape.get("inputs") or (), shape.get("outputs") or ()
        if len(inputs) != len(outputs):
            raise ValueError(f"there are {len(inputs):,} inputs and {len(outputs):,} outputs")
        cases = [Case(asserts=source) for source in asserts]
        for index, (given, expected) in enumerate(zip(inputs, outputs, strict=True)):
            try:
                if name is None:
                    cases.append(Case(stdin=given, expected=expected))
                else:
                    args = [json.loads(line) for line in given.split("\n")]
                    cases.append(Case(call=Call(name, args), expected=json.loads(expected)))
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"input or output {index}: {error}") from None
        return cls(cases=cases, checker=lcb())

    @classmethod
    def from_sandbox_fusion(cls, tests: Sequence[Mapping[str, Any]] | str) -> Cases:
        """Return the cases of SandboxFusion's shape:
        `[{"input": {"stdin": …}, "output": {"stdout": …}}]`, or its JSON.

        The checker is `sandbox_fusion()`. ValueError for what is not of this shape.
        """
        rows = json.loads(tests) if isinstance(tests, str) else tests
        try:
            cases = [Case(stdin=row["input"].get("stdin", ""), expected=row["output"].get("stdout", "")) for row in rows]
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"a case needs input.stdin and output.stdout: {error!r}") from None
        return cls(cases=cases, checker=sandbox_fusion())

    @classmethod
    def from_folder(cls, path: str | Path) -> Cases:
        """Read a folder: a problem of the Kattis or ICPC format, if it has `problem.yaml`; else
        pairs of `*.in` and `*.ans` or `*.out`.

        Of a problem are read `data/sample`, `data/secret` and its groups, the time limit, the flags
        of the default validator, and a validator in `output_validators` that is written in Python.
        Memory is the sandbox's. OSError, and ValueError for what cannot be judged here, naming the
        file. A problem needs PyYAML: the extra `judge`.
        """
        folder = Path(path)
        if (folder / "problem.yaml").is_file():
            return _problem(folder)
        return cls(cases=list(_pairs(folder, group="", points=1.0)))


def _mapping(tests: Mapping[str, Any] | str, names: str) -> Mapping[str, Any]:
    shape = json.loads(tests) if isinstance(tests, str) else tests
    if not isinstance(shape, Mapping) or not shape.keys() <= set(names.split(", ")):
        raise ValueError(f"expected an object with {names}")
    return shape


def _pairs(folder: Path, *, group: str, points: float, prefix: str = "") -> Iterator[Case]:
    found = sorted(folder.glob("*.in"))
    if not found:
        raise ValueError(f"{folder} has no file *.in")
    for file in found:
        answer = next((file.with_suffix(suffix) for suffix in ANSWERS if file.with_suffix(suffix).is_file()), None)
        if answer is None:
            raise ValueError(f"{file} has no answer beside it: {' or '.join(file.stem + suffix for suffix in ANSWERS)}")
        args, beside = file.with_suffix(".args"), file.with_suffix(".files")
        yield Case(
            stdin=file.read_bytes(),
            expected=answer.read_bytes(),
            args=shlex.split(args.read_text("utf-8")) if args.is_file() else (),
            files={str(one.relative_to(beside)): one.read_bytes() for one in sorted(beside.rglob("*")) if one.is_file()},
            name=prefix + file.stem,
            group=group,
            points=points,
        )


def _problem(folder: Path) -> Cases:
    settings = _yaml(folder / "problem.yaml")
    limits = settings.get("limits") or {}
    seconds = limits.get("time_limit")
    if (old := folder / ".timelimit").is_file():
        seconds = float(old.read_text("ascii"))
    output = limits.get("output")
    cases: list[Case] = []
    groups: list[Group] = []
    for part in ("sample", "secret"):
        inside = folder / "data" / part
        subfolders = sorted(sub for sub in inside.iterdir() if sub.is_dir() and any(sub.glob("*.in"))) if inside.is_dir() else []
        if any(inside.glob("*.in")):
            cases += _pairs(inside, group=part, points=1.0, prefix=f"{part}/")
            groups.append(Group(part))
        for sub in subfolders:
            group, members = _group(part, sub)
            groups.append(group)
            cases += members
    return Cases(
        cases=cases,
        groups=groups,
        checker=_validator(folder, settings),
        limits=CaseLimits(
            cpu_ms=None if seconds is None else float(seconds) * 1_000,
            output_bytes=None if output is None else int(float(output) * 2**20),
        ),
    )


def _group(part: str, folder: Path) -> tuple[Group, list[Case]]:
    name = f"{part}/{folder.name}"
    settings = next((_yaml(file) for file in (folder / "test_group.yaml", folder / "testdata.yaml") if file.is_file()), {})
    require = settings.get("require_pass") or ()
    if isinstance(require, str):
        require = [require]
    low_high = str(settings.get("range", "")).split()
    most = settings.get("max_score", low_high[1] if len(low_high) == 2 else None)
    how = {"pass-fail": "all", "min": "min", "sum": "sum"}.get(
        str(settings.get("score_aggregation", "pass-fail" if most is not None else "sum"))
    )
    if how is None:
        raise ValueError(f"{folder}: score_aggregation must be pass-fail, sum or min")
    members = list(_pairs(folder, group=name, points=1.0, prefix=f"{name}/"))
    return Group(name, require=tuple(require), score=how, points=None if most is None else float(most)), members  # type: ignore[arg-type]


def _validator(folder: Path, settings: Mapping[str, Any]) -> Checker:
    flags = settings.get("validator_flags") or settings.get("output_validator_args") or ""
    words = tuple(flags.split() if isinstance(flags, str) else map(str, flags))
    custom = folder / "output_validators"
    files = sorted(file for file in custom.rglob("*") if file.is_file()) if custom.is_dir() else []
    if files:
        if len(files) != 1 or files[0].suffix != ".py":
            raise ValueError(f"{custom}: a validator must be one Python file; it has {', '.join(file.name for file in files)}")
        return Program(code=files[0].read_text("utf-8"), protocol="kattis", args=words)
    if str(settings.get("validation", "default")).startswith("custom"):
        raise ValueError(f"{folder}: validation is custom, and output_validators has no program")
    try:
        return _default_validator(words)
    except ValueError as error:
        raise ValueError(f"{folder}: the default validator: {error}") from None


def _default_validator(words: Sequence[str]) -> Checker:
    chosen: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if word in ("case_sensitive", "space_change_sensitive"):
            chosen[word] = True
        elif word in ("float_tolerance", "float_absolute_tolerance", "float_relative_tolerance"):
            bound = float(next(rest, "nan"))
            chosen |= {name: bound for name in ("float_absolute", "float_relative") if word in ("float_tolerance", f"{name}_tolerance")}
        else:
            raise ValueError(f"it has no flag {word!r:.80}")
    return kattis(**chosen)


def _yaml(file: Path) -> dict[str, Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra of its own
    except ModuleNotFoundError:
        raise ValueError(f"{file} needs PyYAML: pip install 'dayfly[judge]'") from None
    try:
        found = yaml.safe_load(file.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(found or {}, dict):
        raise ValueError(f"{file} must hold a mapping")  # noqa: TRY004 - as documented
    return found or {}
