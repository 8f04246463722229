"""The state table, cell by cell, the bounds on sizes and numbers, one below and one above, and any
bytes at any point."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import _dialogue as module
from dayfly._dialogue import Dialogue, State
from dayfly._errors import ProtocolViolation
from dayfly._messages import FRAME_SIZE, OUTPUT_SIZE, PIECE_SIZE, RUN_SIZE, STDIN_WINDOW, Exit, Message, Output, Request, Run

TOKEN = "0123456789abcdef0123456789abcdef"
RUN_TOKEN = "fedcba9876543210fedcba9876543210"
RUN = Run(
    token="", clean=False, python="3", args=[], env={}, stdin=True, merge_stderr=False, seed=None, timeout_ms=1_000, cpu_limit_ms=None,
    open_files=64, stdout_limit=10, stderr_limit=5, on_output_limit="truncate", message_limit=8, message_count=3,
    display_limit=8, display_count=3, figures=False, last_value=False,
    fetch=[], file_limit=8, file_count=3,
)  # fmt: skip
REQUEST = Request(run=RUN, files=(("main.py", b"print(1)"),), stdin=b"in")
FILES, SCRATCH = ["/sandbox", "/tmp"], ["/dev/shm"]


def wire(kind: str, *, pad: int = 0, **members: Any) -> bytes:
    """One frame as bytes; `pad` blanks make it larger without changing what it says."""
    body = json.dumps({"type": kind, **members}, separators=(",", ":")).encode() + b" " * pad
    return len(body).to_bytes(4, "big") + body


def ready(**changes: Any) -> bytes:
    status = {"uid": 7, "gid": 7, "no_new_privs": 1, "seccomp": 2, "cap_eff": "0", "cap_bnd": "0", "dumpable": 0}
    members = {
        "protocol": 2, "token": TOKEN, "version": "0.1.0", "pythons": {"3": "3.11"}, "status": status, "cgroup": 1, "problems": [],
        "preloaded": [], "baseline_bytes": None,
    }  # fmt: skip
    return wire("ready", **{**members, **changes})


def output(data: bytes, stream: str = "stdout") -> bytes:
    return wire("output", stream=stream, data=base64.b64encode(data).decode())


def message(data: bytes) -> bytes:
    return wire("message", data=base64.b64encode(data).decode())


def display(data: bytes) -> bytes:
    return wire("display", data=base64.b64encode(data).decode())


def file(data: bytes, path: str = "a", *, last: bool = True) -> bytes:
    return wire("file", path=path, data=base64.b64encode(data).decode(), last=last)


def skipped(path: str = "b") -> bytes:
    return wire("skipped", path=path, why="missing")


def want(size: int) -> bytes:
    return wire("want", bytes=size)


def leave(pad: int = 0, **changes: Any) -> bytes:
    members = {
        "token": RUN_TOKEN, "exit_code": 0, "signal": None, "timed_out": False, "cpu_limited": False, "output_limit": False,
        "stdout_dropped": 0,
        "stderr_dropped": 0,
        "messages_dropped": 0, "displays_dropped": 0, "skipped_dropped": 0, "wall_ms": 1.0, "cpu_ms": None, "peak_memory_bytes": None,
        "max_rss_bytes": None, "oom_kills": None,
    }  # fmt: skip
    return wire("exit", pad=pad, **{**members, **changes})


STARTED, ERROR = wire("started", preloaded=False), wire("error", message="no")
NEXT, SPENT = wire("next"), wire("spent", reason="left")


def hand(dialogue: Dialogue, run: Run = RUN, stdin: bytes = b"in") -> bytes:
    return b"".join(dialogue.run(msgspec.structs.replace(REQUEST, run=run, stdin=stdin), RUN_TOKEN))


def hear(dialogue: Dialogue, data: bytes) -> list[Any]:
    return list(dialogue.receive(data))


def drive(state: State, run: Run = RUN, *, session: bool = False) -> Dialogue:
    """A dialogue that has come to `state`: by the shortest way, or, in a session, as soon as it can
    after `open`."""
    dialogue = Dialogue(TOKEN)
    opened: dict[State, Callable[[], object]] = {
        State.OPENING: lambda: dialogue.open(FILES, SCRATCH),
        State.IDLE: lambda: hear(dialogue, NEXT),
    }
    steps: dict[State, Callable[[], object]] = {
        State.GREETED: dialogue.hello,
        State.WARM: lambda: hear(dialogue, ready()),
        **(opened if session or state in (*opened, State.CLEANING, State.DONE) else {}),
        State.HANDED: lambda: hand(dialogue, run),
        State.RUNNING: lambda: hear(dialogue, STARTED),
        State.COLLECTING: lambda: hear(dialogue, skipped("c")),
        State.CLEANING: lambda: hear(dialogue, leave()),
        State.DONE: lambda: hear(dialogue, SPENT),
    }
    if state is State.BROKEN:
        with pytest.raises(ProtocolViolation):
            hear(dialogue, b"\0\0\0\0")
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
        hear(dialogue, data)
    assert dialogue.state is State.BROKEN
    for more in (b"", STARTED, leave()):
        with pytest.raises(ProtocolViolation):
            hear(dialogue, more)
    return str(caught.value)


def drawn() -> dict[tuple[str, str], str]:
    """The table in the module's docstring, (state, word) -> the next state, or "-"."""
    assert module.__doc__ is not None
    head, *rows = [line.split() for line in module.__doc__.splitlines() if line.startswith("    ")]
    alike = {"output": ("output", "message", "display", "want"), "file": ("file", "skipped")}
    return {
        (row[0], one): cell
        for row in rows
        for word, cell in zip(head[1:], row[1:], strict=True)
        for one in alike.get(word, (word.strip("()"),))
    }


