"""One runner, many programs: each in a process of its own, and nothing of one left for the next but
files."""

# ruff: noqa: E501 - most programs are one line each

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_many_programs_each_in_a_process_of_its_own(session: Callable[..., Any]) -> None:
    runner = session()
    pids = set()
    for number in range(5):
        ended = runner.session_run(
            f"import os, sys; print(os.getpid(), os.getppid(), {number}, sys.argv, input())",
            stdin="YQ==",
            args=[str(number)],
            token=f"{number:032}",
        )
        pid, parent, *rest = ended.stdout.decode().split(maxsplit=2)
        assert rest == [f"{number} ['main.py', '{number}'] a\n"]
        assert parent == "1"
        pids.add(pid)
        assert [frame["type"] for frame in ended.frames if frame["type"] != "output"] == ["started", "exit", "next"]
        assert (ended.exit["token"], ended.exit["exit_code"]) == (f"{number:032}", 0)
    assert len(pids) == 5
    runner.process.stdin.close()
    assert runner.process.wait(10) == 67


def test_ends_of_every_kind_leave_the_session_alive(session: Callable[..., Any]) -> None:
    runner = session()
    for code, exit_code, number, timed_out in [
        ("import sys; sys.exit(3)", 3, None, False),
        ("import os; os.kill(os.getpid(), 11)", None, 11, False),
        ("while True: pass", None, 9, True),
        ("1/0", 1, None, False),
        ("import os; os._exit(0)", 0, None, False),
        ("x = 1\nif x\n", 1, None, False),
        ("import os\nfor f in range(1001):\n    try: os.close(f)\n    except OSError: pass\nos._exit(5)", 5, None, False),
    ]:
        ended = runner.session_run(code, timeout_ms=300 if timed_out else 20_000)
        assert (ended.exit["exit_code"], ended.exit["signal"], ended.exit["timed_out"]) == (exit_code, number, timed_out)
        assert ended.frames[-1]["type"] == "next"


def test_each_program_has_its_own_limits_and_counters(session: Callable[..., Any]) -> None:
    runner = session()
    ended = runner.session_run(
        "import os; os.write(1, b'x' * 100); os.write(1000, b'\\0\\0\\0\\1m' * 3); bytearray(30_000_000)", stdout_limit=10, message_count=2
    )
    assert (ended.stdout, ended.exit["stdout_dropped"], len(ended.messages), ended.exit["messages_dropped"]) == (b"x" * 10, 90, 2, 1)
    large = ended.exit["max_rss_bytes"]
    ended = runner.session_run("import os; os.write(1, b'x' * 100); os.write(1000, b'\\0\\0\\0\\1m')", open_files=99)
    assert (ended.stdout, ended.exit["stdout_dropped"], len(ended.messages), ended.exit["messages_dropped"]) == (b"x" * 100, 0, 1, 0)
    assert 1_000_000 < ended.exit["max_rss_bytes"] < large - 20_000_000


FACTS = """
import gc, os, signal, sys, resource, threading
print(sorted(sys.modules), sys.argv, sys.orig_argv[1:] if hasattr(sys, 'orig_argv') else '', sys._xoptions, sys.flags, sys.path, sorted(sys.path_importer_cache) == sorted(sys.path_importer_cache))
print(os.getcwd(), os.umask(0o22), sorted(os.environ.items()), os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid(), os.nice(0))
print([(s, signal.getsignal(s)) for s in sorted(signal.valid_signals())], signal.pthread_sigmask(0, []))
print([l for l in open('/proc/self/status') if l.startswith(('SigB', 'SigI', 'SigC', 'SigP', 'Shd', 'Threads', 'NoNewPrivs', 'Cap'))])
found = [(f, os.readlink('/proc/self/fd/' + f).split(':')[0]) for f in os.listdir('/proc/self/fd') if int(f) != 3 or os.path.exists('/proc/self/fd/3')]
print(sorted((f, file) for f, file in found if int(f) <= 1000 or 'libffi' not in file))  # which libffi 3.5 opens in the zygote
print([(n, resource.getrlimit(getattr(resource, n))) for n in dir(resource) if n.startswith('RLIMIT')], open('/proc/self/oom_score_adj').read())
print(threading.enumerate() == [threading.main_thread()], gc.isenabled(), gc.get_freeze_count(), sys._getframe().f_back)
print([o for o in gc.get_objects() if 'dayfly' in str(getattr(o, '__module__', ''))], sorted(globals()))
print(open('/proc/self/mem', 'rb', 0) and 'own memory can be read')
"""


