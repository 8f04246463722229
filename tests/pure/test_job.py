"""What `run` may be given. Bad input is a TypeError or a ValueError here, before a container is touched; what passes is sent as it is."""

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
from dayfly.job import MAX_TIMEOUT_MS, UNSET, as_job, check_timeout, request
from dayfly.messages import RUN_SIZE, Run, encode


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
    """Parameters for values that have no name of their own, and some of which cannot even be written out."""
    return [pytest.param(value, id=f"{index} {type(value).__name__}") for index, value in enumerate(values)]


def rows(*rows: tuple[Any, ...]) -> list[Any]:
    """The same for several parameters at once."""
    return [pytest.param(*row, id=str(index)) for index, row in enumerate(rows)]


def sent(job: Job, limits: Limits | None = None, *, timeout_ms: float = 10_000, python: str = "3") -> Run:
    return request(job, limits or Limits(), timeout_ms=timeout_ms, python=python)


def ran(what: Any, **given: Any) -> Run:
    return sent(as_job(what, **given))


# Code.


@pytest.mark.parametrize(
    "code",
    [None, 1, 1.5, True, b"print(1)", bytearray(b"1"), memoryview(b"1"), Text("print(1)"), ["print(1)"], object(), Array(), print, int],
)
def test_code_that_is_no_str_is_a_type_error(code: Any) -> None:
    with pytest.raises(TypeError, match="code must be a str"):
        as_job(code)
    with pytest.raises(TypeError, match="code must be a str"):
        as_job({"code": code})
    with pytest.raises(TypeError, match="code must be a str"):
        Job(code=code)


@pytest.mark.parametrize(("code", "says"), rows(
    ("", "empty"), ("\0", "NUL character at position 0"), ("print(1)\0", "NUL character at position 8"), ("x\0y", "position 1"),
    ("\ud800", "lone surrogate at position 0"), ("x = '\udfff'", "position 5"), ("\ud83d", "surrogate"), ("\ude00\ud83d", "surrogate"),
))  # fmt: skip
def test_code_that_is_no_text_is_a_value_error(code: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_job(code)


@pytest.mark.parametrize("code", [
    "\ufeff", "\ufeffprint(1)", "print(1)\r\nprint(2)\r\n", "\r", " ", "\n", "# coding: latin-1\nprint('\u00e4')", "# coding: nonsense",
    "print('\U0001f600')", "def (", "\u2028", "\x1b[31m", "\uffff", "\x7f\x01",
])  # fmt: skip
def test_code_that_python_may_like_or_not_is_sent_to_the_letter(code: str) -> None:
    assert ran(code).code == code


@pytest.mark.parametrize(("size", "limit"), [(1, 1), (999_999, 1_000_000), (1_000_000, 1_000_000)])
def test_code_up_to_the_limit_is_sent(size: int, limit: int) -> None:
    assert len(sent(Job(code="x" * size), Limits(code_bytes=limit)).code) == size


def test_code_over_the_limit_is_a_value_error_counted_in_bytes() -> None:
    with pytest.raises(ValueError, match=r"code is 1,000,001 bytes .* 1,000,000"):
        ran("x" * 1_000_001)
    with pytest.raises(ValueError, match="code is 1,000,002 bytes"):
        ran("\u00e4" * 500_001)
    ran("\u00e4" * 500_000)


def test_what_would_not_fit_the_protocols_frame_is_refused_before_it_costs_a_container() -> None:
    wide = Limits(code_bytes=40_000_000, input_bytes=40_000_000)
    sent(Job(code="x" * 40_000_000), wide)
    with pytest.raises(ValueError, match="bytes as a frame; the protocol allows 67,108,864"):
        sent(Job(code="\x01" * 12_000_000), wide)  # six bytes each in JSON
    with pytest.raises(ValueError, match="as a frame"):
        sent(Job(code="x" * 40_000_000, stdin_bytes=bytes(30_000_000)), wide)


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
def test_a_timeout_is_sent_in_whole_milliseconds_never_less_than_asked(given: float, whole: int) -> None:
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


@pytest.mark.parametrize(("data", "text"), rows(
    (None, "null"), (0, "0"), (False, "false"), ("", '""'), ([], "[]"), ({}, "{}"), ((1, 2), "[1,2]"), ("\u00e4\n", '"\u00e4\\n"'),
    ({"a": [1.5, None, {"b": "\0"}]}, '{"a":[1.5,null,{"b":"\\u0000"}]}'), (10**100, "1" + "0" * 100), ({1: 2}, '{"1":2}'),
    ("\U0001f600\u2028", '"\U0001f600\u2028"'),
))  # fmt: skip
def test_any_json_value_is_sent_as_one_line_of_json(data: Any, text: str) -> None:
    assert ran("1", data=data).data == ran({"code": "1", "data": data}).data == sent(Job(code="1", data=data)).data == text
    assert "\n" not in text


def test_data_that_is_not_given_is_not_null() -> None:
    assert ran("1").data is None
    assert ran({"code": "1"}).data is None
    assert ran("1", data=UNSET).data is None
    assert ran("1", data=None).data == "null"


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
    pytest.param(UserDict(a=1), TypeError, id="a mapping that is no dict"),
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
def test_data_reads_back_as_itself(data: Any) -> None:
    text = ran("1", data=data).data
    assert text is not None
    assert json.loads(text) == data
    assert json.loads(encode(ran("1", data=data)))["data"] == text


# Standard input.


@pytest.mark.parametrize(
    ("stdin", "data"),
    rows(("", b""), ("a\0\n", b"a\0\n"), ("\u00e4", b"\xc3\xa4"), (b"", b""), (b"\xff\0\x04\x10\x11", b"\xff\0\x04\x10\x11")),
)
def test_stdin_is_text_or_bytes(stdin: str | bytes, data: bytes) -> None:
    assert ran("1", stdin=stdin).stdin == data


def test_no_stdin_is_not_an_empty_one() -> None:
    assert ran("1").stdin is None
    assert ran({"code": "1", "stdin": None}).stdin is None
    assert ran({"code": "1", "stdin": ""}).stdin == b""


@pytest.mark.parametrize("stdin", each([1, True, bytearray(b"x"), memoryview(b"x"), ["x"], iter("x"), Text("x"), Bytes(b"x"), object()]))
def test_stdin_that_is_neither_is_a_type_error(stdin: Any) -> None:
    with pytest.raises(TypeError, match=r"^stdin"):
        as_job("1", stdin=stdin)


def test_stdin_of_both_kinds_or_no_text_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="both given"):
        Job(code="1", stdin="x", stdin_bytes=b"x")
    with pytest.raises(ValueError, match="stdin has a lone surrogate"):
        as_job("1", stdin="\ud800")


