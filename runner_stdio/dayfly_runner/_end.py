"""The end of the program's interpreter, made short where no program can tell.

At its end CPython collects garbage, takes every module apart and frees what is left: two
milliseconds, and seventy where pandas is loaded. A program sees of that only what its finalizers,
weak references and streams do. So a callback of atexit, registered first and therefore called last,
looks whether an object is left whose death could be noticed. If there is none, it puts all objects
out of the reach of what follows, which is then short. The C code goes on by itself, flushes the
streams and exits with the status that it alone knows. In any doubt nothing is changed, and the end
is the full one.

The callback is made of C functions up to the point where it is known that no tracer, profiler,
monitoring tool or signal handler would see it. What it cannot know is told by the program's text
beforehand: see WORDS. tests/runner/ends has the programs that look for a difference.
"""

# ruff: noqa: F821, C419 - `_end` has a namespace of its own, and makes no generators: it would look at them

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Callable

VERSIONS = (3, 10), (3, 14)
"""From the first to before the second. Up to 3.9 the callbacks belong to the module atexit, which a
program gets anew. What comes later has not been tried."""

WORDS = b"__del__", b"audit", b"ctypes", b"unregister", b"_ncallbacks"
"""A program with one of these in its text, or with the name gc, gets the full end, since it could
see the callback: an audit hook by the functions that it calls, the others by its being there. One
that adds a finalizer to a class could add it to one of a preloaded module."""

LOUD = {
    *("_curses", "_dbm", "_gdbm", "_sqlite3", "_tkinter", "readline"),  # put something in order at their end
    *("faulthandler", "gc", "runpy", "tracemalloc"),
    *("_interpchannels", "_interpqueues", "_interpreters", "_xxinterpchannels", "_xxsubinterpreters"),
    *("_testcapi", "_testinternalcapi"),
}
"""Modules after whose import the end is the full one."""

QUIET = "numpy/", "pandas/", "dateutil/", "pytz/", "six.py"
"""What may be imported from outside the standard library: it adds no audit hook, and the end of its
objects in C does nothing."""

AT_START = {"DONTWRITEBYTECODE", "HASHSEED", "HOME", "IOENCODING", "NOUSERSITE", "PATH", "PYCACHEPREFIX", "SAFEPATH", "UNBUFFERED", "UTF8"}
"""Variables PYTHON... of the environment that do nothing at the end."""

MOST = 20000
"""New objects, above which looking at them costs as much as their end."""


# Functions and no class: a class would be in object.__subclasses__() until the collector comes by.


def register() -> "list[Any]":
    """Register the callback, which does nothing yet. Return its steps."""
    steps: list[Any] = []
    if _possible():
        import atexit

        # `all` stops at the first step that is false; the last one is.
        atexit.register(all, map(next, steps))
    return steps


def arm(steps: "list[Any]", modules: "set[str]") -> None:
    """Note what is here before the program; `modules` are the names of what it is to find."""
    steps.clear()
    if not _possible() or not LOUD.isdisjoint(modules - {"gc", "runpy"}):
        return
    import gc

    enabled = gc.isenabled()
    gc.disable()  # the times of its collections are the program's to see
    steps += _steps(modules)
    if enabled:
        gc.enable()


def look_at(code: bytes) -> None:
    """Take the callback away from a program that names what could see it."""
    if _possible() and (any(word in code for word in WORDS) or b"gc" in code.replace(b"gcd", b"")):
        import atexit

        if atexit._ncallbacks() == 1:  # noqa: SLF001 - unregister would leave its place, which this counts
            atexit._clear()  # noqa: SLF001
        else:
            atexit.unregister(all)


def _possible() -> bool:
    import os

    unusual = sys.implementation.name != "cpython" or sys.abiflags or sys.warnoptions or sys.flags.verbose
    late = [name for name in os.environ if name.startswith("PYTHON") and name[6:7] != "_" and name[6:] not in AT_START]
    return VERSIONS[0] <= sys.version_info < VERSIONS[1] and not unusual and not late


