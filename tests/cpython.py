"""Runs CPython's own test modules in a plain container and in dayfly, and lists which tests differ.

    python -m tests.cpython [MODULE ...]      MODULE as in `test_io`; without one, MODULES

The image is DAYFLY_CPYTHON_IMAGE, made with Debian's `libpython3.11-testsuite`. The plain container
is what `docker run --network none --user UID -w /sandbox` gives: the engine's own filter, a
writable root, no limits but memory. Exit status 1 if a test differs whose module is not in
EXPECTED.
"""

# ruff: noqa: T201 - a command's report goes to stdout
from __future__ import annotations

import concurrent.futures
import json
import os
import re
import sys
from typing import Any

import httpx

from dayfly import DayflyError, Limits, Sandbox

IMAGE = os.environ.get("DAYFLY_CPYTHON_IMAGE", "dayfly/cpython-tests:3.11")
TIMEOUT = 180
MEMORY_MB = 512

MODULES = """
    argparse array ast asyncgen atexit base64 binascii bisect builtin bytes bz2 calendar cmath codecs collections complex configparser
    contextlib context copy coroutines csv dataclasses datetime decimal deque descr dict dis email enum exceptions fcntl file fileinput
    fileio filecmp float fnmatch fractions ftplib functools gc generators getpass glob grp gzip hashlib heapq hmac html http_cookies
    httplib httpservers importlib inspect int io ipaddress itertools json keyword largefile list locale logging long lzma mailbox
    marshal math memoryio mimetypes mmap netrc numeric_tower opcodes openpty operator os pathlib pickle pickletools pkgutil platform
    plistlib poll popen posix posixpath pprint pty pwd py_compile queue random range re reprlib resource runpy sched select selectors
    set shelve shlex shutil signal site socket socketserver sqlite3 stat statistics str string struct subprocess symtable sys
    sysconfig syntax tarfile tempfile textwrap thread threading threadedtempfile threadsignals time timeit tokenize traceback tuple
    types typing ucn unicode unittest urllib urllib2_localnet urlparse userdict uuid wait3 wait4 weakref weakset wsgiref xml_etree
    xmlrpc zipapp zipfile zipimport zlib concurrent_futures epoll asyncio eintr faulthandler ctypes
"""

READ_ONLY, NO_EXEC, FILE_SIZE, NO_TERMINALS, IPV6, SENDFILE = (
    *("the image is read-only", "noexec", "file size", "no terminals", "IPv6 loopback", "os.sendfile"),
)
EXPECTED = {
    "test_asyncio": f"{IPV6}, UDP, {SENDFILE}, {NO_TERMINALS}, buffers of TCP",
    "test_builtin": NO_TERMINALS,
    "test_eintr": "record locks",
    "test_ftplib": f"{IPV6}, out-of-band data",
    "test_httpservers": NO_EXEC,
    "test_importlib": READ_ONLY,
    "test_io": FILE_SIZE,
    "test_largefile": FILE_SIZE,
    "test_logging": f"{IPV6}, UDP",
    "test_mmap": f"{FILE_SIZE}, {NO_EXEC}",
    "test_openpty": NO_TERMINALS,
    "test_os": f"splice, setpriority by process id, {SENDFILE}, {NO_TERMINALS}, extended attributes, fsync",
    "test_pickle": READ_ONLY,
    "test_pty": NO_TERMINALS,
    "test_queue": "processes and threads",
    "test_resource": "limits that cannot be raised",
    "test_runpy": READ_ONLY,
    "test_shutil": f"{SENDFILE}, {NO_EXEC}",
    "test_signal": "pidfd_send_signal",
    "test_subprocess": f"{NO_EXEC}, open files",
    "test_socket": f"{IPV6}, UDP, socket families, {SENDFILE}, if_nameindex",
    "test_tarfile": "user ids above 2,097,151",
    "test_zipfile": FILE_SIZE,
}
"""Module -> the row of docs/differences.md that explains its differences."""

PROGRAM = """
import importlib, json, os, sys, unittest
out, name = os.dup(1), %r
from test import support
support.use_resources = []
found = {}

class Record(unittest.TestResult):
    def note(self, test, what):
        found.setdefault(str(getattr(test, "id", lambda: test)()).replace("__main__", "main"), what)
    def addSuccess(self, test): self.note(test, "ok")
    def addSkip(self, test, reason): self.note(test, "skipped")
    def addExpectedFailure(self, test, error): self.note(test, "ok")
    def addUnexpectedSuccess(self, test): self.note(test, "unexpected success")
    def addError(self, test, error): self.note(test, ("%%s: %%s" %% (error[0].__name__, error[1]))[-200:])
    addFailure = addError
    def addSubTest(self, test, subtest, error):
        if error: self.note(test, ("%%s: %%s" %% (error[0].__name__, error[1]))[-200:])

try:
    suite = unittest.defaultTestLoader.loadTestsFromName("test." + name)
    suite.run(Record()) if hasattr(suite, "run") else None
except unittest.SkipTest as skip:
    found["(module)"] = "skipped"
os.write(out, b"\\n@@@")
text = json.dumps(found).encode()
while text: text = text[os.write(out, text):]
os._exit(0)
"""