def test_a_program_finds_what_one_of_its_own_container_finds(session: Callable[..., Any], run: Callable[..., Any]) -> None:
    runner, alone = session(), run(FACTS)
    assert alone.stderr == b""
    for pause in (0, 0, 0.5, 0):
        time.sleep(pause)  # after which the waiting process has copied what it shares
        ended = runner.session_run(FACTS)
        assert (ended.stdout, ended.stderr) == (alone.stdout, alone.stderr)


def test_the_wait_for_a_program_leaves_nothing_of_ours(session: Callable[..., Any]) -> None:
    runner = session()
    private = "sum(int(l.split()[1]) for l in open('/proc/self/smaps') if l.startswith('Private_Dirty'))"
    sizes = []
    for pause in (0, 0.5):
        time.sleep(pause)
        ended = runner.session_run(
            f"import gc; print([o for o in gc.get_objects() if 'dayfly' in str(getattr(o, '__module__', ''))]); print({private})"
        )
        ours, size = ended.stdout.split(b"\n")[:2]
        assert (ours, ended.stderr) == (b"[]", b"")
        sizes.append(int(size))
    assert sizes[1] > sizes[0], "it has copied nothing"


def test_files_are_kept_and_wiped_when_asked(session: Callable[..., Any], tmp_path: Path) -> None:
    runner = session()
    deep = "d/" * 300
    assert (
        runner.session_run(
            f"import os; os.makedirs({deep!r}); open('a', 'w').write('1'); os.mkdir('closed'); os.chmod('closed', 0); os.symlink('/etc', 'link')"
        ).stderr
        == b""
    )
    assert (
        runner.session_run("import os; print(open('a').read(), sorted(os.listdir()))").stdout
        == b"1 ['a', 'closed', 'd', 'link', 'main.py']\n"
    )
    ended = runner.session_run("import os; print(sorted(os.listdir()))", clean=True, files={"new/b": b""})
    assert ended.stdout == b"['main.py', 'new']\n"
    assert Path("/etc/passwd").exists()
    assert runner.session_run("import os; os.chmod('.', 0)").frames[-1]["type"] == "next"
    assert runner.session_run("open('c', 'w'); print('writable')").stdout == b"writable\n"


def test_what_has_a_files_name_is_replaced_and_no_link_followed(session: Callable[..., Any], tmp_path: Path) -> None:
    target = tmp_path.with_name("target")
    target.mkdir()
    runner = session()
    code = f"""
import os
os.unlink('main.py'); os.symlink({str(target / "main.py")!r}, 'main.py')
os.mkfifo('fifo'); os.makedirs('folder/inner'); os.chmod('folder', 0); os.symlink({str(target)!r}, 'linked'); open('plain', 'w'); os.mkdir('shut'); os.chmod('shut', 0)
"""
    assert runner.session_run(code).stderr == b""
    names = ["fifo", "folder", "linked/a", "plain/b", "shut/c", "new/d/e"]
    ended = runner.session_run(f"print([open(name).read() for name in {names}])", files=dict.fromkeys(names, b"x"))
    assert ended.stdout == f"{['x'] * 6}\n".encode()
    assert list(target.iterdir()) == []
    assert not (tmp_path / "main.py").is_symlink()


def test_scratch_is_wiped_each_time(session: Callable[..., Any], tmp_path: Path) -> None:
    runner = session()
    shm, tmp = (tmp_path.with_name(f"{tmp_path.name}-{name}") for name in ("shm", "tmp"))
    assert (
        runner.session_run(
            f"import os; os.makedirs('{shm}/a/b'); open('{shm}/a/b/c', 'w'); os.chmod('{shm}/a', 0); os.chmod('{shm}', 0); open('{tmp}/kept', 'w')"
        ).stderr
        == b""
    )
    assert list(shm.iterdir()) == []
    assert [path.name for path in tmp.iterdir()] == ["kept"]
    assert runner.session_run("", clean=True).frames[-1]["type"] == "next"
    assert list(tmp.iterdir()) == []


