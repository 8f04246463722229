"""Cases: many of them with what they have in common, from the formats of others and from
folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ._cases import Call, Case, CaseLimits, Chosen, Group, check_cases
from ._checkers import lcb, sandbox_fusion
from ._problem import pair, problem


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
        for key in ("inputs", "outputs", "assert_case"):
            if not isinstance(shape.get(key) or (), (list, tuple)):
                raise ValueError(f"{key} must be an array, not {shape[key]!r:.80}")  # noqa: TRY004 - it may be JSON
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

        Of a problem are read `data/sample` and `data/secret` with their groups, arguments and
        scores, the time limit, and the validator: the default one, or a Python file of the
        problem's own, which talks to the submission if the problem is interactive. Memory is the
        sandbox's. OSError, and ValueError for what cannot be judged here, naming the file. A
        problem needs PyYAML: the extra `judge`.
        """
        folder = Path(path)
        if (folder / "problem.yaml").is_file():
            return cls(**problem(folder))
        files = sorted(folder.glob("*.in"))
        if not files:
            raise ValueError(f"{folder} has no file *.in")
        return cls(cases=[pair(file) for file in files])


def _mapping(tests: Mapping[str, Any] | str, names: str) -> Mapping[str, Any]:
    shape = json.loads(tests) if isinstance(tests, str) else tests
    if not isinstance(shape, Mapping) or not shape.keys() <= set(names.split(", ")):
        raise ValueError(f"expected an object with {names}")
    return shape
