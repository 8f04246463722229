"""Compares checkers with the code of the judges that they follow, on random pairs:
`python -m tests.parity [PAIRS]`.

It takes `dmoj` and `problemtools` from the package index, of `dmoj` only its checkers, one of which
a C compiler must translate. LiveCodeBench and SandboxFusion are not there: their comparisons are
written anew, slowly, in `tests/pure/test_judge_checkers.py`. Pairs in which the checkers differ on
purpose (docs/judge.md) are not drawn.
"""

# ruff: noqa: T201 - a command's report goes to stdout
from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from dayfly.judge import Checker, dmoj, kattis

FOLDER = Path(__file__).parents[1] / "build" / "parity"
DMOJ, PROBLEMTOOLS = "dmoj==4.1.0", "problemtools==1.20260907"
WORDS = [
    ["1", "1.0", "01", "1.0005", "1.0000004", "1e0", "+1", "2"],
    ["0", "-0.0", "0.0004", "x"],
    ["1000", "1000.5", "1001", "1e3"],
    ["yes", "YES", "Yes.", "no"],
    ["3.14159", "3.1416", "3.15", "pi"],
]
BLANKS = [" ", " ", "\n", "\n", "  ", "\t", "\n\n", " \n", "\r\n"]
Original = Callable[[bytes, bytes], bool]


def pair(rng: random.Random) -> tuple[bytes, bytes]:
    """Return what is expected, and an output that is often nearly the same."""
    words = [rng.choice(WORDS) for _ in range(rng.randrange(6))]
    blanks = [rng.choice(BLANKS) for _ in words]

    def text(changes: float) -> bytes:
        parts = [
            (rng.choice(word) if rng.random() < changes else word[0]) + (rng.choice(BLANKS) if rng.random() < changes else blank)
            for word, blank in zip(words, blanks, strict=True)
        ]
        return "".join(parts).encode()

    return text(0.3), text(0.3) + rng.choice([b"", b"", b"", b" 1", b"\n"])


def fetched(requirement: str) -> Path:
    """Return the one file that the package index has for a requirement."""
    name = requirement.partition("==")[0]
    if not (found := list(FOLDER.glob(f"{name}-*"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(FOLDER)]
        subprocess.run([*command, requirement], check=True)
        found = list(FOLDER.glob(f"{name}-*"))
    return found[0]


def dmoj_originals() -> list[tuple[Checker, Original]]:
    """Return each way of DMOJ's to compare, ours and theirs."""
    folder = FOLDER / "dmoj"
    with tarfile.open(fetched(DMOJ)) as archive:
        for member in archive.getmembers():
            if "/dmoj/checkers/" in member.name and member.isfile():
                member.name = Path(member.name).name
                archive.extract(member, folder, filter="data")
    library = folder / f"_checker{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = sysconfig.get_paths()["include"]
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", f"-I{include}", "-o", library, folder / "_checker.c"], check=True)
    # What the checkers import of the rest.
    for name in ("dmoj", "dmoj.utils", "dmoj.error", "dmoj.utils.unicode"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["dmoj.error"].InternalError = ValueError  # type: ignore[attr-defined]
    sys.modules["dmoj.utils.unicode"].utf8bytes = bytes  # type: ignore[attr-defined]
    standard, floats = loaded("_checker", library), loaded("floats", folder / "floats.py")
    found: list[tuple[Checker, Original]] = [(dmoj(), standard.standard)]
    modes: list[Literal["default", "absolute", "relative"]] = ["default", "absolute", "relative"]
    for precision in (1, 3, 6):
        for mode in modes:

            def check(expected: bytes, output: bytes, precision: int = precision, mode: str = mode) -> bool:
                return bool(floats.check(output, expected, precision=precision, error_mode=mode))

            found.append((dmoj(precision=precision, mode=mode), check))
    return found


def loaded(name: str, file: Path) -> Any:
    """Return a module from its file."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kattis_originals() -> list[tuple[Checker, Original]]:
    """Return each way of the default output validator's to compare, ours and theirs."""
    with zipfile.ZipFile(fetched(PROBLEMTOOLS)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("support/default_validator"))
        program = Path(archive.extract(name, FOLDER))
    program.chmod(0o755)
    folder = Path(tempfile.mkdtemp(dir=FOLDER))

    def original(*words: str) -> Original:
        def check(expected: bytes, output: bytes) -> bool:
            (folder / "answer").write_bytes(expected)
            command = [str(program), str(folder / "answer"), str(folder / "answer"), f"{folder}/", *words]
            status = subprocess.run(command, input=output, capture_output=True, check=False).returncode
            assert status in (42, 43), status
            return status == 42

        return check

    return [
        (kattis(), original()),
        (kattis(case_sensitive=True), original("case_sensitive")),
        (kattis(space_change_sensitive=True), original("space_change_sensitive")),
        (kattis(float_absolute=1e-3, float_relative=1e-3), original("float_tolerance", "1e-3")),
        (kattis(float_absolute=1e-3), original("float_absolute_tolerance", "1e-3")),
        (kattis(float_relative=1e-3, case_sensitive=True), original("float_relative_tolerance", "1e-3", "case_sensitive")),
    ]


def main(pairs: int) -> int:
    """Compare, print what differs, and return how many differ."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rng = random.Random(15)
    drawn = [pair(rng) for _ in range(pairs)]
    differing = 0
    for checker, original in (*dmoj_originals(), *kattis_originals()):
        theirs = [original(*one) for one in drawn]
        wrong = [one for one, right in zip(drawn, theirs, strict=True) if (checker.check(*one).score == 1.0) != right]
        print(f"{checker}: {pairs:,} pairs, {sum(theirs):,} right, {len(wrong)} differ{f': {wrong[0]}' if wrong else ''}")
        differing += len(wrong)
    return differing


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_000) > 0)