def _steps(modules: "set[str]") -> "list[Any]":
    import _io as io
    import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
    import _thread
    import _warnings
    import _weakref
    import builtins
    import gc
    import os

    mro, attributes = type.__dict__["__mro__"].__get__, type.__dict__["__dict__"].__get__
    callback = _weakref.ref.__dict__["__callback__"].__get__
    library = os.path.dirname(os.__file__) + "/"
    packages = tuple([path + "/" for path in sys.path if path.endswith("-packages")])
    here = gc.get_objects()
    second = gc.get_objects(1)
    coroutine = _coroutine()
    coroutine.close()
    namespace = {
        "__builtins__": dict(vars(builtins)),
        "sys_dict": sys.__dict__,
        "builtins_dict": builtins.__dict__,
        "modules": sys.modules,
        "main": sys.modules["__main__"],
        "names": modules,
        "inner": {"_destroy": _weakref.ref, "_localdummy_destroyed": _weakref.ref, "clear_locals": tuple},
        "loud": LOUD,
        "most": MOST,
        "library": library,
        "packages": packages,
        "quiet": tuple([path + name for path in packages for name in QUIET]),
        "quiet_files": (library + "weakref.py", library + "_weakrefset.py", library + "logging/__init__.py"),
        "out": sys.stdout,
        "err": sys.stderr,
        "Module": type(sys),
        "Function": type(_steps),
        "Builtin": type(len),
        "Slot": type(str.__add__),
        "Generator": type(_ for _ in ()),
        "Coroutine": type(coroutine),
        "BytesIO": io.BytesIO,
        "StringIO": io.StringIO,
        "Text": io.TextIOWrapper,
        "Buffered": (io.BufferedReader, io.BufferedWriter, io.BufferedRandom),
        "File": io.FileIO,
        "ref": _weakref.ref,
        "proxies": (_weakref.ProxyType, _weakref.CallableProxyType),
        "mro": mro,
        "attributes": attributes,
        "callback": callback,
        "getframe": sys._getframe,  # noqa: SLF001 - it is documented, underscore and all
        "get_ident": _thread.get_ident,
        "ident": _thread.get_ident(),
        "count_threads": _thread._count,  # noqa: SLF001 - threads that Python has started
        "gc_lists": (gc.callbacks, gc.garbage),
        "get_debug": gc.get_debug,
        "get_stats": gc.get_stats,
        "get_objects": gc.get_objects,
        "freeze": gc.freeze,
        "default_filters": _warnings.filters,  # what warnings.filters begins as
        "filters": list(sys.modules.get("warnings", _warnings).filters),
        # Their ids must not become others', so they are kept.
        "own": {
            id(o): o for o in here if _finalizer(o, mro, attributes) or (issubclass(type(o), _weakref.ref) and callback(o) is not None)
        },
        "classes": _changeable(here, mro, attributes),
        "marker": second[-1] if second else None,
        "position": len(second),
        "collections": [generation["collections"] for generation in gc.get_stats()[1:]],
    }
    is_none = id(None).__eq__
    handlers = {id(_signal.getsignal(number)) for number in range(1, 65)}
    steps: list[Any] = [
        map(is_none, map(id, iter(sys.gettrace, 0))),
        map(is_none, map(id, iter(sys.getprofile, 0))),
        map(handlers.issuperset, [map(id, map(_signal.getsignal, range(1, 65)))]),
    ]
    if sys.version_info >= (3, 12):
        steps.append(map(all, [map(is_none, map(id, map(sys.monitoring.get_tool, range(6))))]))
    # A code object, since the garbage collector does not know it, but does know functions.
    steps.append(map(exec, [_end.__code__], [namespace]))
    return steps


async def _coroutine() -> None: ...


def _finalizer(o: object, mro: "Callable[[type], tuple[type, ...]]", attributes: "Callable[[type], Any]") -> bool:
    return any("__del__" in attributes(kind) for kind in mro(type(o)))


def _changeable(here: "list[Any]", mro: "Callable[[type], tuple[type, ...]]", attributes: "Callable[[type], Any]") -> "list[type]":
    """Return the classes, made by code, of the objects that could get a finalizer by them.

    Not all classes: to look at one writes to its page, which the fork shares.
    """
    kinds = {id(base): base for kind in set(map(type, here)) for base in mro(kind)}
    return [kind for kind in kinds.values() if "__del__" not in attributes(kind) and kind.__flags__ & 1 << 9]


if TYPE_CHECKING:
    # The namespace in which `_end` runs.
    Builtin: Any
    BytesIO: Any
    Coroutine: Any
    File: Any
    Function: Any
    Generator: Any
    Module: Any
    Slot: Any
    StringIO: Any
    Text: Any
    ref: Any
    Buffered: tuple[type, ...]
    attributes: Callable[[type], Any]
    builtins_dict: dict[str, Any]
    callback: Callable[[object], Any]
    classes: list[type]
    collections: list[int]
    count_threads: Callable[[], int]
    default_filters: list[Any]
    err: Any
    filters: list[Any]
    freeze: Callable[[], None]
    gc_lists: tuple[list[Any], list[Any]]
    get_debug: Callable[[], int]
    get_ident: Callable[[], int]
    get_objects: Callable[..., list[Any]]
    get_stats: Callable[[], list[dict[str, int]]]
    getframe: Callable[[int], Any]
    ident: int
    library: str
    inner: dict[str, type]
    loud: set[str]
    main: ModuleType
    marker: object
    modules: dict[str, Any]
    most: int
    mro: Callable[[type], tuple[type, ...]]
    names: set[str]
    out: Any
    own: dict[int, object]
    packages: tuple[str, ...]
    position: int
    proxies: tuple[type, type]
    quiet: tuple[str, ...]
    quiet_files: tuple[str, ...]
    sys_dict: dict[str, Any]


