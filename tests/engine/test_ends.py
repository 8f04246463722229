"""The programs of tests/runner/ends in a container: each run by a plain interpreter there, and in a
session.

What a container is made of may differ from the host's Python, and so may the end.
"""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from dayfly import Result, Sandbox, Session, SessionLost

from ..runner.test_end import PROGRAMS, Program

PLAIN = """
import base64, json, os, subprocess, sys
found = {}
for name, files in json.load(open("programs.json")).items():
    folder = "plain"
    for path, data in files.items():
        path = folder + "/" + path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").write(base64.b64decode(data))
    done = subprocess.run([sys.executable, "-u", "main.py"], cwd=folder, input=b"", capture_output=True, start_new_session=True)
    found[name] = done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    subprocess.run(["rm", "-rf", folder])
json.dump(found, open("found.json", "w"))
"""


def normal(text: str) -> str:
    text = re.sub(r"0x[0-9a-f]{6,}", "0x", text.replace("/sandbox/plain", "/sandbox"))
    return re.sub(r"(pid=|started |in )[0-9.]+s?\b", r"\1", text)


def run(sandbox: Sandbox, sessions: list[Session], program: Program) -> Result:
    """Run in the last session, or in a new one, where a program has spoilt it."""
    try:
        return sessions[-1].run(program.code, files=program.files, clean=True)
    except (IndexError, SessionLost):
        sessions.append(sandbox.session(max_runs=1_000))
        sessions[-1].open()
        return sessions[-1].run(program.code, files=program.files, clean=True)


@pytest.mark.timeout(600)
def test_ends_in_a_container_are_plain(image: str) -> None:
    wrong = []
    with Sandbox(image=image, timeout_ms=300_000, pool_size=1) as sandbox:
        # msgspec writes bytes as base64.
        programs = msgspec.json.encode({name: {**program.files, "main.py": program.code.encode()} for name, program in PROGRAMS.items()})
        plain = json.loads(sandbox.run(PLAIN, files={"programs.json": programs}, fetch=["found.json"]).files["found.json"])
        sessions: list[Session] = []
        for name, program in PROGRAMS.items():
            result = run(sandbox, sessions, program)
            code = -result.signal if result.signal else result.exit_code
            found = code, normal(result.stdout), normal(result.stderr)
            exit_code, stdout, stderr = plain[name]
            if found != (exit_code, normal(stdout), normal(stderr)):
                wrong.append((name, found, plain[name]))
    assert not wrong, repr(wrong)


def test_the_end_in_a_container_is_short(image: str) -> None:
    """The program finds, by hidden names, what the callback calls last, and puts a call of its own
    there."""
    code = """
import os, sys
objects = getattr(__import__("g" + "c"), "get_obj" + "ects")()
del sys.modules["g" + "c"]
(names,) = [o for o in objects if type(o) is dict and "freeze" in o and "marker" in o]
names["freeze"] = lambda: os.write(1, b"short")
del objects, names
"""
    with Sandbox(image=image, pool_size=1) as sandbox, sandbox.session() as session:
        assert [sandbox.run(code).stdout, session.run(code).stdout, session.run(code).stdout] == ["short"] * 3
