"""API keys: made, hashed, compared, and read again when their file changes.

A key is 256 random bits, so its SHA-256 is all that has to be kept: nothing can be guessed that a
slow hash would protect. A key is looked for among all of them in constant time: the answer's delay
says nothing about any hash, nor about whose key it might be. The file has one key a line,
`name=sha256:hash`, then `rate_per_minute=N`, `rate_burst=N`, `concurrency=N` where they differ from
the server's; `#` begins a comment. A file that has become unreadable changes nothing, and says so
in the log: it must neither lock everybody out nor let anybody in.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

log = logging.getLogger("dayfly.server")

PREFIX = "dayfly_"
LOOK_AGAIN = 1.0
"""Seconds between two looks at the file's stamp."""

_NAME = r"[A-Za-z0-9_.@-]{1,64}"
_ENTRY = re.compile(rf"(?P<name>{_NAME})=sha256:(?P<hash>[0-9a-f]{{64}})(?P<own>( +[a-z_]+=[^ =]+)*)")


class Key(msgspec.Struct, frozen=True):
    """One key by its name and hash, with limits of its own where they are not None."""

    name: str
    hash: bytes
    rate_per_minute: float | None = None
    rate_burst: int | None = None
    concurrency: int | None = None


ANONYMOUS = Key("anonymous", b"")
"""Whoever comes in where no key is asked for: on loopback, without any key configured."""


def new() -> str:
    """Return a new key, to be shown once."""
    return PREFIX + secrets.token_urlsafe(32)


def line(name: str, key: str) -> str:
    """Return the line that stands for a key. ValueError for a name that cannot be one."""
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"a key's name has 1 to 64 letters, digits, and characters of _.@-: {name!r:.80} has not")
    return f"{name}=sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def parse(lines: Iterable[str], origin: str) -> tuple[Key, ...]:
    """Return the keys that `lines` stand for. ValueError names `origin`, the line's number and what
    is wrong."""
    keys: dict[str, Key] = {}
    for number, raw in enumerate(lines, 1):
        text = raw.partition("#")[0].strip()
        if not text:
            continue
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise ValueError(f"{origin}, entry {number}: not of the form name=sha256:hash (made by `dayfly serve key new`)")
        words = [word.split("=") for word in match["own"].split()]
        own = dict(words)
        if len(own) < len(words):
            raise ValueError(f"{origin}, entry {number} ({match['name']}): a limit is there twice")
        try:
            key = msgspec.convert({"name": match["name"], **own}, _Own, strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"{origin}, entry {number} ({match['name']}): {error}") from None
        if key.name in keys:
            raise ValueError(f"{origin}, entry {number}: there is a key named {key.name} already")
        keys[key.name] = Key(key.name, bytes.fromhex(match["hash"]), key.rate_per_minute, key.rate_burst, key.concurrency)
    return tuple(keys.values())


class _Own(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    rate_per_minute: float | None = None
    rate_burst: int | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if self.rate_burst is not None and self.rate_burst < 1:
            raise ValueError("rate_burst is 1 or more")
        if self.rate_per_minute is not None and not 0 <= self.rate_per_minute < math.inf:
            raise ValueError("rate_per_minute is a finite number, 0 or more")
        if self.concurrency is not None and self.concurrency < 0:
            raise ValueError("concurrency is 0 or more")


class KeyStore:
    """The keys in force. ValueError or OSError if they cannot be read at the start."""

    def __init__(self, entries: Iterable[str], file: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._fixed = parse(entries, "keys")
        self._file = None if file is None else Path(file)
        self._clock = clock
        self._stamp: tuple[int, ...] = ()
        self._keys = self._fixed
        self._looked = clock()
        self._said = ""
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._keys = self._read()
        self.open = not self._fixed and self._file is None
        """True where no key is configured at all: everybody who can reach the server may use it."""

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: str | None) -> Key | None:
        """Return the key that `secret` is; None if it is none. Looks at the file's stamp first, at
        most once a second."""
        if self._clock() - self._looked >= LOOK_AGAIN:
            self.reload(only_if_changed=True)
        if self.open:
            return ANONYMOUS
        digest = hashlib.sha256((secret or "").encode("utf-8", "surrogatepass")).digest()
        found: Key | None = None
        for key in self._keys:  # all of them, always
            if hmac.compare_digest(key.hash, digest):
                found = key
        return found

    def reload(self, *, only_if_changed: bool = False) -> None:
        """Read the file again. Never raises: what cannot be read is logged, and the keys stay."""
        self._looked = self._clock()
        if self._file is None:
            return
        try:
            stamp = _stamp(self._file)
            if only_if_changed and stamp == self._stamp:
                return
            self._stamp = stamp
            self._keys = self._read()
        except (OSError, ValueError) as error:
            if str(error) != self._said:  # once, however often it is looked at
                log.error("the keys stay as they were: %s", error)  # noqa: TRY400 - the traceback says no more
            self._said = str(error)
        else:
            self._said = ""
            log.info("keys read: %s", ", ".join(key.name for key in self._keys) or "none")

    def _read(self) -> tuple[Key, ...]:
        assert self._file is not None
        _check_mode(self._file.stat(), str(self._file))
        keys = parse(_text(self._file.read_bytes(), str(self._file)).splitlines(), str(self._file))
        twice = {key.name for key in keys} & {key.name for key in self._fixed}
        if twice:
            raise ValueError(f"{self._file}: {', '.join(sorted(twice))} is in `keys` too")
        return self._fixed + keys


def append(file: str, text: str) -> None:
    """Add a line to a file of keys; a new file has mode 0600.

    ValueError if the name is taken, the file holds no keys, is a symbolic link, or others than its
    owner may write it.
    """
    path = Path(file)
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{file} is a symbolic link; name the file itself") from None
        raise
    with os.fdopen(descriptor, "rb+") as stream:
        _check_mode(os.fstat(descriptor), file)
        old = _text(stream.read(), file)
        parse([*old.splitlines(), text], file)
        stream.write((("" if not old or old.endswith("\n") else "\n") + text + "\n").encode())


def _text(data: bytes, file: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{file} holds no keys: it is not text in UTF-8") from None


def _check_mode(status: os.stat_result, file: str) -> None:
    """ValueError unless it is a plain file that only its owner can write: who writes it has a
    key."""
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{file} is not a plain file")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ValueError(f"{file} has mode {mode:04o}: others can add keys to it; chmod go-w {file}")


def _stamp(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
