"""A body is one of the protocol's frames with every member in range, or a ProtocolViolation:
nothing is guessed, nothing else is raised."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dayfly import _messages as messages
from dayfly._errors import ProtocolViolation
from dayfly._messages import (
    FRAME_SIZE,
    Hello,
    Message,
    Open,
    Output,
    Put,
    Ready,
    Run,
    RunnerFrame,
    Stdin,
    decode,
    encode,
    path_problem,
)

TOKEN = "0123456789abcdef0123456789abcdef"
STATUS = {"uid": 7, "gid": 7, "no_new_privs": 1, "seccomp": 2, "cap_eff": "0", "cap_bnd": "0", "dumpable": 0}
FRAMES: dict[str, dict[str, Any]] = {
    "ready": {
        "protocol": 1, "token": TOKEN, "version": "0.1.0", "pythons": {"3": "3.11.2"}, "status": STATUS, "cgroup": 1, "problems": [],
        "preloaded": ["numpy"], "baseline_bytes": 1,
    },
    "started": {"preloaded": False},
    "want": {"bytes": 1},
    "output": {"stream": "stdout", "data": "aGk="},
    "message": {"data": "MQ=="},
    "display": {"data": "MQ=="},
    "file": {"path": "a", "data": "MQ==", "last": True},
    "skipped": {"path": "a", "why": "missing"},
    "next": {},
    "spent": {"reason": "left"},
    "exit": {
        "token": TOKEN, "exit_code": 0, "signal": None, "timed_out": False, "cpu_limited": False, "output_limit": False,
        "stdout_dropped": 0, "stderr_dropped": 0, "messages_dropped": 0, "displays_dropped": 0, "skipped_dropped": 0,
        "wall_ms": 1.5, "cpu_ms": 1.0,
        "peak_memory_bytes": 5_000_000, "max_rss_bytes": 4_000_000, "oom_kills": 0,
    },
    "error": {"message": "no room"},
}  # fmt: skip
RUN = Run(
    token=TOKEN, clean=False, python="3", args=["a"], env={"A": "b"}, stdin=True, merge_stderr=False, seed=-1, timeout_ms=1,
    cpu_limit_ms=None, open_files=16, stdout_limit=1, stderr_limit=1, on_output_limit="truncate", message_limit=0, message_count=0,
    display_limit=2, display_count=3, figures=False, last_value=False,
    fetch=["*"], file_limit=4, file_count=5,
)  # fmt: skip
HELLO = Hello(protocol=2, token=TOKEN, preload=["numpy"])
OPEN = Open(files=["/sandbox"], scratch=["/dev/shm"])


def body(kind: str, **changes: Any) -> bytes:
    return json.dumps({"type": kind, **FRAMES[kind], **changes}).encode()


def refused(data: bytes) -> str:
    with pytest.raises(ProtocolViolation) as caught:
        decode(data)
    return str(caught.value)


@pytest.mark.parametrize("kind", FRAMES)
def test_each_frame_of_the_protocol_is_read(kind: str) -> None:
    assert type(decode(body(kind))).__name__.lower() == kind


@pytest.mark.parametrize(("kind", "member"), [(kind, member) for kind, frame in FRAMES.items() for member in ("type", *frame)])
def test_no_member_may_be_missing(kind: str, member: str) -> None:
    frame = {"type": kind, **FRAMES[kind]}
    del frame[member]
    refused(json.dumps(frame).encode())


@pytest.mark.parametrize("kind", FRAMES)
def test_no_member_may_be_added(kind: str) -> None:
    refused(body(kind, more=1))


@pytest.mark.parametrize("member", STATUS)
def test_the_status_is_as_strict(member: str) -> None:
    refused(body("ready", status={key: value for key, value in STATUS.items() if key != member}))
    refused(body("ready", status={**STATUS, member: None}))
    refused(body("ready", status={**STATUS, "more": 1}))


INTEGERS = (
    *("stdout_dropped", "stderr_dropped", "messages_dropped", "displays_dropped", "skipped_dropped"),
    *("peak_memory_bytes", "max_rss_bytes", "oom_kills"),
)
OUT_OF_RANGE: list[tuple[str, str, list[Any]]] = [
    *(("exit", name, [-1, 2**63, 10**30, 1.5, "1", True, [], {}]) for name in INTEGERS),
    *(("exit", name, [-1, -0.5, 1e16, "1", True, float("nan"), float("inf"), -float("inf")]) for name in ("wall_ms", "cpu_ms")),
    *(("exit", name, [0, 1, None, "true"]) for name in ("timed_out", "output_limit")),
    ("exit", "exit_code", [-1, 256, 0.5, "0", True]),
    ("exit", "signal", [-9, 0, 128, 9.5, "9", True]),
    ("exit", "token", [None, 1, ["x"]]),
    ("exit", "wall_ms", [None]),
    ("output", "stream", ["stdin", "", "STDOUT", None, 1]),
    ("output", "data", [None, 1, "a", "YQ", "YQ=", "Y===", "_-__", "YQ==\n", " YQ==", "YQ==YQ==", "\u00e4"]),
    ("message", "data", [None, 1, "YQ", "YQ=="[:3], ["MQ=="]]),
    ("display", "data", [None, 1, "YQ"]),
    ("file", "path", [None, 1]),
    ("file", "data", [None, 1, "YQ"]),
    ("file", "last", [None, 1, "true"]),
    ("skipped", "path", [None, 1]),
    ("skipped", "why", [None, 1, "", "lost"]),
    ("want", "bytes", [None, 0, -1, 1.5, "1", True]),
    ("started", "preloaded", [None, 0, "false"]),
    ("error", "message", [None, 1, "x" * 4_097]),
    ("spent", "reason", [None, 1, "x" * 4_097]),
    ("ready", "preloaded", [None, "numpy", [1]]),
    ("ready", "baseline_bytes", [-1, 1.5, "1"]),
    ("ready", "protocol", [None, "1", 1.5, True]),
    ("ready", "pythons", [None, [], "3", {"3": 3}]),
    ("ready", "problems", [None, "none", [1]]),
    ("ready", "status", [None, [], "root"]),
    ("ready", "cgroup", [None, "2"]),
]


@pytest.mark.parametrize(("kind", "member", "value"), [(kind, name, value) for kind, name, values in OUT_OF_RANGE for value in values])
def test_a_member_of_a_wrong_type_or_out_of_range_is_refused(kind: str, member: str, value: Any) -> None:
    refused(body(kind, **{member: value}))


@pytest.mark.parametrize(("kind", "member", "value"), [
    ("exit", "exit_code", 255), ("exit", "signal", 127), ("exit", "stdout_dropped", 2**63 - 1), ("exit", "wall_ms", 1e15),
    ("want", "bytes", 2**63 - 1), ("exit", "max_rss_bytes", None), ("ready", "baseline_bytes", None), ("spent", "reason", "x" * 4_096),
    ("exit", "wall_ms", 3), ("exit", "cpu_ms", None), ("exit", "peak_memory_bytes", None), ("exit", "oom_kills", None),
    ("error", "message", "x" * 4_096), ("error", "message", ""), ("output", "data", ""), ("message", "data", ""), ("ready", "cgroup", 0),
])  # fmt: skip
def test_a_member_at_its_bound_is_read(kind: str, member: str, value: Any) -> None:
    frame = json.loads(msgspec.json.encode(decode(body(kind, **{member: value}))))
    assert frame[member] == value


@pytest.mark.parametrize("data", [
    b"", b" ", b"null", b"1", b'"started"', b"[]", b"[[", b"{", b"{}", b'{"type":1}', b'{"type":null}', b'{"type":["started"]}',
    b'{"type":"Started"}', b'{"type":"hello"}', b'{"type":"run"}', b'{"type":"frame"}', b'{"type":"status"}', b"\0", b"\xff\xfe",
    b'{"type":"next"}x', b'{"type":"next"}\0', b'{"type":"next"}{"type":"next"}', b'{"type":"next",}',
    b"{'type':'next'}", b'\xef\xbb\xbf{"type":"next"}', b'{"type":"next"} // no', '{"type":"next"}'.encode("utf-16"),
    b'{"type":"error","message":"\xff"}', b'{"type":"error","message":"\\ud800"}', b'{"type":"error","message":"\\udc00\\ud800"}',
    b'{"type":"error","message":"\n"}', b'{"type":"exit","exit_code":NaN}', b'{"type":"exit","wall_ms":Infinity}',
    b'{"type":"exit","wall_ms":1e999}', b'{"type":"exit","exit_code":' + b"9" * 10_000 + b"}",
    b"[" * 100_000, b'{"type":' * 20_000, b'{"x":' + b"[" * 100_000, b'{"type":"next","x":' + b"[" * 100_000,
    b'{"type":"ready","status":' + b'{"uid":' * 20_000,
], ids=lambda data: repr(data[:40]))  # fmt: skip
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    refused(data)


@given(st.binary(max_size=200))
@example(b'{"type":"error","message":"\\ud800"}')
def test_any_bytes_are_a_frame_or_a_violation(data: bytes) -> None:
    try:
        assert isinstance(decode(data), RunnerFrame)
    except ProtocolViolation:
        pass


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(FRAMES)), st.data())
def test_any_value_in_a_frame_is_a_frame_or_a_violation(kind: str, data: st.DataObject) -> None:
    member = data.draw(st.sampled_from(["type", "more", *FRAMES[kind]]))
    try:
        frame = decode(body(kind, **{member: data.draw(JSON)}))
    except ProtocolViolation:
        return
    # What was accepted is sound: the other side's strings can be written out, and it reads back as
    # itself.
    assert decode(msgspec.json.encode(frame)) == frame


@pytest.mark.parametrize(("body", "text"), [
    (b'{"type":"secret"}', "a frame of 17 bytes does not follow the protocol"),
    (b'{"secret":1,}', "a frame of 13 bytes is not valid JSON, from byte 12 on"),
    (b'"secret', "a frame of 7 bytes is not valid JSON"),
    (b'{"type":"next","secret (byte 7)":1}', "a frame of 35 bytes does not follow the protocol"),
    (b"[" * 100_000, "a frame of 100,000 bytes does not follow the protocol"),
])  # fmt: skip
def test_a_violation_is_told_by_size_and_position(body: bytes, text: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        decode(body)
    assert str(caught.value) == text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_text_of_a_violation_is_bounded_and_printable() -> None:
    said = refused(b'{"type":"next","\\u001b[31m\\n' + b"x" * 100_000 + b'":1}')
    assert said.isprintable()
    assert len(said) < 600


@given(st.binary(max_size=100), st.sampled_from(["stdout", "stderr"]))
def test_bytes_travel_as_padded_base64(data: bytes, stream: str) -> None:
    text = base64.b64encode(data).decode()
    assert decode(body("output", stream=stream, data=text)) == Output(stream=stream, data=data)  # type: ignore[arg-type]
    assert decode(body("message", data=text)) == Message(data=data)


def test_what_the_host_says_is_json_with_every_member() -> None:
    assert json.loads(encode(HELLO)) == {"type": "hello", "protocol": 2, "token": TOKEN, "preload": ["numpy"]}
    assert json.loads(encode(OPEN)) == {"type": "open", "files": ["/sandbox"], "scratch": ["/dev/shm"]}
    assert json.loads(encode(RUN)) == {
        "type": "run", "token": TOKEN, "clean": False, "python": "3", "args": ["a"], "env": {"A": "b"}, "stdin": True,
        "merge_stderr": False, "seed": -1, "timeout_ms": 1, "cpu_limit_ms": None, "open_files": 16, "stdout_limit": 1,
        "stderr_limit": 1, "on_output_limit": "truncate", "message_limit": 0, "message_count": 0, "display_limit": 2, "display_count": 3,
        "figures": False, "last_value": False,
        "fetch": ["*"], "file_limit": 4, "file_count": 5,
    }  # fmt: skip
    assert json.loads(encode(Put(path="a", data=b"\0\xff", last=True))) == {"type": "put", "path": "a", "data": "AP8=", "last": True}
    assert json.loads(encode(Stdin(data=b"", last=False))) == {"type": "stdin", "data": "", "last": False}


def test_the_host_never_reads_its_own_frames() -> None:
    for frame in (HELLO, OPEN, RUN, Put(path="a", data=b"", last=True), Stdin(data=b"", last=True)):
        refused(encode(frame))


@pytest.mark.parametrize(
    ("name", "value"),
    [("PROTOCOL", 2), ("OUTPUT_SIZE", 65_536), ("FRAME_SIZE", 131_072), ("RUN_SIZE", 1_048_576), ("STDIN_WINDOW", 131_072),
     ("PATH_BYTES", 1_024), ("PATH_PARTS", 16), ("PART_BYTES", 255), ("MAX_FILES", 1_024), ("MAX_PATTERNS", 64), ("MAX_SKIPPED", 100),
     ("MAX_MODULES", 32), ("MODULE_LENGTH", 255)],
)  # fmt: skip
def test_the_bounds_are_those_of_the_contract(name: str, value: int) -> None:
    assert getattr(messages, name) == value


def test_the_largest_piece_fits_its_frame() -> None:
    put = Put(path="\x01" * 1_024, data=bytes(messages.PIECE_SIZE), last=True)
    assert len(encode(put)) <= FRAME_SIZE


@pytest.mark.parametrize("path", ["a", "a/b", ".a", "...", "\u00e4" * 127, "/".join("a" * 16), "a b\n", "a\\b", "/".join(["a" * 204] * 5)])
def test_a_relative_path_within_the_bounds_is_fine(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize(("path", "says"), [
    ("", "0 bytes long"), ("a" * 1_025, "1,025 bytes long"), ("\ud800", "surrogate"), ("a\0b", "NUL"), ("/a", "absolute"),
    ("a//b", "empty"), ("a/", "empty"), (".", "'.'"), ("..", "'..'"), ("a/../b", "'..'"),
    ("/".join("a" * 17), "17 parts"), ("\u00e4" * 128, "more than 255"),
])  # fmt: skip
def test_what_is_wrong_with_a_path_is_said(path: str, says: str) -> None:
    assert says in str(path_problem(path))


def test_frames_cannot_be_changed_once_they_were_checked() -> None:
    ready = decode(body("ready"))
    assert isinstance(ready, Ready)
    with pytest.raises(AttributeError):
        ready.token = "other"  # type: ignore[misc]
