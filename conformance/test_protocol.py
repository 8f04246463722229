"""The runner in its image, by PROTOCOL.md: a driver that knows nothing else speaks to it."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance import driver
from conformance.conftest import Box
from conformance.driver import Driver, ProtocolError, RunnerFrames, content
from conformance.oracle import Attached, Oracle, PlainContainer, Step
from conformance.report import clause

VECTORS = Path(__file__).parent / "vectors"
COMMAND = ["python3", "-u", "-X", "dayfly_runner", "main.py"]
# The runner insists on being process 1, and a container for each of the vectors would take minutes:
# a pid namespace, with the /proc that belongs to it, will do.
AS_PROCESS_1 = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
child = -1 if libc.unshare(0x20020000) or libc.mount(None, b"/", None, 0x44000, None) else os.fork()
if child < 0 or child == 0 and libc.mount(b"proc", b"/proc", b"proc", 0, None): os._exit(99)
if not child: os.execvp(sys.argv[1], sys.argv[1:])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255)
"""
HOST_BROKE_PROTOCOL, OTHER_VERSION, SET_UP_FAILED, HOST_GONE = 64, 65, 66, 67
Started = Callable[[], contextlib.AbstractContextManager[tuple[Driver, Attached]]]


@pytest.fixture
def started(box: Box, oracle: Oracle, image: str) -> Started:
    """Starts the runner as process 1 of a container like those of the implementation, and gives a
    driver that is attached to it."""
    like = box.seen.inspected()[0]
    config, host = like["Config"], like["HostConfig"]

    @contextlib.contextmanager
    def start() -> Iterator[tuple[Driver, Attached]]:
        body = {
            "Image": image,
            "Entrypoint": config["Entrypoint"],
            "Cmd": [],
            "Env": config["Env"],
            "WorkingDir": config["WorkingDir"],
            "User": config["User"],
            "HostConfig": {name: host.get(name) for name in ("Tmpfs", "CapDrop", "Memory", "Runtime")},
        }
        with oracle.attached(body) as attached:
            yield Driver(attached.read, attached.write, attached.end_input), attached

    return start


@clause("protocol.dialogue")
def test_a_dialogue_as_the_protocol_has_it(started: Started) -> None:
    with started() as (host, attached):
        ready = host.hello()
        assert ready["type"] == "ready"
        assert ready["pythons"]["3"].startswith("3.")
        assert ready["status"]["uid"] != 0
        assert int(ready["status"]["cap_eff"], 16) == 0
        assert ready["status"]["dumpable"] == 0
        code = "import sys, os, sandbox\nprint(sys.argv, sys.stdin.read(), os.environ['KEY'])\nsandbox.send([1])\nsys.exit(3)"
        frames = list(host.run(code, args=["a b"], env={"KEY": "välue"}, stdin="tea ü".encode()))
        assert (frames[0]["type"], frames[-1]["type"]) == ("started", "exit")
        assert content(frames, "stdout").decode() == "['main.py', 'a b'] tea ü välue\n"
        assert driver.data(frames, "message") == [b"[1]"]
        assert (frames[-1]["exit_code"], frames[-1]["signal"], frames[-1]["timed_out"]) == (3, None, False)
        assert attached.status() == 0


@clause("protocol.dialogue")
def test_a_late_program(started: Started) -> None:
    with started() as (host, _):
        host.hello()
        frames = list(host.run("print('before')\nwhile True: pass", timeout_ms=400))
        assert content(frames, "stdout") == b"before\n"
        assert (frames[-1]["timed_out"], frames[-1]["signal"]) == (True, 9)
        assert frames[-1]["wall_ms"] >= 400


@clause("protocol.bounds")
def test_output_and_messages_stay_within_their_bounds(started: Started) -> None:
    # The driver raises ProtocolError for a piece or a sum over a bound.
    with started() as (host, _):
        host.hello()
        code = "import os, sandbox, sys\nsys.stdout.write('x' * 300_000); sys.stderr.write('y' * 300_000)\nfor n in range(20): sandbox.send('z' * 1000)"
        frames = list(host.run(code, stdout_limit=200_000, stderr_limit=10, message_limit=5_000, message_count=3))
        assert (content(frames, "stdout"), content(frames, "stderr")) == (b"x" * 200_000, b"y" * 10)
        assert (frames[-1]["stdout_dropped"], frames[-1]["stderr_dropped"], frames[-1]["messages_dropped"]) == (100_000, 299_990, 17)
    with started() as (host, _):
        host.hello()
        frames = list(host.run("while True: print('x' * 99)", stdout_limit=500, on_output_limit="kill"))
        assert (len(content(frames, "stdout")), frames[-1]["output_limit"], frames[-1]["timed_out"]) == (500, True, False)


