"""Figures, displays and the last value: what a program shows beside its output."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from conformance.conftest import Box, NewBox
from conformance.report import clause

MATPLOTLIB = {
    "matplotlib/__init__.py": "",
    "matplotlib/figure.py": """
class Figure:
    def __init__(self, number):
        self.number, self.figure = number, self
        self.canvas = self
    def savefig(self, file, format, **options):
        file.write(f"{format} {self.number}".encode())
    print_figure = savefig
""",
    "matplotlib/_pylab_helpers.py": """
class Gcf:
    figs = {}
    @classmethod
    def get_all_fig_managers(cls):
        return list(cls.figs.values())
    @classmethod
    def destroy_all(cls):
        cls.figs.clear()
""",
    "matplotlib/pyplot.py": """
from ._pylab_helpers import Gcf
from .figure import Figure
def figure(number):
    return Gcf.figs.setdefault(number, Figure(number))
def close(which):
    Gcf.destroy_all()
def show():
    raise AssertionError("nobody is here to see it")
""",
}
"""A small matplotlib, given as files: an implementation's image need not have the real one."""


def images(answer: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(display["image/png"]) for display in answer["displays"]]


@clause("figures.shown")
@pytest.mark.parametrize("end", ["", "1 / 0", "import sys; sys.exit(3)"])
def test_figures_that_are_shown_or_left_open_come(box: Box, end: str) -> None:
    code = f"import matplotlib.pyplot as plt\nplt.figure(1)\nplt.figure(2)\nplt.show()\nplt.figure(3)\nprint('out')\n{end}"
    answer = box.run({"code": code, "filesText": MATPLOTLIB, "figures": True})
    assert (images(answer), answer["stdout"], answer["displaysDropped"]) == ([b"png 1", b"png 2", b"png 3"], "out\n", 0)
    assert answer["outcome"] == ("error" if end else "ok")


@clause("figures.unasked")
def test_figures_that_nobody_asked_for_do_not_come(box: Box) -> None:
    code = "import matplotlib.pyplot as plt\nplt.figure(1)\ntry: plt.show()\nexcept AssertionError as error: print(error)"
    answer = box.run({"code": code, "filesText": MATPLOTLIB})
    assert (answer["displays"], answer["stdout"], answer["stderr"]) == ([], "nobody is here to see it\n", "")
    nothing = box.run({"code": "import sys\nprint('matplotlib' in sys.modules)", "figures": True})
    assert (nothing["displays"], nothing["stdout"]) == ([], "False\n")


SHOW = r"""
import sandbox
class Picture:
    def __repr__(self): return "a picture"
    def _repr_png_(self): return b"\x89PNG"
    def _repr_html_(self): return "<b>ä</b>"
class Bundle:
    def _repr_mimebundle_(self, include=None, exclude=None): return {"text/plain": "of its own", "application/json": {"a": [1]}}
for value in (Picture(), Bundle(), 5):
    sandbox.display(value)
"""


@clause("display.forms")
def test_what_is_displayed_comes_in_every_form_it_has(box: Box) -> None:
    answer = box.run(SHOW)
    assert answer["displays"] == [
        {"image/png": base64.b64encode(b"\x89PNG").decode(), "text/html": "<b>ä</b>", "text/plain": "a picture"},
        {"text/plain": "of its own", "application/json": {"a": [1]}},
        {"text/plain": "5"},
    ]
    assert (answer["stdout"], answer["stderr"], answer["messages"]) == ("", "", [])


@clause("display.bounds")
def test_displays_over_the_limits_are_dropped_and_counted(new_box: NewBox) -> None:
    box = new_box(limits={"displays": 3, "display_bytes": 10_000})
    many = box.run("import sandbox\nfor n in range(5): sandbox.display(n)\nprint('on')")
    assert ([display["text/plain"] for display in many["displays"]], many["displaysDropped"]) == (["0", "1", "2"], 2)
    assert many["stdout"] == "on\n"
    large = box.run("import sandbox\nfor size in (6_000, 6_000, 1): sandbox.display('x' * size)\nsandbox.send(1)")
    assert [len(display["text/plain"]) for display in large["displays"]] == [6_002, 3]
    assert (large["displaysDropped"], large["messages"]) == (1, [1])


VALUES = [
    ("6 * 7", {"repr": "42", "json": 42}),
    ("x = [1, 'ä', None]\nx", {"repr": "[1, 'ä', None]", "json": [1, "ä", None]}),
    ("{1, }", {"repr": "{1}"}),
    ("print(5)", {"repr": "None", "json": None}),
    ("x = 5", None),
    ("1 / 0", None),
]


@clause("value.last")
@pytest.mark.parametrize(("code", "value"), VALUES)
def test_the_value_of_a_last_expression_comes(box: Box, code: str, value: dict[str, Any] | None) -> None:
    answer = box.run({"code": code, "lastValue": True})
    assert answer["lastValue"] == value
    assert answer["stdout"] == ("5\n" if "print" in code else "")
    assert (answer["outcome"] == "error") == (code == "1 / 0")
    assert box.run(code)["lastValue"] is None
