"""The runner's half of the frame format: bytes in, frames out, and the other way round. No I/O here.

What conformance/PROTOCOL.md says of `hello` and `run` is enforced in this one place, to the letter: the length before a
byte of the body, then UTF-8, JSON, every member and its type. Any bytes whatsoever, in any pieces, give frames or
ProtocolError (VersionMismatch where only the version is wrong), and nothing else.

`_json` is the C half of the standard library's json. The Python half would import re and enum, which costs
every container some milliseconds of its start and a megabyte of memory that it never needs.
"""

from _json import encode_basestring_ascii, make_scanner
from binascii import a2b_base64, b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterator, NoReturn

PROTOCOL = 1
HEADER = 4
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BLANK = " \t\n\r"


class ProtocolError(Exception):
    """The host sent what the protocol does not allow at this point."""


class VersionMismatch(ProtocolError):
    """The host speaks another version of the protocol."""


class Decoder:
    """The host's frames, in the order of the dialogue: one `hello`, one `run`, then nothing more.

    `feed` it what was read, then ask `next_frame` until it says None: more bytes are needed.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._expected = [("hello", 65536), ("run", 67108864)]

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def next_frame(self) -> "dict[str, Any] | None":
        """Return the next frame as a dict, or None. Raise ProtocolError, now and at every further call."""
        buffer = self._buffer
        if not self._expected:
            if buffer:
                raise ProtocolError("nothing may follow a `run` frame")
            return None
        if len(buffer) < HEADER:
            return None
        kind, bound = self._expected[0]
        length = int.from_bytes(buffer[:HEADER], "big")
        if not 0 < length <= bound:
            raise ProtocolError(f"length of a `{kind}` frame must be 1 to {bound}, not {length}")
        if len(buffer) < HEADER + length:
            return None
        with memoryview(buffer) as view:
            frame = _decode(kind, view[HEADER : HEADER + length])
        del self._expected[0]
        del buffer[: HEADER + length]
        return frame


def _decode(kind: str, body: memoryview) -> "dict[str, Any]":
    try:
        text = str(body, "utf-8")
        start = len(text) - len(text.lstrip(_BLANK))
        members, end = _scan(text, start)
    # A missing value is a StopIteration, a deep nest a RecursionError; the rest are ValueErrors, or rather would be: the C half takes
    # JSONDecodeError from json.decoder, and where that is not loaded, as here, it fails without any exception, which is a SystemError.
    except (ValueError, StopIteration, RecursionError, SystemError) as error:
        raise ProtocolError(f"body of a `{kind}` frame: {type(error).__name__}: {error}") from None
    if text[end:].strip(_BLANK):
        raise ProtocolError(f"body of a `{kind}` frame: more than one JSON value")
    if type(members) is not dict or members.get("type") != kind:
        raise ProtocolError(f"expected a `{kind}` frame")
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
    # A lone surrogate, from an escape, is no text: it cannot be written as UTF-8.
    try:
        if type(value) is str and value.encode() is not None:
            return value
    except UnicodeEncodeError:
        pass
    raise _Wrong("a string")


def _utf8(value: object) -> bytes:
    return _text(value).encode()


def _utf8_or_null(value: object) -> "bytes | None":
    return None if value is None else _utf8(value)


def _bytes_or_null(value: object) -> "bytes | None":
    if value is None:
        return None
    encoded = _utf8(value)
    # a2b_base64 skips what is not of the alphabet (its strict mode is of 3.11), so the alphabet is asked for by name.
    padding = encoded.translate(None, _BASE64)
    if len(encoded) % 4 or padding not in (b"", b"=", b"==") or not encoded.endswith(padding):
        raise _Wrong("a base64 string")
    return a2b_base64(encoded)


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


def _texts(value: object) -> "list[str]":
    if type(value) is not list:
        raise _Wrong("an array of strings")
    return [_text(item) for item in value]


def _text_by_text(value: object) -> "dict[str, str]":
    if type(value) is not dict:
        raise _Wrong("an object of strings")
    return {_text(name): _text(item) for name, item in value.items()}


_MEMBERS: "dict[str, dict[str, Callable[[object], Any]]]" = {
    "hello": {"type": _text, "protocol": _integer(0), "token": _token},
    "run": {
        "type": _text,
        "code": _utf8,
        "python": _one_of("3", "2"),
        "args": _texts,
        "env": _text_by_text,
        "stdin": _bytes_or_null,
        "data": _utf8_or_null,
        "timeout_ms": _integer(1),
        "open_files": _integer(0),
        "stdout_limit": _integer(0),
        "stderr_limit": _integer(0),
        "on_output_limit": _one_of("truncate", "kill"),
        "message_limit": _integer(0),
        "message_count": _integer(0),
    },
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


def encode_message(data: "bytes | bytearray") -> "Iterator[bytes]":
    """Yield the `message` frame for `data`, in pieces."""
    return _encode_data(b'{"type":"message","data":"', data)


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
    """Return the frame for `members`: a dict with string keys of strings, integers, floats, booleans, None, lists, dicts."""
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
    # A file name that is no UTF-8 arrives as lone surrogates, which the host would refuse.
    return text.encode("utf-8", "backslashreplace").decode()
