"""The runner's half of the frame format: bytes in, frames out, and the other way round. No I/O
here.

What conformance/PROTOCOL.md says of the host's frames is enforced in this one place, to the letter:
the length before a byte of the body, then UTF-8, JSON, every member and its type. Any bytes
whatsoever, in any pieces, give frames or ProtocolError (VersionMismatch where only the version is
wrong), and nothing else.

`_json` is the C half of the standard library's json. The Python half would import re and enum,
which costs every container some milliseconds of its start and a megabyte of memory that it never
needs.
"""

from _json import encode_basestring_ascii, make_scanner
from binascii import a2b_base64, b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, NoReturn

PROTOCOL = 2
HEADER = 4
STDIN_WINDOW = 131072
"""Bytes of standard input that the host may send before it is asked for more."""
_BOUNDS = {"hello": 65536, "open": 65536, "run": 1048576, "put": 131072, "stdin": 131072, "stop": 1024}
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BLANK = " \t\n\r"


class ProtocolError(Exception):
    """The host sent what the protocol does not allow at this point."""


class VersionMismatch(ProtocolError):
    """The host speaks another version of the protocol."""


class Decoder:
    """The host's frames, in the order of the dialogue: `hello`, perhaps `open`, then for each
    program `run`, `put`, `stdin`, and in a session perhaps `stop`.

    Read `missing` bytes and `feed` them, then ask `next_frame` until it says None: more bytes are
    needed. `another` allows a further `run`, `grant` further bytes of standard input.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected: tuple[str, ...] = ("hello",)
        self._another = False
        self._in_session = self._may_stop = False
        self._credit = 0
        self._files: set[str] = set()
        self._last_path: str | None = None

    def another(self) -> None:
        """Allow one more `run`."""
        self._another = True

    def grant(self, size: int) -> None:
        """Allow so many bytes of standard input more."""
        self._credit += size

    def missing(self) -> int:
        """Return how many bytes complete what is being read: a length, or the body behind it."""
        have = len(self._buffer)
        return HEADER - have if have < HEADER else HEADER + int.from_bytes(self._buffer[:HEADER], "big") - have

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def next_frame(self) -> "dict[str, Any] | None":
        """Return the next frame as a dict, or None. Raise ProtocolError, now and at every further
        call."""
        buffer = self._buffer
        kinds = self._expected + ("stop",) * self._may_stop + ("run",) * self._another
        if not kinds:
            if buffer:
                raise ProtocolError("nothing may follow here")
            return None
        if len(buffer) < HEADER:
            return None
        length = int.from_bytes(buffer[:HEADER], "big")
        bound = max([_BOUNDS[kind] for kind in kinds])
        if not 0 < length <= bound:
            raise ProtocolError(f"length of a `{'` or `'.join(kinds)}` frame must be 1 to {bound}, not {length}")
        if len(buffer) < HEADER + length:
            return None
        with memoryview(buffer) as view:
            frame = _decode(kinds, view[HEADER : HEADER + length])
        self._follow(frame, length)
        del buffer[: HEADER + length]
        return frame

    def _follow(self, frame: "dict[str, Any]", length: int) -> None:
        """Check what depends on the frames before this one, and expect what may come next."""
        kind = frame["type"]
        if length > _BOUNDS[kind]:
            raise ProtocolError(f"length of a `{kind}` frame must be 1 to {_BOUNDS[kind]}, not {length}")
        if kind == "hello":
            self._expected, self._another = ("open",), True
        elif kind == "open":
            self._expected, self._another = (), False
            self._in_session = True
        elif kind == "run":
            self._expected, self._another = ("put",), False
            self._may_stop = False
            self._stdin, self._credit = frame["stdin"], STDIN_WINDOW
            self._files, self._last_path = set(), None
        elif kind == "put":
            path = frame["path"]
            if path != self._last_path:
                if path in self._files or len(self._files) == 1024:
                    raise ProtocolError("a file of `put` comes twice, or is one too many")
                self._files.add(path)
                self._last_path = path
            if frame["last"]:
                self._expected = ("stdin",) if self._stdin else ()
                self._may_stop = self._in_session
        elif kind == "stop":
            self._expected, self._may_stop = (), False
        else:
            self._credit -= len(frame["data"])
            if self._credit < 0:
                raise ProtocolError("more standard input than was asked for")
            if frame["last"]:
                self._expected = ()


def _decode(kinds: "tuple[str, ...]", body: memoryview) -> "dict[str, Any]":
    members: dict[str, Any]
    expected = "` or `".join(kinds)
    try:
        text = str(body, "utf-8")
        start = len(text) - len(text.lstrip(_BLANK))
        members, end = _scan(text, start)
    # A missing value is a StopIteration, a deep nest a RecursionError; the rest are ValueErrors, or
    # rather would be: the C half takes JSONDecodeError from json.decoder, and where that is not
    # loaded, as here, it fails without any exception, which is a SystemError.
    except (ValueError, StopIteration, RecursionError, SystemError) as error:
        raise ProtocolError(f"body of a `{expected}` frame: {type(error).__name__}: {error}") from None
    if text[end:].strip(_BLANK):
        raise ProtocolError(f"body of a `{expected}` frame: more than one JSON value")
    kind = members.get("type") if type(members) is dict else None
    if type(kind) is not str or kind not in kinds:
        raise ProtocolError(f"expected a `{expected}` frame")
    if kind == "hello" and type(members.get("protocol")) is int and members["protocol"] != PROTOCOL:
        raise VersionMismatch("the runner speaks protocol {}, the host {}".format(PROTOCOL, members["protocol"]))
    table = _MEMBERS[kind]
    if members.keys() != table.keys():
        names = ", ".join(sorted(members.keys() ^ table.keys()))
        raise ProtocolError(f"`{kind}` frame: missing or unknown: {names:.200}")
    for name, value in members.items():
        try:
            members[name] = table[name](value)
        except _Wrong as error:
            raise ProtocolError(f"`{kind}` frame: `{name}` must be {error}") from None
    return members


class _Wrong(Exception):
    """Said of a member: what it should have been."""


def _text(value: object) -> str:
    # A lone surrogate, from an escape, is not text: it cannot be written as UTF-8.
    try:
        if type(value) is str and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise _Wrong("a string")


def _bytes(value: object) -> bytes:
    encoded = _text(value).encode()
    # a2b_base64 skips what is not of the alphabet (its strict mode is of 3.11), so the alphabet is
    # asked for by name.
    padding = encoded.translate(None, _BASE64)
    if len(encoded) % 4 or padding not in (b"", b"=", b"==") or not encoded.endswith(padding):
        raise _Wrong("a base64 string")
    data = a2b_base64(encoded)
    if len(data) > 65536:
        raise _Wrong("base64 of at most 65536 bytes")
    return data


def _bool(value: object) -> bool:
    if type(value) is not bool:
        raise _Wrong("true or false")
    return value


def _or_null(check: "Callable[[object], Any]") -> "Callable[[object], Any]":
    return lambda value: None if value is None else check(value)


def _path(value: object) -> str:
    path = _text(value)
    parts = path.split("/")
    if not (
        0 < len(path.encode()) <= 1024
        and len(parts) <= 16
        and all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in parts)
        and "\0" not in path
    ):
        raise _Wrong("a relative path within the bounds")
    return path


def _integer(least: int) -> "Callable[[object], int]":
    def check(value: object) -> int:
        if type(value) is not int or not least <= value < 1 << 63:
            raise _Wrong(f"an integer of {least} to 2^63 - 1")
        return value

    return check


def _one_of(*values: str) -> "Callable[[object], str]":
    def check(value: object) -> str:
        text = _text(value)
        if text not in values:
            raise _Wrong(f"one of {values}")
        return text

    return check


def _token(value: object) -> str:
    text = _text(value)
    if len(text) != 32 or text.strip("0123456789abcdefABCDEF"):
        raise _Wrong("32 hexadecimal digits")
    return text


def _texts(most: "int | None" = None, size: int = 1048576) -> "Callable[[object], list[str]]":
    def check(value: object) -> "list[str]":
        if type(value) is not list or (most is not None and len(value) > most):
            raise _Wrong("an array of strings" if most is None else f"an array of at most {most} strings")
        if max([len(_text(item).encode()) for item in value], default=0) > size:
            raise _Wrong(f"an array of strings of at most {size} bytes")
        return value

    return check


def _text_by_text(value: object) -> "dict[str, str]":
    if type(value) is not dict:
        raise _Wrong("an object of strings")
    return {_text(name): _text(item) for name, item in value.items()}


def _folders(value: object) -> "list[str]":
    folders = _texts(8, 4096)(value)
    if not all(folder.startswith("/") and "\0" not in folder for folder in folders):
        raise _Wrong("an array of absolute paths")
    return folders


_limit = _integer(0)
_MEMBERS: "dict[str, dict[str, Callable[[object], Any]]]" = {
    "hello": {"type": _text, "protocol": _limit, "token": _token, "preload": _texts(32, 255)},
    "open": {"type": _text, "files": _folders, "scratch": _folders},
    "run": {
        "type": _text,
        "token": _token,
        "clean": _bool,
        "python": _one_of("3", "2"),
        "args": _texts(),
        "env": _text_by_text,
        "stdin": _bool,
        "merge_stderr": _bool,
        "seed": _or_null(_integer(-(1 << 63))),
        "timeout_ms": _integer(1),
        "cpu_limit_ms": _or_null(_integer(1)),
        "open_files": _limit,
        "stdout_limit": _limit,
        "stderr_limit": _limit,
        "on_output_limit": _one_of("truncate", "kill"),
        "message_limit": _limit,
        "message_count": _limit,
        "display_limit": _limit,
        "display_count": _limit,
        "figures": _bool,
        "last_value": _bool,
        "fetch": _texts(64, 1024),
        "file_limit": _limit,
        "file_count": _limit,
    },
    "put": {"type": _text, "path": _path, "data": _bytes, "last": _bool},
    "stdin": {"type": _text, "data": _bytes, "last": _bool},
    "stop": {"type": _text},
}


def _parse_int(text: str) -> int:
    # No number of the protocol is that long, and a long one costs its square to convert.
    if len(text) > 20:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _parse_constant(name: str) -> "NoReturn":
    raise ValueError(f"{name} is not JSON")


class _Strict:
    """What the C scanner asks of its json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = staticmethod(_parse_int)
    parse_constant = staticmethod(_parse_constant)