@clause("protocol.stdin-end")
@pytest.mark.parametrize("when", ["at once", "after hello", "in mid run"])
def test_the_runner_ends_with_its_stdin(started: Started, when: str) -> None:
    with started() as (host, attached):
        if when != "at once":
            host.hello()
        if when == "in mid run":
            frames = host.run("print('begun')\nwhile True: pass", timeout_ms=600_000)
            assert next(frames)["type"] == "started"
            assert next(frames)["type"] == "output"
        attached.end_input()
        status = attached.status()
        assert status == HOST_GONE or when == "in mid run"


@clause("protocol.refusals")
@pytest.mark.parametrize("hello", [{**driver.HELLO, "protocol": 3}, {"type": "hello", "protocol": 1, "token": driver.TOKEN}], ids=str)
def test_another_version_is_refused_as_such(started: Started, hello: dict[str, Any]) -> None:
    with started() as (host, attached):
        host.say(hello)
        assert host.next()["type"] == "error"
        assert attached.status() == OTHER_VERSION


@clause("protocol.refusals")
@pytest.mark.parametrize(
    "said",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff\xff\xff\xff", b"\0\0\0\0", driver.encode(driver.RUN), b"\0\0\0\2{}"],
    ids=repr,
)
def test_a_host_that_breaks_the_protocol_is_refused(started: Started, said: bytes) -> None:
    with started() as (host, attached):
        host._frames.said({"type": "hello"})
        attached.write(said)
        assert host.next()["type"] == "error"
        assert attached.status() == HOST_BROKE_PROTOCOL


# What it can do beyond one program.


@clause("protocol.session")
def test_a_session_runs_one_program_after_the_other(started: Started) -> None:
    with started() as (host, attached):
        host.hello()
        assert host.open()["type"] == "next"
        for number in range(3):
            code = "import os\nprint(os.path.exists('kept'), end='')\nopen('kept', 'w').close()"
            frames = list(host.run(code, token=f"{number:032x}"))
            assert [frame["type"] for frame in frames] == ["started", "output", "exit", "next"], frames[-1]
            assert content(frames, "stdout") == (b"True" if number else b"False")
        frames = list(host.run("import os; print(os.listdir(), os.listdir('/tmp'))", clean=True))
        assert content(frames, "stdout") == b"['main.py'] []\n"
        attached.end_input()
        assert attached.status() == HOST_GONE


@clause("protocol.session")
def test_a_session_that_cannot_go_on_is_spent(started: Started) -> None:
    with started() as (host, attached):
        host.hello()
        host.open()
        code = "import os\nfor name in os.listdir('/proc'):\n    if name.isdigit() and int(name) not in (1, os.getpid()): os.kill(int(name), 9)"
        frames = list(host.run(code))
        assert [frame["type"] for frame in frames] == ["started", "exit", "spent"]
        assert (frames[1]["exit_code"], bool(frames[2]["reason"])) == (0, True)
        assert attached.status() == 0


@clause("protocol.stop")
@pytest.mark.parametrize("stdin", [b"", bytes(1_000_000)])
def test_a_program_is_stopped_and_the_session_goes_on(started: Started, stdin: bytes) -> None:
    with started() as (host, _):
        host.hello()
        host.open()
        frames = []
        for frame in host.run("print('begun', end='')\nwhile True: pass", timeout_ms=9_000, fetch=["main.py"], stdin=stdin):
            frames += [frame] if frame["type"] != "want" else []
            if frame["type"] == "output":
                host.stop()
        assert [frame["type"] for frame in frames] == ["started", "output", "exit", "next"], frames[-1]
        assert (frames[2]["signal"], frames[2]["timed_out"]) == (9, False)
        assert content(list(host.run("print('on')")), "stdout") == b"on\n"


