"""Files that come back: collected when everything is dead, without following, waiting or
believing."""

# ruff: noqa: E501 - most programs are one line each

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dayfly_runner import _files

TREE = """
import os
for path in ('a.csv', '.hidden', 'out/b.csv', 'out/c.txt', 'out/.d.csv', 'out/deep/er/e.csv', 'z.csv', '.git/f.csv'):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    open(path, 'w').write(path)
"""


@pytest.mark.parametrize(
    ("fetch", "paths", "skipped"),
    [
        (["a.csv"], ["a.csv"], {}),
        (["z.csv", "a.csv", "z.csv"], ["z.csv", "a.csv"], {}),
        (["*.csv"], ["a.csv", "z.csv"], {}),
        (["?.csv"], ["a.csv", "z.csv"], {}),
        (["out/*"], ["out/b.csv", "out/c.txt"], {}),
        (["out/.*"], ["out/.d.csv"], {}),
        (["**/*.csv"], ["a.csv", "out/b.csv", "out/deep/er/e.csv", "z.csv"], {}),
        (["out/**"], ["out/b.csv", "out/c.txt", "out/deep/er/e.csv"], {}),
        (["**"], ["a.csv", "out/b.csv", "out/c.txt", "out/deep/er/e.csv", "z.csv"], {}),
        (["*/deep/**/e.*"], ["out/deep/er/e.csv"], {}),
        ([".git/*", ".hidden"], [".git/f.csv", ".hidden"], {}),
        (["main.py"], ["main.py"], {}),
        (
            ["none", "none/a", "no*", "a.csv/b", "out"],
            [],
            {"none": "missing", "none/a": "missing", "a.csv/b": "not_regular", "out": "not_regular"},
        ),
    ],
    ids=str,
)
def test_what_is_asked_for_comes_in_its_order(fetch: list[str], paths: list[str], skipped: dict[str, str], run: Callable[..., Any]) -> None:
    ended = run(TREE, fetch=fetch)
    assert list(ended.files) == paths
    assert ended.skipped == skipped
    assert all(path == "main.py" or content.decode() == path for path, content in ended.files.items())


def test_hostile_names_and_kinds_are_skipped_not_waited_for(run: Callable[..., Any]) -> None:
    ended = run(
        """
import os, socket
os.mkfifo('fifo'); os.symlink('/etc/passwd', 'link'); os.symlink('/etc', 'linked'); os.symlink('link', 'chain')
socket.socket(socket.AF_UNIX).bind('socket'); os.mkdir('folder'); open(b'bad\\xff', 'w'); open('sparse', 'w').truncate(1 << 34)
open('shut', 'w'); os.chmod('shut', 0); open('new\\nline', 'w').write('x'); os.link('new\\nline', 'other')
os.makedirs('d/' * 20); open('d/' * 20 + 'deep', 'w')
os.mkdir('closed'); open('closed/x', 'w'); os.chmod('closed', 0)
open('last', 'w').write('last')
""",
        fetch=["*", "linked/passwd", "**"],
    )
    assert ended.stderr == b""
    assert ended.files == {"last": b"last", "new\nline": b"x", "other": b"x"}
    assert ended.skipped == {
        "bad\\xff": "name",
        "chain": "not_regular",
        "fifo": "not_regular",
        "link": "not_regular",
        "linked": "not_regular",
        "socket": "not_regular",
        "sparse": "too_large",
        "shut": "unreadable",
        "linked/passwd": "not_regular",
        "closed": "unreadable",
        "/".join("d" * 16): "name",
    }


