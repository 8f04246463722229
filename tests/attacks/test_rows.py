"""No attack is forgotten: each row of rows.toml is covered by a program or a test that exists, or
has its reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from .harness import cases

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TESTS = Path(__file__).parent.parent
PAGE = tomllib.loads((Path(__file__).parent / "rows.toml").read_text())
BY_PROGRAM = {row for _, case in cases().values() for row in case.covers}


def test_every_row_is_covered_or_has_its_reason() -> None:
    assert PAGE.keys() == {"rows", "elsewhere", "not_here"}
    assert PAGE["rows"].keys() == BY_PROGRAM | PAGE["elsewhere"].keys() | PAGE["not_here"].keys()
    assert not (BY_PROGRAM | PAGE["elsewhere"].keys()) & PAGE["not_here"].keys()


def test_the_tests_that_are_named_exist() -> None:
    for tests in PAGE["elsewhere"].values():
        assert tests
        for test in tests:
            file, _, name = test.partition("::")
            assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), test


def test_every_program_says_what_it_tries() -> None:
    found = cases()
    assert len({path for path, _ in found.values()}) > 70
    for path, case in found.values():
        assert re.search(r'^"""[^"]+\."""$', path.read_text(), re.MULTILINE), path
        assert case.outcomes, path
