"""Figures, displays and the last value: what is sent, and that the program does not notice."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Runner
from .test_semantics import ARGS, PROGRAMS, STDIN, emptied, plain, without_addresses

VALUE = "application/vnd.dayfly.value+json"

MATPLOTLIB = {
    "matplotlib/__init__.py": b"",
    "matplotlib/figure.py": b"""
class Figure:
    def __init__(self, number):
        self.number, self.canvas = number, self
        self.figure = self
    def __repr__(self):
        return f"<Figure {self.number}>"
    def savefig(self, file, format):
        if self.number == 13:
            raise ValueError("unlucky")
        file.write(f"{format} {self.number}".encode())
""",
    "matplotlib/_pylab_helpers.py": b"""
import atexit
class Gcf:
    figs = {}
    @classmethod
    def get_all_fig_managers(cls):
        return list(cls.figs.values())
    @classmethod
    def destroy_all(cls):
        cls.figs.clear()
atexit.register(Gcf.destroy_all)
""",
    "matplotlib/pyplot.py": b"""
import os
from ._pylab_helpers import Gcf
from .figure import Figure
backend = os.environ.get("MPLBACKEND")
def figure(number):
    return Gcf.figs.setdefault(number, Figure(number))
def close(which):
    Gcf.destroy_all()
def show():
    raise AssertionError("nobody is here to see it")