def _end() -> None:  # noqa: C901 - one code object
    """Shorten the end, or change nothing. No class of the program is hashed or compared.

    A metaclass could tell.
    """

    def as_before() -> bool:
        if get_ident() != ident or count_threads() or get_debug() or any(gc_lists):
            return False
        # What is flushed from here on is these two, in C, and writes nothing.
        for stream, name in ((out, "stdout"), (err, "stderr")):
            if sys_dict[name] is not stream or sys_dict[f"__{name}__"] is not stream or not (stream.closed or stream.write_through):
                return False
        # A finalizer in C may warn; these filters let nobody know.
        warnings = modules.get("warnings")
        now = default_filters if warnings is None else warnings.__dict__["filters"] if type(warnings) is Module else None
        if type(now) is not list or [*map(id, now)] != [*map(id, filters)]:
            return False
        return not any(["__del__" in attributes(kind) for kind in classes])

    def modules_are_known() -> bool:
        if sys_dict["modules"] is not modules or any([type(name) is not str for name in modules]) or modules["__main__"] is not main:
            return False
        new = modules.keys() - names
        if not loud.isdisjoint(new) or ("ctypes" in new and "numpy" not in modules):
            return False
        loaded = [modules[name] for name in new]
        return all([type(module) is not Module or is_known(module.__dict__.get("__file__", library)) for module in loaded])

    def is_known(file: object) -> bool:
        return type(file) is str and (file.startswith(quiet) or (file.startswith(library) and not file.startswith(packages)))

    def new_objects() -> "list[Any]":
        # Behind the marker, if no collection has moved them on. Else all is looked at.
        second = get_objects(1)
        at = min(position, len(second))
        if [generation["collections"] for generation in get_stats()[1:]] == collections:
            while at and second[at - 1] is not marker:
                at -= 1
            if at:
                return second[at:] + get_objects(0)
        return get_objects()

    def question(kind: type) -> str:
        bases = mro(kind)
        if kind is Generator or kind is Coroutine:
            return "frame"
        if any(["__del__" in attributes(base) for base in bases]):
            return "" if kind is BytesIO or kind is StringIO else "finalizer"
        if any([base is ref or base is type for base in bases]):
            return "ref" if any([base is ref for base in bases]) else "class"
        return "proxy" if kind is proxies[0] or kind is proxies[1] else ""

    def is_silent(o: "Any", asked: str) -> bool:
        if asked == "frame":
            return (o.gi_frame if type(o) is Generator else o.cr_frame) is None
        if asked == "finalizer":
            if type(o) is Text:
                o = o.buffer
            if any([type(o) is kind for kind in Buffered]):
                o = o.raw
            return type(o) is File and o.closed
        if asked == "ref":
            called = callback(o)
            if called is None or (type(called) is Builtin and type(called.__self__) is inner.get(called.__name__)):
                return True
            return type(o) is ref and type(called) is Function and called.__code__.co_filename in quiet_files
        if asked == "class":
            # The collector does not know the objects of every class.
            called = attributes(o).get("__del__")
            if called is None or type(called) is Slot:
                return True
            return type(called) is Function and is_known(called.__code__.co_filename) and bool(o.__flags__ & 1 << 14)
        return False

    def all_are_silent(objects: "list[Any]") -> bool:
        kinds = [*map(type, objects)]
        numbers = [*map(id, kinds)]
        asked = {number: question(kind) for number, kind in dict(zip(numbers, kinds)).items()}
        return all([is_silent(o, asked[number]) for o, number in zip(objects, numbers) if asked[number] and id(o) not in own])

    try:
        try:
            getframe(1)
            return  # somebody has called the callbacks before the end
        except ValueError:
            pass
        if not (as_before() and modules_are_known()):
            return
        objects = new_objects()
        if len(objects) > most or not all_are_silent(objects):
            return
    except BaseException:
        return
    kept = [*modules.values(), *sys_dict.values(), *builtins_dict.values()]
    kept.append(kept)
    freeze()
    modules.clear()