LEFT = {
    "a daemon that ignores every signal": """
import os, signal, time
for s in range(1, 65):
    try: signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError): pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True: time.sleep(100)
    os._exit(0)
""",
    "a fork bomb": "import os\nfor _ in range(6): os.fork()\nwhile True: pass",
    "forks and ends without end": "import os, resource\nresource.setrlimit(resource.RLIMIT_CPU, (5, 5))\nfor _ in range(4): os.fork()\nwhile True:\n    if os.fork(): os._exit(0)",
    "stopped processes": "import os, signal\nfor _ in range(5):\n    if os.fork() == 0: os.kill(os.getpid(), signal.SIGSTOP)",
    "shared memory": "import ctypes; libc = ctypes.CDLL(None); print(libc.shmget(1234, 100_000, 0o1666) >= 0)",
    "semaphores": "import ctypes; libc = ctypes.CDLL(None); print(libc.semget(1234, 3, 0o1666) >= 0)",
    "a message queue": "import ctypes; libc = ctypes.CDLL(None); print(libc.msgget(1234, 0o1666) >= 0)",
    "an abstract socket in flight to itself": """
import array, socket
named = socket.socket(socket.AF_UNIX); named.bind(b'\\0left'); named.listen()
a, b = socket.socketpair()
a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [named.fileno(), a.fileno(), b.fileno()]))])
""",
    "a lock on a file": "import fcntl, os\nf = os.open('lock', os.O_CREAT | os.O_RDWR)\nfcntl.flock(f, fcntl.LOCK_EX)\nif os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(100)",
}


@pytest.mark.parametrize("name", LEFT)
def test_nothing_that_outlives_processes_is_left(name: str, session: Callable[..., Any]) -> None:
    runner = session()
    looks = """
import ctypes, fcntl, os, socket
libc = ctypes.CDLL(None)
print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid()))[1:])
print([len(open('/proc/sysvipc/' + kind).readlines()) for kind in ('shm', 'sem', 'msg')], libc.shmget(1234, 1, 0), libc.semget(1234, 1, 0), libc.msgget(1234, 0))
s = socket.socket(socket.AF_UNIX); s.bind(b'\\0left'); print(s.getsockname())
fcntl.flock(os.open('lock', os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB); print('locked')
"""
    expected = b"[]\n[1, 1, 1] -1 -1 -1\nb'\\x00left'\nlocked\n"
    assert runner.session_run(looks).stdout == expected
    ended = runner.session_run(LEFT[name], timeout_ms=500)
    assert ended.frames[-1] == {"type": "next"}, ended.stderr
    if name in {"shared memory", "semaphores", "a message queue"}:
        assert ended.stdout == b"True\n"
    ended = runner.session_run(looks)
    assert (ended.stdout, ended.stderr) == (expected, b"")


# The zygote.


ZYGOTE = "zygote = min(int(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != 1)"


@pytest.mark.parametrize("how", ["os.kill(zygote, 9)", "os.kill(-1, 9)"])
def test_a_program_that_ends_the_zygote_has_a_true_end(how: str, session: Callable[..., Any]) -> None:
    runner = session()
    ended = runner.session_run(f"import os, time\n{ZYGOTE}\nprint('before')\n{how}\ntime.sleep(0.1); print('after')\nos._exit(7)")
    assert [frame["type"] for frame in ended.frames if frame["type"] != "output"] == ["started", "exit", "spent"]
    assert (ended.stdout, ended.exit["exit_code"]) == (b"before\nafter\n", 7)
    assert "forked" in ended.frames[-1]["reason"]
    assert runner.next() is None
    assert runner.process.wait(10) == 0


def test_a_program_that_stops_the_zygote_does_no_harm(session: Callable[..., Any]) -> None:
    runner = session()
    for _ in range(3):
        assert runner.session_run(f"import os, signal\n{ZYGOTE}\nos.kill(zygote, signal.SIGSTOP)").frames[-1]["type"] == "next"


