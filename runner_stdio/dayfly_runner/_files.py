"""The working files, as process 1 handles them: written before a program starts, collected and
wiped when it is dead.

Every name in there may be the program's choice. So each folder is entered by its descriptor, no
link is ever followed, and nothing is opened that could block. Nobody else runs meanwhile: what was
looked at stays as it was.
"""

import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

PIECE = 49152
"""Bytes of one `file` frame: a multiple of 3."""
MAX_SCANNED, MAX_SKIPPED, MAX_DEPTH, MAX_PATH = 16384, 100, 16, 1024
WIPE_TIME = 5.0
"""Seconds that wiping one folder may take."""


class Writer:
    """Writes the files of one run, piece by piece, below the folder `root` (a descriptor)."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._file = -1
        self._path = ""
        self.written: dict[str, tuple[int, ...]] = {}
        """The path of each file that is complete, and how to know that nobody has changed it."""

    def put(self, path: str, data: bytes) -> None:
        """Begin the file, or append to it if it is the one of the last call."""
        try:
            if path != self._path:
                self.close()
                self._path = path
                self._file = self._create(path)
            with memoryview(data) as view:
                done = 0
                while done < len(data):
                    done += os.write(self._file, view[done:])
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None

    def close(self) -> None:
        """Complete the last file."""
        if self._file != -1:
            self.written[self._path] = _state(os.fstat(self._file))
            os.close(self._file)
            self._file = -1

    def _create(self, path: str) -> int:
        *folders, name = path.split("/")
        folder = os.dup(self._root) if folders else self._root
        try:
            for part in folders:
                inner = _make_folder(part, folder)
                os.close(folder)
                folder = inner
            try:
                return os.open(name, _NEW, 0o666, dir_fd=folder)
            except FileExistsError:
                _remove(name, folder)
                return os.open(name, _NEW, 0o666, dir_fd=folder)
        finally:
            if folder != self._root:
                os.close(folder)


def _make_folder(name: str, folder: int) -> int:
    try:
        return _enter(name, folder)
    except FileNotFoundError:
        pass
    except OSError:
        _remove(name, folder)
    os.mkdir(name, dir_fd=folder)
    return _open_folder(name, folder)


def _open_folder(name: str, folder: int) -> int:
    """Open a folder, and no link to one."""
    # Not with O_DIRECTORY: beside it, gVisor does not heed O_NOFOLLOW.
    file = os.open(name, _READ, dir_fd=folder)
    if not stat.S_ISDIR(os.fstat(file).st_mode):
        os.close(file)
        raise NotADirectoryError(20, "Not a directory", name)
    return file


def _enter(name: str, folder: int) -> int:
    """Open a folder that may be closed even to its owner."""
    try:
        return _open_folder(name, folder)
    except PermissionError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise
        os.chmod(name, 0o700, dir_fd=folder)
        return _open_folder(name, folder)


def _remove(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):
        inner = _enter(name, folder)
        try:
            os.fchmod(inner, 0o700)
            empty(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)


def empty(root: int) -> None:
    """Remove what is in the folder `root`, a descriptor. OSError, TimeoutError among them, if
    something is left.

    However deep it is: a folder inside a folder is moved to the top before its parent goes.
    """
    end = time.monotonic() + WIPE_TIME
    number = 0
    while True:
        names = os.listdir(root)
        if not names:
            return
        for name in names:
            if time.monotonic() > end:
                raise TimeoutError(f"too much to wipe in {WIPE_TIME:g} s")
            try:
                os.unlink(name, dir_fd=root)
                continue
            except (IsADirectoryError, PermissionError):
                pass
            inner = _enter(name, root)
            try:
                os.fchmod(inner, 0o700)
                for inside in os.listdir(inner):
                    try:
                        os.unlink(inside, dir_fd=inner)
                    except (IsADirectoryError, PermissionError):
                        number = _lift(inside, inner, root, number)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=root)


def _lift(name: str, folder: int, root: int, number: int) -> int:
    """Move a folder to `root` under a name that is free there; return the last number tried."""
    os.chmod(name, 0o700, dir_fd=folder)  # its own entry ".." is written
    while True:
        number += 1
        try:
            os.rename(name, f".{number}", src_dir_fd=folder, dst_dir_fd=root)
            return number
        except (FileExistsError, NotADirectoryError):
            pass
        except OSError as error:
            if error.errno != 39:  # ENOTEMPTY
                raise


class Wiped:
    """A folder whose contents are wiped between programs, and which is then as it was at first."""

    def __init__(self, path: str) -> None:
        self.path = path
        facts = os.stat(path)
        self._mode = stat.S_IMODE(facts.st_mode)
        self._is_ours = facts.st_uid == os.geteuid()
        """Else no program can change the folder itself, nor can we."""

    def wipe(self) -> None:
        """Remove what is in it. OSError if something is left."""
        self.restore()
        root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            empty(root)
            if self._is_ours:
                for name in _attributes(root):
                    os.removexattr(root, name)
                os.utime(root)
        finally:
            os.close(root)

    def restore(self) -> None:
        """Give the folder itself the mode that it had."""
        if self._is_ours:
            os.chmod(self.path, self._mode)


def _attributes(file: int) -> "list[str]":
    try:
        return [name for name in os.listxattr(file) if name.startswith("user.")]
    except OSError:
        return []


class Collector:
    """Finds the files that are asked for, and sends them; `skip` is told what is left out."""

    def __init__(
        self,
        root: int,
        written: "dict[str, tuple[int, ...]]",
        limit: int,
        count: int,
        send: "Callable[[str, bytes, bool], None]",
        skip: "Callable[[str, str], None]",
    ) -> None:
        self._root, self._written, self._left, self._count = root, written, limit, count
        self._send, self._skip = send, skip
        self._scanned = 0
        self._seen: set[str] = set()
        self.dropped = 0
        """Skipped files that `skip` was not told of, since it had heard of MAX_SKIPPED."""
        self._skips = 0

    def collect(self, pattern: str) -> None:
        """Send what a path or a pattern names."""
        parts = pattern.split("/")
        if "*" in pattern or "?" in pattern:
            if parts[-1] == "**":
                parts.append("*")
            self._walk(self._root, "", parts, {0}, 0)
            return
        *folders, name = parts
        folder = os.dup(self._root)
        try:
            for part in folders:
                inner = _open_folder(part, folder)
                os.close(folder)
                folder = inner
            self._take(folder, name, pattern, found=False)
        except OSError as error:
            self._leave(pattern, _reason(error))
        finally:
            os.close(folder)

    def _walk(self, folder: int, prefix: str, parts: "list[str]", states: "set[int]", depth: int) -> None:
        """Look at the names in a folder. `states` are the indices in `parts` that may match a name
        here."""
        for at in range(len(parts)):
            if at in states and parts[at] == "**":
                states.add(at + 1)
        for entry in self._scan(folder, prefix):
            name = entry.name
            path = prefix + name
            if entry.is_dir(follow_symlinks=False):
                following = {at + 1 for at in states if at < len(parts) - 1 and parts[at] != "**" and matches(parts[at], name)}
                if not name.startswith("."):
                    following |= {at for at in states if parts[at] == "**"}
                if following and depth + 1 >= MAX_DEPTH:
                    self._leave(path, "name")
                elif following:
                    self._enter(folder, name, path, parts, following, depth + 1)
            elif len(parts) - 1 in states and matches(parts[-1], name):
                self._take(folder, name, path, found=True)

    def _enter(self, folder: int, name: str, path: str, parts: "list[str]", states: "set[int]", depth: int) -> None:
        try:
            inner = _open_folder(name, folder)
        except OSError as error:
            self._leave(path, _reason(error))
            return
        try:
            self._walk(inner, path + "/", parts, states, depth)
        finally:
            os.close(inner)

    def _scan(self, folder: int, prefix: str) -> "list[os.DirEntry[str]]":
        entries = []
        with os.scandir(folder) as found:
            for entry in found:
                self._scanned += 1
                if self._scanned > MAX_SCANNED:
                    self._leave(prefix or ".", "too_many")
                    break
                entries.append(entry)
        return sorted(entries, key=lambda entry: os.fsencode(entry.name))

    def _take(self, folder: int, name: str, path: str, *, found: bool) -> None:
        if path in self._seen:
            return
        try:
            size = len(path.encode())
        except UnicodeEncodeError:
            size = MAX_PATH + 1
        if size > MAX_PATH:
            self._leave(path, "name")
            return
        try:
            file = os.open(name, _READ, dir_fd=folder)
        except OSError as error:
            self._leave(path, _reason(error))
            return
        try:
            facts = os.fstat(file)
            if found and (path in ("main.py", "data.json") or self._written.get(path) == _state(facts)):
                return
            if not stat.S_ISREG(facts.st_mode):
                self._leave(path, "not_regular")
            elif self._count == 0:
                self._leave(path, "too_many")
            elif facts.st_size > self._left:
                self._leave(path, "too_large")
            else:
                self._seen.add(path)
                self._count -= 1
                self._read(file, path, facts.st_size)
        finally:
            os.close(file)

    def _read(self, file: int, path: str, size: int) -> None:
        data = os.read(file, min(size, PIECE)) if size else b""
        while True:
            size -= len(data)
            self._left -= len(data)
            following = os.read(file, min(size, PIECE)) if size and data else b""
            self._send(path, data, not following)
            if not following:
                return
            data = following

    def _leave(self, path: str, why: str) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        if self._skips == MAX_SKIPPED:
            self.dropped += 1
            return
        self._skips += 1
        self._skip(os.fsencode(path).decode("utf-8", "backslashreplace"), why)


def _reason(error: OSError) -> str:
    if error.errno in (2, 36):  # ENOENT, ENAMETOOLONG
        return "missing"
    return "unreadable" if error.errno in (1, 13, 5) else "not_regular"  # EPERM, EACCES, EIO; else a link, a socket, no folder


def _state(facts: os.stat_result) -> "tuple[int, ...]":
    # The time of the last change of the inode cannot be set from outside the kernel.
    return facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def matches(pattern: str, name: str) -> bool:
    """Tell whether a name matches a part of a pattern: "*" is any number of characters, "?" one, no
    dot at the start."""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    at = star = back = 0
    starred = False
    for_name = len(name)
    position = 0
    while position < for_name:
        if at < len(pattern) and pattern[at] == "*":
            starred, star, back = True, at, position
            at += 1
        elif at < len(pattern) and pattern[at] in ("?", name[position]):
            at += 1
            position += 1
        elif starred:
            # What did not match is given to the last star.
            back += 1
            at, position = star + 1, back
        else:
            return False
    return not pattern[at:].strip("*")
