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
that adds a finalizer to a class could add it to one of a preloaded module. Its text is all .py
files in its folder."""

NO_TEXT = ".egg", ".pyc", ".pyz", ".so", ".whl", ".zip"
"""Ends of the names of what could be imported, and is not read: its presence is enough. So is that
of a folder."""

MOST_FILES, MOST_TEXT = 50, 1000000
"""Files beside a program, and bytes of text, that are looked at."""

LOUD = {
    *("_curses", "_dbm", "_gdbm", "_sqlite3", "_tkinter", "readline"),  # put something in order at their end
    *("faulthandler", "gc", "runpy", "tracemalloc"),
    *("_interpchannels", "_interpqueues", "_interpreters", "_xxinterpchannels", "_xxsubinterpreters"),
    *("_testcapi", "_testinternalcapi"),
}
"""Modules after whose import the end is the full one."""

QUIET = "numpy/", "pandas/", "dateutil/", "pytz/", "six.py", "sandbox.py", "_distutils_hack/"
"""What may be imported from outside the standard library, before the program or by it: it adds no
audit hook, and the end of its objects in C does nothing. `_distutils_hack` is imported at each
start where setuptools is installed."""

AT_START = {"DONTWRITEBYTECODE", "HASHSEED", "HOME", "IOENCODING", "NOUSERSITE", "PATH", "PYCACHEPREFIX", "SAFEPATH", "UNBUFFERED", "UTF8"}
"""Variables PYTHON... of the environment that do nothing at the end."""

_IMMUTABLE, _HEAP = 1 << 8, 1 << 9
"""Flags of a class: its attributes cannot be set; it was made by code, not by C at the start."""

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

    own = _own(gc.get_objects())
    if _run_code(own):
        return
    is_known = _known()
    files = [_file_of(sys.modules.get(name)) for name in modules]
    if not all([file is None or is_known(file) for file in files]):
        return
    enabled = gc.isenabled()
    gc.disable()  # the times of its collections are the program's to see
    steps += _steps(modules, own)
    if enabled:
        gc.enable()


def _file_of(module: object) -> "str | None":
    """Return the file that a module comes from; None for one that is built in, "" if it cannot be
    told."""
    if type(module) is not type(sys):  # what a module has put in its place: where the class is from
        module = sys.modules.get(type(module).__module__)
    return getattr(module, "__file__", None) if type(module) is type(sys) else ""


def has_finalizers() -> bool:
    """Tell whether the end of what is here runs Python code, other than the standard library's and
    that of QUIET."""
    import gc

    return _run_code(_own(gc.get_objects()))


def _run_code(own: "dict[int, Any]") -> bool:
    is_known = _known()
    codes = [_last_code(o) for o in own.values()]
    return not all([code is None or is_known(code.co_filename) for code in codes])


def _last_code(o: "Any") -> "Any":
    """Return the code that the end of an object runs, None if there is none."""
    for name in ("gi_code", "cr_code", "ag_code"):
        if hasattr(type(o), name):
            return getattr(o, name)  # which may be in a `try`
    called = o.__callback__ if issubclass(type(o), _ref()) else type(o).__del__
    return None if type(called) in (type(len), type(str.__add__)) else getattr(called, "__code__", has_finalizers.__code__)


def _ref() -> "Any":
    import _weakref

    return _weakref.ref


def _own(here: "list[Any]") -> "dict[int, Any]":
    """Return what is here with a finalizer or a callback."""
    ref = _ref()
    types = [*map(type, here)]
    numbers = [*map(id, types)]
    kinds = dict(zip(numbers, types))
    last = {number for number, kind in kinds.items() if any(["__del__" in base.__dict__ for base in kind.__mro__])}
    refs = {number for number, kind in kinds.items() if ref in kind.__mro__}
    return {id(o): o for o, number in zip(here, numbers) if number in last or (number in refs and o.__callback__ is not None)}


def _known() -> "Callable[[str], bool]":
    library, packages, quiet = _places()
    return lambda file: file.startswith((*quiet, "<frozen ")) or (file.startswith(library) and not file.startswith(packages))


def _places() -> "tuple[str, tuple[str, ...], tuple[str, ...]]":
    """Return the folder of the standard library, those of packages, and where QUIET is."""
    import os

    packages = tuple([path + "/" for path in sys.path if path.endswith("-packages")])
    return os.path.dirname(os.__file__) + "/", packages, tuple([path + name for path in packages for name in QUIET])


def look_at(folder: str) -> None:
    """Take the callback away from a program that names what could see it. It is in this folder."""
    try:
        seeing = _possible() and _could_see(folder)
    except OSError:  # what another program of the session has left
        seeing = True
    if seeing:
        import atexit

        if atexit._ncallbacks() == 1:  # noqa: SLF001 - unregister would leave its place, which this counts
            atexit._clear()  # noqa: SLF001
        else:
            atexit.unregister(all)


def _could_see(folder: str) -> bool:
    import os

    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count == MOST_FILES or entry.is_dir() or entry.name.endswith(NO_TEXT):
                return True
            if entry.name.endswith(".py") and entry.is_file():
                with open(entry.path, "rb", 0) as file:
                    text = file.read(MOST_TEXT)
                if len(text) == MOST_TEXT or any([word in text for word in WORDS]) or b"gc" in text.replace(b"gcd", b""):
                    return True
    return False


def _possible() -> bool:
    import os

    unusual = sys.implementation.name != "cpython" or sys.abiflags or sys.warnoptions or sys.flags.verbose
    late = [name for name in os.environ if name.startswith("PYTHON") and name[6:7] != "_" and name[6:] not in AT_START]
    return VERSIONS[0] <= sys.version_info < VERSIONS[1] and not unusual and not late


def _steps(modules: "set[str]", own: "dict[int, Any]") -> "list[Any]":
    import _io as io
    import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
    import _thread
    import _warnings
    import _weakref
    import builtins
    import gc
    import marshal

    mro, attributes, flags = [type.__dict__[name].__get__ for name in ("__mro__", "__dict__", "__flags__")]
    callback = _weakref.ref.__dict__["__callback__"].__get__
    library, packages, quiet = _places()
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
        "quiet": quiet,
        "cached": None if sys.pycache_prefix else f"{sys.implementation.cache_tag}.pyc",
        "load": marshal.loads,
        "codes": {},
        "parts_of_code": [part for part in _PARTS_OF_CODE if hasattr(_steps.__code__, part)],
        "constants": (type(None), bool, int, float, str, bytes, type(_steps.__code__)),
        "streams": [("stdout", sys.stdout, sys.stdout.buffer), ("stderr", sys.stderr, sys.stderr.buffer)],
        "attributes_of_streams": [(found, [*found]) for found in _attributes_of_streams()],
        "Code": type(_steps.__code__),
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
        "flags": flags,
        "heap": _HEAP,
        "collected": 1 << 14,  # Py_TPFLAGS_HAVE_GC
        "callback": callback,
        "getframe": sys._getframe,  # noqa: SLF001 - it is documented, underscore and all
        "get_ident": _thread.get_ident,
        "ident": _thread.get_ident(),
        "count_threads": _thread._count,  # noqa: SLF001 - threads that Python has started
        "gc_lists": (gc.callbacks, gc.garbage),
        "collects": gc.isenabled,
        "collect_not": gc.disable,
        "collect_again": gc.enable,
        "get_debug": gc.get_debug,
        "get_stats": gc.get_stats,
        "get_objects": gc.get_objects,
        "freeze": gc.freeze,
        "count_frozen": gc.get_freeze_count,
        "frozen": gc.get_freeze_count(),
        "default_filters": _warnings.filters,  # what warnings.filters begins as
        "filters": list(sys.modules.get("warnings", _warnings).filters),
        # Their ids must not become others', so they are kept.
        "own": own,
        "finalizing": {id(o) for o in here if issubclass(type(o), type) and type(o.__dict__.get("__del__")) is type(_steps)},
        "classes": [(kind, mro(kind)) for kind in _changeable(here)],
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


_PARTS_OF_CODE = "co_name", "co_qualname", "co_code", "co_linetable", "co_exceptiontable"


def _attributes_of_streams() -> "list[dict[str, Any]]":
    """Return those of the standard streams, and of what is below them."""
    found = []
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        below: Any = stream
        while below is not None:
            found.append(below.__dict__)
            below = getattr(below, "buffer", None) or getattr(below, "raw", None)
    return found


async def _coroutine() -> None: ...


def _changeable(here: "list[Any]") -> "list[type]":
    """Return the classes of what is here that could give it a finalizer, or another base.

    Not all classes: to look at one writes to its page, which the fork shares.
    """
    kinds = {id(kind): kind for kind in map(type, here)}
    bases = {id(base): base for kind in kinds.values() for base in kind.__mro__}
    return [base for base in bases.values() if "__del__" not in base.__dict__ and base.__flags__ & (_HEAP | _IMMUTABLE) == _HEAP]


if TYPE_CHECKING:
    # The namespace in which `_end` runs.
    Builtin: Any
    BytesIO: Any
    Code: Any
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
    attributes_of_streams: list[tuple[dict[str, Any], list[str]]]
    builtins_dict: dict[str, Any]
    callback: Callable[[object], Any]
    cached: str | None
    classes: list[tuple[type, tuple[type, ...]]]
    codes: dict[str, list[Any]]
    collect_again: Callable[[], None]
    collect_not: Callable[[], None]
    collects: Callable[[], bool]
    collections: list[int]
    collected: int
    constants: tuple[type, ...]
    count_frozen: Callable[[], int]
    count_threads: Callable[[], int]
    default_filters: list[Any]
    filters: list[Any]
    finalizing: set[int]
    flags: Callable[[type], int]
    freeze: Callable[[], None]
    frozen: int
    gc_lists: tuple[list[Any], list[Any]]
    get_debug: Callable[[], int]
    get_ident: Callable[[], int]
    get_objects: Callable[..., list[Any]]
    get_stats: Callable[[], list[dict[str, int]]]
    getframe: Callable[[int], Any]
    heap: int
    ident: int
    library: str
    load: Callable[[bytes], Any]
    inner: dict[str, type]
    loud: set[str]
    main: ModuleType
    marker: object
    modules: dict[str, Any]
    most: int
    mro: Callable[[type], tuple[type, ...]]
    names: set[str]
    own: dict[int, object]
    packages: tuple[str, ...]
    parts_of_code: list[str]
    position: int
    proxies: tuple[type, type]
    quiet: tuple[str, ...]
    streams: list[tuple[str, Any, Any]]
    sys_dict: dict[str, Any]


def _end() -> None:  # noqa: C901, PLR0915 - one code object
    """Shorten the end, or change nothing. Nothing of the program is called.

    So none of its classes is hashed or compared, which its metaclass could tell; and no key is
    looked up beside one that could compare itself.
    """

    def keys_are_plain(found: "Any") -> bool:
        return [*map(id, map(type, found))].count(id(str)) == len(found)

    def keys(spaces: "list[Any]") -> "list[Any]":
        found: list[Any] = []
        for space in spaces:
            found.extend(space)
        return found

    def as_before() -> bool:
        if get_ident() != ident or count_threads() or get_debug() or any(gc_lists):
            return False
        # A full end looks up each name in a module, to set it to None.
        if not keys_are_plain(keys([sys_dict, builtins_dict, main.__dict__])):
            return False
        # What is flushed from here on is these two, in C, and writes nothing.
        for name, stream, buffer in streams:
            if sys_dict[name] is not stream or sys_dict[f"__{name}__"] is not stream or stream.buffer is not buffer:
                return False
            if not (stream.closed or stream.write_through):
                return False
        # Another attribute could be `flush`. The one that is named is of a closed stream.
        for found, before in attributes_of_streams:
            for name in found:
                if not any([name is known for known in before]) and (type(name) is not str or name != "__IOBase_closed"):
                    return False
        # A finalizer in C may warn; these filters let nobody know.
        warnings = modules.get("warnings")
        now = default_filters
        if warnings is not None:
            if type(warnings) is not Module or not keys_are_plain(warnings.__dict__):
                return False
            now = warnings.__dict__["filters"]
        if type(now) is not list or [*map(id, now)] != [*map(id, filters)]:
            return False
        return not any([mro(kind) is not before or "__del__" in attributes(kind) for kind, before in classes])

    def modules_are_known() -> bool:
        if sys_dict["modules"] is not modules or modules["__main__"] is not main:
            return False
        new = modules.keys() - names
        if not loud.isdisjoint(new) or ("ctypes" in new and "numpy" not in modules):
            return False
        spaces = [module.__dict__ for module in [modules[name] for name in new] if type(module) is Module]
        return keys_are_plain(keys(spaces)) and all([is_known(space.get("__file__", library)) for space in spaces])

    def is_known(file: object) -> bool:
        return type(file) is str and (file.startswith(quiet) or (file.startswith(library) and not file.startswith(packages)))

    def is_of_its_file(code: "Any") -> bool:
        # A program can name any file as its code's: so the file is asked.
        file = code.co_filename
        if cached is None or not is_known(file):
            return False
        # Those that could compare or hash themselves.
        parts = [getattr(code, part) for part in parts_of_code]
        if any([type(part) is not str and type(part) is not bytes for part in parts]):
            return False
        if any([not any([type(const) is kind for kind in constants]) for const in code.co_consts]):
            return False
        if file not in codes:
            folder, _, name = file.rpartition("/")
            with File(f"{folder}/__pycache__/{name[:-2]}{cached}") as compiled:
                found = [load(compiled.readall()[16:])]
            for one in found:
                found += [const for const in one.co_consts if type(const) is Code]
            codes[file] = found
        return code in codes[file]

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
        if asked == "proxy":
            return False
        called = callback(o)
        if called is None:
            return True
        if type(called) is Builtin:
            return type(called.__self__) is inner.get(called.__name__)
        if type(o) is not ref or type(called) is not Function or any([type(default) is not ref for default in called.__defaults__ or ()]):
            return False
        return is_of_its_file(called.__code__)

    def are_silent(classes: "list[type]") -> bool:
        if not keys_are_plain(keys([attributes(kind) for kind in classes])):
            return False
        finalizers = [(kind, attributes(kind)["__del__"]) for kind in classes if "__del__" in attributes(kind)]
        finalizers = [(kind, called) for kind, called in finalizers if type(called) is not Slot]
        if not finalizers and not (finalizing and any([id(base) in finalizing for kind in classes for base in mro(kind)])):
            return True
        # An object from before may have such a class by now. Not every object is found.
        last = finalizing | {id(kind) for kind, _ in finalizers}
        kinds = [*map(type, get_objects())]
        bases = [base for kind in dict(zip(map(id, kinds), kinds)).values() for base in mro(kind)]
        found = count_frozen() == frozen and all([flags(kind) & collected for kind, _ in finalizers])
        return found and not any([id(base) in last for base in bases])

    def all_are_silent(objects: "list[Any]") -> bool:
        kinds = [*map(type, objects)]
        numbers = [*map(id, kinds)]
        by_number = dict(zip(numbers, kinds))
        bases = {id(base): base for kind in by_number.values() for base in mro(kind) if flags(base) & heap}
        if not keys_are_plain(keys([attributes(base) for base in bases.values()])):
            return False
        asked = {number: question(kind) for number, kind in by_number.items()}
        found = [(o, asked[number]) for o, number in zip(objects, numbers) if asked[number] and id(o) not in own]
        classes = [o for o, what in found if what == "class"]
        return are_silent(classes) and all([is_silent(o, what) for o, what in found if what != "class"])

    try:
        getframe(1)
        return  # somebody has called the callbacks before the end
    except ValueError:
        pass
    collecting = collects()
    collect_not()  # the program's finalizers are not to run here
    try:
        if not (keys_are_plain(modules) and as_before() and modules_are_known()):
            return
        objects = new_objects()
        if len(objects) > most or not all_are_silent(objects):
            return
    except BaseException:
        return
    finally:
        if collecting:
            collect_again()
    kept = [*modules.values(), *sys_dict.values(), *builtins_dict.values()]
    kept.append(kept)
    freeze()
    modules.clear()
