"""The program's process, from the fork to the moment when the interpreter takes over with main.py.

Runs beside nothing hostile: the program is not there yet. It trusts its parent, reads its orders by
marshal (which is loaded in every interpreter), and says on a pipe of its own how far it got, so
that a failure to set up is never taken for the program's. When it returns, or becomes another
interpreter by exec, the process must be what a plain start would be: descriptors 0, 1, 2 and the
message pipe, signals, modules, arguments, environment.

With a preload, it imports modules first. In a session it becomes the zygote: it stays as it is, and
each program is run by a grandchild of its own. The zygote never has a byte of a program or of its
input.
"""

# `_signal` is the C half of signal, loaded in every interpreter; the Python half would import enum.
import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
import gc
import marshal
import os
import resource
import sys
import time

from . import READY, STARTED, _end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

MESSAGE_PIPE = 1000
NICENESS = 10
"""Of the program, so that the runner is first when the container's processor time is short."""

PROCESSORS = "/sys/devices/system/cpu"
_COUNTS = ("online", "possible", "present")

_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "HOME", "MALLOC_", "GLIBC_", "LOCPATH")
"""Names of the environment that begin so act while an interpreter, or its C library, starts: a warm
one is too late."""

_GLOBAL_GENERATORS = (("random", "seed", None), ("numpy.random", "seed", 1 << 32), ("torch", "manual_seed", 1 << 63))
"""Modules, their functions that seed, and the end of the range of seeds that these take."""

_PR_SET_DUMPABLE = 4


