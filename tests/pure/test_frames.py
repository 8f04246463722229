"""Any bytes, cut anyhow, give bodies or the one ProtocolViolation; what is kept never grows with a
claim."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly._errors import ProtocolViolation
from dayfly._frames import PREFIX, FrameDecoder, frame

LIMIT = 40
BODIES = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=6)
CUTS = st.lists(st.integers(0, 200), max_size=12)
# Mostly frames, so that a violation comes late as often as early.
HOSTILE = st.lists(st.one_of(st.binary(max_size=12), st.binary(min_size=1, max_size=LIMIT).map(frame)), max_size=6).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def read(pieces: list[bytes], limit: int = LIMIT) -> tuple[list[bytes], str | None]:
    """The bodies that a fresh decoder finds, and the violation that it ends with."""
    decoder, found = FrameDecoder(limit), []
    for piece in pieces:
        decoder.feed(piece)
        assert len(decoder._buffer) < limit + PREFIX + len(piece)
        try:
            while (body := decoder.next()) is not None:
                found.append(body)
        except ProtocolViolation as error:
            return found, str(error)
        assert len(decoder._buffer) < limit + PREFIX
    return found, None


@given(BODIES, CUTS)
def test_frames_come_out_as_they_went_in_however_they_are_cut(bodies: list[bytes], at: list[int]) -> None:
    assert read(cut(b"".join(map(frame, bodies)), at)) == (bodies, None)


@given(HOSTILE, CUTS)
def test_any_bytes_mean_the_same_whole_cut_anyhow_and_one_by_one(data: bytes, at: list[int]) -> None:
    assert read([data]) == read(cut(data, at)) == read([bytes([byte]) for byte in data])


@given(HOSTILE, st.lists(st.binary(max_size=100), max_size=4))
def test_after_a_violation_there_are_only_violations(data: bytes, more: list[bytes]) -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(data + b"\xff" * (PREFIX + LIMIT))
    try:
        while decoder.next() is not None:
            pass
    except ProtocolViolation as error:
        said = str(error)
    else:
        return  # the bytes of 0xff became a body
    for piece in [frame(b"good"), *more]:
        decoder.feed(piece)
        assert len(decoder._buffer) == 0
        with pytest.raises(ProtocolViolation) as caught:
            decoder.next()
        assert str(caught.value) == said


@pytest.mark.parametrize("length", [0, LIMIT + 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_bad_length_is_refused_by_the_header_alone(length: int) -> None:
    bodies, violation = read([length.to_bytes(4, "big")])
    assert bodies == []
    assert violation is not None
    assert f"{length:,}" in violation


@pytest.mark.parametrize("length", [1, LIMIT])
def test_lengths_at_the_bounds_are_fine(length: int) -> None:
    assert read([frame(b"x" * length)]) == ([b"x" * length], None)


def test_an_incomplete_frame_is_none_again_and_again() -> None:
    decoder = FrameDecoder(LIMIT)
    for byte in frame(b"body")[:-1]:
        decoder.feed(bytes([byte]))
        assert decoder.next() is None
        assert decoder.next() is None
    decoder.feed(b"")
    assert decoder.next() is None
    decoder.feed(memoryview(b"y"))
    assert decoder.next() == b"body"


def test_a_limit_that_changes_holds_from_the_next_frame_on() -> None:
    decoder = FrameDecoder(4)
    decoder.feed(frame(b"1234") + frame(b"12345678"))
    assert decoder.next() == b"1234"
    decoder.limit = 8
    assert decoder.next() == b"12345678"
    decoder.limit = 4
    decoder.feed(frame(b"12345"))
    with pytest.raises(ProtocolViolation):
        decoder.next()
