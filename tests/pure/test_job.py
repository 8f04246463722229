"""What `run` may be given. Bad input is a TypeError or a ValueError here, before a container is
touched; what passes is sent as it is."""

from __future__ import annotations

import decimal
import json
import math
import types
from collections import OrderedDict, UserDict, UserList
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dayfly import Job, Limits
from dayfly._job import RUN_ROOM, UNSET, RunOptions, as_job, check_timeout, request, to_json
from dayfly._limits import MAX_TIMEOUT_MS
from dayfly._messages import Request, Run, encode


class Text(str):
    """A str that lies."""

    __slots__ = ()

    def encode(self, *_: Any) -> bytes:
        return b"something else"


class Bytes(bytes):
    def __len__(self) -> int:
        return 0


class Array:
    """As a numpy array is: a comparison gives no bool."""

    def __eq__(self, other: object) -> Any:
        return Array()

    def __bool__(self) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def each(values: list[Any]) -> list[Any]:
    """Parameters for values that have no name of their own, and some of which cannot even be
    written out."""
    return [pytest.param(value, id=f"{index} {type(value).__name__}") for index, value in enumerate(values)]


def rows(*rows: tuple[Any, ...]) -> list[Any]:
    """The same for several parameters at once."""
    return [pytest.param(*row, id=str(index)) for index, row in enumerate(rows)]


def handed(job: Job, limits: Limits | None = None, *, timeout_ms: float = 10_000, python: str = "3") -> Request:
    return request(job, limits or Limits(), timeout_ms=timeout_ms, python=python)


def sent(job: Job, limits: Limits | None = None, **options: Any) -> Run:
    return handed(job, limits, **options).run


def ran(what: Any, **given: Any) -> Run:
    return sent(as_job(what, **given))


def files(what: Any, **given: Any) -> dict[str, bytes]:
    return dict(handed(as_job(what, **given)).files)


def code(what: Any, **given: Any) -> bytes:
    return files(what, **given)["main.py"]


def stdin(what: Any, **given: Any) -> bytes | None:
    """What standard input is; None if it is empty without a frame."""
    wanted = handed(as_job(what, **given))
    assert wanted.run.stdin is (wanted.stdin != b"")
    return wanted.stdin or None


def data(what: Any, **given: Any) -> str | None:
    found = files(what, **given).get("data.json")
    return None if found is None else found.decode()


# Code.


@pytest.mark.parametrize(
    "given",
    each(
        [None, 1, 1.5, True, bytearray(b"1"), memoryview(b"1"), Text("print(1)"), Bytes(b"1"), ["print(1)"], object(), Array(), print, int]
    ),
)
def test_code_that_is_neither_text_nor_bytes_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match="code must be a str or bytes"):
        as_job(given)
    with pytest.raises(TypeError, match="code must be a str or bytes"):
        as_job({"code": given})
    with pytest.raises(TypeError, match="code must be a str or bytes"):
        Job(code=given)


@pytest.mark.parametrize(
    ("given", "written"),
    rows(
        ("", b""), ("\0", b"\0"), ("x\0y", b"x\0y"), ("'\udfff'", b"'\xed\xbf\xbf'"), ("\ud83d\ude00", b"\xed\xa0\xbd\xed\xb8\x80"),
        (b"", b""), (b"\xff\0", b"\xff\0"), (b"# coding: latin-1\n'\xe4'", b"# coding: latin-1\n'\xe4'"),
    ),
)  # fmt: skip
def test_any_text_and_any_bytes_are_a_program(given: Any, written: bytes) -> None:
    assert code(given) == code(Job(code=given)) == code({"code": given}) == Job(code=given).source == written


