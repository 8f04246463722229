"""Process 1: one poll loop between the host and the program.

It owns the deadline, the caps, and the truth of the `exit` frame. It must never block on anybody:
not on a host that does not read, not on a program that does not read or does not stop writing, not
on a process that does not die. It never looks into the program's bytes, except at the length before
each message. What it cannot do ends it, with a status of its own; as it is process 1, the kernel
then kills every other process of the container.
"""

# The C halves of ctypes and signal: see _frames for why.
import _ctypes
import _signal  # type: ignore[import-not-found] # typeshed knows only the other half
import marshal
import os
import resource  # noqa: F401 - os.wait3 would import it at the first end of a program
import select
import sys
import time

from . import READY, STARTED, VERSION, _cgroup, _files, _frames, _memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

    from ._session import Session

HOST_IN, HOST_OUT = 0, 1

# Exit statuses, as in conformance/PROTOCOL.md.
HOST_BROKE_PROTOCOL, OTHER_VERSION, SET_UP_FAILED, HOST_GONE, SURPRISED = 64, 65, 66, 67, 70

READ_SIZE = 65536
"""Bytes of one read, and so of an `output` frame at the most."""
OUT_HIGH = 262144
"""Bytes waiting for the host, above which the program's pipes are not read."""
SMALL_READ, SMALL_READS, PAUSE, LULL = 4096, 4, 0.002, 0.05
"""After SMALL_READS reads of less than SMALL_READ bytes from a pipe without a LULL (seconds), all
pipes are read once in a PAUSE (seconds): a flood of tiny writes becomes few frames, while what is
written now and then leaves at once. All, since the others would otherwise be read before what was
written earlier."""
CPU_LOOK = 0.005, 0.1
"""Seconds between two looks at the processor time, at least and at most: as long as what is left
can last."""
FRAMES_AT_ONCE = 16
"""Frames of the host that are taken before the program is looked at again."""
MORE_STDIN = 65536
"""Bytes of standard input after which the host is asked for as many more: half of what may be on
its way."""
KILL_TIME, FLUSH_TIME, LAST_WORDS_TIME = 2.0, 30.0, 2.0
"""Seconds for what is left in the container to die, for a slow host to take the result, and for it
to take an error."""
IDLE = 0.05
"""Seconds without a program after which the process that waits for it copies the memory that it
shares. Whoever sends one program after the other has the next one sooner without that."""

_PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 3, 4
_F_SETPIPE_SZ = 1031  # in fcntl since 3.10


class SetUpFailed(Exception):
    """Something that the runner promises could not be set up."""


def serve(child: int, stdin: int, outputs: "tuple[int, int, int]", orders: int, progress: int) -> "NoReturn":
    """Be the runner for the forked `child`, given our ends of its pipes; `outputs` are stdout,
    stderr and messages."""
    runner = _Runner(_Program(child, [stdin, *outputs, orders, progress]))
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


class _Budget:
    """What may still be sent of messages, or of displays."""

    def __init__(self, kind: bytes, limit: int, count: int) -> None:
        self.kind, self.left, self.count = kind, limit, count
        self.dropped = 0


class _Messages:
    """Takes what is in the message pipe, each item a length and its bytes. None is buffered that
    will not be sent."""

    def __init__(self, messages: _Budget, displays: _Budget, send: "Callable[[bytes], None]") -> None:
        self._budgets, self._send = (messages, displays), send
        self._budget = messages
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
                self._begin(int.from_bytes(self._header, "big"))
                if self._missing:
                    continue
            piece = data[at : at + self._missing]
            at += len(piece)
            self._missing -= len(piece)
            if self._body is not None:
                self._body += piece
                if not self._missing:
                    self._deliver(self._body)

    def _begin(self, header: int) -> None:
        self._header.clear()
        self._budget = budget = self._budgets[header >> 31]
        self._missing = header & 0x7FFFFFFF
        fits = budget.count > 0 and self._missing <= budget.left
        self._body = bytearray() if fits else None
        budget.dropped += not fits
        if self._body is not None and not self._missing:
            self._deliver(self._body)

    def _deliver(self, body: bytearray) -> None:
        self._budget.count -= 1
        self._budget.left -= len(body)
        for part in _frames.encode_message(body, self._budget.kind):
            self._send(part)
        self._body = None

    def end(self) -> None:
        """Count what was cut off, unless it was counted when it did not fit."""
        if self._body is not None:
            self._budget.dropped += 1
        elif self._header:
            # What it is would have been in the first byte.
            self._budgets[self._header[0] >> 7].dropped += 1


