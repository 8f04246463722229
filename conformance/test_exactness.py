"""Programs behave as under `python3 -u main.py` in a plain container: stdout, stderr and exit
status, to the byte.

The corpus is a folder of programs. Both sides run each of them: the implementation, and the oracle
in a container of the same image with the same working directory, environment and host name. What
differs nevertheless, and why that is accepted, is listed in `corpus/ACCEPTED.toml`; an entry there
that does not differ any more fails too.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
import tomllib
from conformance.conftest import Box
from conformance.oracle import PlainContainer
from conformance.report import clause

CORPUS = Path(__file__).parent / "corpus"
PROGRAMS = sorted(CORPUS.glob("*.py"))
ACCEPTED: dict[str, str] = tomllib.loads((CORPUS / "ACCEPTED.toml").read_text())


@clause("exact.corpus")
def test_the_corpus_is_large_enough_and_its_exceptions_are_of_it() -> None:
    assert len(PROGRAMS) >= 60
    assert ACCEPTED.keys() <= {program.stem for program in PROGRAMS}


def _without_addresses(output: bytes) -> bytes:
    """The one thing that no two starts of the same program have in common: where the kernel put its
    memory."""
    return re.sub(rb"0x[0-9a-f]{8,16}\b", b"0x...", output)


@clause("exact.corpus")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_exactly_as_plain_python(box: Box, plain: PlainContainer, program: Path) -> None:
    code = program.read_bytes()
    status, stdout, stderr = plain.run(["python3", "-u", "main.py"], {"main.py": code})
    assert status is not None, "the program of the corpus does not end by itself"
    answer = box.run({"code": code.decode(), "timeoutMs": 60_000})
    expected = status, _without_addresses(stdout), _without_addresses(stderr)
    got = (
        answer["exitCode"] if answer["signal"] is None else -answer["signal"],
        _without_addresses(base64.b64decode(answer["stdoutRaw"]) if answer["stdoutRaw"] else answer["stdout"].encode()),
        _without_addresses(base64.b64decode(answer["stderrRaw"]) if answer["stderrRaw"] else answer["stderr"].encode()),
    )
    if program.stem in ACCEPTED:
        assert got != expected, "this difference is accepted, and there is none"
    else:
        assert got == expected
