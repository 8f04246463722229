"""What a run gave, put together from pieces: text, bytes, order, counts, and the verdict on its
end."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import AsyncGenerator
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dayfly import Outcome, Piece, Result, Stats
from dayfly import _events as events
from dayfly._events import Ended, Event, Fold, Leased
from dayfly._messages import Display, Exit, File, Message, Output, Skipped, Started
from dayfly._result import Recorder, SkippedFile, verdict

Stream = Literal["stdout", "stderr"]
PIECES = st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.binary(min_size=1, max_size=8) | st.text(min_size=1).map(str.encode)))


def end(**changes: Any) -> Exit:
    fields: dict[str, Any] = {
        "token": "", "exit_code": 0, "signal": None, "timed_out": False, "cpu_limited": False, "output_limit": False,
        "stdout_dropped": 0, "stderr_dropped": 0,
        "messages_dropped": 0, "displays_dropped": 0, "skipped_dropped": 0, "max_rss_bytes": 4_000_000,
        "wall_ms": 12.5, "cpu_ms": 8.25, "peak_memory_bytes": 5_000_000, "oom_kills": 0,
    }  # fmt: skip
    return Exit(**{**fields, **changes})


def recorder(*pieces: tuple[Stream, bytes]) -> Recorder:
    made = Recorder()
    for stream, data in pieces:
        made.output(Output(stream=stream, data=data))
    return made


def result(*pieces: tuple[Stream, bytes], exit: Exit | None = None, outcome: Outcome = Outcome.OK) -> Result:  # noqa: A002
    return recorder(*pieces).result(exit, outcome, wall_ms=99.0)


# Text and bytes.


@given(PIECES)
def test_text_and_bytes_are_those_of_each_stream_whole(pieces: list[tuple[Stream, bytes]]) -> None:
    made = result(*pieces, exit=end())
    for stream, text, data, raw in (
        ("stdout", made.stdout, made.stdout_bytes, made.stdout_raw),
        ("stderr", made.stderr, made.stderr_bytes, made.stderr_raw),
    ):
        whole = b"".join(piece for of, piece in pieces if of == stream)
        assert data == whole
        assert text == whole.decode("utf-8", "replace")
        assert (raw is None) == (text.encode() == whole), "raw bytes are kept where they are needed, and only there"


@given(PIECES)
@example([("stdout", b"\xed\xa0")])
def test_what_is_streamed_is_what_the_result_has(pieces: list[tuple[Stream, bytes]]) -> None:
    made = Recorder()
    live = [made.output(Output(stream=stream, data=data)) for stream, data in pieces]
    assert [(piece.stream, piece.data) for piece in live] == pieces
    live += made.rest()
    whole = made.result(end(), Outcome.OK, wall_ms=0)
    assert whole.combined == "".join(piece.text for piece in live)
    for stream, text in (("stdout", whole.stdout), ("stderr", whole.stderr)):
        assert text == "".join(piece.text for piece in live if piece.stream == stream)


@pytest.mark.parametrize("text", ["\u00e4\u20ac\U0001f600", "plain", ""])
def test_a_character_cut_by_a_piece_is_whole_in_the_next(text: str) -> None:
    pieces: list[tuple[Stream, bytes]] = [("stdout", bytes([byte])) for byte in text.encode()]
    live = [recorder().output(Output(stream="stdout", data=text.encode()))] if not pieces else []
    made = recorder()
    live += [made.output(Output(stream=stream, data=data)) for stream, data in pieces]
    assert "".join(piece.text for piece in live) == text
    assert made.result(end(), Outcome.OK, wall_ms=0).stdout == text
    assert made.result(end(), Outcome.OK, wall_ms=0).stdout_raw is None


@pytest.mark.parametrize(("data", "text"), [
    (b"\xff", "\ufffd"), (b"a\xffb", "a\ufffdb"), (b"\xc3", "\ufffd"), (b"a\xe2\x82", "a\ufffd"), (b"\xed\xa0\x80", "\ufffd" * 3),
    (b"\xc0\x80", "\ufffd" * 2), (b"\xf5\x80", "\ufffd" * 2),
])  # fmt: skip
def test_bytes_that_are_no_text_are_replaced_and_kept(data: bytes, text: str) -> None:
    made = result(("stderr", data), exit=end())
    assert made.stderr == made.combined == text
    assert made.stderr_raw == made.stderr_bytes == data
    assert made.stdout_raw is None


@pytest.mark.parametrize("text", ["\ufffd", "a\ufffdb\0\r\n\x1b[31m", "\ufeffx", "\u2028"])
def test_text_that_looks_like_a_replacement_needs_no_raw_bytes(text: str) -> None:
    made = result(("stdout", text.encode()), exit=end())
    assert (made.stdout, made.stdout_raw, made.stdout_bytes) == (text, None, text.encode())


def test_combined_is_in_the_order_of_arrival() -> None:
    made = result(("stdout", b"1"), ("stderr", b"2"), ("stdout", b"3"), ("stderr", b"4"), exit=end())
    assert (made.combined, made.stdout, made.stderr) == ("1234", "13", "24")


def test_a_character_interrupted_by_the_other_stream_is_one() -> None:
    made = result(("stdout", b"\xc3"), ("stderr", b"!"), ("stdout", b"\xa4"), exit=end())
    assert (made.stdout, made.stderr, made.combined) == ("\u00e4", "!", "!\u00e4")


# Messages.


@pytest.mark.parametrize(("data", "value"), [
    (b"1", 1), (b"null", None), (b'"\xc3\xa4"', "\u00e4"), (b' {"a":[1.5,true]} ', {"a": [1.5, True]}), (b"1" * 40, int("1" * 40)),
    (b'"\\u0000"', "\0"), (b'{"a":1,"a":2}', {"a": 2}),
])  # fmt: skip
def test_messages_are_json_values_in_order(data: bytes, value: Any) -> None:
    made = recorder()
    made.take(Message(data=b'"first"'))
    made.take(Message(data=data))
    whole = made.result(end(messages_dropped=2), Outcome.OK, wall_ms=0)
    assert whole.messages == ["first", value]
    assert whole.messages_dropped == 2


@pytest.mark.parametrize("data", [
    b"", b"\0", b"\xff", b"nope", b"NaN", b"Infinity", b"1e999", b"[1", b"1 2", b"'x'", b'"\\ud800"', b'"\xed\xa0\x80"', b"[" * 100_000,
    b"1" * 100_000, b'{1:2}', b'\xef\xbb\xbf1', '"x"'.encode("utf-16"),
], ids=lambda data: repr(data[:12]))  # fmt: skip
def test_what_is_no_json_is_counted_and_never_raises(data: bytes) -> None:
    made = recorder()
    made.take(Message(data=data))
    made.take(Message(data=b"1"))
    whole = made.result(end(messages_dropped=3), Outcome.OK, wall_ms=0)
    assert (whole.messages, whole.messages_dropped) == ([1], 4)


@given(st.binary())
def test_any_message_is_a_value_or_counted(data: bytes) -> None:
    made = recorder()
    made.take(Message(data=data))
    whole = made.result(None, Outcome.TIMEOUT, wall_ms=0)
    assert len(whole.messages) + whole.messages_dropped == 1
    json.dumps(whole.messages, allow_nan=False).encode()


def test_results_share_no_messages() -> None:
    first, second = result(exit=end()), result(exit=end())
    first.messages.append(1)
    assert second.messages == []


# Truncation and numbers, with the runner's word and without it.


@pytest.mark.parametrize(("size", "dropped", "truncated"), [(9, 0, False), (10, 0, False), (10, 1, True), (10, 2**40, True)])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_with_an_exit_frame_truncated_is_what_was_dropped(stream: Stream, size: int, dropped: int, truncated: bool) -> None:
    made = result((stream, b"x" * size), exit=end(**{f"{stream}_dropped": dropped}))
    other = "stderr" if stream == "stdout" else "stdout"
    assert getattr(made, f"{stream}_truncated") is truncated
    assert getattr(made, f"{stream}_dropped") == dropped
    assert getattr(made, f"{other}_truncated") is False


@pytest.mark.parametrize("size", [0, 9, 1_000_000])
@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY])
def test_without_an_exit_frame_truncation_is_unknown(size: int, outcome: Outcome) -> None:
    made = result(("stdout", b"x" * size), ("stderr", b"y" * size), outcome=outcome)
    assert (made.stdout_truncated, made.stderr_truncated) == (None, None)
    assert (made.stdout_dropped, made.stderr_dropped) == (0, 0)
    form = json.loads(msgspec.json.encode(made))
    assert (form["stdoutTruncated"], form["stderrTruncated"]) == (None, None)
    assert msgspec.json.decode(msgspec.json.encode(made), type=Result) == made


def test_with_an_exit_frame_the_numbers_are_its_own() -> None:
    made = result(exit=end(exit_code=3, messages_dropped=2, oom_kills=1), outcome=Outcome.ERROR)
    assert (made.exit_code, made.signal, made.wall_ms, made.cpu_ms) == (3, None, 12.5, 8.25)
    assert (made.peak_memory_bytes, made.oom_kills, made.messages_dropped) == (5_000_000, 1, 2)


@pytest.mark.parametrize(
    ("outcome", "signal"), [(Outcome.TIMEOUT, 9), (Outcome.OUT_OF_MEMORY, 9), (Outcome.OUTPUT_LIMIT, 9), (Outcome.ERROR, None)]
)
def test_without_one_only_the_kill_and_the_hosts_clock_are_known(outcome: Outcome, signal: int | None) -> None:
    made = result(("stdout", b"so far"), outcome=outcome)
    assert (made.exit_code, made.signal, made.wall_ms) == (None, signal, 99.0)
    assert (made.cpu_ms, made.peak_memory_bytes, made.oom_kills) == (None, None, None)
    assert (made.stdout, made.stdout_dropped, made.messages_dropped) == ("so far", 0, 0)


@pytest.mark.parametrize("outcome", Outcome)
def test_is_error_and_timed_out_follow_the_outcome(outcome: Outcome) -> None:
    made = result(exit=end(), outcome=outcome)
    assert made.is_error is (outcome is not Outcome.OK)
    assert made.timed_out is (outcome is Outcome.TIMEOUT)


# Events.


def test_take_keeps_output_and_messages_and_nothing_else() -> None:
    made = Recorder()
    assert made.take(Output(stream="stdout", data=b"a")) == [Piece("stdout", b"a", "a")]
    others = [Message(data=b"1"), Message(data=b"not JSON"), Display(data=b"{}"), Display(data=b"{"), Started(preloaded=True)]
    others += [File(path="a", data=b"x", last=False), File(path="a", data=b"y", last=True), Skipped(path="b", why="missing")]
    for other in (*others, Leased(), Ended(end(), Outcome.OK, 1.0), None):
        assert made.take(other) == []
    whole = made.result(end(displays_dropped=2, skipped_dropped=3), Outcome.OK, wall_ms=0)
    assert (whole.stdout, whole.messages, whole.messages_dropped) == ("a", [1], 1)
    assert (whole.displays, whole.displays_dropped, whole.preloaded) == ([{}], 3, True)
    assert (whole.files, whole.files_skipped) == ({"a": b"xy"}, [SkippedFile("b", "missing")])
    assert whole.files_skipped_dropped == 3


VALUE = b'{"application/vnd.dayfly.value+json":%b}'


@pytest.mark.parametrize(
    ("displays", "value", "kept", "dropped"),
    [
        ([VALUE % b'{"repr":"[1]","json":[1]}'], {"repr": "[1]", "json": [1]}, [], 0),
        ([VALUE % b'{"repr":"{1}"}'], {"repr": "{1}"}, [], 0),
        ([VALUE % b'{"repr":"1"}', VALUE % b'{"repr":"2","json":2}'], {"repr": "2", "json": 2}, [], 0),
        ([VALUE % b'{"repr":"1"}', VALUE % b'{"repr":2}'], {"repr": "1"}, [], 1),
        ([VALUE % b"{}", VALUE % b"null", VALUE % b"[1]", VALUE % b'"x"'], None, [], 4),
        ([VALUE % (b'{"repr":"1","json":' + b"[" * 99 + b"]" * 99 + b"}")], None, [], 1),
        ([b'{"text/plain":"1"}', b"[1]", b"1", b"null", b'"a"', b"{", b""], None, [{"text/plain": "1"}], 6),
        ([], None, [], 0),
    ],
)
def test_displays_are_objects_and_the_last_value_is_told_apart(displays: list[bytes], value: Any, kept: list[Any], dropped: int) -> None:
    made = Recorder()
    for display in displays:
        made.take(Display(data=display))
    whole = made.result(end(displays_dropped=1), Outcome.OK, wall_ms=0)
    again = msgspec.json.decode(whole.to_json(), type=Result)
    for one in (whole, again):
        assert (one.last_value, one.displays, one.displays_dropped) == (value, kept, dropped + 1)


def test_images_are_the_first_of_each_display_decoded() -> None:
    made = Recorder()
    for display in (
        {"image/jpeg": "eA==", "image/png": "aGk=\n", "text/plain": "a"},
        {"image/svg+xml": "<svg/>"},
        {"text/html": "<b>"},
        {"image/png": "not base64"},
        {"image/png": 5, "image/gif": "eA=="},
    ):
        made.take(Display(data=json.dumps(display).encode()))
    whole = made.result(end(), Outcome.OK, wall_ms=0)
    assert whole.images() == [("image/png", b"hi"), ("image/svg+xml", b"<svg/>"), ("image/gif", b"x")]


def test_rest_is_what_cut_characters_become() -> None:
    made = recorder(("stdout", b"a\xc3"), ("stderr", b"b"))
    assert made.rest() == [Piece("stdout", b"", "\ufffd")]
    assert made.rest() == []
    assert made.result(end(), Outcome.OK, wall_ms=0).combined == "ab\ufffd"


@pytest.mark.parametrize("name", ["on_output", "on_start"])
def test_what_cannot_be_called_is_refused_first(name: str) -> None:
    wrong: dict[str, Any] = {name: 5}
    with pytest.raises(TypeError, match=f"{name} must be callable or None, not int"):
        Fold(**wrong)


def folded(*events: Event, **callbacks: Any) -> list[Piece | Result]:
    fold = Fold(**callbacks)
    return [item for event in events for item in fold.take(event)]


def test_fold_gives_pieces_then_the_last_ones_then_the_result() -> None:
    output, ended = Output(stream="stdout", data=b"a\xc3"), Ended(end(), Outcome.OK, 1.0)
    *pieces, last = folded(Leased(), Started(preloaded=False), output, ended)
    assert [piece.text for piece in pieces if isinstance(piece, Piece)] == ["a", "\ufffd"]
    assert isinstance(last, Result)
    assert last.stdout == "a\ufffd"


def test_fold_calls_back() -> None:
    said: list[Any] = []
    events = (Leased(), Leased(), Output(stream="stderr", data=b"x\xe2"), Ended(None, Outcome.TIMEOUT, 1.0))
    folded(*events, on_output=said.append, on_start=lambda: said.append("started"))
    assert said == ["started", "started", Piece("stderr", b"x\xe2", "x"), Piece("stderr", b"", "\ufffd")]


async def source(*events: Event) -> AsyncGenerator[Event, None]:
    for event in events:
        yield event


async def test_run_and_stream_end_with_the_result() -> None:
    output, ended = Output(stream="stdout", data=b"a"), Ended(end(), Outcome.OK, 1.0)
    whole = await events.run(source(Leased(), output, ended), Fold())
    assert [item async for item in events.stream(source(Leased(), output, ended))] == [Piece("stdout", b"a", "a"), whole]
    with pytest.raises(AssertionError, match="ends with Ended"):
        await events.run(source(output), Fold())


# The verdict.


def expected(timed_out: bool, oom_kills: int | None, output_limit: bool, exit_code: int | None, signal: int | None) -> str:
    """The priorities as a person would say them, highest first."""
    table = [
        (timed_out, "timeout"),
        (signal == 9 and bool(oom_kills), "out_of_memory"),
        (output_limit, "output_limit"),
        (signal is not None, "signal"),
        (exit_code == 0, "ok"),
        (True, "error"),
    ]
    return next(outcome for holds, outcome in table if holds)


def test_the_verdict_for_every_combination() -> None:
    endings = [(code, None) for code in (0, 1, 2, 137, 139, 255)] + [(None, number) for number in (1, 6, 9, 11, 15, 25, 31, 64)]
    seen = set()
    for timed_out, oom_kills, output_limit, (code, signal) in itertools.product([True, False], [None, 0, 1, 7], [True, False], endings):
        frame = end(timed_out=timed_out, oom_kills=oom_kills, output_limit=output_limit, exit_code=code, signal=signal)
        assert verdict(frame) == expected(timed_out, oom_kills, output_limit, code, signal)
        seen.add(verdict(frame))
    assert seen == set(Outcome)


@pytest.mark.parametrize(("frame", "outcome"), [
    (end(), "ok"),
    (end(exit_code=1), "error"),
    (end(exit_code=137), "error"),  # a program may exit with any code it likes: no signal, no kill
    (end(exit_code=None, signal=9), "signal"),
    (end(exit_code=None, signal=11), "signal"),
    (end(exit_code=None, signal=9, oom_kills=1), "out_of_memory"),
    (end(exit_code=0, oom_kills=1), "ok"),  # a child of it was killed, and it went on
    (end(exit_code=1, oom_kills=1), "error"),
    (end(exit_code=None, signal=11, oom_kills=1), "signal"),
    (end(exit_code=None, signal=9, timed_out=True, oom_kills=1, output_limit=True), "timeout"),
    (end(exit_code=None, signal=9, cpu_limited=True, oom_kills=1), "timeout"),
    (end(exit_code=None, signal=9, output_limit=True, oom_kills=1), "out_of_memory"),
    (end(exit_code=None, signal=9, output_limit=True), "output_limit"),
], ids=str)  # fmt: skip
def test_the_verdict_where_it_could_be_argued(frame: Exit, outcome: str) -> None:
    assert verdict(frame) == Outcome(outcome)


# Forms.


def test_the_json_form_has_the_documented_names() -> None:
    form = json.loads(msgspec.json.encode(result(("stdout", b"\xff"), exit=end(), outcome=Outcome.OK)))
    assert form == {
        "outcome": "ok", "stdout": "\ufffd", "stderr": "", "combined": "\ufffd", "isError": False, "timedOut": False, "exitCode": 0,
        "signal": None, "stdoutTruncated": False, "stderrTruncated": False, "stdoutDropped": 0, "stderrDropped": 0, "messages": [],
        "messagesDropped": 0, "displays": [], "displaysDropped": 0, "files": {}, "filesSkipped": [], "filesSkippedDropped": 0,
        "cpuLimited": False, "preloaded": False, "wallMs": 12.5, "cpuMs": 8.25, "peakMemoryBytes": 5_000_000, "maxRssBytes": 4_000_000,
        "oomKills": 0, "stdoutRaw": "/w==", "stderrRaw": None, "lastValue": None,
    }  # fmt: skip


@given(PIECES)
def test_a_result_reads_back_from_its_json_form(pieces: list[tuple[Stream, bytes]]) -> None:
    made = result(*pieces, exit=end())
    assert msgspec.json.decode(msgspec.json.encode(made), type=Result) == made


def test_a_result_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        result(exit=end()).is_error = True  # type: ignore[misc]


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_is_its_word(outcome: Outcome) -> None:
    assert f"{outcome}" == str(outcome) == outcome.value == outcome
    assert json.loads(json.dumps(outcome)) == outcome.value
    assert Outcome(outcome.value) is outcome


def test_the_outcomes_are_the_documented_ones() -> None:
    assert [outcome.value for outcome in Outcome] == ["ok", "error", "signal", "timeout", "out_of_memory", "output_limit"]


def test_a_piece_has_its_stream_its_bytes_and_its_text() -> None:
    piece = recorder().output(Output(stream="stderr", data=b"\xc3"))
    assert piece == Piece("stderr", b"\xc3", "")


def test_stats_have_a_json_form_too() -> None:
    stats = Stats(
        warm=1,
        making=2,
        running=3,
        ending=4,
        uncertain=5,
        sessions=11,
        waiting=6,
        made=7,
        failed=8,
        forced=9,
        runs={"ok": 9},
        errors={"PoolFull": 10},
    )
    assert json.loads(msgspec.json.encode(stats)) == {
        "warm": 1, "making": 2, "running": 3, "ending": 4, "uncertain": 5, "sessions": 11, "waiting": 6, "made": 7,
        "failed": 8, "forced": 9,
        "runs": {"ok": 9}, "errors": {"PoolFull": 10},
    }  # fmt: skip


def test_output_byte_by_byte_costs_no_more_memory() -> None:
    made = recorder()
    tracemalloc.start()
    try:
        for _ in range(120_000):
            made.output(Output(stream="stdout", data=b"x"))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 16 * 120_000


# Messages are kept as text, and decoded when they are read.


NESTED = [
    pytest.param(b"[" * 100 + b"]" * 100, True, id="100 arrays"),
    pytest.param(b"[" * 101 + b"]" * 101, False, id="101 arrays"),
    pytest.param(b"[" * 96 + b",".join([b"[]"] * 40) + b"]" * 96, True, id="97, and wide at the bottom"),
    pytest.param(b'{"a":' * 100 + b"1" + b"}" * 100, True, id="100 objects"),
    pytest.param(b'[{"a":' * 50 + b"[]" + b"}]" * 50, False, id="101 of both"),
    pytest.param(b"[" + b"[[]]," * 1_000 + b"0]", True, id="wide, not deep"),
    pytest.param(b'["' + b"[" * 5_000 + b'"]', True, id="brackets in a string"),
    pytest.param(b'["\\\\","' + b"[" * 500 + b'"]', True, id="after an escaped backslash"),
    pytest.param(b'["\\"' + b"[" * 500 + b'"]', True, id="after an escaped quote"),
    pytest.param(b'["\\"",' + b"[" * 100 + b"]" * 101, False, id="arrays after a string"),
    pytest.param(b"[" * 955 + b"]" * 955, False, id="what no server could encode"),
]


@pytest.mark.parametrize(("data", "kept"), NESTED)
def test_messages_nested_too_deep_are_dropped(data: bytes, kept: bool) -> None:
    made = recorder()
    made.take(Message(data=data))
    whole = made.result(end(), Outcome.OK, wall_ms=0)
    assert (len(whole.messages), whole.messages_dropped) == (kept, not kept)
    assert json.loads(whole.to_json())["messages"] == whole.messages


@pytest.mark.parametrize("data", [
    b"1e308", b"-1e308", b"1e309", b"-1e999", b"1e-999", b"[1e0000000300]", b"1" * 4_300, b"-" + b"1" * 4_300, b"1" * 4_301,
    b"1" * 250 + b"e99", b"1" * 308 + b".5", b"1" * 310 + b".5", b'"1e999"', b'["1e999",1e5]', b'"\\ud83d\\ude00"', b'"\\ude00\\ud83d"',
    b'"\\\\ud83d"', b'"\\ud83dx"', b'"\\ud83d\\\\ude00"', b'"\\ud7ff\\ue000\\uD83D\\uDE00"', b'"\\n\\ud83d"', b'"\\u0041"',
    b'{"\\ud800":1}', b"[1e300,1e400]", b'"\xed\xa0\x80"', b"1E+400", b"1.5E+308", b"0.0e999",
], ids=lambda data: f"{data[:14]!r} {data[-4:]!r} {len(data)}")  # fmt: skip
def test_a_kept_message_is_one_that_decodes(data: bytes) -> None:
    try:
        value = [msgspec.json.decode(data)]
    except (ValueError, msgspec.DecodeError):
        value = []
    made = recorder()
    made.take(Message(data=data))
    assert made.result(end(), Outcome.OK, wall_ms=0).messages == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.booleans())
def test_every_json_value_is_a_message(value: Any, ascii_only: bool) -> None:
    made = recorder()
    made.take(Message(data=json.dumps(value, ensure_ascii=ascii_only).encode()))
    assert made.result(end(), Outcome.OK, wall_ms=0).messages == [value]


def test_messages_are_decoded_once_and_when_read() -> None:
    made = recorder()
    made.take(Message(data=b'{"a": 1}'))
    whole = made.result(end(), Outcome.OK, wall_ms=0)
    assert bytes(whole.messages_raw[0]) == b'{"a": 1}'
    assert whole.messages is whole.messages
    assert b'"messages":[{"a": 1}]' in msgspec.json.encode(whole)


def test_nested_messages_build_nothing() -> None:
    message = b"[" + b"{}," * 20_000 + b"0]"
    made = recorder()
    tracemalloc.start()
    try:
        made.take(Message(data=message))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * len(message)  # decoded, it takes 24 times its size


def test_json_may_leave_combined_out() -> None:
    made = result(("stdout", b"a"), ("stderr", b"b"), exit=end())
    whole, short = json.loads(made.to_json()), json.loads(made.to_json(combined=False))
    assert whole == json.loads(msgspec.json.encode(made))
    assert whole.pop("combined") == "ab"
    assert short == whole
