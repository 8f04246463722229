"""The runner's codec, without a process: the vectors, and whatever hypothesis thinks of."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dayfly_runner
from dayfly import _version
from dayfly_runner import _cgroup, _frames, _parent

VECTORS = Path(__file__).parents[2] / "conformance" / "vectors"
FILES = {file.stem: json.loads(file.read_text()) for file in sorted(VECTORS.glob("host_*.json"))}
CASES = [(stem, vector["name"]) for stem, file in FILES.items() for vector in file["vectors"]]


def piece(value: dict[str, Any], pieces: dict[str, Any]) -> bytes:
    if "frame" in value:
        body: bytes = value["frame"].encode()
        return len(body).to_bytes(4, "big") + body
    if "use" in value:
        whole = piece(pieces[value["use"]], pieces)
    else:
        whole = bytes.fromhex(value["hex"]) if "hex" in value else value["text"].encode()
    times: int = value.get("times", 1)
    return whole * times


def decode(chunks: Iterator[bytes] | list[bytes], *, another: bool = False) -> tuple[list[dict[str, Any]], bool]:
    """Return the frames as JSON values, and whether the bytes broke the protocol."""
    decoder, frames = _frames.Decoder(), []
    try:
        for chunk in chunks:
            decoder.feed(chunk)
            while (frame := decoder.next_frame()) is not None:
                frames.append(as_json(frame))
                if another and (frame["type"] == "open" or frame.get("last")):
                    decoder.another()
    except _frames.ProtocolError:
        with pytest.raises(_frames.ProtocolError):
            decoder.next_frame()
        return frames, True
    return frames, False


def as_json(frame: dict[str, Any]) -> dict[str, Any]:
    return {name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in frame.items()}


def test_vectors_are_there() -> None:
    assert len(CASES) > 150


@pytest.mark.parametrize(("stem", "name"), CASES)
def test_vector(stem: str, name: str) -> None:
    file = FILES[stem]
    (vector,) = [vector for vector in file["vectors"] if vector["name"] == name]
    data = b"".join(piece(value, file["pieces"]) for value in vector["bytes"])
    expected = vector["frames"], vector.get("error", False)
    another = vector.get("another", False)
    assert decode([data], another=another) == expected
    if not vector.get("slow"):
        assert decode((data[i : i + 1] for i in range(len(data))), another=another) == expected
        assert decode((data[i : i + 7] for i in range(0, len(data), 7)), another=another) == expected


HELLO, OPEN, RUN, PUT, STDIN = (FILES["host_run"]["pieces"][name] for name in ("hello", "open", "run", "put", "stdin"))


@given(st.binary(max_size=300), st.integers(0, 4), st.lists(st.integers(1, 40), min_size=1))
def test_any_bytes_give_frames_or_the_one_error(data: bytes, before: int, sizes: list[int]) -> None:
    data = b"".join([piece(frame, {}) for frame in (HELLO, RUN, PUT, STDIN)][:before]) + data
    chunks: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
    assert decode(chunks) == decode([data])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.text("=AB/+", max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*json.loads(RUN["frame"]), "path", "data", "last", "x"]), json_values), st.integers(0, 3))
def test_any_members_give_a_frame_or_the_one_error(members: dict[str, Any], at: int) -> None:
    *before, frame = (HELLO, RUN, PUT, STDIN)[: at + 1]
    body = {**json.loads(frame["frame"]), **members}
    text = json.dumps(body)
    frames, error = decode([*(piece(one, {}) for one in before), piece({"frame": text}, {})])
    if not error:
        assert frames[-1] == json.loads(text)


@given(st.dictionaries(st.sampled_from(["type", "files", "scratch", "x"]), json_values | st.lists(st.text("/a\0"), max_size=9)))
def test_any_members_give_an_open_or_the_one_error(members: dict[str, Any]) -> None:
    body = {**json.loads(OPEN["frame"]), **members}
    frames, error = decode([piece(HELLO, {}), piece({"frame": json.dumps(body)}, {})])
    if not error:
        assert frames[-1] == body


@given(st.binary(max_size=4_000))
def test_base64_is_taken_as_the_standard_has_it(data: bytes) -> None:
    body = {**json.loads(PUT["frame"]), "data": base64.b64encode(data).decode()}
    decoder = _frames.Decoder()
    decoder.feed(piece(HELLO, {}) + piece(RUN, {}) + piece({"frame": json.dumps(body)}, {}))
    decoder.next_frame()
    decoder.next_frame()
    frame = decoder.next_frame()
    assert frame is not None
    assert frame["data"] == data


@given(st.lists(st.sampled_from([HELLO, OPEN, RUN, PUT, STDIN]), max_size=5), st.binary(max_size=5))
def test_exactly_what_is_missing_is_asked_for(frames: list[dict[str, Any]], tail: bytes) -> None:
    data, decoder, at, found = b"".join(piece(one, {}) for one in frames) + tail, _frames.Decoder(), 0, []
    try:
        while at < len(data):
            size = decoder.missing()
            assert size > 0
            # What comes behind a frame is not read with it.
            assert not any(at < end < at + size for end in ends(frames))
            decoder.feed(data[at : at + size])
            at += size
            if (frame := decoder.next_frame()) is not None:
                found.append(frame)
    except _frames.ProtocolError:
        assert decode([data])[1]
    else:
        assert [as_json(frame) for frame in found] == decode([data])[0]


def ends(frames: list[dict[str, Any]]) -> list[int]:
    sizes = [len(piece(one, {})) for one in frames]
    return [sum(sizes[: i + 1]) for i in range(len(sizes))]


def test_a_hello_of_another_version_is_recognised() -> None:
    decoder = _frames.Decoder()
    decoder.feed(piece({"frame": '{"type":"hello","protocol":3,"and":"more"}'}, {}))
    with pytest.raises(_frames.VersionMismatch, match="speaks protocol 2, the host 3"):
        decoder.next_frame()


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x00\x01\x00\x01", b"\x00\x00\x00\x00"])
def test_a_length_is_refused_before_its_body_is_there(length: bytes) -> None:
    decoder = _frames.Decoder()
    decoder.feed(length)
    with pytest.raises(_frames.ProtocolError, match="length"):
        decoder.next_frame()


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
))  # fmt: skip
def test_what_is_encoded_is_json(value: Any) -> None:
    frame = _frames.encode({"type": "x", "value": value})
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert json.loads(frame[4:].decode("utf-8")) == {"type": "x", "value": value}


def test_a_lone_surrogate_does_not_get_into_a_frame() -> None:
    frame = _frames.encode_error("no file 'a\udcff'" + "x" * 5_000)
    message = json.loads(frame[4:])["message"]
    assert message.startswith("no file 'a\\udcff'")
    assert len(message) == 4_096


def sent_messages(pieces: list[bytes]) -> list[bytes]:
    data, found = b"".join(pieces), []
    while data:
        length = int.from_bytes(data[:4], "big")
        frame = json.loads(data[4 : 4 + length])
        assert frame.keys() == {"type", "data"}
        assert frame["type"] == "message"
        found.append(base64.b64decode(frame["data"], validate=True))
        data = data[4 + length :]
    return found


@pytest.mark.parametrize("size", [0, 1, 2, 3, 49_151, 49_152, 49_153, 65_535, 65_536, 98_304, 98_305])
def test_data_of_any_size_is_one_frame(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    assert sent_messages(list(_frames.encode_message(data[:size]))) == [data[:size]]
    frame = b"".join(_frames.encode_output(b"stderr", data[:size]))
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert json.loads(frame[4:]) == {"type": "output", "stream": "stderr", "data": base64.b64encode(data[:size]).decode()}


def taker(limit: int, count: int, sent: list[bytes]) -> _parent._Messages:
    budget = _parent._Budget
    return _parent._Messages(budget(b"message", limit, count), budget(b"display", limit, count), sent.append)


def dropped(messages: _parent._Messages) -> int:
    return sum(budget.dropped for budget in messages._budgets)


@given(st.lists(st.binary(max_size=30), max_size=20), st.lists(st.integers(1, 50), min_size=1), st.integers(0, 200), st.integers(0, 10))
def test_messages_in_any_pieces(bodies: list[bytes], sizes: list[int], limit: int, count: int) -> None:
    expected: list[bytes] = []
    for body in bodies:
        if len(expected) < count and len(body) + sum(map(len, expected)) <= limit:
            expected.append(body)
    sent: list[bytes] = []
    messages = taker(limit, count, sent)
    data = b"".join(len(body).to_bytes(4, "big") + body for body in bodies)
    at = turn = 0
    while at < len(data):
        messages.take(data[at : at + sizes[turn % len(sizes)]])
        at += sizes[turn % len(sizes)]
        turn += 1
    messages.end()
    assert sent_messages(sent) == expected
    assert dropped(messages) == len(bodies) - len(expected)


@given(st.binary(max_size=200))
def test_any_bytes_on_the_message_pipe(data: bytes) -> None:
    whole: list[bytes] = []
    messages = taker(100, 3, whole)
    messages.take(data)
    single: list[bytes] = []
    others = taker(100, 3, single)
    for i in range(len(data)):
        others.take(data[i : i + 1])
    assert whole == single
    assert dropped(messages) == dropped(others)


def test_a_message_too_long_is_never_buffered() -> None:
    sent: list[bytes] = []
    for header in (b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"):
        messages = taker(1_000, 3, sent)
        messages.take(header + bytes(1_000_000))
        assert messages._body is None
        messages.end()
        assert [budget.dropped for budget in messages._budgets] == ([1, 0] if header[0] == 0x7F else [0, 1])
    assert sent == []


def test_displays_and_messages_have_their_own_bounds() -> None:
    sent: list[bytes] = []
    budgets = _parent._Budget(b"message", 1, 1), _parent._Budget(b"display", 3, 2)
    messages = _parent._Messages(*budgets, sent.append)
    messages.take(b"\0\0\0\1m\x80\0\0\3ddd\0\0\0\1n\x80\0\0\0\x80\0\0\0")
    frames = b"".join(sent)
    assert [budget.dropped for budget in budgets] == [1, 1]
    assert frames.count(b'"type":"message"') == 1
    assert frames.count(b'"type":"display"') == 2


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_counters_of_cgroup_1(tmp_path: Path) -> None:
    def state(oom_kills: int, peak: int, cpu: int) -> None:
        oom_control = f"oom_kill_disable 0\nunder_oom 0\noom_kill {oom_kills}\n"
        write(
            tmp_path,
            {
                "memory/memory.oom_control": oom_control,
                "memory/memory.max_usage_in_bytes": f"{peak}\n",
                "cpuacct/cpuacct.usage": f"{cpu}\n",
            },
        )

    state(2, 4_096, 1_000_000)
    counters = _cgroup.Counters(str(tmp_path))
    counters.start()
    state(5, 8_192, 3_500_000)
    assert (counters.version, counters.read()) == (1, (3, 8_192, 2.5))
    # The next program of a session: the peak is the kernel's of the container's whole life.
    counters.start()
    assert counters.read() == (0, None, 0.0)
    state(5, 8_193, 3_500_000)
    assert counters.read() == (0, 8_193, 0.0)


def test_counters_of_cgroup_2(tmp_path: Path) -> None:
    def state(oom_kills: int, peak: int, cpu: int) -> None:
        events = f"low 0\nhigh 0\nmax 7\noom 9\noom_kill {oom_kills}\noom_group_kill 0\n"
        stat = f"usage_usec {cpu}\nuser_usec 300\nsystem_usec 200\n"
        write(tmp_path, {"cgroup.controllers": "memory cpu\n", "memory.events": events, "memory.peak": f"{peak}\n", "cpu.stat": stat})

    state(1, 100, 500)
    counters = _cgroup.Counters(str(tmp_path))
    counters.start()
    state(2, 200, 2_000)
    assert (counters.version, counters.read()) == (2, (1, 200, 1.5))


@pytest.mark.parametrize(
    ("names", "prefix"),
    [(("memory/memory.usage_in_bytes", "memory/memory.stat"), "total_"), (("memory.current", "memory.stat"), "")],
)
def test_cached_files_are_not_counted_as_used(tmp_path: Path, names: tuple[str, str], prefix: str) -> None:
    stat = f"cache 900\ninactive_file 1\nactive_file 1\n{prefix}rss 200\n{prefix}inactive_file 300\n{prefix}active_file 400\n"
    if not prefix:
        write(tmp_path, {"cgroup.controllers": "memory\n"})
        stat = stat.replace("\ninactive_file 1\nactive_file 1", "")
    write(tmp_path, {names[0]: "1000\n", names[1]: stat})
    assert _cgroup.Counters(str(tmp_path)).usage() == 300
    write(tmp_path, {names[0]: "500\n"})  # the kernel brings the two up to date one after the other
    assert _cgroup.Counters(str(tmp_path)).usage() == 0
    (tmp_path / names[1]).unlink()
    assert _cgroup.Counters(str(tmp_path)).usage() == 500
    (tmp_path / names[0]).unlink()
    assert _cgroup.Counters(str(tmp_path)).usage() is None


def test_counters_that_are_not_there(tmp_path: Path) -> None:
    counters = _cgroup.Counters(str(tmp_path))
    counters.start()
    assert (counters.version, counters.read()) == (0, (None, None, None))
    # Before kernel 5.19 there is no memory.peak; without the memory controller, none of its files.
    write(tmp_path, {"cgroup.controllers": "cpu\n", "cpu.stat": "usage_usec 500\n", "memory.events": "max 7\n"})
    counters = _cgroup.Counters(str(tmp_path))
    counters.start()
    assert (counters.version, counters.read()) == (2, (None, None, 0.0))


def test_the_runner_belongs_to_this_version() -> None:
    assert _version.__version__ == dayfly_runner.VERSION
