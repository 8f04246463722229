"""What dayfly logs: each step of a container with its short id and a time, nothing of a program,
and nothing at all where nobody asked for it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from dayfly import DayflyError, Limits, Sandbox
from dayfly.judge import Case

SECRET = "cAnArY"
CODE = f"""
import os, sys, sandbox
given = sys.stdin.read()
print("out-{SECRET}", given, sys.argv, os.environ["V"])
print("err-{SECRET}", file=sys.stderr)
sandbox.send({{"sent": "{SECRET}"}})
sandbox.display("{SECRET}")
open("out-{SECRET}.txt", "w").write("{SECRET}")
"""
GIVEN: Any = {
    "stdin": f"in-{SECRET}",
    "args": [f"arg-{SECRET}"],
    "env": {"V": f"env-{SECRET}"},
    "files": {f"in-{SECRET}.txt": f"file-{SECRET}".encode()},
    "fetch": [f"*{SECRET}*"],
}
ENDS = {
    "as it should": "",
    "with an error": f"raise ValueError('{SECRET}')",
    "by a signal": "os.kill(os.getpid(), 11)",
    "by its memory": "x = 'x' * 10**9",
    "by its deadline": "while True: pass",
    "by its output": f"print('{SECRET}' * 10**6)",
}
ID = re.compile(r"[0-9a-f]{12}")


@pytest.mark.parametrize("end", ENDS)
def test_nothing_of_a_program_is_logged(end: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    code = CODE + ENDS[end]
    with Sandbox(1, timeout_ms=1_500, limits=Limits(on_output_limit="kill")) as sandbox:
        results = [sandbox.run(code, **GIVEN), sandbox.run(code, on_output=lambda _: None, **GIVEN)]
        with sandbox.session(max_runs=3) as session:
            results += [session.run(code, **GIVEN), session.run(code, clean=True, **GIVEN)]
        sandbox.judge(code, [Case(stdin=f"in-{SECRET}", expected=f"out-{SECRET}")])
    assert SECRET in repr(results), "the programs have run"
    assert SECRET not in caplog.text


def test_nothing_of_a_program_that_is_given_up_is_logged(caplog: pytest.LogCaptureFixture, engine: Any) -> None:
    caplog.set_level(logging.DEBUG)

    def stop(_: object) -> None:
        raise KeyError(SECRET)

    forever = CODE + "sys.stdout.flush()\nwhile True: pass"
    with Sandbox(1, max_containers=2) as sandbox:
        with pytest.raises(KeyError):
            sandbox.run(forever, on_output=stop, **GIVEN)
        for _ in sandbox.stream(forever, **GIVEN):
            break
        with sandbox.session() as session, pytest.raises(KeyError):
            session.run(forever, on_output=stop, **GIVEN)
        with pytest.raises(DayflyError):
            for _ in sandbox.stream(forever, **GIVEN):
                for row in engine.containers(os.getpid()):
                    engine.call("POST", f"/containers/{row['Id']}/kill")
    assert SECRET not in caplog.text


def test_each_step_of_a_container_is_logged_with_a_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="dayfly")
    with Sandbox(1) as sandbox:
        sandbox.run("print(1)")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    leased = next(text for text in said if "leased" in text)
    short = leased.partition(":")[0]
    assert ID.fullmatch(short)
    mine = [text.partition(": ")[2] for text in said if text.startswith(f"{short}:")]
    for step, text in zip(["created as", "attached after", "ready after", "leased after", "ended by itself in"], mine, strict=True):
        assert text.startswith(step)
        assert re.search(r"[0-9.]+ ms$", text)
    info = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [text.split(maxsplit=1)[0].rstrip(":") for text in info] == ["initialized", "closed"]
    assert {record.name.partition(".")[0] for record in caplog.records if record.levelno >= logging.INFO} == {"dayfly"}


@pytest.mark.parametrize("module", ["dayfly", "dayfly.remote", "dayfly.judge"])
def test_a_warning_goes_nowhere_where_nobody_listens(module: str) -> None:
    """Without a NullHandler, logging would write it to stderr."""
    program = f"""
    import logging, {module}
    logging.getLogger("dayfly.pool").warning("a warning")
    logging.getLogger("another").warning("is shown")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "is shown\n"