class _Pipe:
    """One of the program's pipes: who takes its bytes, and how it was written to lately."""

    def __init__(self, taker: "_Output | _Messages") -> None:
        self.taker = taker
        self.small_reads = 0
        self.read_at = 0.0


class _Program:
    """The process in which the next program will run, or runs, and our ends of its pipes.

    `ends` are those of stdin, stdout, stderr, the message pipe, the orders and the progress pipe.
    """

    def __init__(self, pid: int, ends: "list[int]") -> None:
        self.pid = pid
        self.stdin, *outputs, self.orders, self.progress = ends
        self.outputs = outputs
        self.open = set(ends)
        self.status: int | None = None
        self.max_rss: int | None = None
        for file in (self.stdin, *outputs):
            os.set_blocking(file, False)

    def close(self, *files: int) -> None:
        """Close those of our ends that are not closed already."""
        for file in self.open.intersection(files):
            os.close(file)
            self.open.remove(file)


class _Run:
    """What was asked for, and what is known of it so far."""

    def __init__(self, wanted: "dict[str, Any]", root: int, send: "Callable[[bytes], None]") -> None:
        self.wanted = wanted
        self.stdout = _Output(b"stdout", wanted["stdout_limit"], send)
        self.stderr = _Output(b"stderr", wanted["stderr_limit"], send)
        self.messages = _Budget(b"message", wanted["message_limit"], wanted["message_count"])
        self.displays = _Budget(b"display", wanted["display_limit"], wanted["display_count"])
        self.sent = _Messages(self.messages, self.displays, send)
        self.writer = _files.Writer(root)
        self.unfed = bytearray()
        """Standard input that the program's pipe has not taken, ..."""
        self.whole = not wanted["stdin"]
        """... whether there is no more behind it, ..."""
        self.fed = 0
        """... and what the pipe took since the host was asked for more."""
        self.report = b""
        self.started: float | None = None
        self.deadline = 0.0
        self.look_at_cpu = float("inf")
        """When the processor time is looked at next."""
        self.pipes: dict[int, _Pipe] = {}
        self.timed_out = self.cpu_limited = self.output_limit = False
        self.stopped = False
        """The host wants its end."""


