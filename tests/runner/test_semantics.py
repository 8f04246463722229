"""A program is run as `python3 -u main.py` runs it, to the byte: each of these is run both ways,
and compared."""

# ruff: noqa: E501 - most programs are one line each

from __future__ import annotations

import base64
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STDIN = "first line\nzweite Zeile: äöü\nno end".encode()
ARGS = ["", "two words", "-x", "ä"]

SUBINTERPRETERS = """
try: import _xxsubinterpreters as interpreters
except ImportError: import _interpreters as interpreters  # since 3.13
def run(code):
    try: failed = interpreters.run_string(interpreters.create(), code)
    except Exception as error: failed = error
    if failed: print(getattr(failed, 'formatted', failed))
"""

PROGRAMS = {
    "empty": "",
    "no newline at the end": "print('a', end='')",
    "arguments": "import sys; print(sys.argv)",
    "names of __main__": "print(sorted((k, str(v)) for k, v in globals().items() if k != '__loader__'), type(__loader__), __loader__.path, __loader__.name)",
    "modules": "import sys; print(sorted(sys.modules))",
    "sys": """
import sys
for name in sorted(set(dir(sys)) - {'_git', 'modules', 'path_importer_cache', 'stdlib_module_names'}):
    value = getattr(sys, name)
    if not callable(value) and name not in ('_base_executable',):
        print(name, ascii(value) if not hasattr(value, 'fileno') else (value.fileno(), value.encoding, value.errors, value.line_buffering))
print(sys.getrecursionlimit(), sys.getswitchinterval(), sys.gettrace(), sys.getprofile(), sys.getfilesystemencoding())
""",
    "importers": "import sys; print(sorted(map(str, sys.meta_path)), sorted(map(str, sys.path_hooks)), sys.path)",
    "hooks": "import sys; print(sys.displayhook is sys.__displayhook__, sys.excepthook is sys.__excepthook__, sys.stdout is sys.__stdout__)",
    "environment": "import os; print(sorted(os.environ.items()), os.getcwd(), os.umask(0), sorted(os.listdir()))",
    "session": "import os; print(os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid())",
    "signals": "import signal; print([(s, signal.getsignal(s)) for s in sorted(signal.valid_signals())], signal.pthread_sigmask(0, []), signal.set_wakeup_fd(-1))",
    "signals as the kernel has them": "print([l for l in open('/proc/self/status') if l.startswith(('SigB', 'SigI', 'SigC', 'SigP', 'Shd'))])",
    "timers": "import signal; print(signal.getitimer(0), signal.alarm(0))",
    "limits": "import resource as r; print([(n, r.getrlimit(getattr(r, n))) for n in dir(r) if n.startswith('RLIMIT') and n not in ('RLIMIT_NOFILE', 'RLIMIT_OFILE')])",
    "descriptors": "import os; print([f for f in os.listdir('/proc/self/fd') if f != '1000'], [os.get_inheritable(f) for f in (0, 1, 2)], [os.get_blocking(f) for f in (0, 1, 2)])",
    "threads": "import threading as t; print(t.enumerate(), t.current_thread() is t.main_thread(), t.get_native_id() == __import__('os').getpid())",
    "stack": "import inspect, sys; print([f.function for f in inspect.stack()], sys._getframe().f_back)",
    "garbage": "import gc; print(gc.isenabled(), gc.get_threshold(), gc.get_freeze_count(), gc.garbage, gc.get_debug())",
    "nothing of ours": "import gc; print([o for o in gc.get_objects() if 'dayfly' in str(getattr(o, '__module__', ''))])",
    "locale": "import locale; print(locale.setlocale(locale.LC_ALL), locale.getpreferredencoding())",
    "warnings": "import warnings; print(warnings.filters); warnings.warn('w'); warnings.warn('d', DeprecationWarning)",
    "traceback": "def f(x):\n    return 1 / x\n\n\ntry:\n    f(0)\nexcept ZeroDivisionError as e:\n    raise ValueError('ä') from e\n",
    "traceback while handling": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    undefined\n",
    "traceback of a library": "import json\njson.loads('{')",
    "exception group": "raise ExceptionGroup('g', [ValueError(1), TypeError(2)]) if hasattr(__builtins__, 'ExceptionGroup') else ValueError",
    "suggestion": "import math\nmath.sqr(1)",
    "syntax error": "x = 1\nif x\n    pass\n",
    "indentation error": "if True:\npass\n",
    "tab error": "if True:\n        pass\n\tpass\n",
    "unclosed": "print((1, 2",
    "null in the source": "print(1)\0",
    "no text at all": "\x01\x02",
    "form feed": "\x0cprint(1)\n",
    "byte order mark": "\ufeffprint('ä')",
    "carriage returns": "print(1)\r\nprint('''a\r\nb''')\r\n1/0\r\n",
    "encoding cookie": "# -*- coding: latin-1 -*-\nprint('ä')\n",
    "unknown encoding": "# -*- coding: nope -*-\nprint('ä')\n",
    "future": "from __future__ import annotations\ndef f(x: y): pass\nprint(f.__annotations__)",
    "exit": "import sys; print('a', end=''); sys.exit()",
    **{f"exit {value}": f"import sys; sys.exit({value})" for value in ("0", "1", "255", "256", "-1", "None", "True", "'text'", "3.5", "[1]", "2**70", "(3,)")},
    "raise SystemExit": "raise SystemExit(9)",
    "quit": "quit(4)",
    "exit of a thread": "import sys, threading; t = threading.Thread(target=sys.exit, args=(3,)); t.start(); t.join(); print('on')",
    "exit at once": "import os; print('a'); os._exit(7)",
    "abort": "import os; os.abort()",
    "keyboard interrupt": "raise KeyboardInterrupt",
    "interrupt from inside": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    **{f"death by signal {number}": f"import os; os.kill(os.getpid(), {number})" for number in (1, 6, 9, 11, 13, 14, 15, 34, 64)},
    "segmentation fault": "import faulthandler; faulthandler.enable(); import ctypes; ctypes.string_at(0)",
    "broken excepthook": "import sys; sys.excepthook = lambda *a: 1/0; undefined",
    "callbacks of atexit": "import atexit; print(atexit._ncallbacks())",
    "atexit": "import atexit; atexit.register(print, 'last'); atexit.register(lambda: 1/0); print('first'); 1/0",
    "finalizers": "class A:\n    def __del__(self): print('gone')\na = A(); b = A(); b.b = b\ndef g():\n    try: yield\n    finally: print('closed')\nc = g(); next(c)",
    "error in a finalizer": "class A:\n    def __del__(self): 1/0\na = A(); del a",
    "daemon thread": "import threading, time; threading.Thread(target=time.sleep, args=(100,), daemon=True).start(); print('end')",
    "thread left running": "import threading, time\ndef f(): time.sleep(0.1); print('thread')\nthreading.Thread(target=f).start(); print('main')",
    "error in a thread": "import threading; t = threading.Thread(target=lambda: 1/0, name='t'); t.start(); t.join()",
    "stdin": "import sys; print(repr(sys.stdin), sys.stdin.isatty(), sys.stdin.buffer.raw, [l for l in sys.stdin], sys.stdin.read())",
    "input": "print(repr(input('? '))); print(repr(input())); print(repr(input())); input('more? ')",
    "stdin byte by byte": "import os; print([os.read(0, 1) for _ in range(5)], os.fstat(0).st_mode)",
    "stdout": "import sys; sys.stdout.write('a'); sys.stdout.buffer.write(b'\\xff'); print(repr(sys.stdout), repr(sys.stdout.buffer), sys.stdout.write_through)",
    "stdout closed": "import sys; sys.stdout.close(); print('a')",
    "stdout closed below": "import os; os.close(1); print('a')",
    "surrogate": "print('\\ud800')",
    "both streams": "import sys\nfor i in range(5): print(i, file=sys.stdout if i % 2 else sys.stderr)",
    "recursion": "def f(): f()\nf()",
    "deep recursion": "import sys; sys.setrecursionlimit(5000)\ndef f(n): return n and f(n - 1)\nprint(f(4000))",
    "memory": "x = bytearray(1 << 60)",
    "pickle": "import pickle\nclass A:\n    def __eq__(self, o): return type(self) is type(o)\nprint(A.__module__, pickle.loads(pickle.dumps(A())) == A(), pickle.dumps(A, 0))",
    "source": "import inspect\ndef f():\n    return 1  # ä\nprint(inspect.getsource(f), inspect.getsourcefile(f), inspect.getmodule(f), f.__code__.co_filename)",
    "import of main": "import __main__; print(__main__.__file__, __main__.__spec__, __main__.__package__, __main__.__doc__, __main__.__dict__ is globals())",
    "import of itself": "print(__name__)\nif __name__ == '__main__':\n    import main; print(main.__file__, main.__cached__ is None)",
    "import of what it wrote": "open('other.py', 'w').write('x = 1'); import other; print(other.x, other.__file__)",
    "standard library": "import asyncio, collections, ctypes, dataclasses, decimal, email, json, random, re, resource, select, signal, sqlite3, ssl, time, unittest; print('ok')",
    "what the runner used": "import _ctypes, _json, _signal, binascii, marshal, resource, select; print(resource.getrlimit, marshal.loads(marshal.dumps([1])), time if 0 else '')",
    "subprocess": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, sys._xoptions, sys.stdin.read())', 'a'], capture_output=True))",
    "subprocess with inherited streams": "import subprocess, sys; print('1'); print(subprocess.call(['sh', '-c', 'cat; echo 2; echo 3 >&2; exit 4']))",
    "flags passed on": "import subprocess; print(subprocess._args_from_interpreter_flags())",
    "fork": "import os\nif os.fork() == 0: print('child'); os._exit(3)\nprint(os.waitstatus_to_exitcode(os.wait()[1]) if hasattr(os, 'waitstatus_to_exitcode') else os.WEXITSTATUS(os.wait()[1]))",
    "no child of ours": "import os; os.wait()",
    **{
        f"multiprocessing {method}": f"""
import multiprocessing, os, sys
class A: x = 5
def f(a): return a.x + 1, __name__.replace('__mp_main__', '?').replace('__main__', '?')
if __name__ == '__main__':
    multiprocessing.set_start_method({method!r})
    with multiprocessing.Pool(2) as pool: print(pool.map(f, [A(), A()]))
"""
        for method in ("fork", "spawn", "forkserver")
    },
    "asyncio": "import asyncio\nasync def main():\n    p = await asyncio.create_subprocess_exec('echo', 'hello', stdout=-1)\n    print(await p.communicate())\n    raise ValueError\nasyncio.run(main())",
    "exec of its own arguments": "import os, sys\nif os.environ.setdefault('AGAIN', 'no') == 'no': os.environ['AGAIN'] = 'yes'; os.execvp(sys.executable, getattr(sys, 'orig_argv', [sys.executable, '-u', *sys.argv]))\nprint(sys.argv, getattr(sys, 'orig_argv', [])[1:], sys._xoptions)",
    "exec of its command line": """
import os, sys
if 'AGAIN' not in os.environ:
    os.environ['AGAIN'] = 'yes'
    with open('/proc/self/cmdline') as file: command = file.read().split('\\0')[:-1]
    os.execvp(command[0], command[:command.index('main.py') + 1])  # it lacks the arguments
print(sys.argv, getattr(sys, 'orig_argv', [])[1:], sys._xoptions, sys.flags, sorted(sys.modules), sys.stdin.read())
""",
    "its command line as a child": """
import subprocess, sys
if len(sys.argv) > 2:
    with open('/proc/self/cmdline') as file: command = file.read().split('\\0')
    print(subprocess.run([*command[:command.index('main.py') + 1], 'one'], stdin=subprocess.DEVNULL, capture_output=True).stdout)
else:
    print(sys.argv, getattr(sys, 'orig_argv', [])[1:], sys._xoptions)
""",
    "sub-interpreters": SUBINTERPRETERS + """
import sys
for _ in range(3):
    run("import os, sys; print(sys.argv[0], getattr(sys, 'orig_argv', [])[1:3], sys._xoptions, sys.flags, sorted(sys.modules), os.getpid() > 1)")
run("1/0")
""",
    "sub-interpreters in threads": SUBINTERPRETERS + """
import os, threading
reader, writer = os.pipe()
threads = [threading.Thread(target=run, args=(f"import os; os.write({writer}, b'{number}')",)) for number in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(os.read(reader, 99)))
""",
    "a pool of interpreters": """
try: from concurrent.futures import InterpreterPoolExecutor as Pool
except ImportError: from concurrent.futures import ThreadPoolExecutor as Pool  # before 3.14
import math
with Pool(2) as pool: print(list(pool.map(math.isqrt, range(9))))
""",
    "exec of itself": "import os, sys\nif len(sys.argv) > 1: os.execv(sys.executable, [sys.executable, '-u', 'main.py'])\nprint(sys.argv)",
    "runpy": "import runpy; open('m.py', 'w').write('print(__name__, __file__)'); runpy.run_path('m.py', run_name='__main__')",
    "code": "import code; code.interact('', local={}, exitmsg='')",
    "getpass, a terminal": "open('/dev/tty')",
    "processor time": "import time; print(time.process_time() < 5, time.clock_getres(time.CLOCK_MONOTONIC))",
    "resources of children": "import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime)",
    "annotations": "x: int = 1\nprint(__annotations__)",
    "debug": "print(__debug__, __builtins__)",
    "help": "help(len)",
    "interactive": "import sys; print(hasattr(sys, 'ps1'), sys.flags.interactive, sys.flags.inspect)",
}  # fmt: skip


