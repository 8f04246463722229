"""Cases of a problem in the format of Kattis and ICPC, `legacy` or `2025-09`: a folder with
`problem.yaml`.

What would change a verdict or a score and is not known here is a ValueError, as are keys that the
format does not have: a folder is judged as it says, or not at all.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ._cases import Case, CaseLimits, Group
from ._checkers import Checker, kattis
from ._programs import Interactor, Program

ANSWERS = (".ans", ".out")
"""How the file of what is expected may end."""

_TEXTS = {"author", "credits", "embargo_until", "keywords", "license", "name", "rights_owner", "source", "source_url", "uuid", "version"}
_PROBLEM = {"problem_format_version", "type", "limits", "validation", "validator_flags", "output_validator_args", "grading", "constants"}
# Who may submit what is not asked here.
_PROBLEM_KEYS = _TEXTS | _PROBLEM | {"languages", "allow_file_writing"}
_LIMITS = {"time_limit", "time_multiplier", "time_safety_margin", "time_multipliers", "time_resolution", "memory", "output", "code"}
_LIMIT_KEYS = _LIMITS | {"compilation_time", "compilation_memory", "validation_time", "validation_memory", "validation_output"}
_SHOWN = {"input_validator_args", "input_visualizer_args", "output_visualizer_args", "full_feedback", "hint", "description"}
_CASE_KEYS = {"args", "output_validator_args"} | _SHOWN
_NEW_GROUP = {"max_score", "score_aggregation", "require_pass"} | _CASE_KEYS
_OLD_GROUP = {
    "on_reject",
    "grading",
    "grader_flags",
    "input_validator_flags",
    "output_validator_flags",
    "accept_score",
    "reject_score",
    "range",
}
_DEEP = {"input_validator_flags", "output_validator_flags", "on_reject"}
_VERSIONS = ("2025-09", "2025-09-draft", "2023-07", "2023-07-draft", "draft")


class _Problem(NamedTuple):
    """What `problem.yaml` says."""

    folder: Path
    new: bool
    """Not `legacy`."""
    scoring: bool
    interactive: bool
    flags: tuple[str, ...]
    """Arguments of every validator."""
    validator: str | None
    """Source of a validator of the problem's own."""
    constants: Mapping[str, Any]
    included: Mapping[str, bytes]
    """Files beside the submission."""


class _Scores(NamedTuple):
    """What a group's settings say."""

    group: Group
    points: float
    """Of each case."""
    flags: tuple[str, ...]
    args: tuple[str, ...]


def problem(folder: Path) -> dict[str, Any]:
    """Return the fields of Cases."""
    file = folder / "problem.yaml"
    settings = _yaml(file, _PROBLEM_KEYS)
    limits = _mapping(settings, "limits", file, _LIMIT_KEYS)
    seconds, output = _number(limits, "time_limit", file), _number(limits, "output", file)
    if (old := folder / ".timelimit").is_file():
        seconds = float(old.read_text("ascii"))
    what = _what(folder, settings)
    cases: list[Case] = []
    groups: list[Group] = []
    flags: list[tuple[str, ...]] = []
    for name, files in _grouped(what):
        scores = _scores(what, name, len(files))
        groups.append(scores.group)
        for file in files:
            case, words = _case(what, file, scores)
            cases.append(case)
            flags.append(words)
    if not cases:
        raise ValueError(f"{folder / 'data'} has no file *.in in sample or secret")
    usual = Counter(flags).most_common(1)[0][0]
    checkers = {words: _checker(what, words) for words in set(flags)}
    return {
        "cases": [
            case if words == usual else msgspec.structs.replace(case, checker=checkers[words])
            for case, words in zip(cases, flags, strict=True)
        ],
        "groups": groups,
        "checker": checkers[usual],
        "limits": CaseLimits(
            cpu_ms=None if seconds is None else seconds * 1_000,
            output_bytes=None if output is None else int(output * 2**20),
        ),
    }


