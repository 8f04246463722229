"""JSON in and out."""

from __future__ import annotations

from typing import Any

import pytest
from conformance.conftest import Box
from conformance.report import clause


def nested(depth: int) -> Any:
    value: Any = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"level": value}
    return value


VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "zero": 0,
    "negative": -1.5,
    "large integer": 2**63 - 1,
    "small float": 1e-300,
    "empty string": "",
    "text": 'quotes " and \\ and / and \n\t\r\b\f and \x00\x1f\x7f\u2028',
    "non-ASCII": "äöü € 中文 🦋 שלום \U0010ffff",
    "empty list": [],
    "empty object": {},
    "object": {"a": [1, {"b": None}], "ü": {"": "empty key"}, "z": [True, False]},
    "deeply nested": nested(100),
    "large": {"rows": [{"id": number, "name": f"näme {number}"} for number in range(15_000)]},
    "one long string": "0123456789" * 90_000,
}
ECHO = "import sandbox\nsandbox.send(sandbox.data)"


@clause("data.in", "data.out")
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_json_value_goes_in_and_comes_back(box: Box, value: Any) -> None:
    answer = box.run({"code": ECHO, "data": value})
    assert (answer["stderr"], answer["isError"]) == ("", False)
    assert answer["messages"] == [value]


@clause("data.in")
def test_the_program_sees_data(box: Box) -> None:
    value = VALUES["object"]
    answer = box.run(
        {
            "code": f"import json, sandbox, sys\nassert sandbox.data == {value!r}\nassert json.loads(sys.stdin.readline()) == {value!r}",
            "data": value,
        }
    )
    assert (answer["stderr"], answer["isError"]) == ("", False)


@clause("data.out")
def test_many_values_come_back_in_order(box: Box) -> None:
    answer = box.run("import sandbox\nfor n in range(500): sandbox.send({'n': n, 'text': 'ü' * n})\nprint('done')")
    assert answer["messages"] == [{"n": number, "text": "ü" * number} for number in range(500)]
    assert answer["stdout"] == "done\n"


@clause("data.out")
def test_what_was_sent_before_a_failure_comes_back(box: Box) -> None:
    assert box.run("import sandbox\nsandbox.send([1])\n1/0")["messages"] == [[1]]
    assert box.run({"code": "import sandbox\nsandbox.send([2])\nwhile True: pass", "timeoutMs": 3_000})["messages"] == [[2]]


@clause("data.python2")
@pytest.mark.parametrize("name", ["null", "negative", "text", "non-ASCII", "object", "large"])
def test_python_2_has_it_too(box_python2: Box, name: str) -> None:
    answer = box_python2.run({"code": ECHO, "data": VALUES[name]})
    assert (answer["stderr"], answer["messages"]) == ("", [VALUES[name]])
