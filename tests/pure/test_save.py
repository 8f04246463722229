"""What came out is written below one folder and nowhere else, whatever the paths are and whatever
lies in the folder."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dayfly._save import save


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder beside which nothing may change, and in which no descriptor may be left open."""
    (tmp_path / "out").mkdir()
    (tmp_path / "secret").write_text("untouched")
    (tmp_path / "elsewhere").mkdir()
    opened = len(list(Path("/proc/self/fd").iterdir()))
    yield tmp_path / "out"
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert (tmp_path / "secret").read_text() == "untouched"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out", "secret"]


def tree(folder: Path) -> dict[str, bytes]:
    """Return the regular files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def test_files_and_their_folders_are_made(out: Path) -> None:
    files = {"a": b"1", "b/c": b"", "b/d/e": bytes(range(256)), "x" * 255: b"2", "/".join("d" * 16): b"3"}
    assert save(files, str(out)) == {}
    assert tree(out) == files
    assert all(path.stat().st_mode & 0o111 == 0 for path in out.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "name", ["-rf", " ", "new\nline", "\x1b[2J", "~", "$(id)", "..x", "C:\\x", "\u202egnp.exe", "nul", ";", "*", "\xe9"]
)
def test_a_name_is_a_name_and_nothing_more(out: Path, name: str) -> None:
    assert save({name: b"1", f"{name}2/{name}": b"2"}, str(out)) == {}
    assert tree(out) == {name: b"1", f"{name}2/{name}": b"2"}


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../secret",
        "a/../../secret",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "a\0b",
        "\udcff",
        "x" * 256,
        "d/" * 16 + "f",
        "é" * 513,
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(out: Path, path: str) -> None:
    assert list(save({path: b"x", "fine": b"1"}, str(out), replace=True)) == [path]
    assert tree(out) == {"fine": b"1"}


@pytest.mark.parametrize("replace", [False, True])
def test_no_planted_link_is_followed(out: Path, replace: bool) -> None:
    planted = {"secret": "../secret", "dangling": "../new", "loop": "loop", "folder": "../elsewhere", "here": "."}
    for name, target in planted.items():
        (out / name).symlink_to(target)
    (out / "second name").hardlink_to(out.parent / "secret")
    files = dict.fromkeys(["secret", "dangling", "loop", "second name", "folder/a", "folder/b/c", "here/d"], b"new")
    left = save(files, str(out), replace=replace)
    through = {"folder/a", "folder/b/c", "here/d"}
    assert set(left) == (through if replace else set(files))
    assert {left[path] for path in through} == {"Not a directory"}
    expected = dict.fromkeys(["secret", "dangling", "loop", "second name"], b"new") if replace else {"second name": b"untouched"}
    assert tree(out) == expected


def test_what_is_there_is_left_alone_unless_replaced(out: Path) -> None:
    (out / "file").write_bytes(b"old")
    (out / "file").chmod(0o444)
    (out / "folder").mkdir()
    os.mkfifo(out / "fifo")
    files = dict.fromkeys(["file", "folder", "fifo", "file/x"], b"new")
    assert save(files, str(out)) == dict.fromkeys(["file", "folder", "fifo"], "File exists") | {"file/x": "Not a directory"}
    assert tree(out) == {"file": b"old"}
    assert save(files, str(out), replace=True) == {"folder": "Is a directory", "file/x": "Not a directory"}
    assert tree(out) == {"file": b"new", "fifo": b"new"}


def test_the_folder_itself_may_be_a_link_of_the_callers(out: Path) -> None:
    (out / "real").mkdir()
    (out / "link").symlink_to("real")
    assert save({"a": b"1"}, str(out / "link")) == {}
    assert tree(out) == {"real/a": b"1"}


@pytest.mark.parametrize("into", ["none", "file"])
def test_a_folder_that_is_none_is_an_error(out: Path, into: str) -> None:
    (out / "file").write_text("")
    with pytest.raises(OSError, match=into):
        save({"a": b"1"}, str(out / into))


def test_a_file_is_there_whole_or_not_at_all(out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        left = save({"large": b"x" * 300_000, "small": b"y"}, str(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert left == {"large": "File too large"}
    assert tree(out) == {"small": b"y"}
