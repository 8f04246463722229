"""Docker's stream header: whatever comes is payload with its stream, or the one
ProtocolViolation."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly._errors import ProtocolViolation
from dayfly._stdcopy import STDERR, STDOUT, StreamDecoder

PIECES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=6)
CUTS = st.lists(st.integers(0, 300), max_size=12)


def piece(stream: int, payload: bytes, *, zeros: bytes = bytes(3)) -> bytes:
    return bytes([stream]) + zeros + len(payload).to_bytes(4, "big") + payload


HOSTILE = st.lists(
    st.one_of(st.binary(max_size=12), st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20)).map(lambda p: piece(*p)))
).map(b"".join)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(edge, len(data)) for edge in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def read(pieces: list[bytes]) -> tuple[list[tuple[int, int]], str | None]:
    """Each byte of payload with its stream, and the violation at the end."""
    decoder, found = StreamDecoder(), []
    for data in pieces:
        try:
            for stream, payload in decoder.feed(data):
                assert len(payload) > 0
                found += [(stream, byte) for byte in payload]
        except ProtocolViolation as error:
            return found, str(error)
        assert len(decoder._header) < 8
    return found, None


@given(PIECES, CUTS)
def test_payloads_keep_order_and_stream_however_cut(pieces: list[tuple[int, bytes]], at: list[int]) -> None:
    expected = [(stream, byte) for stream, payload in pieces for byte in payload]
    assert read(cut(b"".join(piece(*one) for one in pieces), at)) == (expected, None)


@given(HOSTILE, CUTS)
def test_segmentation_changes_neither_payload_nor_verdict(data: bytes, at: list[int]) -> None:
    byte_by_byte = read([bytes([byte]) for byte in data])
    assert read([data]) == read(cut(data, at)) == byte_by_byte


@pytest.mark.parametrize("header", [
    pytest.param(piece(0, b""), id="stdin"),
    pytest.param(piece(3, b"the daemon's own error"), id="systemerr"),
    pytest.param(piece(7, b""), id="a stream that does not exist"),
    pytest.param(piece(255, b""), id="a byte of all ones"),
    pytest.param(piece(1, b"", zeros=b"\1\0\0"), id="a first byte that is not zero"),
    pytest.param(piece(2, b"", zeros=b"\0\0\1"), id="a third byte that is not zero"),
    pytest.param(b"HTTP/1.1 500 Internal Server Error\r\n", id="plain HTTP"),
])  # fmt: skip
def test_a_header_without_sense_is_a_violation_for_ever(header: bytes) -> None:
    decoder = StreamDecoder()
    with pytest.raises(ProtocolViolation) as first:
        list(decoder.feed(header))
    for more in (b"", piece(STDOUT, b"good")):
        with pytest.raises(ProtocolViolation) as later:
            list(decoder.feed(more))
        assert str(later.value) == str(first.value)


def test_a_claimed_length_is_counted_down_and_not_believed() -> None:
    decoder = StreamDecoder()
    assert list(decoder.feed(b"\1\0\0\0\xff\xff\xff\xff")) == []
    assert [bytes(payload) for _, payload in decoder.feed(b"x" * 1_000)] == [b"x" * 1_000]
    assert decoder._left == 0xFFFFFFFF - 1_000
    assert len(decoder._header) == 0


def test_what_stands_before_a_bad_header_is_yielded_first() -> None:
    found = []
    with pytest.raises(ProtocolViolation):
        for _, payload in StreamDecoder().feed(piece(STDOUT, b"good") + piece(7, b"") + piece(STDOUT, b"lost")):
            found.append(bytes(payload))
    assert found == [b"good"]


def test_an_empty_piece_is_nothing() -> None:
    assert read([piece(STDOUT, b"") + piece(STDERR, b"") + piece(STDOUT, b"x")]) == ([(STDOUT, ord("x"))], None)


def test_payload_is_passed_on_as_views_of_what_came() -> None:
    data = piece(STDOUT, b"no copy")
    ((_, payload),) = StreamDecoder().feed(data)
    assert payload.obj is data
