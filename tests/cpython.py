"""Runs CPython's own test modules in a plain container and in dayfly, and lists which tests differ.

    python -m tests.cpython [--write] [MODULE ...]     MODULE as in `test_io`; without one, MODULES

The image is DAYFLY_CPYTHON_IMAGE, made with Debian's `libpython3.11-testsuite`. The plain container
is what `docker run --network none --user UID -w /sandbox` gives: the engine's own filter, a
writable root, no limits but memory. Exit status 1 if a test differs that is not in cpython.json, or
one that is there does not. `--write` writes down what differs in these modules; who does that looks
at each of them, and says why.
"""

# ruff: noqa: T201 - a command's report goes to stdout
from __future__ import annotations

import concurrent.futures
import json
import os
import re
import sys
from pathlib import Path
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

EXPECTED = Path(__file__).with_name("cpython.json")
"""Module -> the row of docs/differences.md that explains its differences, and the tests that differ
with both outcomes, as they were in one run. Null: its tests are not written down yet, and any of
them may differ."""

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


def differing(there: dict[str, str], here: dict[str, str]) -> dict[str, list[str]]:
    """Return the tests whose outcomes differ: name -> both."""
    if not there.keys() & here.keys():  # one of them did not come to its tests
        there, here = ({"(module)": found.get("(module)", "ended by itself")} for found in (there, here))
    both = {name: [there.get(name, "not run"), here.get(name, "not run")] for name in sorted({*there, *here})}
    return {name: outcomes for name, outcomes in both.items() if outcomes[0] != outcomes[1]}


def main(arguments: list[str]) -> int:
    """Print a line for each module, and one for each test that is not as expected."""
    write = "--write" in arguments
    modules = [name for name in arguments if name != "--write"] or [f"test_{name}" for name in MODULES.split()]
    expected: dict[str, Any] = json.loads(EXPECTED.read_text())
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    limits = Limits(stdout_bytes=20_000_000)
    alike = surprises = 0
    with (
        httpx.Client(transport=httpx.HTTPTransport(uds=address), base_url="http://engine/v1.41", timeout=60) as engine,
        Sandbox(image=IMAGE, memory_limit_mb=MEMORY_MB, timeout_ms=TIMEOUT * 1_000, limits=limits, pool_size=2) as sandbox,
        concurrent.futures.ThreadPoolExecutor(2) as workers,
    ):

        def both(module: str) -> tuple[str, int, dict[str, list[str]]]:
            there, here = plain(engine, module), sandboxed(sandbox, module)
            return module, len(there), differing(there, here)

        for module, count, found in workers.map(both, modules):
            alike += not found
            known = expected.get(module, {"why": "", "tests": {}})
            why = f" ({known['why']})" if found and known["why"] else ""
            print(f"{module}: {count} tests, {len(found)} differ{why}", flush=True)
            # Without its tests a module prints all that differ, and none is a surprise.
            listed = known["tests"] is not None
            for name in sorted(found.keys() ^ (known["tests"] if listed else {}).keys()):
                plainly, inside = found.get(name, ["", "as in plain, which is not expected"])
                print(f"    {name.removeprefix('test.')}\n        plain  {plainly}\n        dayfly {inside}", flush=True)
                surprises += listed
            if write and found:
                expected[module] = {"why": known["why"], "tests": found}
            elif write:
                expected.pop(module, None)
    if write:
        EXPECTED.write_text(json.dumps(dict(sorted(expected.items())), indent=1, ensure_ascii=False) + "\n")
    print(f"{alike} of {len(modules)} modules are alike; {surprises} tests are not as expected")
    return 1 if surprises and not write else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
