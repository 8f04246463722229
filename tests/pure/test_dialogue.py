"""The state table, cell by cell, the bounds on sizes and numbers, one below and one above, and any bytes at any point."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import dialogue as module
from dayfly.dialogue import Dialogue, State
from dayfly.errors import ProtocolViolation
from dayfly.messages import FRAME_SIZE, OUTPUT_SIZE, RUN_SIZE, Exit, Message, Output, Run

TOKEN = "0123456789abcdef0123456789abcdef"
RUN = Run(
    code="print(1)", python="3", args=[], env={}, stdin=None, data=None, timeout_ms=1_000, open_files=64, stdout_limit=10, stderr_limit=5,
    on_output_limit="truncate", message_limit=8, message_count=3,
)  # fmt: skip


def wire(kind: str, *, pad: int = 0, **members: Any) -> bytes:
    """One frame as bytes; `pad` blanks make it larger without changing what it says."""
    body = json.dumps({"type": kind, **members}, separators=(",", ":")).encode() + b" " * pad
    return len(body).to_bytes(4, "big") + body


def ready(**changes: Any) -> bytes:
    status = {"uid": 7, "gid": 7, "no_new_privs": 1, "seccomp": 2, "cap_eff": "0", "cap_bnd": "0", "dumpable": 0}
    members = {"protocol": 1, "token": TOKEN, "version": "0.1.0", "pythons": {"3": "3.11"}, "status": status, "cgroup": 1, "problems": []}
    return wire("ready", **{**members, **changes})


def output(data: bytes, stream: str = "stdout") -> bytes:
    return wire("output", stream=stream, data=base64.b64encode(data).decode())


def message(data: bytes) -> bytes:
    return wire("message", data=base64.b64encode(data).decode())


def leave(pad: int = 0, **changes: Any) -> bytes:
    members = {
        "token": TOKEN, "exit_code": 0, "signal": None, "timed_out": False, "output_limit": False, "stdout_dropped": 0, "stderr_dropped": 0,
        "messages_dropped": 0, "wall_ms": 1.0, "cpu_ms": None, "peak_memory_bytes": None, "oom_kills": None,
    }  # fmt: skip
    return wire("exit", pad=pad, **{**members, **changes})


STARTED, ERROR = wire("started"), wire("error", message="no")


def drive(state: State, run: Run = RUN) -> Dialogue:
    """A dialogue that has come to `state` by the shortest way."""
    dialogue = Dialogue(TOKEN)
    steps: dict[State, Callable[[], object]] = {
        State.GREETED: dialogue.hello,
        State.WARM: lambda: list(dialogue.receive(ready())),
        State.HANDED: lambda: dialogue.run(run),
        State.RUNNING: lambda: list(dialogue.receive(STARTED)),
        State.DONE: lambda: list(dialogue.receive(leave())),
    }
    if state is State.BROKEN:
        with pytest.raises(ProtocolViolation):
            list(dialogue.receive(b"\0\0\0\0"))
    for reached, step in steps.items():
        if dialogue.state is state:
            break
        step()
        assert dialogue.state is reached
    assert dialogue.state is state
    return dialogue


def broken(dialogue: Dialogue, data: bytes) -> str:
    """The dialogue refuses `data`, and whatever comes behind it."""
    with pytest.raises(ProtocolViolation) as caught:
        list(dialogue.receive(data))
    assert dialogue.state is State.BROKEN
    for more in (b"", STARTED, leave()):
        with pytest.raises(ProtocolViolation):
            list(dialogue.receive(more))
    return str(caught.value)


def drawn() -> dict[tuple[str, str], str]:
    """The table in the module's docstring, (state, word) -> the next state, or "-"."""
    assert module.__doc__ is not None
    # Columns are two blanks or more apart; "output, message" are two words with one column.
    head, *rows = [re.split(" {2,}", line.strip()) for line in module.__doc__.splitlines() if line.startswith("    ")]
    return {
        (row[0], word.strip("()")): cell
        for row in rows
        for words, cell in zip(head[1:], row[1:], strict=True)
        for word in words.split(", ")
    }


SAY: dict[str, Callable[[Dialogue], object]] = {
    "hello": Dialogue.hello,
    "run": lambda dialogue: dialogue.run(RUN),
    "ready": lambda dialogue: list(dialogue.receive(ready())),
    "started": lambda dialogue: list(dialogue.receive(STARTED)),
    "output": lambda dialogue: list(dialogue.receive(output(b"x"))),
    "message": lambda dialogue: list(dialogue.receive(message(b"1"))),
    "exit": lambda dialogue: list(dialogue.receive(leave())),
    "error": lambda dialogue: list(dialogue.receive(ERROR)),
}