""",
}
"""A small matplotlib: figures, their list, and its end at exit. The real one is not everywhere."""


def png(number: int) -> dict[str, str]:
    return {"image/png": base64.b64encode(f"png {number}".encode()).decode(), "text/plain": f"<Figure {number}>"}


def shown(ended: Any) -> list[Any]:
    assert ended.status == 0
    return [json.loads(display) for display in ended.displays]


# Figures.


@pytest.mark.parametrize(
    ("code", "numbers"),
    [
        ("import matplotlib.pyplot as plt; plt.figure(1); plt.figure(2); plt.show(block=False); plt.figure(3)", [1, 2, 3]),
        ("from matplotlib.pyplot import *; figure(1); show(); show()", [1]),
        ("import matplotlib.pyplot as plt; plt.figure(1); plt.close('all')", []),
        ("import matplotlib.pyplot as plt, sys; plt.figure(1); sys.exit(3)", [1]),
        ("import matplotlib.pyplot as plt; plt.figure(1); 1 / 0", [1]),
        ("import matplotlib.pyplot as plt, atexit; atexit.register(plt.figure, 1)", [1]),
        ("import matplotlib.pyplot as plt, importlib; importlib.reload(plt); plt.figure(1); plt.show()", [1]),
        ("import matplotlib.pyplot as plt, sandbox; sandbox.display(plt.figure(1))", [1]),
        ("import matplotlib.pyplot as plt, os; plt.figure(1); os._exit(0)", []),
        ("import matplotlib.pyplot as plt; plt.show = print; plt.figure(1)", [1]),
        ("import sandbox", []),
        ("print(1)", []),
    ],
)
def test_figures_that_are_shown_or_left_open(code: str, numbers: list[int], run: Callable[..., Any]) -> None:
    ended = run(code, files=MATPLOTLIB, figures=True)
    assert shown(ended) == [png(number) for number in numbers]
    assert ended.exit["displays_dropped"] == 0
    assert ended.stdout == (b"1\n" if "print(1)" in code else b"")


def test_figures_of_a_preloaded_matplotlib_in_a_session(session: Callable[..., Runner], tmp_path: Path) -> None:
    packages = tmp_path.with_name(f"{tmp_path.name}-packages")
    for path, content in MATPLOTLIB.items():
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        (packages / path).write_bytes(content)
    runner = session(env={"PYTHONPATH": str(packages)}, preload=["matplotlib.pyplot"])
    for number in (1, 2):
        ended = runner.session_run(f"import matplotlib.pyplot as plt; plt.figure({number}); {number}", figures=True, last_value=True)
        assert [json.loads(display) for display in ended.displays] == [{VALUE: {"repr": str(number), "json": number}}, png(number)]
    assert runner.session_run("import matplotlib.pyplot as plt; plt.figure(3)").displays == []


def test_nothing_is_sent_unless_it_is_asked_for(run: Callable[..., Any]) -> None:
    ended = run("import matplotlib.pyplot as plt; plt.figure(1); print(plt.backend); 5", files=MATPLOTLIB)
    assert (ended.displays, ended.stdout) == ([], b"None\n")


def test_matplotlib_draws_without_a_screen(run: Callable[..., Any]) -> None:
    code = "import matplotlib.pyplot as plt; print(plt.backend)"
    assert run(code, files=MATPLOTLIB, figures=True).stdout == b"Agg\n"


def test_a_figure_that_cannot_be_drawn_is_told_on_stderr(run: Callable[..., Any]) -> None:
    ended = run("import matplotlib.pyplot as plt; plt.figure(13); print(1)", files=MATPLOTLIB, figures=True)
    assert (ended.displays, ended.stdout, ended.exit["exit_code"]) == ([], b"1\n", 0)
    assert ended.stderr.endswith(b"ValueError: unlucky\n")


@pytest.mark.parametrize(("limits", "dropped"), [({"display_count": 3}, 7), ({"display_limit": 150}, 7), ({"display_count": 0}, 10)])
def test_figures_beyond_the_limits_are_counted(limits: dict[str, int], dropped: int, run: Callable[..., Any]) -> None:
    ended = run("import matplotlib.pyplot as plt\nfor n in range(10): plt.figure(n)", files=MATPLOTLIB, figures=True, **limits)
    assert shown(ended) == [png(number) for number in range(10 - dropped)]
    assert (ended.exit["displays_dropped"], ended.exit["exit_code"]) == (dropped, 0)


def test_files_of_the_program_are_not_taken_for_the_image_s(run: Callable[..., Any]) -> None:
    files = {**MATPLOTLIB, "sandbox.py": b"x = 5"}
    ended = run("import matplotlib.pyplot as plt, sandbox; plt.figure(1); sandbox.x", files=files, figures=True, last_value=True)
    assert shown(ended) == [{VALUE: {"repr": "5", "json": 5}}, png(1)]


# sandbox.display.


@pytest.mark.parametrize(
    ("value", "forms"),
    [
        ("5", {"text/plain": "5"}),
        ("shape(_repr_png_=b'\\x89P')", {"image/png": "iVA="}),
        ("shape(_repr_svg_='<svg/>')", {"image/svg+xml": "<svg/>"}),
        ("shape(_repr_svg_=b'<svg/>')", {"image/svg+xml": "<svg/>"}),
        ("shape(_repr_html_=('<b>', {'isolated': True}))", {"text/html": "<b>"}),
        ("shape(_repr_png_=None, _repr_html_='<b>', _repr_latex_='$x$', _repr_markdown_='*x*')",
         {"text/html": "<b>", "text/latex": "$x$", "text/markdown": "*x*"}),
        ("shape(_repr_mimebundle_={'text/html': '<i>', 'application/json': [1]}, _repr_html_='<b>')",
         {"text/html": "<i>", "application/json": [1]}),
        ("shape(_repr_mimebundle_={}, _repr_html_='<b>')", {"text/html": "<b>"}),
        ("shape(_repr_mimebundle_=({'image/png': b'\\x89P', 'text/plain': 'a'}, {}))", {"image/png": "iVA=", "text/plain": "a"}),
        ("shape(_repr_html_=5)", {}),
        ("Fails()", {"text/plain": "<Fails, whose repr fails>"}),
        ("Shape", {"text/plain": "<class '__main__.Shape'>"}),
    ],
)  # fmt: skip
def test_display_shows_every_form_of_a_value(value: str, forms: dict[str, Any], run: Callable[..., Any]) -> None:
    code = f"""
import sandbox
class Shape:
    _repr_html_ = lambda self: ""
def shape(**forms):
    methods = {{name: lambda self, form=form: form for name, form in forms.items()}}
    return type("S", (), {{**methods, "__repr__": lambda self: "a shape"}})()
class Fails:
    def fail(self): raise ValueError
    __repr__ = _repr_png_ = fail