@pytest.mark.parametrize(
    "how",
    [
        "resource.prlimit(zygote, resource.RLIMIT_CPU, (1, 1))",
        "resource.prlimit(zygote, resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))",
        "resource.prlimit(zygote, resource.RLIMIT_NOFILE, (30, 30))",
        "os.sched_setaffinity(zygote, {max(os.sched_getaffinity(0))})",
    ],
)
def test_what_a_program_does_to_the_zygote_reaches_no_other(how: str, session: Callable[..., Any]) -> None:
    """Each later program would inherit it, and its end would be told as its own."""
    if "affinity" in how and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("one processor")
    runner = session()
    ended = runner.session_run(f"import os, resource\n{ZYGOTE}\n{how}\nprint('done')")
    assert (ended.stdout, ended.stderr) == (b"done\n", b"")
    assert ended.frames[-1]["type"] == "spent"
    assert "limits" in ended.frames[-1]["reason"]


def test_processes_that_do_not_end_are_the_sessions_end(start: Callable[..., Any], python: Path, tmp_path: Path) -> None:
    """What the kernel cannot end in time is told, and no next program is begun beside it. Nobody
    can wait long for a runner that does not wait at all."""
    copy = tmp_path.with_name("impatient")
    shutil.copytree(python.parents[1], copy, symlinks=True)
    (parent,) = copy.glob("lib/python3*/site-packages/dayfly_runner/_parent.py")
    patient, impatient = "KILL_TIME, FLUSH_TIME, LAST_WORDS_TIME = 2.0,", "KILL_TIME, FLUSH_TIME, LAST_WORDS_TIME = 0.0,"
    assert parent.read_text().count(patient) == 1
    parent.write_text(parent.read_text().replace(patient, impatient))
    runner = start(copy / "bin" / "python3", alone=True)
    runner.hello()
    runner.open([str(tmp_path)], [])
    ended = runner.session_run("print(1)")
    assert (ended.stdout, ended.exit["exit_code"]) == (b"1\n", 0)
    assert ended.frames[-1] == {"type": "spent", "reason": "processes of the program could not be ended"}
    assert runner.next() is None


def test_the_zygote_that_dies_between_programs(session: Callable[..., Any]) -> None:
    runner = session()
    os.kill(runner.pids()[1], signal.SIGKILL)
    frame = runner.next()
    assert frame["type"] == "error"
    assert "forked" in frame["message"]


def test_the_waiting_process_that_dies(session: Callable[..., Any]) -> None:
    runner = session()
    os.kill(runner.pids()[-1], signal.SIGKILL)
    frame = runner.next()
    assert frame["type"] == "error"
    assert "wait status 9" in frame["message"]


def test_nothing_of_the_zygote_can_be_read_or_written(session: Callable[..., Any]) -> None:
    ended = session().session_run(f"""
import os
{ZYGOTE}
print(open(f'/proc/{{zygote}}/oom_score_adj').read() == open('/proc/1/oom_score_adj').read())
for name in ('mem', 'environ', 'maps', 'auxv', 'map_files', 'cwd', 'root', 'exe', 'stack', 'syscall', 'fd/0', 'fd/1', 'fd/5', 'fd/6', 'ns/pid'):
    path = f'/proc/{{zygote}}/' + name
    for how in (os.listdir, os.readlink, lambda p: open(p, 'rb').read(1), lambda p: open(p, 'r+b')):
        try: print(path, how(path))
        except (PermissionError, NotADirectoryError, IsADirectoryError, FileNotFoundError): pass
        except OSError as e: e.errno == 22 or print(path, e)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(16, zygote, 0, 0), ctypes.get_errno())
""")
    assert ended.stderr == b""
    assert ended.stdout == b"True\n-1 1\n"


SEARCH = """
import re
found = 0
with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as memory:
    for line in maps:
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        if 'r' in line.split()[1] and '[v' not in line:
            memory.seek(start)
            try: part = memory.read(end - start)
            except OSError: continue
            found += len(re.findall(b'MARKER-fedcba98765432[1]0', part))  # Which does not match itself.
print(found)
"""