class _Runner:
    def __init__(self, program: _Program) -> None:
        self.program = program
        self.poll = select.poll()
        # It tells of pipes in the order in which they became readable; poll() in the order of their
        # numbers.
        self.outputs = select.epoll()
        self.resume_at = 0.0
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.decoder = _frames.Decoder()
        self.out = bytearray()
        self.run: _Run | None = None
        self.session: Session | None = None
        self.preload: list[str] = []
        self.widened = False
        self.written = 0
        self.idle_at = float("inf")
        # For the one moment when there is no memory to build it.
        self.out_of_memory = _frames.encode_error("the runner ran out of memory")

    # Before a run.

    def set_up(self) -> None:
        """Become what the program cannot touch; wait until the child is warm."""
        # The child's memory shows no trace of it, as this side copies. Before what comes next takes
        # /proc/self away.
        _memory.unshare()
        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type] # None is this very process
        _ctypes.call_function(prctl, (_PR_SET_DUMPABLE, 0, 0, 0, 0))
        self.dumpable = _ctypes.call_function(prctl, (_PR_GET_DUMPABLE, 0, 0, 0, 0))
        if self.dumpable != 0:
            raise SetUpFailed(f"PR_SET_DUMPABLE: still {self.dumpable}")
        # A signal with its default action does nothing to process 1, so no handler is left but one
        # that does nothing.
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        self.wakeup, wakeup_end = os.pipe()
        for file in (HOST_IN, HOST_OUT, self.wakeup, wakeup_end):
            os.set_blocking(file, False)
        _signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, _do_nothing)
        self.root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.counters = _cgroup.Counters()
        count = os.environ.get("PYTHON_CPU_COUNT", "")
        self.processors = int(count) if count.isdigit() and int(count) else os.cpu_count() or 1
        self.python2 = _find_python2()
        _, *self.problems = self.await_ready()
        self.watch(HOST_IN, select.POLLIN, self.on_host)
        self.watch(self.wakeup, select.POLLIN, self.on_signal)
        self.watch(self.program.progress, select.POLLIN, self.on_progress)

    def await_ready(self) -> "list[str]":
        """Wait until the child is as far as it can be without further orders. Return its number,
        and its problems.

        SetUpFailed if it ends instead. A host that goes meanwhile ends the runner.
        """
        waiter = select.poll()
        waiter.register(self.program.progress, select.POLLIN)
        waiter.register(self.wakeup, select.POLLIN)  # a stray child of a preloaded module may hold the progress pipe open
        waiter.register(HOST_IN, 0)
        report = b""
        while not report.endswith(READY):
            ready = dict(waiter.poll())
            if HOST_IN in ready:
                os._exit(HOST_GONE)
            if self.program.progress in ready:
                piece = os.read(self.program.progress, READ_SIZE)
                report += piece
                ended = not piece
            else:
                _read(self.wakeup, READ_SIZE)
                self.reap()
                ended = self.program.status is not None
            if ended:
                raise SetUpFailed(f"the warm interpreter: {self.last_words(report)}")
        return report[: -len(READY)].decode().splitlines()

    def on_host(self, file: int) -> None:
        """Take what the host says. What is behind a frame that is not complete, or cannot be taken
        yet, stays in the pipe."""
        for _ in range(2 * FRAMES_AT_ONCE):
            data = _read(file, min(self.decoder.missing(), READ_SIZE))
            if data is None:
                return
            if not data:
                os._exit(HOST_GONE)
            self.decoder.feed(data)
            frame = self.decoder.next_frame()
            if frame is not None:
                getattr(self, "on_" + frame["type"])(frame)

    def on_hello(self, hello: "dict[str, Any]") -> None:
        self.preload = hello["preload"]
        if self.preload:
            self.order({"preload": self.preload})
            self.await_ready()
        pythons = {"3": sys.version.split()[0]}
        if self.python2 is not None:
            pythons["2"] = "2.7"
        ready = {"type": "ready", "protocol": _frames.PROTOCOL, "token": hello["token"], "version": VERSION, "pythons": pythons}
        ready.update(status={**_kernel_status(), "dumpable": self.dumpable}, cgroup=self.counters.version, problems=self.problems)
        ready.update(preloaded=self.preload, baseline_bytes=self.counters.usage())
        self.send(_frames.encode(ready))

    def on_open(self, folders: "dict[str, list[str]]") -> None:
        """Let the child become the zygote, for many programs instead of one."""
        from . import _session

        try:
            session = _session.Session(folders, self.program.pid)
        except OSError as error:
            raise SetUpFailed(f"the session: {error}") from None
        self.order({"session": session.address})
        self.await_ready()
        session.connect()
        self.session = session
        try:
            self.next_program(session)
        except _session.Left as error:
            raise SetUpFailed(f"the session: {error}") from None
        self.decoder.another()
        self.send(_frames.encode({"type": "next"}))

    def next_program(self, session: "Session") -> None:
        """Have the process made in which the next program will run, and wait until it is warm.

        Left or SetUpFailed if there is none, or it is not what a program of its own container would
        have.
        """
        self.watch(self.program.progress, 0)
        self.program.close(*self.program.open)
        self.program = _Program(0, session.fork())
        number, *problems = self.await_ready()
        self.program.pid = int(number)
        if problems:  # `ready` has named those of the first one; these would be named nowhere
            raise SetUpFailed("; ".join(problems))
        # What was preloaded may be many times what a program needs of it.
        self.idle_at = float("inf") if self.preload else time.monotonic() + IDLE
        self.watch(self.program.progress, select.POLLIN, self.on_progress)

    def order(self, order: "dict[str, Any]") -> None:
        data = marshal.dumps(order)
        with memoryview(len(data).to_bytes(4, "big") + data) as view:
            done = 0
            try:
                # The one write that may wait: for a child that reads to the end, and has nothing
                # hostile in it yet.
                while done < len(view):
                    done += os.write(self.program.orders, view[done:])
            except BrokenPipeError:
                pass  # Its end shows on the progress pipe.

    def on_run(self, wanted: "dict[str, Any]") -> None:
        if wanted["python"] == "2" and self.python2 is None:
            raise _frames.ProtocolError("`run` asks for Python 2, which `ready` did not name")
        self.idle_at = float("inf")
        if self.session is not None and wanted["clean"]:
            from ._session import Left

            try:
                self.session.wipe()
            except Left as error:
                raise SetUpFailed(str(error)) from None
        self.run = _Run(wanted, self.root, self.send)
        self.counters.start()

    def on_put(self, put: "dict[str, Any]") -> None:
        run = self.run
        assert run is not None
        try:
            run.writer.put(put["path"], put["data"])
            if put["last"]:
                run.writer.close()
        except OSError as error:
            raise SetUpFailed(f"{error.strerror}: {error.filename!r}") from None
        if put["last"]:
            # Not one that an earlier program of the session has left.
            if "main.py" not in run.writer.written:
                raise SetUpFailed("the host has put no main.py")
            order = {name: run.wanted.pop(name) for name in ("args", "env", "open_files", "merge_stderr", "seed", "figures", "last_value")}
            order["python2"] = self.python2 if run.wanted["python"] == "2" else None
            self.order(order)
            self.program.close(self.program.orders)

    def on_progress(self, file: int) -> None:
        piece = os.read(file, READ_SIZE)
        run = self.run
        if piece and run is not None:
            run.report += piece
            return
        self.watch(file, 0)
        report = b"" if run is None else run.report
        time_of_start, exec_, rest = report[len(STARTED) :].partition(b" exec")
        # An exec that failed has left its reason behind the time.
        if run is None or not report.startswith(STARTED) or rest:
            raise SetUpFailed(f"the program's process: {self.last_words(rest or report)}")
        self.program.close(file)
        self.send(_frames.encode({"type": "started", "preloaded": bool(self.preload) and not exec_}))
        run.started = float(time_of_start)
        run.deadline = run.started + run.wanted["timeout_ms"] / 1e3
        if run.wanted["cpu_limit_ms"] is not None:
            run.look_at_cpu = run.started
        stdout, stderr, message = self.program.outputs
        run.pipes = {stdout: _Pipe(run.stdout), stderr: _Pipe(run.stderr), message: _Pipe(run.sent)}
        self.resume_at = 0.0
        for output in run.pipes:
            self.outputs.register(output, select.EPOLLIN)
        self.feed_program(self.program.stdin)

    def last_words(self, report: bytes) -> str:
        """Return why the child could not go on: what it wrote, or how it died."""
        text = report.decode("utf-8", "replace")
        end = time.monotonic() + LAST_WORDS_TIME
        while not text and self.program.status is None and time.monotonic() < end:
            self.reap()
            time.sleep(0.001)
        return text or f"it ended with wait status {self.program.status}"

    # While the program runs.

    def loop(self) -> "NoReturn":
        """Serve whoever is ready; end the program when it must end, and clean up behind it."""
        while True:
            now = time.monotonic()
            if self.run is not None and self.run.started is not None:
                self.check_end(self.run, now)
            if now >= self.idle_at:
                self.idle_at = float("inf")
                self.order({"idle": True})
            self.arm(now)
            for file, _ in self.poll.poll(self.patience(now)):
                # A handler before this one may have closed the file.
                handler = self.handlers.get(file)
                if handler is not None:
                    handler(file)
            if self.out:
                self.write_out(HOST_OUT)

    def check_end(self, run: _Run, now: float) -> None:
        ended = self.program.status is not None
        if not ended and now >= run.deadline:
            self.reap()
            ended = self.program.status is not None
            run.timed_out = not ended
        if not ended and now >= run.look_at_cpu:
            ended = self.check_cpu(run, now)
        if not ended and run.wanted["on_output_limit"] == "kill":
            run.output_limit = run.stdout.dropped > 0 or run.stderr.dropped > 0
        if ended or run.timed_out or run.cpu_limited or run.output_limit or run.stopped:
            self.finish(run)

    def check_cpu(self, run: _Run, now: float) -> bool:
        """Look at the processor time, and say when to look again. Return whether the program has
        ended."""
        used = self.counters.cpu()
        left = run.wanted["cpu_limit_ms"] - used if used is not None else CPU_LOOK[1] * 1e3
        run.look_at_cpu = now + min(max(left / 1e3 / self.processors, CPU_LOOK[0]), CPU_LOOK[1])
        if left > 0:
            return False
        self.reap()
        run.cpu_limited = self.program.status is None
        return not run.cpu_limited

    def arm(self, now: float) -> None:
        """Watch the program's pipes, or leave them alone for a while: all of them, or their order
        would be lost."""
        wanted = self.run is not None and len(self.out) <= OUT_HIGH and now >= self.resume_at
        self.watch(self.outputs.fileno(), select.POLLIN if wanted else 0, self.on_outputs)

    def patience(self, now: float) -> "int | None":
        """Return for how many ms poll may wait at the most; None: for ever."""
        run = self.run
        if run is None or run.started is None:
            until = self.idle_at
        else:
            until = min(run.deadline, run.look_at_cpu)
            if self.resume_at > now:
                until = min(until, self.resume_at)
        if until == float("inf"):
            return None
        return min(max(int((until - now) * 1e3) + 1, 0), 3600000)

    def on_outputs(self, _: int) -> None:
        run = self.run
        assert run is not None
        now = time.monotonic()
        for file, _ in self.outputs.poll(0):
            data = _read(file, READ_SIZE)
            if data is None:
                continue
            pipe = run.pipes[file]
            if not data:
                self.outputs.unregister(file)
                del run.pipes[file]
                continue
            if len(data) >= SMALL_READ or now - pipe.read_at > LULL:
                pipe.small_reads = 0
            pipe.small_reads += 1
            pipe.read_at = now
            if pipe.small_reads > SMALL_READS:
                self.resume_at = now + PAUSE
            pipe.taker.take(data)

    def on_stop(self, _: "dict[str, Any]") -> None:
        if self.run is not None:  # else it has ended meanwhile
            self.run.stopped = True

    def on_stdin(self, stdin: "dict[str, Any]") -> None:
        run = self.run
        if run is None or self.program.stdin not in self.program.open:
            return  # of a program that has ended, or does not want it
        run.unfed += stdin["data"]
        run.whole = stdin["last"]
        if run.started is not None:
            self.feed_program(self.program.stdin)

    def feed_program(self, file: int) -> None:
        """Write on at the program's standard input; ask the host for more, or close it behind the
        last byte."""
        run = self.run
        assert run is not None
        try:
            if run.unfed:
                size = os.write(file, run.unfed)
                del run.unfed[:size]
                run.fed += size
        except BlockingIOError:
            pass
        except BrokenPipeError:
            run.unfed.clear()
            run.whole = True
        if run.fed >= MORE_STDIN and not run.whole:
            self.send(_frames.encode({"type": "want", "bytes": run.fed}))
            self.decoder.grant(run.fed)
            run.fed = 0
        self.watch(file, select.POLLOUT if run.unfed else 0, self.feed_program)
        if run.whole and not run.unfed:
            self.program.close(file)

    def on_signal(self, file: int) -> None:
        _read(file, READ_SIZE)
        self.reap()
        if self.session is not None and self.session.zygote is None and self.run is None:
            raise SetUpFailed("the process from which programs are forked has ended")

    def reap(self) -> None:
        """Take every process that has ended, orphans among them."""
        while True:
            try:
                pid, status, usage = os.wait3(os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self.session is not None and pid == self.session.zygote:
                self.session.zygote = None
            elif pid == self.program.pid and self.program.status is None:
                self.program.status, self.program.max_rss = status, usage.ru_maxrss * 1024

    # The end.

    def finish(self, run: _Run) -> None:
        """Kill everything, tell the host how it ended; leave, or make room for the next program."""
        program = self.program
        wall = time.monotonic() - (run.started or 0.0)
        alone = self.kill_everything()
        if program.status is None:
            raise RuntimeError(f"the program could not be killed within {KILL_TIME} s")
        # Whoever is left is as good as dead, so this is at the most what the pipes hold.
        while self.outputs.poll(0):
            self.on_outputs(0)
        run.sent.end()
        oom_kills, peak, cpu = self.counters.read()
        skipped_dropped = self.send_files(run)
        signalled = os.WIFSIGNALED(program.status)
        end = {
            "type": "exit",
            "token": run.wanted["token"],
            "exit_code": None if signalled else os.WEXITSTATUS(program.status),
            "signal": os.WTERMSIG(program.status) if signalled else None,
            # One that ended by itself between its deadline and the kill was not killed.
            "timed_out": run.timed_out and signalled,
            "cpu_limited": run.cpu_limited and signalled,
            "output_limit": run.output_limit,
            "stdout_dropped": run.stdout.dropped,
            "stderr_dropped": run.stderr.dropped,
            "messages_dropped": run.messages.dropped,
            "displays_dropped": run.displays.dropped,
            "skipped_dropped": skipped_dropped,
            "wall_ms": round(wall * 1e3, 3),
            "cpu_ms": cpu,
            "peak_memory_bytes": peak,
            "max_rss_bytes": program.max_rss,
            "oom_kills": oom_kills,
        }
        self.send(_frames.encode(end))
        self.run = None
        if self.session is None:
            self.leave()
        # The host has its answer while the rest is done.
        self.write_out(HOST_OUT)
        self.make_room(self.session, alone=alone)

    def make_room(self, session: "Session", *, alone: bool) -> None:
        """Clean up behind a program, have the next one's process made, and say so; or say why not,
        and leave."""
        from ._session import Left

        self.watch(self.program.stdin, 0)
        try:
            session.clean(alone=alone)
            self.next_program(session)
        except (Left, SetUpFailed) as error:
            self.send(_frames.encode({"type": "spent", "reason": str(error)[:4096]}))
            self.leave()
        self.decoder.another()
        self.send(_frames.encode({"type": "next"}))
        self.write_out(HOST_OUT)

    def leave(self) -> "NoReturn":
        """Write what is left to write, and end.

        Docker resets its streams 2 s after the end of a container. A host that is stopped for
        longer would lose what it has not read, and a little waits in its own socket only.
        """
        self.flush(FLUSH_TIME)
        if self.out:
            os._exit(SURPRISED)
        if self.written > OUT_HIGH:
            waiter = select.poll()
            waiter.register(HOST_IN, 0)  # as in `flush`
            waiter.poll()
        os._exit(0)

    def send_files(self, run: _Run) -> int:
        """Send what the host wants to have; return how many were skipped without a frame that says
        so."""
        if not run.wanted["fetch"] or run.stopped:
            return 0
        end = time.monotonic() + FLUSH_TIME

        def send(path: str, data: bytes, last: bool) -> None:
            for piece in _frames.encode_file(path, data, last=last):
                self.send(piece)
            if len(self.out) > OUT_HIGH:
                self.flush(end - time.monotonic())
                if self.out:
                    os._exit(SURPRISED)

        def skip(path: str, why: str) -> None:
            self.send(_frames.encode({"type": "skipped", "path": path, "why": why}))

        limit, count = run.wanted["file_limit"], run.wanted["file_count"]
        collector = _files.Collector(self.root, run.writer.written, limit, count, send, skip)
        for pattern in run.wanted["fetch"]:
            collector.collect(pattern)
        return collector.dropped

    def kill_everything(self) -> bool:
        """Kill until nobody is left but the zygote, and return whether that is so; what the kernel
        cannot end now is not waited for longer than KILL_TIME."""
        end = time.monotonic() + KILL_TIME
        waiter = select.poll()
        waiter.register(self.wakeup, select.POLLIN)
        while time.monotonic() < end:
            self.reap()
            if self.session is not None and self.session.zygote is not None:
                others = self.session.others()
                if not others:
                    self.session.go_on()
                    return True
            else:
                others = [-1]
            for pid in others:
                try:
                    os.kill(pid, _signal.SIGKILL)
                except ProcessLookupError:
                    if pid == -1:
                        return True
            self.reap()
            waiter.poll(10)
            _read(self.wakeup, READ_SIZE)
        return False

    def fail(self, exit_status: int, message: str) -> "NoReturn":
        """Say why, if the host listens, and leave. Whatever happens here, the process ends with
        `exit_status`."""
        run = self.run
        try:
            # First the program, if it is there: it must not go on while this waits for the host.
            if run is not None:
                os.kill(-1, _signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            ordered = run is not None and run.started is None and self.program.orders not in self.program.open
            # A program that has its order may have begun: an error in place of `started` would deny
            # it.
            if not ordered or exit_status == SET_UP_FAILED:
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
                count = os.write(file, self.out)
                del self.out[:count]
                self.written += count
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
        waiter.register(HOST_IN, 0)  # its end is told without being asked for; its words are not read here
        waiter.register(HOST_OUT, select.POLLOUT)
        self.write_out(HOST_OUT)
        while self.out and time.monotonic() < end:
            for file, _ in waiter.poll(100):
                if file == HOST_IN:
                    os._exit(HOST_GONE)
            self.write_out(HOST_OUT)

    def watch(self, file: int, events: int, handler: "Callable[[int], None] | None" = None) -> None:
        """Call `handler` at `events` of the file. No events: forget it, since poll reports its end
        whatever the mask."""
        if events and handler is not None:
            if file not in self.handlers:
                self.poll.register(file, events)
            self.handlers[file] = handler
        elif self.handlers.pop(file, None) is not None:
            self.poll.unregister(file)


def _do_nothing(number: int, frame: object) -> None:
    """Be a handler: only a signal that has one wakes poll, through the wake-up pipe."""


def _read(file: int, size: int) -> "bytes | None":
    """Return bytes, b"" at the end, None when there are none just now."""
    try:
        return os.read(file, size)
    except BlockingIOError:
        return None


def _widen(pipe: int) -> None:
    """Let a pipe hold more than 64 KiB: who floods it then wakes its reader less often. A mere
    hint."""
    try:
        import fcntl

        fcntl.fcntl(pipe, _F_SETPIPE_SZ, OUT_HIGH)
    except (ImportError, MemoryError, OSError):
        pass  # the program has left no memory, or it is not a pipe, or the kernel's limit for this user is reached


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
