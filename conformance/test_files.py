"""Files in and out."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from conformance.conftest import OOM_UNDER_GVISOR, Box, NewBox
from conformance.oracle import DIED
from conformance.report import clause, not_applicable


def encoded(files: dict[str, bytes]) -> dict[str, str]:
    return {path: base64.b64encode(content).decode() for path, content in files.items()}


def skipped(answer: dict[str, Any]) -> dict[str, str]:
    return {entry["path"]: entry["why"] for entry in answer["filesSkipped"]}


GIVEN = {"empty": b"", "a/b/c.bin": bytes(range(256)) * 2_000, "ä 🦋/.hidden": b"1", "x" * 255: b"2", "/".join("abcdefghijklmnop"): b"3"}
LIST = """
import hashlib, json, os
found = {}
for folder, _, names in os.walk('.'):
    for name in names:
        path = os.path.normpath(os.path.join(folder, name))
        found[path] = hashlib.sha256(open(path, 'rb').read()).hexdigest()
print(json.dumps(found))
"""


@clause("files.in")
def test_given_files_are_there_when_the_program_starts(box: Box) -> None:
    import hashlib  # noqa: PLC0415
    import json  # noqa: PLC0415

    answer = box.run({"code": LIST, "files": encoded(GIVEN), "filesText": {"text.txt": "ä\n"}, "data": 1})
    found = json.loads(answer["stdout"])
    assert (answer["stderr"], found.pop("main.py") != "", found.pop("data.json")) == ("", True, hashlib.sha256(b"1").hexdigest())
    assert found == {path: hashlib.sha256(content).hexdigest() for path, content in {**GIVEN, "text.txt": "ä\n".encode()}.items()}


PATHS = ["", "/a", "../a", "a/../b", "a//b", "./a", "a/", "a\0", "main.py", "main.py/a", "x" * 256, "a/" * 16 + "a", "é" * 513, "\ud800"]


@clause("files.in", "limit.bad-job")
def test_paths_that_lead_elsewhere_cost_no_container(new_box: NewBox) -> None:
    box = new_box()
    for files in [*({path: "YQ=="} for path in PATHS), {"a": "YQ==", "a/b": "YQ=="}, {"a": "no base64"}]:
        with pytest.raises((TypeError, ValueError)):
            box.run({"code": "print(1)", "files": files})
    box.seen.catch_up()
    assert box.seen.which(DIED) == set()


MAKE = """
import os
os.makedirs('out/deep')
for path, content in (('out/a.csv', b'1'), ('out/b.txt', b'2'), ('out/deep/c.csv', bytes(range(256)) * 2000), ('out/.hidden.csv', b'3'), ('*', b'4')):
    open(path, 'wb').write(content)
open('changed', 'ab').write(b' and more')
"""


@clause("files.out")
def test_files_come_back_by_path_and_by_pattern(box: Box) -> None:
    def fetched(*fetch: str) -> dict[str, bytes]:
        job = {"code": MAKE, "fetch": fetch, "files": encoded({"same": b"old", "changed": b"old"}), "data": 1}
        answer = box.run(job)
        assert answer["stderr"] == ""
        return {path: base64.b64decode(content) for path, content in answer["files"].items()}

    deep = bytes(range(256)) * 2_000
    assert fetched("out/*.csv") == {"out/a.csv": b"1"}
    assert fetched("**/*.csv") == {"out/a.csv": b"1", "out/deep/c.csv": deep}
    assert fetched("out/?.txt", "out/.hidden.csv") == {"out/b.txt": b"2", "out/.hidden.csv": b"3"}
    assert fetched("*") == {"changed": b"old and more", "*": b"4"}, "neither main.py nor data.json, nor what is as it was given"
    assert fetched("same", "data.json") == {"same": b"old", "data.json": b"1"}
    assert fetched() == {}


@clause("files.out")
@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        ("1/0", "error"),
        ("while True: pass", "timeout"),
        ("import os; os.abort()", "signal"),
        ("x = [bytearray(b'x' * 10**6) for _ in range(300)]", "out_of_memory"),
    ],
)
def test_files_come_back_however_the_program_ends(box: Box, end: str, outcome: str, gvisor: bool) -> None:
    if gvisor and outcome == "out_of_memory":
        not_applicable(OOM_UNDER_GVISOR)
    answer = box.run(
        {"code": f"open('a', 'w').write('kept')\n{end}", "fetch": ["a", "b"], "timeoutMs": 1_000 if outcome == "timeout" else 30_000}
    )
    assert (answer["outcome"], answer["files"], skipped(answer)) == (outcome, encoded({"a": b"kept"}), {"b": "missing"})


@clause("files.bounds")
def test_files_over_the_limits_are_left_out_and_told(new_box: NewBox) -> None:
    box = new_box(limits={"file_count": 3, "file_bytes": 10_000})
    many = box.run({"code": "for n in range(5): open('f%d' % n, 'w').write('x')", "fetch": ["f*"]})
    assert (sorted(many["files"]), skipped(many)) == (["f0", "f1", "f2"], {"f3": "too_many", "f4": "too_many"})
    large = box.run({"code": "for n in range(3): open('f%d' % n, 'w').write('x' * 6000)", "fetch": ["f*"]})
    assert (large["files"], skipped(large)) == (encoded({"f0": b"x" * 6_000}), {"f1": "too_large", "f2": "too_large"})
    exact = box.run({"code": "open('a', 'w').write('x' * 10_000)\nopen('b', 'w').close()", "fetch": ["?"]})
    assert (exact["files"], skipped(exact)) == (encoded({"a": b"x" * 10_000, "b": b""}), {})
    sparse = box.run({"code": "open('a', 'w').truncate(15_000_000)", "fetch": ["a"]})
    assert (sparse["files"], skipped(sparse)) == ({}, {"a": "too_large"})
    most = box.run({"code": "for n in range(150): open('f%03d' % n, 'w').close()", "fetch": ["f*"]})
    assert (len(most["files"]), len(most["filesSkipped"]), most["filesSkippedDropped"]) == (3, 100, 47)


KINDS = """
import os, socket
os.mkdir('folder')
open('folder/inside', 'w').write('x')
os.symlink('/etc/passwd', 'link')
os.symlink('folder/inside', 'near')
os.symlink('folder', 'linked')
os.symlink('/etc', 'etc')
os.mkfifo('pipe')
socket.socket(socket.AF_UNIX).bind('socket')
os.link('folder/inside', 'hard')
open(b'\\xff', 'w').close()
"""


@clause("files.kinds")
def test_only_regular_files_come_back(box: Box) -> None:
    fetch = ["folder", "link", "near", "linked/inside", "etc/passwd", "pipe", "socket", "hard", "../etc/passwd"]
    with pytest.raises(ValueError, match="fetch"):
        box.run({"code": KINDS, "fetch": fetch})
    named = box.run({"code": KINDS, "fetch": fetch[:-1]})
    assert (named["stderr"], named["files"]) == ("", encoded({"hard": b"x"}))
    assert skipped(named) == dict.fromkeys(fetch[:-2], "not_regular")
    found = box.run({"code": KINDS, "fetch": ["**"]})
    assert found["files"] == encoded({"folder/inside": b"x", "hard": b"x"})
    assert skipped(found) == {**dict.fromkeys(["link", "near", "linked", "etc", "pipe", "socket"], "not_regular"), "\\xff": "name"}