@pytest.mark.parametrize("word", SAY)
@pytest.mark.parametrize("state", State)
def test_every_cell_of_the_drawn_table_is_true(state: State, word: str) -> None:
    dialogue, following = drive(state), drawn()[state.name, word]
    if following != "-":
        SAY[word](dialogue)
        assert dialogue.state is State[following]
        return
    with pytest.raises(ProtocolViolation) as caught:
        SAY[word](dialogue)
    if word in ("hello", "run"):  # our own mistake changes nothing
        assert dialogue.state is state
        assert str(caught.value) == f"{word} in state {state.name}"
    else:
        assert dialogue.state is State.BROKEN


def test_the_drawn_table_has_every_state_and_every_word() -> None:
    assert set(drawn()) == {(state.name, word) for state in State for word in SAY}


def test_the_table_can_be_printed_and_is_the_one_that_is_drawn() -> None:
    table = {(state.name, kind.__name__.lower()): following.name for (state, kind), following in module.NEXT.items()}
    assert table == {cell: following for cell, following in drawn().items() if following != "-"}


@pytest.mark.parametrize(
    "token", ["", "0", TOKEN[:-1], TOKEN + "0", TOKEN.replace("a", "A"), "f" * 32, "\u00e4" * 32, "\0" * 32, f" {TOKEN}"]
)
@pytest.mark.parametrize("state", [State.GREETED, State.RUNNING])
def test_a_forged_token_ends_it(state: State, token: str) -> None:
    data = ready(token=token) if state is State.GREETED else leave(token=token)
    assert "forged token" in broken(drive(state), data)


def test_no_violation_tells_the_token() -> None:
    for data in (ready(token="f" * 32), ready(protocol=2)):
        assert TOKEN not in broken(drive(State.GREETED), data)


@pytest.mark.parametrize("changes", [{"protocol": 0}, {"protocol": 2}, {"pythons": {}}, {"pythons": {"2": "2.7"}}])
def test_a_runner_of_another_protocol_or_without_python_3_is_refused(changes: dict[str, Any]) -> None:
    broken(drive(State.GREETED), ready(**changes))


@pytest.mark.parametrize(("code", "signal"), [(None, None), (0, 9), (1, 1), (255, 64)])
def test_an_exit_has_an_exit_code_or_a_signal_never_both_or_none(code: int | None, signal: int | None) -> None:
    broken(drive(State.RUNNING), leave(exit_code=code, signal=signal))


@pytest.mark.parametrize(("code", "signal"), [(0, None), (255, None), (None, 1), (None, 64)])
def test_an_exit_with_one_of_the_two_is_read(code: int | None, signal: int | None) -> None:
    (found,) = drive(State.RUNNING).receive(leave(exit_code=code, signal=signal))
    assert isinstance(found, Exit)
    assert (found.exit_code, found.signal) == (code, signal)


WIDE = msgspec.structs.replace(RUN, stdout_limit=10**6, stderr_limit=10**6, message_limit=10**6, message_count=10**6)


@pytest.mark.parametrize(("run", "fine", "too_much"), [
    pytest.param(WIDE, [output(b"x")], output(b""), id="an output of no bytes"),
    pytest.param(WIDE, [output(b"x" * OUTPUT_SIZE)], output(b"x" * (OUTPUT_SIZE + 1)), id="one piece of output"),
    pytest.param(RUN, [output(b"x" * 10)], output(b"x"), id="stdout summed"),
    pytest.param(RUN, [output(b"x" * 9)], output(b"xx"), id="stdout summed, by two"),
    pytest.param(RUN, [output(b"x" * 10), output(b"x" * 5, "stderr")], output(b"x", "stderr"), id="stderr summed, on its own"),
    pytest.param(RUN, [message(b"")] * 3, message(b""), id="the number of messages"),
    pytest.param(RUN, [message(b"x" * 8), message(b"")], message(b"x"), id="the bytes of messages"),
    pytest.param(msgspec.structs.replace(RUN, message_count=0), [], message(b""), id="no messages at all"),
    pytest.param(msgspec.structs.replace(RUN, message_limit=0), [message(b"")], message(b"x"), id="empty messages only"),
    pytest.param(WIDE, [message(b"x" * 500_000), message(b"x" * 500_000)], message(b"x"), id="large messages"),
])  # fmt: skip
def test_the_last_that_is_allowed_is_read_and_one_more_ends_it(run: Run, fine: list[bytes], too_much: bytes) -> None:
    dialogue = drive(State.RUNNING, run)
    for data in fine:
        assert len(list(dialogue.receive(data))) == 1
    broken(dialogue, too_much)


def test_limits_are_per_run_and_not_before_it() -> None:
    dialogue = drive(State.HANDED)
    broken(dialogue, output(b"x"))