def test_bounds_of_bytes_and_number(run: Callable[..., Any]) -> None:
    code = "for i in range(6): open(f'f{i}', 'wb').write(b'x' * 100_000)"
    ended = run(code, fetch=["*"], file_limit=250_000)
    assert list(ended.files) == ["f0", "f1"]
    assert ended.skipped == {f"f{number}": "too_large" for number in range(2, 6)}
    ended = run(code, fetch=["*"], file_count=3)
    assert list(ended.files) == ["f0", "f1", "f2"]
    assert ended.skipped == {f"f{number}": "too_many" for number in range(3, 6)}
    ended = run("for i in range(300): open(f'n{i}', 'w')", fetch=["n*"], file_count=0)
    assert (len(ended.skipped), ended.exit["skipped_dropped"]) == (100, 200)


def test_too_many_names_are_not_all_looked_at(run: Callable[..., Any]) -> None:
    ended = run("import os\nfor i in range(17_000): os.link('main.py', str(i))", fetch=["a*"], timeout_ms=60_000)
    assert ended.skipped == {".": "too_many"}


@pytest.mark.parametrize("size", [0, 1, 49_151, 49_152, 49_153, 98_304, 900_000])
def test_a_file_of_any_size_is_whole(size: int, run: Callable[..., Any]) -> None:
    ended = run(f"import os; open('f', 'wb').write(bytes(range(256)) * {size // 256} + b'x' * {size % 256})", fetch=["f"])
    assert ended.files == {"f": bytes(range(256)) * (size // 256) + b"x" * (size % 256)}


def test_files_come_after_a_timeout_and_from_dead_daemons(run: Callable[..., Any]) -> None:
    code = """
import os, time
if os.fork() == 0:
    while True: open('growing', 'a').write('x')
open('f', 'w').write('partial')
time.sleep(100)
"""
    ended = run(code, fetch=["f", "growing"], timeout_ms=400, file_limit=100_000_000)
    assert ended.exit["timed_out"]
    assert ended.files["f"] == b"partial"
    assert set(ended.files["growing"]) <= {ord("x")}


def test_what_was_put_in_comes_back_if_it_was_changed_or_named(run: Callable[..., Any]) -> None:
    files = {"same": b"1", "touched": b"1", "named": b"1", "data.json": b"1"}
    ended = run("open('touched', 'w').write('2'); open('new', 'w')", files=files, fetch=["named", "*"])
    assert ended.files == {"named": b"1", "new": b"", "touched": b"2"}


def test_a_host_that_reads_slowly_gets_every_file(start: Callable[..., Any]) -> None:
    runner = start()
    runner.hello()
    runner.run("open('f', 'wb').write(b'x' * 5_000_000)", fetch=["f"], file_limit=10_000_000)
    import time

    time.sleep(1)
    runner.started()
    assert runner.finish().files == {"f": b"x" * 5_000_000}


@pytest.mark.parametrize(("pattern", "name", "expected"), [
    ("*", "a", True), ("*", "", True), ("*", ".a", False), (".*", ".a", True), ("?", "a", True), ("?", ".", False), ("a*b*c", "aXbYbZc", True),
    ("a*b*c", "aXbYbZ", False), ("**", "ab", True), ("a?", "a", False), ("a", "a", True), ("a", "ab", False), ("[a]", "[a]", True),
    ("*.csv", ".csv", False), ("*a*a*a*a*a*b", "a" * 5_000, False),
])  # fmt: skip
def test_a_part_of_a_pattern(pattern: str, name: str, expected: bool) -> None:
    assert _files.matches(pattern, name) is expected


def test_emptying_a_folder_however_deep_and_shut(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    inner = folder
    for _ in range(600):
        os.mkdir("d", dir_fd=inner)
        following = os.open("d", os.O_RDONLY, dir_fd=inner)
        Path(f"/proc/self/fd/{following}/.1").touch()
        if inner != folder:
            os.close(inner)
        inner = following
    os.close(inner)
    for number in range(1, 4):
        (tmp_path / f".{number}").mkdir()
        (tmp_path / f".{number}" / "x").touch()
    (tmp_path / "link").symlink_to("/etc")
    _files.empty(folder)
    assert list(tmp_path.iterdir()) == []
    os.close(folder)