SAY: dict[str, Callable[[Dialogue], object]] = {
    "hello": Dialogue.hello,
    "open": lambda dialogue: dialogue.open(FILES, SCRATCH),
    "run": hand,
    "ready": lambda dialogue: hear(dialogue, ready()),
    "started": lambda dialogue: hear(dialogue, STARTED),
    "output": lambda dialogue: hear(dialogue, output(b"x")),
    "message": lambda dialogue: hear(dialogue, message(b"1")),
    "display": lambda dialogue: hear(dialogue, display(b"1")),
    "want": lambda dialogue: hear(dialogue, want(1)),
    "file": lambda dialogue: hear(dialogue, file(b"1")),
    "skipped": lambda dialogue: hear(dialogue, skipped()),
    "exit": lambda dialogue: hear(dialogue, leave()),
    "next": lambda dialogue: hear(dialogue, NEXT),
    "spent": lambda dialogue: hear(dialogue, SPENT),
    "error": lambda dialogue: hear(dialogue, ERROR),
}


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("word", SAY)
@pytest.mark.parametrize("state", State)
def test_every_cell_of_the_drawn_table_is_true(state: State, word: str, session: bool) -> None:
    alone = state is State.DONE and not session
    dialogue, following = drive(State.RUNNING if alone else state, session=session), drawn()[state.name, word]
    if alone:
        hear(dialogue, leave())
    if following != "-":
        SAY[word](dialogue)
        assert dialogue.state is State["DONE" if following == "CLEANING" and not session else following]
        return
    with pytest.raises(ProtocolViolation) as caught:
        SAY[word](dialogue)
    if word in ("hello", "open", "run"):  # our own mistake changes nothing
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
    "token",
    ["", "0", TOKEN[:-1], TOKEN + "0", TOKEN.replace("a", "A"), "f" * 32, "\u00e4" * 32, "\0" * 32, f" {TOKEN}", f"{RUN_TOKEN[1:]}0"],
)
@pytest.mark.parametrize("state", [State.GREETED, State.RUNNING, State.COLLECTING])
def test_a_forged_token_ends_it(state: State, token: str) -> None:
    data = ready(token=token) if state is State.GREETED else leave(token=token)
    assert "forged token" in broken(drive(state), data)


def test_no_violation_tells_the_token() -> None:
    for data in (ready(token="f" * 32), ready(protocol=1)):
        assert TOKEN not in broken(drive(State.GREETED), data)


@pytest.mark.parametrize("changes", [{"protocol": 0}, {"protocol": 1}, {"preloaded": ["os"]}, {"pythons": {}}, {"pythons": {"2": "2.7"}}])
def test_a_runner_of_another_protocol_is_refused(changes: dict[str, Any]) -> None:
    broken(drive(State.GREETED), ready(**changes))


@pytest.mark.parametrize(("code", "signal"), [(None, None), (0, 9), (1, 1), (255, 64)])
def test_an_exit_has_an_exit_code_or_a_signal_never_both_or_none(code: int | None, signal: int | None) -> None:
    broken(drive(State.RUNNING), leave(exit_code=code, signal=signal))


