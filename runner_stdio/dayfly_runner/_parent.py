"""Process 1: one poll loop between the host and the program.

It owns the deadline, the caps, and the truth of the `exit` frame. It must never block on anybody: not on a host that does
not read, not on a program that does not read or does not stop writing, not on a process that does not die. It never
looks into the program's bytes, except at the length before each message. What it cannot do ends it, with a status of
its own; as it is process 1, the kernel then kills every other process of the container.
"""

# The C halves of ctypes and signal: see _frames for why.
import _ctypes
import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
import marshal
import os
import select
import sys
import time

from . import READY, STARTED, VERSION, _cgroup, _frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

HOST_IN, HOST_OUT = 0, 1

# Exit statuses, as in conformance/PROTOCOL.md.
HOST_BROKE_PROTOCOL, OTHER_VERSION, SET_UP_FAILED, HOST_GONE, SURPRISED = 64, 65, 66, 67, 70

READ_SIZE = 65536
"""Bytes of one read, and so of an `output` frame at the most."""
OUT_HIGH = 262144
"""Bytes waiting for the host, above which the program's pipes are not read."""
SMALL_READ, SMALL_READS, PAUSE, LULL = 4096, 4, 0.002, 0.05
"""After SMALL_READS reads of less than SMALL_READ bytes without a LULL (seconds), a pipe is read once in a PAUSE (seconds):
a flood of tiny writes becomes few frames, while what is written now and then leaves at once."""
KILL_TIME, FLUSH_TIME, LAST_WORDS_TIME = 2.0, 30.0, 2.0
"""Seconds for what is left in the container to die, for a slow host to take the result, and for it to take an error."""

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_MADV_POPULATE_WRITE = 23
_F_SETPIPE_SZ = 1031  # in fcntl since 3.10
_PAGE_SIZE, _PAGE_ENTRY, _PAGE_PRESENT = os.sysconf("SC_PAGE_SIZE"), 8, 0x80
"""/proc/self/pagemap (Linux, admin-guide/mm/pagemap): 8 bytes for each page, little-endian, the highest bit: it is there."""


class SetUpFailed(Exception):
    """Something that the runner promises could not be set up."""


def serve(child: int, stdin: int, outputs: "tuple[int, int, int]", orders: int, progress: int) -> "NoReturn":
    """Be the runner for the forked `child`, given our ends of its pipes; `outputs` are stdout, stderr and messages."""
    runner = _Runner(child, stdin, outputs, orders, progress)
    try:
        runner.set_up()
        runner.loop()
    except _frames.VersionMismatch as error:
        runner.fail(OTHER_VERSION, str(error))
    except _frames.ProtocolError as error:
        runner.fail(HOST_BROKE_PROTOCOL, str(error))
    except SetUpFailed as error:
        runner.fail(SET_UP_FAILED, str(error))
    except BaseException as error:
        runner.fail(SURPRISED, f"{type(error).__name__}: {error}")


class _Output:
    """Takes the bytes of one stream, and sends them up to its limit."""

    def __init__(self, name: bytes, limit: int, send: "Callable[[bytes], None]") -> None:
        self.dropped = 0
        self._name, self._left, self._send = name, limit, send

    def take(self, data: bytes) -> None:
        kept = data[: self._left]
        if kept:
            self._left -= len(kept)
            for piece in _frames.encode_output(self._name, kept):
                self._send(piece)
        self.dropped += len(data) - len(kept)