def become_program(pipes: "tuple[int, ...]", modules: "set[str]") -> None:
    """Set up this process as the program's, wait for the orders, carry them out. Return, or exec;
    exit on a failure.

    `pipes` are our ends of stdin, stdout, stderr, the message pipe, the orders and the progress
    pipe; `modules` are the names of the modules that the program is to find, to which the preloaded
    ones are added.
    """
    progress = pipes[5]
    try:
        os.nice(NICENESS)
        score = _score()
        end = _end.register()  # before a preloaded module registers its own callbacks
        _report(progress, _settle(pipes) + _show_processors())
        _end.arm(end, modules)
        order = _receive(pipes[4])
        generators: list[Any] = []
        if "preload" in order:
            generators = _preload(order["preload"], modules, end)
            _report(progress, [])
            order = _receive(pipes[4])
        if "session" in order:
            pipes = _serve_as_zygote(order["session"], score, pipes)
            progress = pipes[5]
            _report(progress, _settle(pipes))
            order = _receive(pipes[4])
            if "idle" in order:
                _unshare()
                order = _receive(pipes[4])
        os.close(pipes[4])
        interpreter = _prepare(order, modules, generators)
        if interpreter is None:
            _end.look_at(".")
        _write_all(progress, STARTED + repr(time.monotonic()).encode() + (b"" if interpreter is None else b" exec"))
        if interpreter is None:
            os.close(progress)
            if order["figures"] or order["last_value"]:
                from . import _shown

                if order["figures"]:
                    _import("atexit", modules)  # before Python 3.10 each import has a list of callbacks of its own
                _shown.arm(figures=order["figures"], last_value=order["last_value"])
        else:
            # Close-on-exec closes the pipe when, and only when, the new interpreter has taken over.
            _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
            _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
            os.execve(*interpreter, os.environ)  # noqa: S606 - there is no shell, on purpose
    except BaseException as error:
        try:
            _write_all(progress, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
        finally:
            os._exit(66)


def _load_ctypes() -> "ModuleType":
    """Load the C half of ctypes, and with it libffi. From 3.5 on that opens its own file, for as
    long as the process lives.

    The file gets a number behind MESSAGE_PIPE. So the first descriptor of a program has the number
    that it has elsewhere, and a preloaded module has not opened any.
    """
    low = [os.dup(0)]
    while low[-1] < MESSAGE_PIPE:
        low.append(os.dup(0))
    import _ctypes

    for file in low:
        os.close(file)
    return _ctypes


def _unshare() -> None:
    """Make the time of waiting good: what is shared with the zygote now is copied now."""
    from . import _memory

    gc.disable()
    _memory.unshare()
    gc.collect(0)  # what that has made, which would be found
    gc.enable()


def _report(progress: int, problems: "list[str]") -> None:
    _write_all(progress, "\n".join([str(os.getpid()), *problems]).encode("utf-8", "replace") + READY)


def _settle(pipes: "tuple[int, ...]") -> "list[str]":
    """Do all that needs no orders. Return what could not be done but can be done without."""
    kept = (0, 1, 2, MESSAGE_PIPE)
    for source, target in zip(pipes, kept):
        os.dup2(source, target)
        os.close(source)
    for name in os.listdir("/proc/self/fd"):
        try:
            # What came through exec has no close-on-exec flag; what Python opened, like the .pth
            # file being read, has it.
            if int(name) not in kept and os.get_inheritable(int(name)):
                os.close(int(name))
        except OSError:
            pass  # The descriptor that listed them.
    os.setsid()
    return _set_score(b"1000")


def _score() -> bytes:
    try:
        with open("/proc/self/oom_score_adj", "rb", 0) as file:
            return file.read(16)
    except OSError:
        return b"0"


def _set_score(score: bytes) -> "list[str]":
    return _write_file("/proc/self/oom_score_adj", score)


def _show_processors() -> "list[str]":
    """Tell the C library how many processors there are, where a tmpfs hides the host's own
    files."""
    count = os.environ.get("PYTHON_CPU_COUNT", "")
    if not count.isdigit() or not os.path.isdir(PROCESSORS) or os.listdir(PROCESSORS):
        return []
    line = f"0-{int(count) - 1}\n".encode()
    return [problem for name in _COUNTS for problem in _write_file(f"{PROCESSORS}/{name}", line)]


def _write_file(path: str, data: bytes) -> "list[str]":
    try:
        with open(path, "wb", 0) as file:
            file.write(data)
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    return []


def _receive(orders: int) -> "dict[str, Any]":
    """Return the next orders, a length and a marshalled dict. Without any, the parent has ended."""
    size = _read(orders, 4)
    if not size:
        os._exit(0)
    order: dict[str, Any] = marshal.loads(_read(orders, int.from_bytes(size, "big")))  # noqa: S302 - written by process 1, our parent
    return order


def _read(file: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(file, min(size, 65536))
        if not piece:
            break
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _prepare(order: "dict[str, Any]", modules: "set[str]", generators: "list[Any]") -> "tuple[str, list[str]] | None":
    """Set limits, arguments, environment. Return None, or (path, argv) of another interpreter to
    be."""
    args, env, limit = order["args"], order["env"], order["open_files"]
    if any("\0" in arg for arg in args):
        raise ValueError("an argument has a null character")
    for name, value in env.items():
        os.environ[name] = value
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if order["merge_stderr"]:
        os.dup2(1, 2)
    if order["python2"] is not None:
        return order["python2"], ["python2.7", "-u", "main.py", *args]
    # An interpreter finds itself by its argv[0] and PATH. (sys.orig_argv is of 3.10.)
    original = getattr(sys, "orig_argv", [sys.executable])
    if any(name.startswith(_READ_AT_START) for name in env):
        return sys.executable, [sys.executable if "PATH" in env else original[0], "-u", "main.py", *args]
    original[1:] = ["-u", "main.py", *args]
    sys.argv.extend(args)
    sys._xoptions.clear()  # noqa: SLF001 - it is documented, underscore and all
    _seed(order["seed"], modules, generators)
    return None


def _write_all(file: int, data: bytes) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(data):
            done += os.write(file, view[done:])


# Preload.


def _import(name: str, modules: "set[str]") -> None:
    """Import a module for the program, and note what it brings. Ours are out of sight: it is to
    have its own."""
    loaded = sys.modules
    ours = {other: loaded.pop(other) for other in set(loaded) - modules}
    try:
        __import__(name)
    finally:
        modules.update(loaded)
        loaded.update({other: module for other, module in ours.items() if other not in loaded})


def _preload(names: "list[str]", modules: "set[str]", end: "list[Any]") -> "list[Any]":
    """Import what every program is to find, and return the random generators among it.

    ImportError if a fork would not carry it, or a program would meet it unasked.
    """
    _load_ctypes()
    streams = [os.dup(file) for file in (0, 1, 2)]
    null = os.open("/dev/null", os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(null, file)
    os.close(null)
    gc.disable()
    before = _surroundings()
    for name in names:
        try:
            _import(name, modules)
        except BaseException as error:
            raise ImportError(f"preload of {name}: {type(error).__name__}: {error}") from None
        after = _surroundings()
        changed = [f"{what} {before[what]} is now {after[what]}" for what in before if before[what] != after[what]]
        if changed:
            raise ImportError(f"preload of {name}: a program cannot be given what it leaves behind: {'; '.join(changed)}")
    gc.collect()  # whose finalizers may print
    for file, stream in enumerate(streams):
        os.dup2(stream, file)
        os.close(stream)
    _end.arm(end, modules)
    generators = _generators(modules)
    # What is there stays out of the collector's way: it would write to every page that is shared,
    # and take its time at the end. But it would not find a finalizer in a cycle either.
    if end or not _end.has_finalizers():
        gc.freeze()
    gc.enable()
    return generators


def _surroundings() -> "dict[str, Any]":
    """Return what an import may leave behind that a fork does not carry, or that is nobody's
    business but the program's."""
    try:
        os.waitpid(-1, os.WNOHANG)
        children = True
    except ChildProcessError:
        children = False
    umask = os.umask(0)
    os.umask(umask)
    with open("/proc/self/status", "rb", 0) as file:
        status = file.read(65536).split(b"\n")
    numbers = {line.split(b":")[0]: line.split(b":")[1].strip().decode() for line in status if line.startswith(b"Sig")}
    # A thread that has been waited for may still be on its way out.
    end = time.monotonic() + 0.1
    while (threads := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < end:
        time.sleep(0.002)
    return {
        "number of threads": threads,
        "child process": children,
        "descriptors": sorted(_open_files()),
        # gVisor tells neither of these two: there, what Python knows of them is all.
        "signals ignored": numbers.get(b"SigIgn", [number for number in range(1, 65) if _handler(number) == _signal.SIG_IGN]),
        "signals handled": numbers.get(b"SigCgt"),
        "signals blocked": sorted(_signal.pthread_sigmask(_signal.SIG_BLOCK, ())),
        "signal handlers of Python": [number for number in range(1, 65) if callable(_handler(number))],
        "timer": _signal.getitimer(_signal.ITIMER_REAL) != (0.0, 0.0),
        "working directory": os.getcwd(),
        "umask": umask,
    }


def _open_files() -> "set[int]":
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fstat(int(name))
            found.add(int(name))
        except OSError:
            pass  # The descriptor that listed them.
    return found


def _handler(number: int) -> object:
    try:
        return _signal.getsignal(number)
    except ValueError:
        return None


def _generators(modules: "set[str]") -> "list[Any]":
    """Return the random generators that preloaded modules hold: each `random.Random`, and each of
    numpy's bit generators."""
    python, numpy = [
        getattr(sys.modules.get(name), kind, ()) if name in modules else ()
        for name, kind in (("random", "Random"), ("numpy.random", "BitGenerator"))
    ]
    found = []
    for thing in gc.get_objects():
        kind = type(thing)  # not `__class__`, which a proxy may answer by importing what it stands for
        if issubclass(kind, python) or (issubclass(kind, numpy) and kind.__module__.startswith("numpy.")):
            found.append(thing)
    return found


def _seed(seed: "int | None", modules: "set[str]", generators: "list[Any]") -> None:
    """Seed the random generators that the program finds: afresh, since a fork shares them, or with
    what was asked for."""
    if seed is not None:
        _import("random", modules)
    loaded = sys.modules
    for generator in generators:
        if hasattr(generator, "state"):  # numpy's
            generator.state = type(generator)(None if seed is None else seed % (1 << 64)).state
        else:
            loaded["random"].Random.seed(generator, seed)  # not its own `seed`, which may be anything
    for name, function, size in _GLOBAL_GENERATORS:
        if name in modules and name in loaded:
            fresh = int.from_bytes(os.urandom(8), "big") if seed is None else seed
            getattr(loaded[name], function)(fresh if size is None else fresh % size)


# The zygote.


def _serve_as_zygote(address: bytes, score: bytes, pipes: "tuple[int, ...]") -> "tuple[int, ...]":
    """Fork a grandchild for each set of pipes that process 1 sends; return those pipes in the
    grandchild only."""
    # The C halves: see _parent for why.
    import _socket

    _ctypes = _load_ctypes()
    prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # None is this very process
    control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    control.connect(address)
    # Programs run as the same user: none may look into the one that the next is made from.
    _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _set_score(score)
    _report(pipes[5], [])
    null = os.open("/dev/null", os.O_RDWR)
    for file in (0, 1, 2):
        os.dup2(null, file)
    for file in (null, MESSAGE_PIPE, *pipes[4:]):
        os.close(file)
    while True:
        data, attached, _, _ = control.recvmsg(1, _socket.CMSG_SPACE(6 * 4), _socket.MSG_CMSG_CLOEXEC)
        if not data:
            os._exit(0)
        ((_, _, packed),) = attached
        files = tuple([int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, 24, 4)])
        middle = os.fork()
        if middle == 0:
            # An orphan, and so process 1's to reap: its end is known at first hand.
            if os.fork():
                os._exit(0)
            control.close()
            _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 1, 0, 0, 0))
            return files
        for file in files:
            os.close(file)
        os.waitpid(middle, 0)