@pytest.mark.parametrize(("code", "signal"), [(0, None), (255, None), (None, 1), (None, 64)])
def test_an_exit_with_one_of_the_two_is_read(code: int | None, signal: int | None) -> None:
    (found,) = hear(drive(State.RUNNING), leave(exit_code=code, signal=signal))
    assert isinstance(found, Exit)
    assert (found.exit_code, found.signal) == (code, signal)


WIDE = msgspec.structs.replace(
    RUN, stdout_limit=10**6, stderr_limit=10**6, message_limit=10**6, message_count=10**6, display_limit=10**6, display_count=10**6,
    file_limit=10**6, file_count=10**6,
)  # fmt: skip


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
    pytest.param(RUN, [display(b"")] * 3, display(b""), id="the number of displays"),
    pytest.param(RUN, [display(b"x" * 8), message(b"x" * 8)], display(b"x"), id="the bytes of displays, on their own"),
    pytest.param(RUN, [file(b"", "a"), file(b"", "b"), file(b"", "c")], file(b"", "d"), id="the number of files"),
    pytest.param(RUN, [file(b"x" * 5, last=False), file(b"x" * 3)], file(b"x", "b"), id="the bytes of files"),
    pytest.param(RUN, [file(b"x", last=False)] * 8, file(b"x"), id="the bytes of one file"),
    pytest.param(WIDE, [file(b"x" * OUTPUT_SIZE)], file(b"x" * (OUTPUT_SIZE + 1), "b"), id="one piece of a file"),
    pytest.param(RUN, [skipped(str(number)) for number in range(100)], skipped(), id="the number of skipped files"),
])  # fmt: skip
def test_the_last_that_is_allowed_is_read_and_one_more_ends_it(run: Run, fine: list[bytes], too_much: bytes) -> None:
    dialogue = drive(State.RUNNING, run)
    for data in fine:
        assert len(hear(dialogue, data)) == 1
    broken(dialogue, too_much)


@pytest.mark.parametrize("data", [file(b"", "b"), skipped(), leave(), output(b"x")])
def test_a_file_is_complete_before_anything_else(data: bytes) -> None:
    dialogue = drive(State.RUNNING)
    hear(dialogue, file(b"x", last=False))
    broken(dialogue, data)


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../a", "a/../../b", "a\0b", "x" * 256])
def test_a_file_with_a_path_that_leads_elsewhere_ends_it(path: str) -> None:
    broken(drive(State.RUNNING), file(b"", path))


def test_a_file_that_comes_twice_ends_it() -> None:
    dialogue = drive(State.RUNNING)
    hear(dialogue, file(b"") + file(b"", "b"))
    broken(dialogue, file(b""))


def test_an_error_may_come_in_the_middle_of_a_file() -> None:
    dialogue = drive(State.RUNNING)
    assert len(hear(dialogue, file(b"x", last=False) + ERROR)) == 2
    assert dialogue.state is State.DONE


def test_limits_are_per_run_and_not_before_it() -> None:
    dialogue = drive(State.HANDED)
    broken(dialogue, output(b"x"))


@pytest.mark.parametrize("run", [RUN, WIDE])
def test_other_frames_are_bounded_where_messages_are_large(run: Run) -> None:
    room = FRAME_SIZE - (len(leave()) - 4)
    assert len(hear(drive(State.RUNNING, run), leave(pad=room))) == 1
    broken(drive(State.RUNNING, run), leave(pad=room + 1))


def test_before_the_run_a_large_length_is_refused_by_its_header() -> None:
    broken(drive(State.GREETED), (FRAME_SIZE + 1).to_bytes(4, "big"))
    broken(drive(State.WARM), (FRAME_SIZE + 1).to_bytes(4, "big"))