@clause("protocol.files")
def test_files_go_in_and_come_out(started: Started) -> None:
    whole = bytes(range(256)) * 1_000
    with started() as (host, _):
        host.hello()
        code = (
            "import os, shutil\nos.mkdir('out')\nshutil.copy('in/whole', 'out/copy')\nopen('out/empty', 'w').close()\nos.mkfifo('out/pipe')"
        )
        given = {"in/whole": whole, "in/nothing": b""}
        frames = list(host.run(code, files=given, fetch=["**", "in/nothing", "none"], file_limit=10**6))
        assert driver.files(frames) == {"out/copy": whole, "out/empty": b"", "in/nothing": b""}
        skipped = {frame["path"]: frame["why"] for frame in frames if frame["type"] == "skipped"}
        assert skipped == {"out/pipe": "not_regular", "none": "missing"}


@clause("protocol.want")
def test_standard_input_is_asked_for_as_it_is_read(started: Started) -> None:
    with started() as (host, _):
        host.hello()
        frames = list(host.run("import sys\nprint(len(sys.stdin.buffer.read()))", stdin=bytes(3_000_000)))
        assert content(frames, "stdout") == b"3000000\n"
        granted = sum(frame["bytes"] for frame in frames if frame["type"] == "want")
        assert granted >= 3_000_000 - driver.STDIN_FIRST
    with started() as (host, _):
        host.hello()
        frames = list(host.run("import time\ntime.sleep(0.5)", stdin=bytes(3_000_000)))
        # A pipe holds 64 KiB: nothing more is asked for than was taken.
        assert sum(frame["bytes"] for frame in frames if frame["type"] == "want") <= driver.STDIN_FIRST


@clause("protocol.preload")
def test_modules_are_imported_before_ready(started: Started) -> None:
    with started() as (host, _):
        assert host.hello(preload=["decimal"])["preloaded"] == ["decimal"]
        frames = list(host.run("import sys\nprint('decimal' in sys.modules)"))
        assert (frames[0]["preloaded"], content(frames, "stdout")) == (True, b"True\n")


@clause("protocol.preload")
def test_a_module_that_cannot_be_preloaded_is_refused_by_name(started: Started) -> None:
    with started() as (host, attached):
        answer = host.hello(preload=["decimal", "no_such_module"])
        assert answer["type"] == "error" and "no_such_module" in answer["message"]
        assert attached.status() == SET_UP_FAILED


# The vectors.


def _vectors(files: str) -> list[Any]:
    found = []
    for path in sorted(VECTORS.glob(f"{files}.json")):
        whole = json.loads(path.read_text())
        found += [pytest.param(whole["pieces"], vector, id=f"{path.stem}: {vector['name']}") for vector in whole["vectors"]]
    return found


def _bytes(pieces: dict[str, Any], parts: list[dict[str, Any]]) -> bytes:
    data = b""
    for part in parts:
        if "frame" in part:
            body = part["frame"].encode()
            one = len(body).to_bytes(4, "big") + body
        elif "hex" in part:
            one = bytes.fromhex(part["hex"])
        elif "text" in part:
            one = part["text"].encode()
        else:
            one = _bytes(pieces, [pieces[part["use"]]])
        data += one * part.get("times", 1)
    return data


@clause("protocol.vectors")
@pytest.mark.parametrize("step", ["whole", "byte by byte"])
@pytest.mark.parametrize(("pieces", "vector"), _vectors("runner_*"))
def test_a_codec_from_the_protocol_alone_agrees_with_vectors(pieces: dict[str, Any], vector: dict[str, Any], step: str) -> None:
    frames = RunnerFrames()
    frames.said({"type": "hello"})
    if vector["said"] != "hello":
        list(frames.feed(_bytes(pieces, [{"use": "ready"}])))
    if vector["said"] == "open" or vector.get("session"):
        frames.said({"type": "open"})
    if vector["said"] == "run":
        if vector.get("session"):
            list(frames.feed(_bytes(pieces, [{"use": "next"}])))
        host = json.loads((VECTORS / "host_run.json").read_text())
        frames.said({**json.loads(host["pieces"]["run"]["frame"]), **vector.get("limits", {})})
    data = _bytes(pieces, vector["bytes"])
    if step != "whole" and vector.get("slow"):
        data, rest = data[:5], data[5:]
    else:
        rest = b""
    heard, error = [], None
    try:
        for piece in ([data] if step == "whole" else [data[index : index + 1] for index in range(len(data))]) + [rest]:
            # The vectors leave `want` out: the host answers it, and no caller sees it.
            heard += [frame for frame in frames.feed(piece) if frame["type"] != "want"]
    except ProtocolError as broken:
        error = broken
    assert (error is not None) == bool(vector.get("error")), error
    wanted = [
        {
            **{name: value for name, value in frame.items() if name != "zeros"},
            **({"data": base64.b64encode(bytes(frame["zeros"])).decode()} if "zeros" in frame else {}),
        }
        for frame in vector["frames"]
    ]
    if error is None or step == "whole":
        assert heard == wanted[: len(heard)]
    if error is None:
        assert len(heard) == len(wanted)


