"""Figures and the last value: what acts in the program's process where they were asked for.

No other program loads this module. It acts as a part of hostile code: all that it sends is a claim
of the program. It writes nothing to stdout, and its failures do not change how the program ends.
"""

# The C halves and frozen modules: loaded in every interpreter.
import _frozen_importlib
import _frozen_importlib_external as _importers
import builtins
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType
    from typing import Any

PROGRAM = "main.py"
_BEGIN, _VALUE = "<begin>", "<last value>"
"""No program has these names: they are not identifiers."""
_ONLY_AST = 0x400  # ast.PyCF_ONLY_AST; the Python half of ast would import re and enum


def arm(*, figures: bool, last_value: bool) -> None:
    """Set up what the program was asked for. The program begins in any case."""
    del sys.modules[__name__]  # else its names would be cleared with those of the rest of the runner
    sandbox = _Sandbox()
    if figures:
        _Figures(sandbox)
    if last_value:
        _prepare_value(sandbox)


class _Sandbox:
    """The image's module `sandbox`, never a file of the program. Loaded when it is needed."""

    def __init__(self) -> None:
        self._path, self._folder = list(sys.path), os.getcwd()
        self._module: ModuleType | None = None

    def __getattr__(self, name: str) -> "Any":
        if self._module is None:
            spec: Any = _importers.PathFinder.find_spec("sandbox", self._path)
            self._module = _frozen_importlib.module_from_spec(spec)
            # It puts a module with an attribute `data` in its own place.
            before = sys.modules.get("sandbox")
            sys.modules["sandbox"] = self._module
            try:
                spec.loader.exec_module(self._module)
            finally:
                if before is None:
                    del sys.modules["sandbox"]
                else:
                    sys.modules["sandbox"] = before
            self._module._FOLDER = self._folder  # type: ignore[attr-defined] # noqa: SLF001 - of the same image
        return getattr(self._module, name)


# Figures.


class _Figures:
    """Waits for matplotlib, and sends the figures that the program shows or has open at its end."""

    def __init__(self, sandbox: _Sandbox) -> None:
        import atexit

        self._sandbox = sandbox
        # Before anything of the program's is registered: so it is called behind all of that.
        atexit.register(self._at_exit)
        self._unregister = atexit.unregister
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:  # preloaded
            self._take(pyplot)
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        if name == "matplotlib":
            os.environ.setdefault("MPLBACKEND", "Agg")
        if name != "matplotlib.pyplot":
            return None
        spec: Any = _importers.PathFinder.find_spec(name, path, target)
        if spec is not None:
            load = spec.loader.exec_module

            def exec_module(module: "ModuleType") -> None:
                del spec.loader.exec_module
                load(module)
                self._take(module)

            spec.loader.exec_module = exec_module
        return spec

    def _take(self, pyplot: "Any") -> None:
        def show(*_: object, **__: object) -> None:
            """Send all open figures to the host, and close them."""
            for figure in _open_figures():
                self._sandbox.display(figure)
            pyplot.close("all")

        pyplot.show = show
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        if helpers is not None:
            # matplotlib closes them at the end, before they can be sent.
            self._unregister(helpers.Gcf.destroy_all)

    def _at_exit(self) -> None:
        for figure in _open_figures():
            try:
                if not getattr(figure, "_sandbox_displayed", False):
                    self._sandbox.display(figure)
            except Exception:
                sys.excepthook(*sys.exc_info())


def _open_figures() -> "Iterator[Any]":
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None:
        for manager in helpers.Gcf.get_all_fig_managers():
            yield manager.canvas.figure


# The last value.


def _prepare_value(sandbox: _Sandbox) -> None:
    """Put bytecode in the place of main.py until the program begins, if it ends with an expression.

    The interpreter knows bytecode by its first bytes, and runs it as it runs source: there is no
    frame of ours. The bytecode has two calls that the program has not: one that puts main.py back,
    and one around the last expression.
    """
    path = os.path.join(os.getcwd(), PROGRAM)
    name = path if sys.version_info >= (3, 9) else PROGRAM
    stderr = sys.stderr
    hidden = f"{path}.{os.urandom(8).hex()}"
    try:
        with open(path, "rb", 0) as file:
            source = file.read()
        # Warnings come once: from the interpreter, or when the program begins.
        sys.stderr = None
        try:
            code = _code(source, name)
        finally:
            sys.stderr = stderr
        if code is None:
            return
        import marshal

        data = _importers.MAGIC_NUMBER + bytes(12) + marshal.dumps(code)
        os.rename(path, hidden)
        try:
            with open(path, "xb") as target:
                target.write(data)
        except BaseException:
            os.rename(hidden, path)
            raise
    except Exception:
        return  # what is wrong with the program is the interpreter's to say

    def begin() -> None:
        os.rename(hidden, path)
        del vars(builtins)[_BEGIN]
        sys.modules["__main__"].__loader__ = _importers.SourceFileLoader("__main__", name)
        # For its warnings, which show lines of the file.
        compile(source, name, "exec", dont_inherit=True)

    def value(found: object) -> None:
        try:
            sandbox._last_value(found)  # noqa: SLF001 - of the same image
        except Exception:  # noqa: S110 - the program has closed the pipe, say
            pass

    vars(builtins).update({_BEGIN: begin, _VALUE: value})


def _code(source: bytes, name: str) -> "Any":
    """Return the program's code with two calls of ours; None if its end is not an
    expression."""
    import _ast

    tree: Any = compile(source, name, "exec", _ONLY_AST, dont_inherit=True)
    body = tree.body
    if not body or not isinstance(body[-1], _ast.Expr):
        return None

    def call(what: str, *args: "Any", at: "Any") -> "Any":
        where = {field: getattr(at, field) for field in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
        function = _ast.Name(id=what, ctx=_ast.Load(), **where)
        return _ast.Expr(value=_ast.Call(func=function, args=list(args), keywords=[], **where), **where)

    def begins(statement: "Any") -> bool:
        """Whether it must stay in front: a docstring, or an import of __future__."""
        if isinstance(statement, _ast.ImportFrom):
            return statement.module == "__future__"
        return statement is body[0] and isinstance(statement, _ast.Expr) and isinstance(getattr(statement.value, "value", None), str)

    front = 0
    while front < len(body) and begins(body[front]):
        front += 1
    last = body[-1].value
    value = call(_VALUE, last, at=last)
    if front == len(body):
        body.append(value)
    else:
        body[-1] = value
    body.insert(front, call(_BEGIN, at=body[front]))
    return compile(tree, name, "exec", dont_inherit=True)
