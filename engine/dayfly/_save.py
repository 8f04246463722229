"""What came out of a sandbox, written to files below one folder of the host's.

Paths and contents are a program's choice, and links may lie in the folder. So each folder of a path
is entered by its descriptor, no link is followed, and a file is made new or not at all. What is
there already is left alone, or removed first where that is asked for: nothing is written through a
second name of it either.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from ._messages import path_problem

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _ROOT | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def save(files: Mapping[str, bytes], into: str, *, replace: bool = False) -> dict[str, str]:
    """Write files, given by path, below the folder `into`. Return the paths that were not written,
    each with the reason.

    `replace`: remove what has the name of a file, unless it is a folder. OSError if `into` is not
    a folder.
    """
    not_written: dict[str, str] = {}
    root = os.open(into, _ROOT)
    try:
        for path, content in files.items():
            if problem := path_problem(path):
                not_written[path] = f"its path {problem}"
                continue
            try:
                _write(root, path, content, replace=replace)
            except OSError as error:
                not_written[path] = os.strerror(error.errno or 0)
    finally:
        os.close(root)
    return not_written


def _write(root: int, path: str, content: bytes, *, replace: bool) -> None:
    *folders, name = path.split("/")
    with contextlib.ExitStack() as opened:
        folder = root
        for part in folders:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, dir_fd=folder)
            folder = os.open(part, _FOLDER, dir_fd=folder)
            opened.callback(os.close, folder)
        if replace:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        number = os.open(name, _NEW, 0o666, dir_fd=folder)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
        except OSError:
            os.unlink(name, dir_fd=folder)  # a part of it would pass for the whole
            raise