@pytest.mark.parametrize("size", [32, 200, 480, 2_000, 8_000, 60_000, 200_000])
def test_no_byte_of_a_program_is_in_the_next(size: int, session: Callable[..., Any]) -> None:
    runner = session()
    marker = b"MARKER-fedcba9876543210" * (size // 23 + 1)
    text = marker.decode()[:1_000]
    code = b"import sys; print(sys.stdin.read(), file=sys.stderr)\nprint(open('f').read())\n#" + marker
    for _ in range(2):
        ended = runner.session_run(code, stdin=base64.b64encode(marker).decode(), files={"f": marker}, args=[text], env={"A": text})
        assert marker in ended.stdout
    # The search finds what is there.
    assert int(runner.session_run(SEARCH, env={"A": text}).stdout) > 0
    assert runner.session_run(SEARCH).stdout == b"0\n"


def test_the_token_of_a_run_is_nowhere_in_its_process(session: Callable[..., Any]) -> None:
    runner = session()
    code = SEARCH.replace("MARKER-fedcba98765432[1]0", "7777777777666666666655555555554[4]")
    for _ in range(3):
        assert runner.session_run(code, token="77777777776666666666555555555544").stdout == b"0\n"


# The host.


def test_a_run_before_the_last_has_been_cleaned_up_is_refused(session: Callable[..., Any]) -> None:
    runner = session()
    runner.run("import time; time.sleep(100)")
    runner.started()
    runner.run("")
    ended = runner.finish()
    assert (ended.status, [frame["type"] for frame in ended.frames]) == (64, ["error"])


def test_a_stop_ends_the_program_and_all_that_it_started(session: Callable[..., Any]) -> None:
    runner = session()
    runner.run("import os, time; os.fork(); print(1, flush=True); time.sleep(100)", fetch=["main.py"])
    runner.started()
    runner.say({"type": "stop"})
    frames = iter(runner.next, {"type": "next"})
    end = [frame for frame in frames if frame["type"] != "output"]
    assert [(frame["type"], frame["signal"], frame["timed_out"]) for frame in end] == [("exit", 9, False)]
    assert runner.session_run("print(2)").stdout == b"2\n"


def test_a_stop_that_comes_too_late_does_nothing(session: Callable[..., Any]) -> None:
    runner = session()
    for _ in range(3):
        assert runner.session_run("print(1)").stdout == b"1\n"
        runner.say({"type": "stop"})
    assert runner.session_run("print(2)").frames[-1]["type"] == "next"


def test_input_that_is_left_over_is_not_the_next_programs(session: Callable[..., Any]) -> None:
    runner = session()
    for _ in range(3):
        runner.unsent = None
        assert runner.session_run("pass", stdin=base64.b64encode(bytes(1_000_000)).decode()).frames[-1]["type"] == "next"
        assert runner.session_run("print(input())", stdin="b2s=").stdout == b"ok\n"


def test_a_host_that_goes_between_two_programs(session: Callable[..., Any]) -> None:
    runner = session()
    runner.session_run("pass")
    runner.process.stdin.close()
    assert runner.process.wait(10) == 67


def test_no_descriptor_and_no_memory_is_lost_over_many_programs(session: Callable[..., Any]) -> None:
    runner = session()

    def state() -> tuple[int, int]:
        first = runner.pids()[0]
        (rss,) = (int(line.split()[1]) for line in Path(f"/proc/{first}/status").read_text().splitlines() if line.startswith("VmRSS"))
        return len(list(Path(f"/proc/{first}/fd").iterdir())), rss

    for _ in range(20):
        runner.session_run("print('x' * 1000)", stdin="YQ==", files={"a/b": b"x"}, fetch=["a/*"])
    before = state()
    for _ in range(100):
        runner.session_run("print('x' * 1000)", stdin="YQ==", files={"a/b": b"x"}, fetch=["a/*"])
    after = state()
    assert after[0] == before[0]
    assert after[1] - before[1] < 300


def test_a_session_whose_folder_is_not_there(start: Callable[..., Any]) -> None:
    runner = start(alone=True)
    runner.hello()
    runner.say({"type": "open", "files": ["/not/there"], "scratch": []})
    ended = runner.finish()
    assert ended.status == 66
    assert "/not/there" in ended.error


def test_a_run_has_a_program_of_its_own(session: Callable[..., Any]) -> None:
    runner = session()
    assert runner.session_run("print(1)").stdout == b"1\n"
    runner.run(None, files={"other.py": b""})
    ended = runner.finish()
    assert (ended.status, [frame["type"] for frame in ended.frames]) == (66, ["error"])


def test_messages_and_sandbox_module_in_each_program(session: Callable[..., Any]) -> None:
    runner = session()
    for number in range(3):
        ended = runner.session_run("import sandbox; sandbox.send(sandbox.data)", files={"data.json": json.dumps(number).encode()})
        assert ended.messages == [str(number).encode()]