@pytest.mark.parametrize("run", [RUN, WIDE])
def test_a_frame_that_is_no_message_is_bounded_even_where_messages_may_be_large(run: Run) -> None:
    room = FRAME_SIZE - (len(leave()) - 4)
    assert len(list(drive(State.RUNNING, run).receive(leave(pad=room)))) == 1
    broken(drive(State.RUNNING, run), leave(pad=room + 1))


def test_before_the_run_a_large_length_is_refused_by_its_header() -> None:
    broken(drive(State.GREETED), (FRAME_SIZE + 1).to_bytes(4, "big"))
    broken(drive(State.WARM), (FRAME_SIZE + 1).to_bytes(4, "big"))


@given(st.integers(0, 400_000))
def test_a_message_of_all_the_bytes_allowed_always_fits_its_frame(size: int) -> None:
    dialogue = drive(State.RUNNING, msgspec.structs.replace(RUN, message_limit=size))
    assert list(dialogue.receive(message(bytes(size)))) == [Message(data=bytes(size))]
    bound = max(FRAME_SIZE, 1_024 + -(-4 * size // 3))
    broken(drive(State.RUNNING, msgspec.structs.replace(RUN, message_limit=size)), (bound + 1).to_bytes(4, "big"))


def test_a_program_too_large_for_a_frame_is_a_value_error_and_changes_nothing() -> None:
    dialogue = drive(State.WARM)
    room = RUN_SIZE - len(msgspec.json.encode(RUN)) + len(RUN.code)
    with pytest.raises(ValueError, match="67,108,865 bytes as a frame"):
        dialogue.run(msgspec.structs.replace(RUN, code="x" * (room + 1)))
    assert dialogue.state is State.WARM
    assert len(dialogue.run(msgspec.structs.replace(RUN, code="x" * room))) == 4 + RUN_SIZE


def test_what_the_host_says_is_framed() -> None:
    dialogue = Dialogue(TOKEN)
    assert dialogue.hello() == wire("hello", protocol=1, token=TOKEN)
    list(dialogue.receive(ready()))
    said = dialogue.run(RUN)
    assert int.from_bytes(said[:4], "big") == len(said) - 4
    assert msgspec.json.decode(said[4:], type=Run) == RUN


CONVERSATION = STARTED + output(b"12345") + message(b"[1]") + output(b"abc", "stderr") + output(b"67890") + leave(exit_code=3)
CUTS = st.lists(st.integers(0, len(CONVERSATION)), max_size=12)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def replay(state: State, pieces: list[bytes]) -> tuple[list[Any], bool]:
    """The frames that come out of `pieces` in `state`, and whether they end in a violation."""
    dialogue, found = drive(state), []
    for piece in pieces:
        try:
            found += dialogue.receive(piece)
        except ProtocolViolation:
            broken(dialogue, b"")
            return found, True
        assert len(dialogue._frames._buffer) < dialogue._frames.limit + 4
    return found, False


@given(CUTS)
def test_a_conversation_is_the_same_however_it_is_cut(at: list[int]) -> None:
    found, violated = replay(State.HANDED, cut(CONVERSATION, at))
    assert not violated
    assert len(found) == 6
    assert [frame.data for frame in found if isinstance(frame, Output) and frame.stream == "stdout"] == [b"12345", b"67890"]


@given(
    st.sampled_from([State.NEW, State.GREETED, State.WARM, State.HANDED, State.RUNNING, State.DONE]),
    st.lists(
        st.one_of(st.binary(max_size=20), st.sampled_from([ready(), STARTED, output(b"x"), message(b"1"), leave(), ERROR])), max_size=5
    ),
    CUTS,
)
def test_any_bytes_in_any_state_and_any_chunks_give_frames_or_a_violation(state: State, parts: list[bytes], at: list[int]) -> None:
    data = b"".join(parts)
    one_by_one, violated = replay(state, [bytes([byte]) for byte in data])
    for pieces in ([data], cut(data, at)):
        found, also = replay(state, pieces)
        assert also == violated
        assert found == one_by_one


@pytest.mark.parametrize("after", [b"junk that is not a frame", STARTED, output(b"more"), ERROR, leave()])
def test_what_stands_before_a_violation_is_yielded_first(after: bytes) -> None:
    found, violated = replay(State.HANDED, [CONVERSATION + after])
    assert violated
    assert found == replay(State.HANDED, [CONVERSATION, after])[0]
    assert len(found) == 6


@given(st.integers(0, len(CONVERSATION) - 1), st.integers(1, 255))
def test_a_flipped_byte_gives_frames_or_a_violation(index: int, flip: int) -> None:
    data = bytearray(CONVERSATION)
    data[index] ^= flip
    assert replay(State.HANDED, [bytes(data)])[1] == replay(State.HANDED, [bytes([byte]) for byte in data])[1]