def test_stdin_beside_a_job_or_mapping_replaces_what_it_had_of_either_kind() -> None:
    for old in (Job(code="1", stdin="old"), Job(code="1", stdin_bytes=b"old"), {"code": "1", "stdin": "old"}):
        assert ran(old, stdin="new").stdin == b"new"
        assert ran(old, stdin=b"new").stdin == b"new"
        assert ran(old).stdin == b"old"


def test_stdin_bytes_in_a_mapping_are_base64_as_in_a_jobs_json_form() -> None:
    job = Job(code="1", stdin_bytes=b"\0\xff")
    assert as_job(json.loads(msgspec.json.encode(job))) == job
    assert ran({"code": "1", "stdinBytes": b"\0\xff"}).stdin == b"\0\xff"
    for wrong in ("A", "AP8", "AP8=\n", "A_8=", "\u00e4\u00e4\u00e4\u00e4"):
        with pytest.raises(ValueError, match="stdinBytes is no base64"):
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


def test_env_of_an_interpreter_or_linker_reaches_the_program_and_nothing_before_it() -> None:
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


def test_what_is_checked_is_what_is_sent_though_the_caller_changes_it_meanwhile() -> None:
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


def test_ten_megabytes_of_environment_are_over_the_default() -> None:
    with pytest.raises(ValueError, match="input_bytes"):
        ran("1", env={"A": "x" * 10_000_000})


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
def test_a_mapping_with_an_unknown_key_or_without_code_is_a_value_error(mapping: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        as_job(mapping)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("options", [{"timeout": 5}, {"timeoutMs": None}, {"stdin_bytes": b""}, {"on_output": None}, {"code": "2"}])
def test_an_option_that_run_does_not_know_is_a_type_error_even_if_it_is_none(options: dict[str, Any]) -> None:
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
    limits = Limits(open_files=17, stdout_bytes=18, stderr_bytes=19, on_output_limit="kill", message_bytes=20, messages=21)
    run = sent(Job(code="1"), limits)
    assert (run.open_files, run.stdout_limit, run.stderr_limit, run.on_output_limit) == (17, 18, 19, "kill")
    assert (run.message_limit, run.message_count) == (20, 21)


@given(st.text(min_size=1), st.text(), st.lists(st.text(), max_size=3), st.dictionaries(st.text(), st.text(), max_size=3))
def test_whatever_is_accepted_can_be_sent(code: str, stdin: str, args: list[str], env: dict[str, str]) -> None:
    try:
        run = ran(code, stdin=stdin, args=args, env=env)
    except ValueError:
        return
    assert len(encode(run)) <= RUN_SIZE
    assert msgspec.json.decode(encode(run), type=Run) == run
