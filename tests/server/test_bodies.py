"""Bodies as text: what compacting keeps, and that no body is costly to decode."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import tracemalloc
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dayfly import Job, _result
from dayfly._server import bodies, fusion, judging, piston
from dayfly._server.config import Config
from dayfly._server.problems import Problem

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\\"/\n\x00\x1fuй😀\ufffe')),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(value=ANY_JSON, ascii=st.booleans(), indent=st.sampled_from([None, 0, 3]), size=st.integers(13, 40))
def test_compacting_keeps_the_value(value: Any, *, ascii: bool, indent: int | None, size: int) -> None:  # noqa: A002
    text = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    with mock.patch.object(bodies, "SLICE", size):  # so that the cuts fall everywhere
        compacted = bodies._compacted(text)
    assert json.loads(compacted) == value
    shortest = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    # DEL and a few others may be written either way.
    assert len(compacted) <= len(text)
    assert b"\n" not in compacted
    assert abs(len(compacted) - len(shortest)) <= 5 * text.count(b"\\u00") + text.count(b"e")


def decode(body: bytes) -> Job | Problem:
    try:
        job: Job = bodies._job(bodies._decoded(bodies._job_decoder, body), 1_000)
        return job
    except Problem as problem:
        return problem


UNITS = [b"x", rb"\u0439", rb"\n\u0439", rb"x\u0439", rb"\\", rb"\ud83d\ude00", rb"\u0001", rb"\u0001\u0439", rb"\\u", "й".encode()]


@pytest.mark.parametrize("end", [b'"}', b"", b'\\ud83d"}', b'\xff"}'])
@pytest.mark.parametrize("unit", UNITS)
def test_no_text_is_costly_to_decode(unit: bytes, end: bytes) -> None:
    body = b'{"code":"1","data":"' + unit * (8_000_000 // len(unit)) + end
    begun = time.process_time()
    decode(body)
    assert time.process_time() - begun < 1.2


@pytest.mark.parametrize(
    "body",
    [
        b'{"code":"1","args":[' + b'"",' * 2_600_000 + b'""]}',
        b'{"code":"1","env":{' + b",".join(b'"%d":""' % number for number in range(700_000)) + b"}}",
        b'{"code":"1","files":{' + b",".join(b'"%d":""' % number for number in range(700_000)) + b"}}",
        b'{"code":"1","filesText":{"' + b"a/" * 4_000_000 + b'":""}}',
        b'{"code":"1","fetch":[' + b'"*",' * 1_900_000 + b'"*"]}',
        b'{"code":"1","data":[' + b"{}," * 2_600_000 + b"0]}",
        b'{"code":"1","data":' + b"[" * 8_000_000,
        b'{"code":"1","' + b"x" * 8_000_000 + b'":1}',
        b" " * 8_000_000,
        b'{"code":"' + b"\x01" * 8_000_000,
    ],
)
def test_no_shape_is_costly_to_decode(body: bytes) -> None:
    begun = time.process_time()
    decode(body)
    assert time.process_time() - begun < 1.2


def test_whole_pairs_are_never_lone_surrogates() -> None:
    for shift in range(12):
        told = decode(b'{"code":"' + b"x" * shift + rb"\ud83d\ude00" * 40_000)
        assert isinstance(told, Problem)
        assert told.detail == "Input data was truncated"
        told = decode(b'{"code":"' + b"x" * shift + rb"\ud83d\ude00" * 40_000 + rb'\ud83d"}')
        assert isinstance(told, Problem)
        assert f"at byte {9 + shift + 480_000} is a lone surrogate" in told.detail


def values_of(value: Any) -> int:
    """Values that a decoder builds, but the outermost one, and keys."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(1 + values_of(one) for one in inner)


@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(value=ANY_JSON, ascii=st.booleans(), size=st.integers(1, 9), cut=st.integers(0, 9))
def test_no_fewer_values_are_counted_than_are_built(value: Any, *, ascii: bool, size: int, cut: int) -> None:  # noqa: A002
    text = json.dumps(value, ensure_ascii=ascii).encode()
    with mock.patch.object(_result, "SLICE", size):  # so that strings are cut everywhere
        counted = bodies._values(text)
        broken = bodies._values(text[: len(text) - cut] + b"\\x,[" * cut)
    assert values_of(value) <= counted <= 2 * values_of(value) + 1
    assert broken >= bodies._values(text[: len(text) - cut])


def peak(body: bytes, decode: Any) -> int:
    """Bytes that decoding takes at most, beside the body."""
    tracemalloc.start()
    try:
        with contextlib.suppress(Problem):
            asyncio.run(decode(body))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def fusion_job(body: bytes) -> Any:
    return bodies.decode(fusion._decoder, body, make=lambda request: fusion.job_of(request, 1_000))


def piston_job(body: bytes) -> Any:
    known = piston.runtimes({"3": "3.11"})
    return bodies.decode(piston._decoder, body, make=lambda request: piston.job_of(request, known, Config()))


NUMBERED = b",".join(b'"%d":""' % number for number in range(300_000))


@pytest.mark.parametrize(
    ("decode", "body"),
    [
        (piston_job, b'{"language":"python","version":"*","files":[' + b"{}," * 1_000_000 + b"{}]}"),
        (piston_job, b'{"language":"python","version":"*","files":[' + b"[],'" * 1_000_000),
        (piston_job, b'{"language":"python","version":"*","files":[{' + NUMBERED + b"}]}"),
        (fusion_job, b'{"code":"1","files":{' + NUMBERED + b"}}"),
        (fusion_job, b'{"code":"1","fetch_files":[' + b'"ab",' * 600_000 + b'""]}'),
        (lambda body: bodies.decode_job(body, 1_000), b'{"code":"1","env":{' + NUMBERED + b"}}"),
        (lambda body: bodies.decode_job(body, 1_000), b'{"code":"1","args":[' + b'"ab",' * 600_000 + b'""]}'),
        (lambda body: bodies.decode_job(body, 1_000), b'{"code":"1","data":[' + b'"ab",' * 600_000 + b"0]}"),
        (lambda body: bodies.decode_compile(body, 1_000), b'{"code":"1","data":[' + b"{}," * 1_000_000 + b"0]}"),
        (
            lambda body: bodies.decode(judging.judge_decoder, body, most_values=judging.MOST_VALUES),
            b'{"code":"1","cases":{"cases":[' + b"{}," * 1_000_000 + b"0]}}",
        ),
    ],
)
def test_no_shape_takes_much_memory(decode: Any, body: bytes) -> None:
    assert peak(body, decode) < 5 * len(body)


def test_a_job_may_have_data_of_many_values() -> None:
    job = asyncio.run(bodies.decode_job(b'{"code":"1","data":[' + b"0," * 100_000 + b"0]}", 1_000))
    assert len(bytes(job.data)) > 100_000
    with pytest.raises(Problem, match="400,004 JSON values; 32,768 are allowed"):
        asyncio.run(bodies.decode_job(b'{"code":"1","data":[0],"args":[' + b'"",' * 400_000 + b'""]}', 1_000))