def pair(file: Path, included: Mapping[str, bytes] | None = None, **changes: Any) -> Case:
    """Return the case of a file `*.in`: what is expected, arguments and files are beside it."""
    answer = next((file.with_suffix(suffix) for suffix in ANSWERS if file.with_suffix(suffix).is_file()), None)
    if answer is None:
        raise ValueError(f"{file} has no answer beside it: {' or '.join(file.stem + suffix for suffix in ANSWERS)}")
    args = file.with_suffix(".args")
    fields: dict[str, Any] = {
        "stdin": file.read_bytes(),
        "expected": answer.read_bytes(),
        "args": shlex.split(args.read_text("utf-8")) if args.is_file() else (),
        "files": {**(included or {}), **folder_files(file.with_suffix(".files"))},
        "name": file.stem,
    }
    return Case(**{**fields, **changes})


def folder_files(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder, if there is one."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in _visible(folder)}


def _visible(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in found if not any(part.startswith(".") or part == "__pycache__" for part in file.relative_to(folder).parts)]


def _what(folder: Path, settings: Mapping[str, Any]) -> _Problem:
    file = folder / "problem.yaml"
    version = str(settings.get("problem_format_version", "legacy"))
    if version not in (*_VERSIONS, "legacy", "legacy-icpc"):
        raise ValueError(f"{file}: problem_format_version is {version!r:.80}; legacy and {_VERSIONS[0]} can be judged")
    kinds = set(_words(settings.get("type", "pass-fail"), file))
    if unknown := kinds - {"pass-fail", "scoring", "interactive"}:
        raise ValueError(f"{file}: a problem of type {', '.join(sorted(unknown))} cannot be judged")
    validation = _words(settings.get("validation", "default"), file) or ("default",)
    if validation[0] not in ("default", "custom") or set(validation[1:]) - (
        {"score", "interactive"} if validation[0] == "custom" else set()
    ):
        raise ValueError(f"{file}: validation {' '.join(validation)!r:.80} cannot be judged")
    if _mapping(settings, "grading", file, {"objective", "show_test_data_groups"}).get("objective", "max") != "max":
        raise ValueError(f"{file}: the objective of scores can only be max")
    if (folder / "static_validator").exists():
        raise ValueError(f"{folder}: static_validator cannot be judged")
    new, interactive = version in _VERSIONS, "interactive" in (*kinds, *validation)
    constants = _mapping(settings, "constants", file)
    validator = _validator(folder)
    if validator is None and (interactive or validation[0] == "custom"):
        raise ValueError(f"{folder}: the validation is {'interactive' if interactive else 'custom'}, and output_validators has no program")
    if validator is not None and not new and validation[0] == "default" and not interactive and (folder / "output_validators").is_dir():
        raise ValueError(f"{folder}: output_validators has a program, and problem.yaml lacks `validation: custom`")
    own = next((sub for sub in ("python3", "default") if (folder / "include" / sub).is_dir()), "python3")
    return _Problem(
        folder,
        new,
        "scoring" in kinds,
        interactive,
        (*_words(settings.get("validator_flags"), file), *_words(settings.get("output_validator_args"), file)),
        None if validator is None else _filled(validator, constants),
        constants,
        folder_files(folder / "include" / own),
    )


def _validator(folder: Path) -> str | None:
    files = [
        file
        for custom in (folder / "output_validator", folder / "output_validators")
        for file in _visible(custom)
        if not file.name.upper().startswith("README")
    ]
    if files and (len(files) != 1 or files[0].suffix != ".py"):
        raise ValueError(
            f"{folder}: a validator must be one Python file; there are {', '.join(str(file.relative_to(folder)) for file in files)}"
        )
    return files[0].read_text("utf-8") if files else None


def _grouped(what: _Problem) -> Iterator[tuple[str, list[Path]]]:
    """Yield the name of each group, and its files `*.in`, in their order."""
    for part in ("sample", "secret"):
        inside = what.folder / "data" / part
        found: dict[str, list[Path]] = {}
        cases = [
            file for file in _visible(inside) if file.suffix == ".in" and not any(parent.suffix == ".files" for parent in file.parents)
        ]
        for file in sorted(cases, key=lambda file: file.with_suffix("").parts):
            parts = file.relative_to(inside).parts
            below = len(parts) > 1 and not (what.new and part == "sample")
            found.setdefault(f"{part}/{parts[0]}" if below else part, []).append(file)
        yield from found.items()


def _scores(what: _Problem, name: str, count: int) -> _Scores:
    data = what.folder / "data"
    above = [data, data / "secret"] if name.startswith("secret/") else [data]
    file = _settings_file(data / name)
    if file is None and not what.new:  # the closest folder above counts
        file = next(filter(None, map(_settings_file, reversed(above))), None)
    settings, where = _group_settings(what, file), file or data / name
    outer = [_group_settings(what, _settings_file(folder)) for folder in above]
    if what.new or settings.keys() & {"max_score", "score_aggregation", "require_pass"}:
        group, points = _new_score(what, name, settings, outer[1] if len(outer) > 1 else {}, where, count=count)
    else:
        group, points = _old_score(what, name, settings, outer, where)
    flags = (*_words(settings.get("output_validator_args"), where), *_old_flags(settings, where))
    return _Scores(group, points, flags, _words(settings.get("args"), where))


def _group_settings(what: _Problem, file: Path | None) -> dict[str, Any]:
    return {} if file is None else _yaml(file, _NEW_GROUP | _OLD_GROUP, what.constants)


def _settings_file(folder: Path) -> Path | None:
    return next((file for file in (folder / "test_group.yaml", folder / "testdata.yaml") if file.is_file()), None)


def _new_score(
    what: _Problem, name: str, settings: Mapping[str, Any], above: Mapping[str, Any], where: Path, *, count: int
) -> tuple[Group, float]:
    grouped = name.startswith("secret/")
    how = str(settings.get("score_aggregation", "pass-fail" if grouped else "sum"))
    if how not in ("pass-fail", "sum", "min"):
        raise ValueError(f"{where}: score_aggregation must be pass-fail, sum or min, not {how!r:.80}")
    if what.scoring and above.get("score_aggregation", "sum") != "sum":
        raise ValueError(f"{where}: the scores of the groups of secret can only be summed")
    require = (*_words(above.get("require_pass"), where), *_words(settings.get("require_pass"), where))
    unbounded = settings.get("max_score") == "unbounded"
    if unbounded and what.scoring and how != "pass-fail":
        raise ValueError(f"{where}: scores without a maximum (max_score: unbounded) cannot be judged")
    total = None if unbounded else _number(settings, "max_score", where, 100 if what.scoring and name == "secret" else None)
    if name == "sample" and what.scoring:
        return Group(name, require=require), 0.0
    if how == "pass-fail":
        return Group(name, require=require, score="all", points=total), 1.0
    if how == "min":
        return Group(name, require=require, score="min", points=total), 1.0 if total is None else total
    return Group(name, require=require), 1.0 if total is None else total / count


def _old_score(
    what: _Problem, name: str, settings: Mapping[str, Any], outer: Sequence[Mapping[str, Any]], where: Path
) -> tuple[Group, float]:
    allowed = {"worst_error", "first_error", "sum", "min"} | ({"always_accept", "ignore_sample"} if what.scoring else set())
    for one in (*outer, settings):
        if one.get("grading", "default") != "default":
            raise ValueError(f"{where}: a grader of the problem's own cannot be judged")
        if unknown := set(_words(one.get("grader_flags"), where)) - allowed:
            raise ValueError(f"{where}: grader_flags {', '.join(sorted(unknown))} cannot be judged")
    if not what.scoring:
        return Group(name), 1.0
    around = [word for one in outer for word in _words(one.get("grader_flags"), where)]
    if "min" in around:
        raise ValueError(f"{where}: the scores of groups can only be summed")
    if _number(settings, "reject_score", where):
        raise ValueError(f"{where}: reject_score can only be 0")
    if "ignore_sample" in around and name.partition("/")[0] == "sample":
        return Group(name), 0.0
    accepted, words = _number(settings, "accept_score", where), _words(settings.get("grader_flags"), where)
    points = 1.0 if accepted is None else accepted
    if "min" in words:
        return Group(name, score="min", points=points), points
    # A group that is rejected scores nothing, unless it is always accepted. What a validator gives
    # is summed.
    return Group(name, score="sum" if "always_accept" in words or what.validator is not None else "all"), points


def _case(what: _Problem, file: Path, scores: _Scores) -> tuple[Case, tuple[str, ...]]:
    """Return a case, and the arguments of its validator."""
    data = what.folder / "data"
    own = file.with_suffix(".yaml")
    settings = _yaml(own, _CASE_KEYS) if own.is_file() else {}
    changes: dict[str, Any] = {
        "name": str(file.relative_to(data).with_suffix("")),
        "group": scores.group.name,
        "points": scores.points,
    }
    if args := _words(settings.get("args", scores.args), own):
        changes["args"] = args
    flags = _within(what, file.parent, data / scores.group.name)
    flags = scores.flags if flags is None else flags
    if "output_validator_args" in settings:
        flags = _words(settings["output_validator_args"], own)
    return pair(file, what.included, **changes), (*what.flags, *flags)


def _within(what: _Problem, folder: Path, group: Path) -> tuple[str, ...] | None:
    """Return the flags that a folder within the group sets, if there is one."""
    while folder != group:
        if (file := _settings_file(folder)) is not None:
            if what.new:
                raise ValueError(f"{file}: there are no groups in groups")
            return _old_flags(_yaml(file, _DEEP), file)
        folder = folder.parent
    return None


def _old_flags(settings: Mapping[str, Any], where: Path) -> tuple[str, ...]:
    flags = settings.get("output_validator_flags")
    return _words(flags.get("flags") if isinstance(flags, dict) else flags, where)


def _checker(what: _Problem, words: tuple[str, ...]) -> Checker:
    if what.validator is not None:
        return (Interactor if what.interactive else Program)(code=what.validator, protocol="kattis", args=words)
    try:
        return _default_validator(words)
    except ValueError as error:
        raise ValueError(f"{what.folder}: the default validator: {error}") from None


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


def _filled(text: str, constants: Mapping[str, Any]) -> str:
    for name, value in constants.items():
        text = text.replace(f"{{{{{name}}}}}", str(value))
    return text


def _words(value: Any, where: Path) -> tuple[str, ...]:
    """Return a string's words, or the elements of a list."""
    if value is None or isinstance(value, str):
        return tuple((value or "").split())
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: expected a string or a sequence of strings, not {value!r:.80}")  # noqa: TRY004 - as documented
    return tuple(map(str, value))


def _number(settings: Mapping[str, Any], name: str, file: Path, default: float | None = None) -> float | None:
    value = settings.get(name, default)
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{file}: {name} must be a finite number, not {value!r:.80}")
    return number


def _mapping(settings: Mapping[str, Any], name: str, file: Path, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Return what a key holds, {} for nothing."""
    value = settings.get(name)
    found = {} if value is None else value
    return _known(found, found if keys is None else keys, file, f"{name} must be")


def _known(found: Any, keys: Collection[str], file: Path, must: str = "it must hold") -> dict[str, Any]:
    if not isinstance(found, dict):
        raise ValueError(f"{file}: {must} a mapping, not {found!r:.80}")  # noqa: TRY004 - as documented
    if unknown := sorted(str(key) for key in found if key not in keys):
        raise ValueError(f"{file}: the key {unknown[0]!r:.80} cannot be judged")
    return found


def _yaml(file: Path, keys: Collection[str], constants: Mapping[str, Any] | None = None) -> dict[str, Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra of its own
    except ModuleNotFoundError:
        raise ValueError(f"{file} needs PyYAML: pip install 'dayfly[judge]'") from None
    try:
        found = yaml.safe_load(_filled(file.read_text("utf-8"), constants or {}))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from None
    return _known({} if found is None else found, keys, file)