def test_code_bytes_in_a_mapping_are_base64_as_in_the_json_form() -> None:
    job = Job(code=b"\xff")
    assert job == Job(code_bytes=b"\xff") == as_job(b"\xff")
    assert json.loads(msgspec.json.encode(job)) == {"codeBytes": "/w=="}
    assert as_job({"codeBytes": "/w=="}) == msgspec.json.decode(b'{"codeBytes":"/w=="}', type=Job) == job
    with pytest.raises(ValueError, match="codeBytes is not valid base64"):
        as_job({"codeBytes": "/w="})
    with pytest.raises(TypeError, match="code_bytes must be bytes, not bytearray"):
        Job(code_bytes=bytearray(b"1"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="both given"):
        Job(code="1", code_bytes=b"1")


@pytest.mark.parametrize("given", [
    "\ufeff", "\ufeffprint(1)", "print(1)\r\nprint(2)\r\n", "\r", " ", "\n", "# coding: latin-1\nprint('\u00e4')", "# coding: nonsense",
    "print('\U0001f600')", "def (", "\u2028", "\x1b[31m", "\uffff", "\x7f\x01",
])  # fmt: skip
def test_code_that_python_may_like_or_not_is_sent_to_the_letter(given: str) -> None:
    assert code(given) == given.encode()


@pytest.mark.parametrize(("size", "limit"), [(1, 1), (999_999, 1_000_000), (1_000_000, 1_000_000)])
def test_code_up_to_the_limit_is_sent(size: int, limit: int) -> None:
    assert dict(handed(Job(code="x" * size), Limits(code_bytes=limit)).files)["main.py"] == b"x" * size


def test_code_over_the_limit_is_a_value_error_counted_in_bytes() -> None:
    with pytest.raises(ValueError, match=r"code is 1,000,001 bytes .* 1,000,000"):
        ran("x" * 1_000_001)
    with pytest.raises(ValueError, match="code is 1,000,002 bytes"):
        ran("\u00e4" * 500_001)
    ran("\u00e4" * 500_000)


def test_what_does_not_fit_a_frame_is_refused_at_once() -> None:
    wide = Limits(code_bytes=40_000_000, input_bytes=40_000_000)
    sent(Job(code="\x01" * 40_000_000, stdin_bytes=bytes(39_000_000), args=["x" * 1_000_000]), wide)
    with pytest.raises(ValueError, match=r"args, env and fetch are .* bytes as a frame; the protocol allows 1,048,544"):
        sent(Job(code="1", args=["\x01" * 200_000]), wide)  # six bytes each in JSON
    with pytest.raises(ValueError, match="as a frame"):
        sent(Job(code="1", env={"A": "x" * 1_048_576}), wide)


# Time.


@pytest.mark.parametrize("value", each([
    0, 0.0, -0.0, -1, 0.999, MAX_TIMEOUT_MS * 1.01, 1e300, 10**400, 10**5_000, math.nan, math.inf, -math.inf,
]))  # fmt: skip
def test_a_timeout_out_of_range_is_a_value_error(value: float) -> None:
    for use in (lambda: as_job("1", timeout_ms=value), lambda: as_job({"code": "1", "timeoutMs": value}), lambda: check_timeout(value)):
        with pytest.raises(ValueError, match=r"^timeout_ms must be a finite number from 1 to"):
            use()


@pytest.mark.parametrize(
    "value", each([True, False, "5", "", b"5", decimal.Decimal(5), [5], type("F", (float,), {})(5), 5j, Array(), object()])
)
def test_a_timeout_that_is_no_plain_number_is_a_type_error(value: Any) -> None:
    for use in (lambda: as_job("1", timeout_ms=value), lambda: as_job({"code": "1", "timeoutMs": value}), lambda: check_timeout(value)):
        with pytest.raises(TypeError, match=r"^timeout_ms must be an int or a float"):
            use()


@pytest.mark.parametrize(
    ("given", "whole"), [(1, 1), (1.0, 1), (1.2, 2), (1_999.5, 2_000), (3_600_000, 3_600_000), (MAX_TIMEOUT_MS, 604_800_000)]
)
def test_a_timeout_is_rounded_up_to_milliseconds(given: float, whole: int) -> None:
    assert ran("1", timeout_ms=given).timeout_ms == whole
    assert sent(Job(code="1"), timeout_ms=given).timeout_ms == whole


def test_no_timeout_is_the_sandboxes() -> None:
    assert sent(as_job({"code": "1", "timeoutMs": None}), timeout_ms=77).timeout_ms == 77
    assert sent(Job(code="1", timeout_ms=5), timeout_ms=77).timeout_ms == 5


# Which Python.


@pytest.mark.parametrize(
    ("v3", "default", "python"),
    [(None, "3", "3"), (None, "2", "2"), (True, "2", "3"), (True, "3", "3"), (False, "3", "2"), (False, "2", "2")],
)
def test_v3_wins_over_the_sandboxes_python(v3: bool | None, default: str, python: str) -> None:
    assert sent(Job(code="1", v3=v3), python=default).python == python


@pytest.mark.parametrize("v3", each([0, 1, "", "3", "true", 3.0, [], Array()]))
def test_v3_is_a_bool(v3: Any) -> None:
    with pytest.raises(TypeError, match="v3 must be True, False or None"):
        as_job({"code": "1", "v3": v3})


# Data.


@pytest.mark.parametrize(("value", "text"), rows(
    (None, "null"), (0, "0"), (False, "false"), ("", '""'), ([], "[]"), ({}, "{}"), ((1, 2), "[1,2]"), ("\u00e4\n", '"\u00e4\\n"'),
    ({"a": [1.5, None, {"b": "\0"}]}, '{"a":[1.5,null,{"b":"\\u0000"}]}'), (10**100, "1" + "0" * 100), ({1: 2}, '{"1":2}'),
    ("\U0001f600\u2028", '"\U0001f600\u2028"'),
))  # fmt: skip
def test_any_json_value_is_sent_as_one_line_of_json(value: Any, text: str) -> None:
    assert data("1", data=value) == data({"code": "1", "data": value}) == data(Job(code="1", data=value)) == text
    assert "\n" not in text
    # Where no standard input is given, it is that line.
    assert stdin("1", data=value) == f"{text}\n".encode()
    assert stdin("1", data=value, stdin="x") == b"x"
    assert stdin("1", data=value, stdin="") is None


def test_data_that_is_not_given_is_not_null() -> None:
    assert data("1") is None
    assert data({"code": "1"}) is None
    assert data("1", data=UNSET) is None
    assert data("1", data=None) == "null"


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def cyclic() -> Any:
    ring: list[Any] = []
    ring.append({"ring": ring})
    return ring


@pytest.mark.parametrize(("data", "error"), [
    pytest.param(math.nan, ValueError, id="nan"),
    pytest.param([math.inf], ValueError, id="inf"),
    pytest.param({"x": -math.inf}, ValueError, id="-inf"),
    pytest.param({math.nan: 1}, ValueError, id="nan as a key"),
    pytest.param({1, 2}, TypeError, id="set"),
    pytest.param(b"bytes", TypeError, id="bytes"),
    pytest.param([object()], TypeError, id="object"),
    pytest.param(decimal.Decimal(1), TypeError, id="Decimal"),
    pytest.param(1j, TypeError, id="complex"),
    pytest.param({(1, 2): 3}, TypeError, id="tuple as a key"),
    pytest.param({b"x": 3}, TypeError, id="bytes as a key"),
    pytest.param(range(3), TypeError, id="range"),
    pytest.param((x for x in "ab"), TypeError, id="generator"),
    pytest.param(Array(), TypeError, id="array"),
    pytest.param(UserDict(a=1), TypeError, id="a mapping that is not a dict"),
    pytest.param("\ud800", ValueError, id="surrogate"),
    pytest.param({"\udfff": 1}, ValueError, id="surrogate as a key"),
    pytest.param(10**5_000, ValueError, id="more digits than Python reads back"),
    pytest.param(nested(100_000), ValueError, id="deep"),
    pytest.param(cyclic(), ValueError, id="cyclic"),
])  # fmt: skip
def test_data_that_json_cannot_carry_is_refused(data: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^data ") as caught:
        ran("1", data=data)
    assert type(caught.value) is error
    assert len(str(caught.value)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(JSON)
def test_data_reads_back_as_itself(value: Any) -> None:
    text = data("1", data=value)
    assert text is not None
    assert json.loads(text) == value


# Standard input.


@pytest.mark.parametrize(
    ("given", "expected"),
    rows(("", None), ("a\0\n", b"a\0\n"), ("\u00e4", b"\xc3\xa4"), (b"", None), (b"\xff\0\x04\x10\x11", b"\xff\0\x04\x10\x11")),
)
def test_stdin_is_text_or_bytes(given: str | bytes, expected: bytes | None) -> None:
    assert stdin("1", stdin=given) == expected


def test_no_stdin_is_an_empty_one() -> None:
    assert stdin("1") is None
    assert stdin({"code": "1", "stdin": None}) is None
    assert stdin({"code": "1", "stdin": ""}) is None


@pytest.mark.parametrize("given", each([1, True, bytearray(b"x"), memoryview(b"x"), ["x"], iter("x"), Text("x"), Bytes(b"x"), object()]))
def test_stdin_that_is_neither_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^stdin"):
        as_job("1", stdin=given)


def test_stdin_of_both_kinds_or_no_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="both given"):
        Job(code="1", stdin="x", stdin_bytes=b"x")
    with pytest.raises(ValueError, match="stdin has a lone surrogate"):
        as_job("1", stdin="\ud800")


def test_stdin_beside_a_job_replaces_its_stdin() -> None:
    for old in (Job(code="1", stdin="old"), Job(code="1", stdin_bytes=b"old"), {"code": "1", "stdin": "old"}):
        assert stdin(old, stdin="new") == b"new"
        assert stdin(old, stdin=b"new") == b"new"
        assert stdin(old) == b"old"


def test_stdin_bytes_in_a_mapping_are_base64() -> None:
    job = Job(code="1", stdin_bytes=b"\0\xff")
    assert as_job(json.loads(msgspec.json.encode(job))) == job
    assert stdin({"code": "1", "stdinBytes": b"\0\xff"}) == b"\0\xff"
    for wrong in ("A", "AP8", "AP8=\n", "A_8=", "\u00e4\u00e4\u00e4\u00e4"):
        with pytest.raises(ValueError, match="stdinBytes is not valid base64"):
            as_job({"code": "1", "stdinBytes": wrong})


# Arguments and environment.


@pytest.mark.parametrize("args", [["a", ""], ("a", ""), UserList(["a", ""])])
def test_args_are_any_sequence_of_str(args: Any) -> None:
    assert ran("1", args=args).args == ["a", ""]


@pytest.mark.parametrize(("args", "error"), rows(
    ("abc", TypeError), (b"abc", TypeError), (bytearray(b"abc"), TypeError), (1, TypeError), ({"a"}, TypeError), ({"a": 1}, TypeError),
    (iter(["a"]), TypeError), ([1], TypeError), ([None], TypeError), ([b"a"], TypeError), ([Text("a")], TypeError), ([["a"]], TypeError),
    (["a\0b"], ValueError), (["ok", "\ud800"], ValueError), (range(2), TypeError),
))  # fmt: skip
def test_args_of_any_other_kind_are_refused(args: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^args") as caught:
        as_job("1", args=args)
    assert type(caught.value) is error


@pytest.mark.parametrize("env", [{"A": "", "B": "=;\n"}, OrderedDict(A="", B="=;\n"), types.MappingProxyType({"A": "", "B": "=;\n"})])
def test_env_is_any_mapping_of_str_to_str(env: Any) -> None:
    assert ran("1", env=env).env == {"A": "", "B": "=;\n"}


def test_env_reaches_the_program_and_nothing_before_it() -> None:
    env = {"LD_PRELOAD": "/tmp/x.so", "PYTHONPATH": "/tmp", "PYTHONSTARTUP": "x", "PATH": ""}
    assert ran("1", env=env).env == env


@pytest.mark.parametrize(("env", "error"), rows(
    ({"": "x"}, ValueError), ({"=": "x"}, ValueError), ({"A=B": "x"}, ValueError), ({"A\0": "x"}, ValueError), ({"A": "\0"}, ValueError),
    ({"\ud800": "x"}, ValueError), ({"A": "\udfff"}, ValueError), ({"A": 1}, TypeError), ({"A": None}, TypeError), ({"A": b"x"}, TypeError),
    ({1: "x"}, TypeError), ({b"A": "x"}, TypeError), ({None: "x"}, TypeError), ({Text("A"): "x"}, TypeError), ({"A": Text("x")}, TypeError),
    (["A=x"], TypeError), ("A=x", TypeError), (1, TypeError), ([("A", "x")], TypeError), ({"A"}, TypeError),
))  # fmt: skip
def test_env_of_any_other_kind_is_refused(env: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="env") as caught:
        as_job("1", env=env)
    assert type(caught.value) is error


def test_later_changes_by_the_caller_are_not_sent() -> None:
    args, env = ["a"], {"A": "x"}
    job = Job(code="1", args=args, env=env)
    args.append(None)  # type: ignore[arg-type]
    env["A=B"] = "\0"
    assert (sent(job).args, sent(job).env) == (["a"], {"A": "x"})


@pytest.mark.parametrize("given", [
    pytest.param({"stdin": "x" * 101}, id="stdin"),
    pytest.param({"stdin": b"x" * 101}, id="bytes"),
    pytest.param({"stdin": "\u00e4" * 51}, id="bytes are counted, not characters"),
    pytest.param({"data": "x" * 99}, id="data, with its quotes"),
    pytest.param({"args": ["x" * 50, "y" * 51]}, id="args"),
    pytest.param({"env": {"A" * 50: "x" * 51}}, id="env"),
    pytest.param({"stdin": "x" * 30, "data": "x" * 28, "args": ["x" * 20], "env": {"A": "x" * 20}}, id="the sum"),
])  # fmt: skip
def test_input_over_the_limit_is_a_value_error(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"are 10[12] bytes together; the limit \(input_bytes\) is 100"):
        sent(as_job("1", **given), Limits(input_bytes=100))
    sent(as_job("1", **given), Limits(input_bytes=102))


def test_files_count_as_input_with_their_paths() -> None:
    given: dict[str, str | bytes] = {"ab": b"x" * 49, "c/d": "y" * 47}
    with pytest.raises(ValueError, match=r"files are 101 bytes together; the limit \(input_bytes\) is 100"):
        sent(Job(code="1", files=given), Limits(input_bytes=100))
    sent(Job(code="1", files=given), Limits(input_bytes=101))


def test_ten_megabytes_of_environment_are_over_the_default() -> None:
    with pytest.raises(ValueError, match="input_bytes"):
        ran("1", env={"A": "x" * 10_000_000})


# Files.


def test_files_are_text_or_bytes_and_the_program_is_one_of_them() -> None:
    given: dict[str, str | bytes] = {"a/b.csv": b"\xff", "text": "\u00e4"}
    expected = {"main.py": b"1", "a/b.csv": b"\xff", "text": b"\xc3\xa4"}
    assert files("1", files=given) == files(Job(code="1", files=given)) == expected
    assert files({"code": "1", "files": {"a/b.csv": "/w=="}, "filesText": {"text": "\u00e4"}}) == expected
    job = Job(code="1", files=given)
    assert as_job(json.loads(msgspec.json.encode(job))) == msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
    assert files(job, files={"c": b""}) == {"main.py": b"1", "c": b""}
    assert files("1", data=1, files={"c": b""}) == {"main.py": b"1", "data.json": b"1", "c": b""}


@pytest.mark.parametrize("path", ["", "/a", "../a", "a/../b", "./a", "a//b", "a/", "a\0", "\ud800", "x" * 256, "x/" * 16 + "x", "x/" * 600])
def test_a_path_that_leads_elsewhere_is_a_value_error(path: str) -> None:
    with pytest.raises(ValueError, match=r"path .* of files"):
        as_job("1", files={path: b""})
    with pytest.raises(ValueError, match="fetch"):
        as_job("1", fetch=[path])


@pytest.mark.parametrize(("given", "error"), rows(
    ({1: b""}, TypeError), ({"a": 1}, TypeError), ({"a": None}, TypeError), ({"a": bytearray()}, TypeError), ({"a": Text("x")}, TypeError),
    ({"a": Bytes(b"x")}, TypeError), (["a"], TypeError), ("a", TypeError), ({Text("a"): b""}, TypeError), ({"a": "\ud800"}, ValueError),
    ({"main.py": b""}, ValueError), ({"main.py/a": b""}, ValueError), ({"a": b"", "a/b": b""}, ValueError),
    ({"a/b/c": b"", "a/b": b""}, ValueError), ({str(number): b"" for number in range(1_023)}, ValueError),
))  # fmt: skip
def test_files_of_any_other_kind_are_refused(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="file") as caught:
        as_job("1", files=given)
    assert type(caught.value) is error


def test_files_are_given_once() -> None:
    with pytest.raises(ValueError, match="'a' is given twice"):
        Job(code="1", files={"a": b""}, files_text={"a": ""})
    with pytest.raises(TypeError, match="files_text must be a mapping"):
        Job(code="1", files_text=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"files\['a'\] is not valid base64"):
        as_job({"code": "1", "files": {"a": "x"}})
    with pytest.raises(ValueError, match=r"'data.json' is made from data"):
        as_job("1", data=1, files={"data.json": b""})
    assert files("1", files={"data.json": b"[]"}) == {"main.py": b"1", "data.json": b"[]"}


def test_fetch_is_paths_and_patterns() -> None:
    patterns = ["a", "out/*.csv", "**/*.png", "?[x]", "**", "*" * 300]
    assert ran("1", fetch=patterns).fetch == patterns
    for wrong in ("/*", "../*", "*/./a", "a//*", "*/"):
        with pytest.raises(ValueError, match=r"the pattern .* of fetch must be relative"):
            as_job("1", fetch=[wrong])
    for pattern in ("*" * 1_025, "*\ud800"):
        with pytest.raises(ValueError, match="fetch"):
            as_job("1", fetch=[pattern])
    with pytest.raises(ValueError, match="fetch has 65 paths; 64 are allowed"):
        as_job("1", fetch=["a"] * 65)
    kind: Any
    for kind in ("abc", b"abc", 1, [1], {"a"}):
        with pytest.raises(TypeError, match="fetch"):
            as_job("1", fetch=kind)


# How it is run.


@pytest.mark.parametrize("value", each([0, 1, "true", None, [], Array()]))
@pytest.mark.parametrize("name", ["merge_stderr", "figures", "last_value"])
def test_a_flag_is_a_bool(name: str, value: Any) -> None:
    wrong: Any = {name: value}
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        Job(code="1", **wrong)
    right: Any = {name: True}
    assert getattr(ran("1", **right), name) is True
    assert getattr(ran("1"), name) is False


@pytest.mark.parametrize("wanted", [{"figures": True}, {"last_value": True}, {"seed": 0}])
def test_figures_last_value_and_seed_need_python_3(wanted: Any) -> None:
    for job, python in ((Job(code="1", v3=False, **wanted), "3"), (Job(code="1", **wanted), "2")):
        with pytest.raises(ValueError, match="figures, last_value and seed need Python 3"):
            request(job, Limits(), timeout_ms=1, python=python)
    assert request(Job(code="1", v3=True, **wanted), Limits(), timeout_ms=1, python="2").run.python == "3"


def test_a_seed_is_an_integer_of_64_bits() -> None:
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        assert ran("1", seed=seed).seed == seed
    assert ran("1").seed is None
    value: Any
    for value in (True, 1.0, "1", [1]):
        with pytest.raises(TypeError, match="seed must be an int or None"):
            as_job("1", seed=value)
    for value in (2**63, -(2**63) - 1, 10**5_000):
        with pytest.raises(ValueError, match="seed must fit 64 bits"):
            as_job("1", seed=value)


def test_clean_is_asked_for_by_the_session() -> None:
    job = Job(code="1")
    assert request(job, Limits(), timeout_ms=1, python="3", clean=True).run.clean
    assert not request(job, Limits(), timeout_ms=1, python="3").run.clean


def test_the_options_of_a_run_are_fields_of_a_job() -> None:
    assert RunOptions.__annotations__.keys() <= {field.name for field in msgspec.structs.fields(Job)}


# The three forms of a job, and what is given beside it.


def test_a_str_a_job_and_a_mapping_are_the_same_job() -> None:
    job = Job(code="1", timeout_ms=5, v3=True, data={"x": 1})
    assert as_job("1", timeout_ms=5, v3=True, data={"x": 1}) == job
    assert as_job({"code": "1", "timeoutMs": 5, "v3": True, "data": {"x": 1}}) == job
    assert as_job(types.MappingProxyType({"code": "1"}), timeout_ms=5, v3=True, data={"x": 1}) == job
    assert as_job(job) is job


def test_what_is_given_beside_a_job_wins_and_is_checked() -> None:
    job = Job(code="1", timeout_ms=5, v3=True, data=1, args=["a"], env={"A": "x"})
    changed = as_job(job, timeout_ms=6, v3=False, data=2, args=["b"], env={"B": "y"})
    assert changed == Job(code="1", timeout_ms=6, v3=False, data=2, args=["b"], env={"B": "y"})
    assert as_job(job, args=(), env={}) == Job(code="1", timeout_ms=5, v3=True, data=1)
    assert as_job(job, timeout_ms=None, v3=None, data=UNSET, stdin=None, args=None, env=None) == job
    with pytest.raises(ValueError, match="timeout_ms"):
        as_job(job, timeout_ms=0)


@pytest.mark.parametrize("mapping", [
    {}, {"data": 1}, {"Code": "1"}, {"code": "1", "timeout_ms": 5}, {"code": "1", "timeout": 5}, {"code": "1", "TimeoutMs": 5},
    {"code": "1", "v2": True}, {"code": "1", "stdin_bytes": b""}, {"code": "1", 1: 2}, {"code": "1", None: 2},
    {"code": "1", "x" * 9_999: 2},
])  # fmt: skip
def test_a_mapping_with_wrong_keys_is_a_value_error(mapping: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        as_job(mapping)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("options", [{"timeout": 5}, {"timeoutMs": None}, {"stdin_bytes": b""}, {"on_output": None}, {"code": "2"}])
def test_an_unknown_option_is_a_type_error_even_if_none(options: dict[str, Any]) -> None:
    for what in ("1", Job(code="1"), {"code": "1"}):
        with pytest.raises(TypeError):
            as_job(what, **options)


def test_the_json_form_has_the_documented_names_and_reads_back() -> None:
    job = Job(code="1", timeout_ms=5, v3=False, data=[1], stdin="x", args=["a"], env={"A": "x"})
    form = json.loads(msgspec.json.encode(job))
    assert form == {"code": "1", "v3": False, "timeoutMs": 5, "data": [1], "stdin": "x", "args": ["a"], "env": {"A": "x"}}
    assert as_job(form) == msgspec.json.decode(msgspec.json.encode(job), type=Job) == job
    assert json.loads(msgspec.json.encode(Job(code="1"))) == {"code": "1"}


def test_a_job_is_a_value_that_cannot_be_changed() -> None:
    assert Job(code="1", args=["a"]) == Job(code="1", args=("a",))
    with pytest.raises(AttributeError):
        Job(code="1").code = ""  # type: ignore[misc]
    with pytest.raises(TypeError):
        Job("1")  # type: ignore[call-arg]


def test_the_limits_of_the_run_are_the_sandboxes() -> None:
    limits = Limits(
        open_files=17, stdout_bytes=18, stderr_bytes=19, on_output_limit="kill", message_bytes=20, messages=21, display_bytes=22,
        displays=23, file_bytes=24, file_count=25,
    )  # fmt: skip
    run = sent(Job(code="1"), limits)
    assert (run.open_files, run.stdout_limit, run.stderr_limit, run.on_output_limit) == (17, 18, 19, "kill")
    assert (run.message_limit, run.message_count, run.display_limit, run.display_count) == (20, 21, 22, 23)
    assert (run.file_limit, run.file_count) == (24, 25)


@given(
    st.text(st.characters(codec=None)) | st.binary(),
    st.text(),
    st.lists(st.text(), max_size=3),
    st.dictionaries(st.text(), st.text(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.binary() | st.text(), max_size=3),
)
def test_whatever_is_accepted_can_be_sent(
    given: str | bytes, text: str, args: list[str], env: dict[str, str], more: dict[str, bytes | str]
) -> None:
    try:
        wanted = handed(as_job(given, stdin=text, args=args, env=env, files=more))
    except ValueError:
        return
    assert len(encode(wanted.run)) <= RUN_ROOM
    assert msgspec.json.decode(encode(wanted.run), type=Run) == wanted.run
    assert wanted.stdin == text.encode()
    assert len(wanted.files) == 1 + len(more)


@pytest.mark.parametrize("clean", ["no", None, 1])
def test_clean_is_true_or_false(clean: Any) -> None:
    with pytest.raises(TypeError, match="clean must be True or False, not"):
        request(Job(code=""), Limits(), timeout_ms=1, python="3", clean=clean)


def test_data_that_is_json_text_is_passed_on_without_being_built() -> None:
    handed = request(Job(code="", data=msgspec.Raw(b"[1,\n 2]")), Limits(), timeout_ms=1, python="3")
    assert json.loads(dict(handed.files)["data.json"]) == [1, 2]
    assert b"\n" not in dict(handed.files)["data.json"], "it is one line of standard input too"
    for bad in (b"{", b"", b"1 2", b"[" * 100_000):
        with pytest.raises(ValueError, match="data is not valid JSON"):
            request(Job(code="", data=msgspec.Raw(bad)), Limits(), timeout_ms=1, python="3")
    for large in (b"1e400", b'[{"a": -1E+999}]', b"9" * 4_301, b"9" * 400 + b".5", b'["1e400\\"", 1.5e309]'):
        with pytest.raises(ValueError, match="data has a number that is out of range"):
            request(Job(code="", data=msgspec.Raw(large)), Limits(), timeout_ms=1, python="3")
    for fits in (
        b"1e308",
        b"1e-999",
        b"9" * 4_300,
        b'"1e400"',
        b'["\\"1e400", "' + b"9" * 5_000 + b'", 0.1e309]',
        b"-" + b"9" * 300 + b".5",
    ):
        json.loads(dict(request(Job(code="", data=msgspec.Raw(fits)), Limits(), timeout_ms=1, python="3").files)["data.json"])


@pytest.mark.parametrize(
    "job",
    [
        Job(code="print(1)"),
        Job(code="'\ud800'"),
        Job(code=b"\xff", data={"x": [1, None, "\u2028"]}, timeout_ms=5, v3=True, args=["a"], env={"A": "b"}),
        Job(
            code="",
            data=msgspec.Raw(b'{"a": 1}'),
            stdin_bytes=b"\xff",
            files={"a/b": b"\xff", "c": "text"},
            fetch=["*"],
            seed=-1,
            merge_stderr=True,
            figures=True,
            last_value=True,
        ),
        Job(code="", data=None, stdin=""),
    ],
)
def test_the_json_form_is_the_same_job_again(job: Job) -> None:
    again = msgspec.json.decode(to_json(job), type=Job)
    limits = Limits()
    assert request(again, limits, timeout_ms=9, python="3") == request(job, limits, timeout_ms=9, python="3")


def test_data_that_json_cannot_carry_has_no_json_form() -> None:
    with pytest.raises(ValueError, match="data"):
        to_json(Job(code="", data=float("nan")))