def outcomes(stdout: str, otherwise: str) -> dict[str, str]:
    """Return the tests' outcomes by name, or how the program ended where it did not tell any."""
    text = stdout.rpartition("\n@@@")[2]
    try:
        found: dict[str, str] = json.loads(text)
    except ValueError:
        return {"(module)": otherwise}
    return {name: re.sub(r"uid not found: \d+", "uid not found", outcome) for name, outcome in found.items()}


def plain(engine: httpx.Client, module: str) -> dict[str, str]:
    """Run the module in a plain container, with its program in main.py, as dayfly has it."""
    start = "import os,sys; open('main.py','w').write(os.environ.pop('CODE')); os.execvp('python3',['python3','-u','main.py'])"
    body: dict[str, Any] = {
        "Image": IMAGE,
        "Entrypoint": ["python3", "-c", start],
        "Env": ["HOME=/sandbox", "LANG=C.UTF-8", f"CODE={PROGRAM % module}"],
        "User": "29999:29999",
        "WorkingDir": "/sandbox",
        "HostConfig": {
            "NetworkMode": "none",
            "Memory": MEMORY_MB * 1_000_000,
            "MemorySwap": MEMORY_MB * 1_000_000,
            "Tmpfs": {"/sandbox": "rw,exec,uid=29999,size=64m"},
        },
    }
    container = engine.post("/containers/create", json=body).raise_for_status().json()["Id"]
    try:
        engine.post(f"/containers/{container}/start").raise_for_status()
        try:
            status = engine.post(f"/containers/{container}/wait", timeout=TIMEOUT).json()["StatusCode"]
        except httpx.ReadTimeout:
            return {"(module)": "timeout"}
        logs = engine.get(f"/containers/{container}/logs", params={"stdout": "1"}).content
        text = bytearray()
        while logs:
            size = int.from_bytes(logs[4:8], "big")
            text += logs[8 : 8 + size]
            logs = logs[8 + size :]
        return outcomes(text.decode(errors="replace"), f"exit {status}")
    finally:
        engine.delete(f"/containers/{container}", params={"force": "1", "v": "1"})


def sandboxed(sandbox: Sandbox, module: str) -> dict[str, str]:
    """Run the module in dayfly."""
    try:
        result = sandbox.run(PROGRAM % module)
    except DayflyError as error:
        return {"(module)": f"{type(error).__name__}: {error}"}
    if result.timed_out:
        return {"(module)": "timeout"}
    return outcomes(result.stdout, f"{result.outcome} {result.exit_code} {result.signal} {result.stderr[-300:]}")


def main(modules: list[str]) -> int:
    """Print a line for each module, and one for each test that differs."""
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    limits = Limits(stdout_bytes=20_000_000)
    unexplained = 0
    with (
        httpx.Client(transport=httpx.HTTPTransport(uds=address), base_url="http://engine/v1.41", timeout=60) as engine,
        Sandbox(image=IMAGE, memory_limit_mb=MEMORY_MB, timeout_ms=TIMEOUT * 1_000, limits=limits, pool_size=2) as sandbox,
        concurrent.futures.ThreadPoolExecutor(2) as workers,
    ):

        def both(module: str) -> tuple[str, dict[str, str], dict[str, str]]:
            return module, plain(engine, module), sandboxed(sandbox, module)

        alike = 0
        for module, there, here in workers.map(both, modules):
            different = {name: (there.get(name), here.get(name)) for name in sorted({*there, *here}) if there.get(name) != here.get(name)}
            alike += not different
            reason = EXPECTED.get(module, "")
            unexplained += bool(different) and not reason
            print(f"{module}: {len(there)} tests, {len(different)} differ{f' ({reason})' if different and reason else ''}", flush=True)
            if "(module)" in different and not {*there} & {*here}:
                different = {"(module)": (there.get("(module)", "ended by itself"), here.get("(module)", "ended by itself"))}
            for name, (plainly, inside) in different.items():
                print(f"    {name.removeprefix('test.')}\n        plain  {plainly}\n        dayfly {inside}", flush=True)
    print(f"{alike} of {len(modules)} modules are alike; {unexplained} differ without an explanation")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [f"test_{name}" for name in MODULES.split()]))