def plain(python: Path, folder: Path, code: str, env: dict[str, str], stdin: bytes = STDIN) -> tuple[bytes, bytes, int]:
    (folder / "main.py").write_bytes(code.encode())
    done = subprocess.run(
        [str(python), "-u", "main.py", *ARGS],
        check=False,
        cwd=folder,
        env=env,
        input=stdin,
        capture_output=True,
        timeout=60,
        start_new_session=True,
    )
    return done.stdout, done.stderr, done.returncode


def without_addresses(outcome: tuple[bytes, bytes, int]) -> tuple[bytes, bytes, int]:
    stdout, stderr, exit_code = outcome
    stderr = re.sub(rb"\nCurrent thread's C stack trace .*", b"", stderr, flags=re.DOTALL)  # of 3.14: the interpreter's own functions
    address = rb"0x[0-9a-f]{6,}|started [0-9]{9,}"
    return re.sub(address, b"0x", stdout), re.sub(address, b"0x", stderr), exit_code


def emptied(folder: Path) -> Path:
    subprocess.run(["find", str(folder), "-mindepth", "1", "-delete"], check=True)
    return folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_a_plain_start(name: str, run: Callable[..., Any], python: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    code = PROGRAMS[name]
    ended = run(code, args=ARGS, stdin=base64.b64encode(STDIN).decode(), timeout_ms=60_000)
    assert ended.status == 0
    exit_code = ended.exit["exit_code"] if ended.exit["signal"] is None else -ended.exit["signal"]
    assert without_addresses((ended.stdout, ended.stderr, exit_code)) == without_addresses(
        plain(python, emptied(tmp_path), code, environment)
    )


@pytest.mark.parametrize("env", [{"A": "1", "Ä": "ü", "PATH": "/usr/bin:/bin"}, {"PYTHONHASHSEED": "0"}, {"LC_ALL": "C"}, {"HOME": "/nowhere"},
    {"PYTHONWARNINGS": "error"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONOPTIMIZE": "2"}, {"TZ": "UTC+5"}, {"PYTHONSTARTUP": "x.py", "PATH": "/usr/bin"}])  # fmt: skip
def test_environment_of_the_job(
    env: dict[str, str], run: Callable[..., Any], python: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    code = """
import os, sys, time, site
print(sorted(os.environ.items()), sys.argv, sys.flags, sys._xoptions, sys.warnoptions, sys.stdout.encoding, time.tzname, site.USER_BASE)
print(sys.executable, sys.prefix, sorted(sys.modules), __debug__, [f for f in os.listdir('/proc/self/fd') if f != '1000'])
print(hash('a') if 'PYTHONHASHSEED' in os.environ else '', [l for l in open('/proc/self/status') if l.startswith(('SigB', 'SigI', 'SigC'))])
import warnings; warnings.warn('w')
"""
    ended = run(code, args=ARGS, env=env, stdin="")
    # A shell finds python3 by its own PATH; what is found is what runs.
    assert (ended.stdout, ended.stderr, ended.exit["exit_code"]) == plain(python, emptied(tmp_path), code, {**environment, **env}, b"")


@pytest.mark.parametrize("path", ["helper.py", "more.py"])
def test_no_callback_of_ours_is_counted(path: str, run: Callable[..., Any]) -> None:
    count = "import atexit; print(atexit._ncallbacks())"
    assert run(count).stdout == b"0\n"
    code = "import helper" if path == "helper.py" else "exec(open('more.py').read())"
    assert run(code, files={path: count.encode()}).stdout == b"0\n"


def test_python_2(start: Callable[..., Any], tmp_path: Path) -> None:
    folder = os.environ.get("DAYFLY_TEST_PYTHON2_FOLDER")
    if folder is None:
        # Any executable of that name shows how it is started; which one is the image's business.
        fake = tmp_path / "bin"
        fake.mkdir()
        (fake / "python2.7").write_text("#!/bin/sh\necho $0 $@; cat main.py; ls /proc/self/fd; exit 3\n")
        (fake / "python2.7").chmod(0o755)
        folder = str(fake)
    runner = start(env={"PATH": f"{folder}:{os.environ['PATH']}"})
    assert runner.hello()["pythons"]["2"] == "2.7"
    runner.run("import sys; print sys.version_info[:2], sys.argv; sys.exit(3)\n", python="2", args=["a", "b c"])
    runner.started()
    ended = runner.finish()
    assert ended.exit["exit_code"] == 3, ended.stderr
    if "DAYFLY_TEST_PYTHON2_FOLDER" in os.environ:
        assert ended.stdout == b"(2, 7) ['main.py', 'a', 'b c']\n"
    else:
        assert ended.stdout.startswith(f"{folder}/python2.7 -u main.py a b c\nimport sys; print".encode())
        assert ended.stdout.endswith(b"\n0\n1\n1000\n2\n3\n")