@given(st.integers(0, 400_000))
def test_a_message_of_the_largest_size_fits_its_frame(size: int) -> None:
    dialogue = drive(State.RUNNING, msgspec.structs.replace(RUN, message_limit=size))
    assert hear(dialogue, message(bytes(size))) == [Message(data=bytes(size))]
    bound = max(FRAME_SIZE, 1_024 + -(-4 * size // 3))
    broken(drive(State.RUNNING, msgspec.structs.replace(RUN, message_limit=size)), (bound + 1).to_bytes(4, "big"))


def test_a_run_too_large_for_a_frame_is_a_value_error() -> None:
    dialogue = drive(State.WARM)
    room = RUN_SIZE - len(msgspec.json.encode(msgspec.structs.replace(RUN, token=RUN_TOKEN, args=[""])))
    with pytest.raises(ValueError, match="1,048,577 bytes as a frame"):
        hand(dialogue, msgspec.structs.replace(RUN, args=["x" * (room + 1)]))
    assert dialogue.state is State.WARM
    assert spoken(hand(dialogue, msgspec.structs.replace(RUN, args=["x" * room])))[0]["type"] == "run"


def spoken(data: bytes) -> list[dict[str, Any]]:
    """The host's frames as JSON values."""
    frames = []
    while data:
        length = int.from_bytes(data[:4], "big")
        frames.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return frames


def content(frames: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(frame["data"]) for frame in frames)


def test_what_the_host_says_is_framed() -> None:
    dialogue = Dialogue(TOKEN, preload=["numpy"])
    assert dialogue.hello() == wire("hello", protocol=2, token=TOKEN, preload=["numpy"])
    hear(dialogue, ready(preloaded=["numpy"]))
    assert dialogue.open(("/sandbox", "/tmp"), ("/dev/shm",)) == wire("open", files=FILES, scratch=SCRATCH)
    hear(dialogue, NEXT)
    run, put, stdin = spoken(hand(dialogue))
    assert run == {**json.loads(msgspec.json.encode(RUN)), "token": RUN_TOKEN}
    assert put == {"type": "put", "path": "main.py", "data": base64.b64encode(b"print(1)").decode(), "last": True}
    assert stdin == {"type": "stdin", "data": "aW4=", "last": True}


@pytest.mark.parametrize("size", [0, 1, PIECE_SIZE - 1, PIECE_SIZE, PIECE_SIZE + 1, 1_000_000])
def test_files_go_out_in_pieces_each_in_its_turn(size: int) -> None:
    files = (("a", bytes(size)), ("b", b""), ("main.py", b"x" * size))
    dialogue = drive(State.WARM)
    pieces = list(dialogue.run(Request(run=msgspec.structs.replace(RUN, stdin=False), files=files), RUN_TOKEN))
    assert max(map(len, pieces)) < module.WRITE_SIZE + 2 * PIECE_SIZE
    _, *puts = spoken(b"".join(pieces))
    assert [path for path, _ in itertools.groupby(puts, lambda put: put["path"])] == ["a", "b", "main.py"]
    for path, data in files:
        assert content([put for put in puts if put["path"] == path]) == data
    assert [put["last"] for put in puts] == [False] * (len(puts) - 1) + [True]
    assert dialogue.outgoing() == b""


def test_standard_input_goes_out_as_far_as_the_runner_wants_it() -> None:
    dialogue = drive(State.WARM)
    data = bytes(range(256)) * 2_000
    handed = dialogue.run(msgspec.structs.replace(REQUEST, stdin=data), RUN_TOKEN)
    assert dialogue.outgoing() == b""  # not before the files
    _, _, *first = spoken(b"".join(handed))
    assert content(first) == data[:STDIN_WINDOW]
    assert dialogue.outgoing() == b""
    assert hear(dialogue, STARTED + want(10)) != []
    more = spoken(dialogue.outgoing())
    assert content(more) == data[STDIN_WINDOW : STDIN_WINDOW + 10]
    assert hear(dialogue, want(2**63 - 1)) == []
    rest = []
    while some := dialogue.outgoing():
        assert len(some) < module.WRITE_SIZE + 2 * PIECE_SIZE
        rest += spoken(some)
    assert content(first + more + rest) == data
    assert [frame["last"] for frame in first + more + rest] == [False] * (len(first + more + rest) - 1) + [True]


def test_live_input_goes_out_as_it_comes_until_its_end() -> None:
    dialogue = drive(State.WARM)
    handed = b"".join(dialogue.run(msgspec.structs.replace(REQUEST, stdin=b"", live=True), RUN_TOKEN))
    assert [one["type"] for one in spoken(handed)] == ["run", "put"]
    assert dialogue.outgoing() == b""
    dialogue.feed(b"a")
    dialogue.feed(b"b")
    assert spoken(dialogue.outgoing()) == [{"type": "stdin", "data": "YWI=", "last": False}]
    dialogue.feed(bytes(STDIN_WINDOW))
    assert len(content(spoken(dialogue.outgoing()))) == STDIN_WINDOW - 2
    dialogue.feed(b"")
    assert dialogue.outgoing() == b""
    hear(dialogue, wire("started", preloaded=False) + want(10))
    assert spoken(dialogue.outgoing()) == [{"type": "stdin", "data": "AAA=", "last": True}]
    dialogue.feed(b"late")
    assert dialogue.outgoing() == b""


def test_standard_input_is_forgotten_when_the_program_has_ended() -> None:
    dialogue = drive(State.IDLE)
    hand(dialogue, stdin=bytes(500_000))
    hear(dialogue, STARTED + want(100_000) + leave())
    assert dialogue.outgoing() == b""
    hear(dialogue, NEXT)
    assert content(spoken(hand(dialogue, stdin=b"new"))[2:]) == b"new"


def test_a_stop_is_said_once_and_only_while_a_program_may_run() -> None:
    stop = [{"type": "stop"}]
    for state in (State.HANDED, State.RUNNING, State.COLLECTING):
        dialogue = drive(state, session=True)
        dialogue.stop()
        assert (spoken(dialogue.outgoing()), dialogue.outgoing()) == (stop, b"")
        alone = drive(state)
        alone.stop()
        assert alone.outgoing() == b""
    for state in (State.IDLE, State.CLEANING):
        dialogue = drive(state, session=True)
        dialogue.stop()
        assert dialogue.outgoing() == b""
    dialogue = drive(State.RUNNING, session=True)
    dialogue.stop()
    hear(dialogue, leave())
    assert dialogue.outgoing() == b"", "it has ended by itself"


def test_no_standard_input_follows_a_stop() -> None:
    dialogue = drive(State.IDLE)
    hand(dialogue, stdin=bytes(500_000))
    dialogue.stop()
    assert spoken(dialogue.outgoing()) == [{"type": "stop"}]
    hear(dialogue, STARTED + want(100_000))
    assert dialogue.outgoing() == b""


def test_each_run_of_a_session_has_its_own_bounds_and_token() -> None:
    dialogue = drive(State.IDLE)
    for number in range(3):
        token = f"{number:032}"
        list(dialogue.run(REQUEST, token))
        hear(dialogue, STARTED + output(b"x" * 10) + message(b"x" * 8) + file(b"x" * 8) + skipped() + leave(token=token) + NEXT)
        assert dialogue.state is State.IDLE
    list(dialogue.run(REQUEST, "f" * 32))
    hear(dialogue, STARTED)
    assert "forged token" in broken(dialogue, leave(token=f"{2:032}"))


def test_how_bytes_were_cut_never_changes_what_is_seen() -> None:
    data = STARTED + output(b"x") + leave() + b"\xff\xff\xff\xff"
    for pieces in ([data], [data[:-4], data[-4:]], [bytes([byte]) for byte in data]):
        assert [type(frame).__name__ for frame in replay(State.HANDED, pieces)[0]] == ["Started", "Output", "Exit"]


CONVERSATION = STARTED + output(b"12345") + message(b"[1]") + output(b"abc", "stderr") + want(5) + output(b"67890") + leave(exit_code=3)
CUTS = st.lists(st.integers(0, len(CONVERSATION)), max_size=12)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def replay(state: State, pieces: list[bytes]) -> tuple[list[Any], bool]:
    """The frames that come out of `pieces` in `state`, and whether they end in a violation."""
    dialogue, found = drive(state), []
    for piece in pieces:
        try:
            for frame in dialogue.receive(piece):
                found.append(frame)  # noqa: PERF402 - what came before a violation counts
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
    st.sampled_from(list(State)),
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from([ready(), STARTED, output(b"x"), message(b"1"), file(b"1"), skipped(), leave(), NEXT, SPENT, ERROR]),
        ),
        max_size=5,
    ),
    CUTS,
)
def test_any_bytes_give_frames_or_a_violation(state: State, parts: list[bytes], at: list[int]) -> None:
    data = b"".join(parts)
    one_by_one, violated = replay(state, [bytes([byte]) for byte in data] or [b""])
    for pieces in ([data], cut(data, at)):
        assert replay(state, pieces) == (one_by_one, violated)


@given(st.integers(0, len(CONVERSATION) - 1), st.integers(1, 255))
def test_a_flipped_byte_gives_frames_or_a_violation(index: int, flip: int) -> None:
    data = bytearray(CONVERSATION)
    data[index] ^= flip
    assert replay(State.HANDED, [bytes(data)]) == replay(State.HANDED, [bytes([byte]) for byte in data])