_scan = make_scanner(_Strict)  # type: ignore[arg-type] # typeshed names the wrong class


def encode_output(stream: bytes, data: bytes) -> "Iterator[bytes]":
    """Yield the `output` frame for `data`, bytes of `stream`, b"stdout" or b"stderr", in pieces."""
    return _encode_data(b'{"type":"output","stream":"%b","data":"' % stream, data)


def encode_message(data: "bytes | bytearray", kind: bytes = b"message") -> "Iterator[bytes]":
    """Yield the `message` frame, or the `display` frame, for `data`, in pieces."""
    return _encode_data(b'{"type":"%b","data":"' % kind, data)


def encode_file(path: str, data: bytes, *, last: bool) -> "Iterator[bytes]":
    """Yield the `file` frame for a piece of a file, in pieces."""
    head = '{"type":"file","path":%s,"last":%s,"data":"' % (encode_basestring_ascii(path), "true" if last else "false")
    return _encode_data(head.encode(), data)


def _encode_data(head: bytes, data: "bytes | bytearray") -> "Iterator[bytes]":
    # In pieces, since a copy of a large message is memory that the program then lacks.
    yield (len(head) + -(-len(data) // 3) * 4 + 2).to_bytes(HEADER, "big") + head
    for start in range(0, len(data), 49152):  # a multiple of 3: no padding within
        yield b2a_base64(data[start : start + 49152], newline=False)
    yield b'"}'


def encode_error(message: str) -> bytes:
    """Return the `error` frame; what is over its bound of characters is cut off."""
    return encode({"type": "error", "message": _replaced(message)[:4096]})


def encode(members: "dict[str, Any]") -> bytes:
    """Return the frame for `members`: a dict with string keys of strings, integers, floats,
    booleans, None, lists, dicts."""
    body = _json(members).encode()
    return len(body).to_bytes(HEADER, "big") + body


def _json(value: object) -> str:
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, str):
        return encode_basestring_ascii(_replaced(value))
    if isinstance(value, dict):
        return "{%s}" % ",".join(_json(name) + ":" + _json(item) for name, item in value.items())
    if isinstance(value, list):
        return "[%s]" % ",".join(map(_json, value))
    return repr(value)


def _replaced(text: str) -> str:
    # A file name that is not UTF-8 arrives as lone surrogates, which the host would refuse.
    return text.encode("utf-8", "backslashreplace").decode()
