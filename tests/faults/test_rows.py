"""No fault is forgotten: each row of rows.toml names tests that exist, and what is left out of it
has its reason."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TESTS = Path(__file__).parent.parent
PAGE = tomllib.loads((Path(__file__).parent / "rows.toml").read_text())


def test_every_row_is_covered_or_has_its_reason() -> None:
    assert PAGE.keys() == {"rows", "covered", "not_here"}
    assert PAGE["rows"].keys() == PAGE["covered"].keys() | PAGE["not_here"].keys()
    assert all(PAGE["rows"].values()) and all(PAGE["covered"].values()) and all(PAGE["not_here"].values())


def test_the_tests_that_are_named_exist() -> None:
    for tests in PAGE["covered"].values():
        for test in tests:
            file, _, name = test.partition("::")
            text = (TESTS / file).read_text()
            assert not name or re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), test