class _Messages:
    """Takes the program's messages, each a length and its bytes. None is buffered that will not be sent."""

    def __init__(self, limit: int, count: int, send: "Callable[[bytes], None]") -> None:
        self.dropped = 0
        self._left, self._count, self._send = limit, count, send
        self._header = bytearray()
        self._body: bytearray | None = None
        self._missing = 0

    def take(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            if not self._missing:
                piece = data[at : at + _frames.HEADER - len(self._header)]
                self._header += piece
                at += len(piece)
                if len(self._header) < _frames.HEADER:
                    return
                self._missing = int.from_bytes(self._header, "big")
                self._header.clear()
                fits = self._count > 0 and self._missing <= self._left
                self._body = bytearray() if fits else None
                self.dropped += not fits
            piece = data[at : at + self._missing]
            at += len(piece)
            self._missing -= len(piece)
            if self._body is not None:
                self._body += piece
                if not self._missing:
                    self._count -= 1
                    self._left -= len(self._body)
                    for part in _frames.encode_message(self._body):
                        self._send(part)
                    self._body = None

    def end(self) -> None:
        """Count what was cut off, unless it was counted when it did not fit."""
        if self._header or self._body is not None:
            self.dropped += 1


class _Pipe:
    """One of the program's pipes: who takes its bytes, and when it is read."""

    def __init__(self, taker: "_Output | _Messages") -> None:
        self.taker = taker
        self.open = True
        self.watched = False
        self.small_reads = 0
        self.read_at = self.resume_at = 0.0


class _Runner:
    def __init__(self, child: int, stdin: int, outputs: "tuple[int, int, int]", orders: int, progress: int) -> None:
        self.child, self.stdin, self.outputs, self.orders, self.progress = child, stdin, outputs, orders, progress
        self.poll = select.poll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.decoder = _frames.Decoder()
        self.out = bytearray()
        self.report = b""
        self.status: int | None = None
        self.run: dict[str, Any] | None = None
        self.started: float | None = None
        self.deadline = 0.0
        self.pipes: dict[int, _Pipe] = {}
        self.timed_out = self.output_limit = self.widened = False
        # For the one moment when there is no memory to build it.
        self.out_of_memory = _frames.encode_error("the runner ran out of memory")

    # Before the run.

    def set_up(self) -> None:
        """Become what the program cannot touch; wait until the child is warm."""
        if os.getpid() != 1:
            # It kills every process that it can see, and counts on the kernel to kill what it leaves behind.
            raise SetUpFailed("the runner must be process 1 of its container")
        _unshare_memory()  # before what comes next takes /proc/self away
        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type] # None is this very process
        _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0))
        self.dumpable = _ctypes.call_function(prctl, (_PR_GET_DUMPABLE, 0, 0, 0, 0))
        if self.dumpable != 0:
            raise SetUpFailed(f"PR_SET_DUMPABLE: still {self.dumpable}")
        # A signal with its default action does nothing to process 1, so no handler is left but one that does nothing.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        self.wakeup, wakeup_end = os.pipe()
        for file in (HOST_IN, HOST_OUT, self.wakeup, wakeup_end, self.stdin, *self.outputs):
            os.set_blocking(file, False)
        _signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, _do_nothing)
        self.counters = _cgroup.Counters()
        self.python2 = _find_python2()
        while READY not in self.report:
            piece = os.read(self.progress, READ_SIZE)
            if not piece:
                raise SetUpFailed(f"the warm interpreter: {self.last_words()}")
            self.report += piece
        problems, _, self.report = self.report.partition(READY)
        self.problems = problems.decode().splitlines()
        self.watch(HOST_IN, select.POLLIN, self.on_host)
        self.watch(self.progress, select.POLLIN, self.on_progress)
        self.watch(self.wakeup, select.POLLIN, self.on_signal)

    def on_host(self, file: int) -> None:
        data = _read(file, READ_SIZE)
        if data is None:
            return
        if not data:
            os._exit(HOST_GONE)
        self.decoder.feed(data)
        while True:
            frame = self.decoder.next_frame()
            if frame is None:
                return
            if frame["type"] == "hello":
                self.on_hello(frame)
            else:
                self.on_run(frame)

    def on_hello(self, hello: "dict[str, Any]") -> None:
        self.token = hello["token"]
        pythons = {"3": sys.version.split()[0]}
        if self.python2 is not None:
            pythons["2"] = "2.7"
        ready = {"type": "ready", "protocol": _frames.PROTOCOL, "token": self.token, "version": VERSION, "pythons": pythons}
        ready["status"] = {**_kernel_status(), "dumpable": self.dumpable}
        self.send(_frames.encode({**ready, "cgroup": self.counters.version, "problems": self.problems}))

    def on_run(self, run: "dict[str, Any]") -> None:
        if run["python"] == "2" and self.python2 is None:
            raise _frames.ProtocolError("`run` asks for Python 2, which `ready` did not name")
        self.run = run
        self.stdout = _Output(b"stdout", run["stdout_limit"], self.send)
        self.stderr = _Output(b"stderr", run["stderr_limit"], self.send)
        self.messages = _Messages(run["message_limit"], run["message_count"], self.send)
        data, stdin = run["data"], run.pop("stdin")
        if stdin is None:
            stdin = b"" if data is None else data + b"\n"
        self.unfed = memoryview(stdin)
        self.counters.start()
        orders = {name: run.pop(name) for name in ("code", "data", "args", "env")}
        orders["open_files"] = run["open_files"]
        orders["python2"] = self.python2 if run["python"] == "2" else None
        with memoryview(marshal.dumps(orders)) as view:
            done = 0
            try:
                # The one write that may wait: for a child that reads to the end, and has nothing hostile in it yet.
                while done < len(view):
                    done += os.write(self.orders, view[done:])
            except BrokenPipeError:
                pass  # Its end shows on the progress pipe.
        os.close(self.orders)

    def on_progress(self, file: int) -> None:
        piece = os.read(file, READ_SIZE)
        if piece:
            self.report += piece
            return
        self.watch(file, 0)
        os.close(file)
        try:
            self.started = float(self.report[len(STARTED) :])
        except ValueError:
            self.started = None
        # An exec that failed has left its reason behind the time.
        if self.started is None or self.run is None:
            raise SetUpFailed(f"the program's process: {self.last_words()}")
        self.deadline = self.started + self.run["timeout_ms"] / 1e3
        self.send(_frames.encode({"type": "started"}))
        stdout, stderr, message = self.outputs
        self.pipes = {stdout: _Pipe(self.stdout), stderr: _Pipe(self.stderr), message: _Pipe(self.messages)}
        self.feed_program(self.stdin)

    def last_words(self) -> str:
        """Return why the child could not go on: what it wrote, or how it died."""
        text = self.report.decode("utf-8", "replace").lstrip("+.0123456789")
        end = time.monotonic() + LAST_WORDS_TIME
        while not text and self.status is None and time.monotonic() < end:
            self.reap()
            time.sleep(0.001)
        return text or f"it ended with wait status {self.status}"

    # While the program runs.

    def loop(self) -> "NoReturn":
        """Serve whoever is ready, until the program has ended or must end."""
        while True:
            now = time.monotonic()
            if self.started is not None:
                self.check_end(now)
            self.arm(now)
            for file, _ in self.poll.poll(self.patience(now)):
                # A handler before this one may have closed the file.
                handler = self.handlers.get(file)
                if handler is not None:
                    handler(file)
            if self.out:
                self.write_out(HOST_OUT)

    def check_end(self, now: float) -> None:
        if self.status is None and now >= self.deadline:
            self.reap()
            self.timed_out = self.status is None
        if self.status is None and self.run is not None and self.run["on_output_limit"] == "kill":
            self.output_limit = self.stdout.dropped > 0 or self.stderr.dropped > 0
        if self.status is not None or self.timed_out or self.output_limit:
            self.finish()

    def arm(self, now: float) -> None:
        """Watch each of the program's pipes, or leave it alone for a while."""
        full = len(self.out) > OUT_HIGH
        for file, pipe in self.pipes.items():
            wanted = pipe.open and not full and now >= pipe.resume_at
            if wanted != pipe.watched:
                pipe.watched = wanted
                self.watch(file, select.POLLIN if wanted else 0, self.on_pipe)

    def patience(self, now: float) -> "int | None":
        """Return for how many ms poll may wait at the most; None: for ever."""
        times = [pipe.resume_at for pipe in self.pipes.values() if pipe.open and pipe.resume_at > now]
        if self.started is not None:
            times.append(self.deadline)
        return min(int((min(times) - now) * 1e3) + 1, 3600000) if times else None

    def on_pipe(self, file: int) -> None:
        pipe = self.pipes[file]
        data = _read(file, READ_SIZE)
        if data is None:
            return
        if not data:
            pipe.open = False
            return
        now = time.monotonic()
        if len(data) >= SMALL_READ or now - pipe.read_at > LULL:
            pipe.small_reads = 0
        pipe.small_reads += 1
        pipe.read_at = now
        if pipe.small_reads > SMALL_READS:
            pipe.resume_at = now + PAUSE
        pipe.taker.take(data)

    def feed_program(self, file: int) -> None:
        """Write on at the program's standard input; close it behind the last byte."""
        try:
            if self.unfed:
                self.unfed = self.unfed[os.write(file, self.unfed) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self.unfed = self.unfed[:0]
        if self.unfed:
            self.watch(file, select.POLLOUT, self.feed_program)
        else:
            self.watch(file, 0)
            os.close(file)

    def on_signal(self, file: int) -> None:
        _read(file, READ_SIZE)
        self.reap()

    def reap(self) -> None:
        """Take every process that has ended, orphans among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == self.child:
                self.status = status
            if pid == 0:
                return

    # The end.

    def finish(self) -> "NoReturn":
        """Kill everything, tell the host how it ended, leave."""
        wall = time.monotonic() - (self.started or 0.0)
        self.kill_everything()
        if self.status is None:
            raise RuntimeError(f"the program could not be killed within {KILL_TIME} s")
        for file, pipe in self.pipes.items():
            # Nobody is left to write, so this is at the most what a pipe holds.
            while pipe.open:
                data = _read(file, READ_SIZE)
                if not data:
                    break
                pipe.taker.take(data)
        self.messages.end()
        oom_kills, peak, cpu = self.counters.read()
        signalled = os.WIFSIGNALED(self.status)
        end = {
            "type": "exit",
            "token": self.token,
            "exit_code": None if signalled else os.WEXITSTATUS(self.status),
            "signal": os.WTERMSIG(self.status) if signalled else None,
            # One that ended by itself between its deadline and the kill was not killed.
            "timed_out": self.timed_out and signalled,
            "output_limit": self.output_limit,
            "stdout_dropped": self.stdout.dropped,
            "stderr_dropped": self.stderr.dropped,
            "messages_dropped": self.messages.dropped,
            "wall_ms": round(wall * 1e3, 3),
            "cpu_ms": cpu,
            "peak_memory_bytes": peak,
            "oom_kills": oom_kills,
        }
        self.send(_frames.encode(end))
        self.flush(FLUSH_TIME)
        os._exit(SURPRISED if self.out else 0)

    def kill_everything(self) -> None:
        """Kill until nobody is left; what the kernel cannot end now is not waited for longer than KILL_TIME."""
        end = time.monotonic() + KILL_TIME
        waiter = select.poll()
        waiter.register(self.wakeup, select.POLLIN)
        while time.monotonic() < end:
            self.reap()
            try:
                os.kill(-1, _signal.SIGKILL)
            except ProcessLookupError:
                return
            self.reap()
            waiter.poll(10)
            _read(self.wakeup, READ_SIZE)

    def fail(self, exit_status: int, message: str) -> "NoReturn":
        """Say why, if the host listens, and leave. Whatever happens here, the process ends with `exit_status`."""
        try:
            # First the program, if it is there: it must not go on while this waits for the host.
            if self.run is not None:
                os.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            try:
                frame = _frames.encode_error(message)
            except MemoryError:
                frame = self.out_of_memory
            self.send(frame)
            self.flush(LAST_WORDS_TIME)
        finally:
            os._exit(exit_status)

    # The host.

    def send(self, frame: bytes) -> None:
        self.out += frame

    def write_out(self, file: int) -> None:
        """Write to the host what it takes now, and watch for its taking the rest."""
        try:
            while self.out:
                del self.out[: os.write(file, self.out)]
        except BlockingIOError:
            if not self.widened:
                self.widened = True
                _widen(file)
        except BrokenPipeError:
            os._exit(HOST_GONE)
        self.watch(file, select.POLLOUT if self.out else 0, self.write_out)

    def flush(self, seconds: float) -> None:
        """Write the last frames; a host that has gone, or does not read, is not waited for."""
        end = time.monotonic() + seconds
        waiter = select.poll()
        waiter.register(HOST_IN, select.POLLIN)
        waiter.register(HOST_OUT, select.POLLOUT)
        self.write_out(HOST_OUT)
        while self.out and time.monotonic() < end:
            for file, _ in waiter.poll(100):
                if file == HOST_IN and _read(HOST_IN, READ_SIZE) == b"":
                    os._exit(HOST_GONE)
            self.write_out(HOST_OUT)

    def watch(self, file: int, events: int, handler: "Callable[[int], None] | None" = None) -> None:
        """Call `handler` at `events` of the file. No events: forget it, since poll reports its end whatever the mask."""
        if events and handler is not None:
            self.handlers[file] = handler
            self.poll.register(file, events)
        elif self.handlers.pop(file, None) is not None:
            self.poll.unregister(file)


class _Address(_ctypes._SimpleCData):  # type: ignore[type-arg] # noqa: SLF001 - ctypes' c_void_p, without the rest of ctypes
    """An argument as wide as a pointer."""

    _type_ = "P"


def _unshare_memory() -> None:
    """Copy the memory that the fork shares, as far as an interpreter keeps its objects in it, before the program needs it.

    Else each page is copied at the program's first write, which comes at the interpreter's end at the latest: a millisecond of
    each run. Whoever is left alone with a page writes to it for nothing, so this side copies, and the child's memory shows no trace.
    A mere hint: a kernel that does not know it (before 5.14, gVisor) leaves all as it is.
    """
    madvise = _ctypes.dlsym(_ctypes.dlopen(None, 0), "madvise")  # type: ignore[arg-type] # None is this very process
    try:
        with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", 0) as pagemap:
            for line in maps:
                words = line.split()
                begin, end = [int(address, 16) for address in words[0].split(b"-")]
                # What was allocated, and the interpreter's static objects; neither the libraries' data nor the stack.
                if words[1] != b"rw-p" or not (words[5:] in ([], [b"[heap]"]) or begin <= id(object) < end):
                    continue
                count = (end - begin) // _PAGE_SIZE
                entries = os.pread(pagemap.fileno(), count * _PAGE_ENTRY, begin // _PAGE_SIZE * _PAGE_ENTRY)
                present = [entry & _PAGE_PRESENT for entry in entries[_PAGE_ENTRY - 1 :: _PAGE_ENTRY]] + [0]
                first = None
                for page, there in enumerate(present):
                    if there and first is None:
                        first = page
                    elif not there and first is not None:
                        where, size = begin + first * _PAGE_SIZE, (page - first) * _PAGE_SIZE
                        _ctypes.call_function(madvise, (_Address(where), _Address(size), _MADV_POPULATE_WRITE))
                        first = None
    except OSError:
        pass


def _do_nothing(number: int, frame: object) -> None:
    """Be a handler: only a signal that has one wakes poll, through the wake-up pipe."""


def _read(file: int, size: int) -> "bytes | None":
    """Return bytes, b"" at the end, None when there are none just now."""
    try:
        return os.read(file, size)
    except BlockingIOError:
        return None


def _widen(pipe: int) -> None:
    """Let a pipe hold more than 64 KiB: who floods it then wakes its reader less often. A mere hint."""
    try:
        import fcntl

        fcntl.fcntl(pipe, _F_SETPIPE_SZ, OUT_HIGH)
    except (ImportError, MemoryError, OSError):
        pass  # the program has left no memory, or it is no pipe, or the kernel's limit for this user is reached


def _find_python2() -> "str | None":
    for folder in ["/usr/bin", *os.environ.get("PATH", "").split(":")]:
        path = folder + "/python2.7"
        if folder and os.access(path, os.X_OK):
            return path
    return None


def _kernel_status() -> "dict[str, int | str]":
    """Return what the kernel says of this process, in the names of the `ready` frame."""
    try:
        file = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        text = os.read(file, READ_SIZE).decode("utf-8", "replace")
        os.close(file)
    except OSError:
        text = ""
    lines = dict(line.partition(":")[::2] for line in text.splitlines())
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "no_new_privs": int(lines.get("NoNewPrivs", "-1")),
        "seccomp": int(lines.get("Seccomp", "-1")),
        "cap_eff": lines.get("CapEff", "").strip(),
        "cap_bnd": lines.get("CapBnd", "").strip(),
    }