def _said(pieces: dict[str, Any], vector: dict[str, Any]) -> tuple[list[Step], dict[str, int]]:
    """Return the steps in which a host says the vector's bytes, and how many frames of each type
    answer them."""
    rest = _bytes(pieces, vector["bytes"])
    steps: list[Step] = []
    answers = {"ready": 0, "next": 0, "exit": 0}
    session = begun = False
    for frame in vector["frames"]:
        size = 4 + int.from_bytes(rest[:4], "big")
        # A host waits for `next` before each `run` of a session, and for nothing else: what it says
        # lies in the pipe.
        wait = answers["next"] if vector.get("another") and frame["type"] == "run" else 0
        steps.append((_of_type("next"), wait, rest[:size]))
        rest = rest[size:]
        begun |= frame["type"] == "run"
        session |= frame["type"] == "open"
        ends = begun and frame.get("last", False)
        begun &= not ends
        answers["ready"] += frame["type"] == "hello"
        answers["next"] += frame["type"] == "open" or (session and ends)
        answers["exit"] += ends
    return [*steps, ("", 0, rest)], answers


PRESENT = {"/sandbox", "/tmp"}
"""The folders of these vectors that the image has. It has none of the modules that they name."""
UNDECIDED = {
    "run before open was answered",
    "one byte of run before open was answered",
    "one byte more standard input than was asked for",
}
"""What is right by the time when the runner reads it: it has answered, or asked for more."""


def _of_type(name: str) -> str:
    return f'"type":"{name}"'


@clause("protocol.vectors")
@pytest.mark.parametrize("stem", sorted({path.stem for path in VECTORS.glob("host_*.json")}))
def test_the_runner_in_its_image_agrees_with_the_vectors(box_python2: Box, oracle: Oracle, image_python2: str, stem: str) -> None:
    wrong = []
    may = {"CapAdd": ["SYS_ADMIN"], "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"]}
    with PlainContainer.started(oracle, image_python2, box_python2.seen.inspected()[0], user=0, **may) as plain:
        for parameter in _vectors(stem):
            pieces, vector = parameter.values
            if vector["name"] in UNDECIDED:
                continue
            steps, answers = _said(pieces, vector)
            if not vector.get("error"):
                steps += [(_of_type(kind), answers[kind], b"") for kind in ("next", "exit", "ready")]
            status, stdout, stderr = plain.run(["python3", "-I", "-S", "-c", AS_PROCESS_1, *COMMAND], {}, steps)
            came = {kind: stdout.count(_of_type(kind).encode()) for kind in (*answers, "error")}
            puts = [frame for frame in vector["frames"] if frame["type"] == "put"]
            no_program = any(put["last"] for put in puts) and all(put["path"] != "main.py" for put in puts)
            if no_program or any(frame.get("preload") or not PRESENT.issuperset(frame.get("files", ())) for frame in vector["frames"]):
                right = status == SET_UP_FAILED and came["error"] == 1
            elif vector.get("error"):
                # An error in place of `started` would say that the program has not begun.
                told = stdout.count(_of_type("started").encode()) == answers["exit"]
                right = status in (HOST_BROKE_PROTOCOL, OTHER_VERSION) and came["error"] == told and came["ready"] == answers["ready"]
            else:
                right = status == (0 if answers["exit"] and not answers["next"] else HOST_GONE) and came == {**answers, "error": 0}
            if not right:
                wrong.append((parameter.id, status, answers, stdout[-300:], stderr[-200:]))
    assert wrong == []