sandbox.display({value})
"""
    assert shown(run(code)) == [{"text/plain": "a shape", **forms}]


def test_display_refuses_what_has_no_json_form(run: Callable[..., Any]) -> None:
    code = "import sandbox\nclass A: _repr_mimebundle_ = lambda self: {'a': {1}}\nsandbox.display(A())"
    ended = run(code)
    assert b"TypeError: Object of type set is not JSON serializable\n" in ended.stderr  # behind which 3.14 says where
    ended = run("import os, sandbox\nos.close(1000)\nsandbox.display(1)")
    assert b"RuntimeError: sandbox: descriptor 1000" in ended.stderr


# The last value.


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("6 * 7", {"repr": "42", "json": 42}),
        ("x = 1\nx + 0.5\n\n# end\n", {"repr": "1.5", "json": 1.5}),
        ("print(1)", {"repr": "None", "json": None}),
        ("[1, {'a': (2, None)}]", {"repr": "[1, {'a': (2, None)}]", "json": [1, {"a": [2, None]}]}),
        ("chr(0xd800)", {"repr": "'\\ud800'"}),
        ("'ä'", {"repr": "'ä'", "json": "ä"}),
        ("{1, 2}", {"repr": "{1, 2}"}),
        ("float('nan')", {"repr": "nan"}),
        ("x = []\nfor _ in range(94): x = [x]\nx", {"repr": "[" * 95 + "]" * 95, "json": json.loads("[" * 95 + "]" * 95)}),
        ("x = []\nfor _ in range(95): x = [x]\nx", {"repr": "[" * 96 + "]" * 96}),
        ("x = []; x.append(x); x", {"repr": "[[...]]"}),
        ("'''the docstring'''", {"repr": "'the docstring'", "json": "the docstring"}),
        ("'''d'''\nfrom __future__ import annotations\n__doc__", {"repr": "'d'", "json": "d"}),
        ("(\n  1 +\n  2\n)", {"repr": "3", "json": 3}),
        ("class A:\n    def __repr__(self): return '\\ud800'\nA()", {"repr": "\\ud800"}),
        ("class A:\n    def __repr__(self): 1 / 0\nA()", {"repr": "<A, whose repr fails>"}),
        ("x = 1", None),
        ("", None),
        ("if True: 1", None),
        ("raise SystemExit(2)\n1", None),
        ("1 / 0", None),
        ("import os; os.close(1000)\n1", None),
        (f"'{'x' * 1_000_000}'", None),  # over the limit
    ],
)  # fmt: skip
def test_the_value_of_the_last_expression(code: str, value: dict[str, Any] | None, run: Callable[..., Any]) -> None:
    assert shown(run(code, last_value=True)) == ([] if value is None else [{VALUE: value}])


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "nothing of ours"])
def test_a_program_whose_value_is_wanted_runs_as_ever(
    name: str, run: Callable[..., Any], python: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    ended = run(PROGRAMS[name], args=ARGS, stdin=base64.b64encode(STDIN).decode(), timeout_ms=60_000, last_value=True)
    assert ended.status == 0
    exit_code = ended.exit["exit_code"] if ended.exit["signal"] is None else -ended.exit["signal"]
    assert without_addresses((ended.stdout, ended.stderr, exit_code)) == without_addresses(
        plain(python, emptied(tmp_path), PROGRAMS[name], environment)
    )


@pytest.mark.parametrize(
    "code",
    [
        "'''doc'''\nimport os\nprint(__doc__, os.listdir(), open(__file__).read())\ndef f(x):\n    return 1 / x\n\nf(\n    0\n) + 1",
        "def f(): return 1 is 1\n'\\d'\nf(undefined + 1)",
        "raise ExceptionGroup('g', [ValueError(1)]) if hasattr(__builtins__, 'ExceptionGroup') else ValueError\n5",
        "import dis, inspect\ndef f(): return 5\nprint(inspect.getsource(f), dir())\nf.x",
        "return 5",
        "(",
        "import fetch_me",
    ],
)
def test_tracebacks_and_warnings_are_those_of_a_plain_start(
    code: str, run: Callable[..., Any], python: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    ended = run(code, args=ARGS, stdin="", last_value=True)
    expected = plain(python, emptied(tmp_path), code, environment, b"")
    assert (ended.stdout, ended.stderr, ended.exit["exit_code"]) == expected
    assert ended.displays == []


def test_no_value_where_the_interpreter_starts_anew(run: Callable[..., Any]) -> None:
    ended = run("print(1)\n5", env={"PYTHONHASHSEED": "0"}, last_value=True, figures=True)
    assert (ended.stdout, ended.displays) == (b"1\n", [])
