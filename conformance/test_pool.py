"""The pool: single use, replacement, isolation; and that nothing is left at the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.conftest import Box, NewBox
from conformance.oracle import DIED, GONE, Marked, Oracle, eventually, repository
from conformance.report import clause, not_applicable

STARTED = frozenset({"start"})


@clause("pool.twice")
@pytest.mark.parametrize("size", [1, 3])
def test_twice_as_many_programs_as_containers(new_box: NewBox, size: int) -> None:
    box = new_box(pool_size=size)
    jobs = [f"import time; time.sleep(0.5); print('program', {number}, {number} ** 20)" for number in range(2 * size)]
    answers = box.together(jobs)
    assert [answer["stdout"] for answer in answers] == [f"program {number} {number**20}\n" for number in range(2 * size)]
    assert not any(answer["isError"] for answer in answers)


@clause("pool.single-use", "pool.replaced")
def test_a_container_serves_one_program_and_is_replaced(new_box: NewBox) -> None:
    box = new_box(pool_size=2)
    jobs: list[str | dict[str, Any]] = [
        "print(1)",
        "1/0",
        "import os; os.kill(os.getpid(), 9)",
        {"code": "while True: pass", "timeoutMs": 300},
        "print(",
        "print(2)",
    ]
    served = 0

    def gone() -> bool:
        return len(box.seen.which(GONE)) >= served

    for job in jobs:
        box.run(job)
        served += 1
        eventually(gone, f"{served} programs have run, and as many containers are gone")
    eventually(lambda: len(box.seen.listed("running")) == 2, "the pool is back at its size")
    time.sleep(1)  # and it stays there
    box.seen.catch_up()
    now = set(box.seen.listed())
    assert len(now) == 2
    assert len(box.seen.which(GONE)) == len(jobs)
    assert now.isdisjoint(box.seen.which(DIED))
    for container, happened in box.seen.history().items():
        assert happened.count("start") == 1, f"{container}: {happened}"
        assert not any(action.startswith("exec") or action in ("restart", "pause") for action in happened), f"{container}: {happened}"


LEAVE = r"""
import ctypes, os, socket, subprocess, sys, time
left = []
for folder in ('/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/run', os.getcwd(), os.path.expanduser('~')):
    try:
        with open(folder + '/trace-of-before', 'w') as file: file.write('trace-of-before')
        left.append(folder)
    except OSError: pass
libc = ctypes.CDLL(None, use_errno=True)
if libc.shmget(0x7ace, 4096, 0o1666) >= 0: left.append('shm')
if libc.semget(0x7ace, 1, 0o1666) >= 0: left.append('sem')
if libc.msgget(0x7ace, 0o1666) >= 0: left.append('msg')
if os.fork() == 0:
    os.setsid()
    server = socket.socket(socket.AF_UNIX); server.bind('\0trace-of-before'); server.listen()
    tcp = socket.socket(); tcp.bind(('127.0.0.1', 7114)); tcp.listen()
    os.execvp('python3', ['python3', '-c', 'import time; time.sleep(600)', 'trace-of-before'])
time.sleep(0.5)
print(left)
"""
LOOK = r"""
import os, socket
found = []
for top in ('/tmp', '/var/tmp', '/dev/shm', '/dev/mqueue', '/run', os.getcwd(), os.path.expanduser('~')):
    for folder, folders, files in os.walk(top):
        found += [os.path.join(folder, name) for name in files + folders if 'trace' in name]
for kind in ('shm', 'sem', 'msg'):
    try: found += open('/proc/sysvipc/' + kind).readlines()[1:]
    except OSError: pass
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if 'trace-of-before' in open('/proc/%s/cmdline' % pid).read(): found.append('process ' + pid)
    except OSError: pass
found += [line for line in open('/proc/net/unix') if 'trace' in line]
for family, address in ((socket.AF_UNIX, '\0trace-of-before'), (socket.AF_INET, ('127.0.0.1', 7114))):
    try:
        socket.socket(family).connect(address)
        found.append(repr(address))
    except OSError: pass
found += [name for name in os.environ if 'trace' in name]
print(found)
"""


@clause("pool.traceless")
def test_nothing_of_a_program_is_visible_to_the_next(new_box: NewBox) -> None:
    box = new_box(pool_size=1)
    left = box.run(LEAVE)
    assert left["stderr"] == "" and "/tmp" in left["stdout"], "the program that leaves traces could not leave any"
    for _ in range(2):
        answer = box.run(LOOK)
        assert (answer["stderr"], answer["stdout"]) == ("", "[]\n")


LISTEN = r"""
import json, os, select, socket, time
begun = time.monotonic()
opened, reached = [], []
for family, address in ((socket.AF_INET, ('0.0.0.0', 7115)), (socket.AF_INET6, ('::', 7116)), (socket.AF_UNIX, '\0conformance')):
    try:
        server = socket.socket(family); server.bind(address); server.listen(); opened.append(server)
    except OSError as error: reached.append('cannot listen: %s' % error) if family == socket.AF_INET else None
try: udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
except PermissionError: udp = None  # there is none where its memory would be charged to nobody
else: udp.bind(('0.0.0.0', 7117))
import ctypes
libc = ctypes.CDLL(None)
shm = libc.shmget(0xc04f, 4096, 0o1666)
while time.monotonic() < begun + 5:
    for ready in select.select(opened + [udp] * (udp is not None), [], [], 0.2)[0]:
        reached.append(repr(ready.getsockname()))
        ready.recvfrom(9) if ready is udp else ready.accept()
names = {name: os.readlink('/proc/self/ns/' + name) for name in ('net', 'ipc', 'pid', 'uts', 'mnt')}
print(json.dumps({'begun': begun, 'ended': time.monotonic(), 'reached': reached, 'names': names, 'listening': len(opened)}))
"""
REACH = r"""
import ctypes, json, os, socket, time
begun = time.monotonic()
reached = []
libc = ctypes.CDLL(None)
while time.monotonic() < begun + 3:
    for number in (2, 3, 4):
        for last in range(2, 12):
            for port in (7115, 7117):
                try: s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if port == 7117 else socket.SOCK_STREAM)
                except PermissionError: continue
                with s:
                    s.settimeout(0.05)
                    try:
                        s.connect(('172.17.0.%d' % last if number == 2 else '127.0.0.%d' % last, port))
                        if port != 7117: reached.append(port)
                        else: s.send(b'x'); s.send(b'x')
                    except OSError: pass
    for family, address in ((socket.AF_INET6, ('::1', 7116)), (socket.AF_UNIX, '\0conformance')):
        try:
            with socket.socket(family) as s: s.connect(address)
            reached.append(repr(address))
        except OSError: pass
    if libc.shmget(0xc04f, 4096, 0o666) >= 0: reached.append('shared memory')
names = {name: os.readlink('/proc/self/ns/' + name) for name in ('net', 'ipc', 'pid', 'uts', 'mnt')}
print(json.dumps({'begun': begun, 'ended': time.monotonic(), 'reached': reached, 'names': names}))
"""


@clause("pool.isolated")
def test_containers_cannot_communicate(box: Box, gvisor: bool) -> None:
    eventually(lambda: len(box.seen.listed("running")) >= 2, "two containers are ready")
    answers = box.together([LISTEN, REACH])
    assert [answer["stderr"] for answer in answers] == ["", ""]
    listener, reacher = (json.loads(answer["stdout"]) for answer in answers)
    if not gvisor:  # whose clocks are each container's own, and which names all namespaces alike
        overlap = min(listener["ended"], reacher["ended"]) - max(listener["begun"], reacher["begun"])
        assert overlap > 1, "they did not run at the same time"
        assert {name for name in listener["names"] if listener["names"][name] == reacher["names"][name]} == set()
    assert listener["listening"] >= 2
    assert (listener["reached"], reacher["reached"]) == ([], [])


# The end.

FOREVER = "import time\nprint('begun', flush=True)\ntime.sleep(3600)"


@clause("end.close")
def test_after_close_no_container_is_left(new_box: NewBox) -> None:
    import threading  # noqa: PLC0415

    box = new_box(pool_size=3)
    busy = [threading.Thread(target=_until_closed, args=(box, FOREVER)) for _ in range(2)]
    for thread in busy:
        thread.start()
    box.run("print(1)")  # its successor is being made now
    box.sandbox.close()
    assert box.seen.listed() == {}, "close has returned, and containers are left"
    for thread in busy:
        thread.join(20)
        assert not thread.is_alive()
    box.seen.none_left()


@clause("end.close")
def test_close_after_every_kind_of_end(new_box: NewBox) -> None:
    box = new_box(pool_size=2)
    box.run({"code": FOREVER, "timeoutMs": 300})
    box.run("import os; os.abort()")
    box.run("x = [bytearray(b'x' * 1_000_000) for _ in range(120)]")
    box.sandbox.close()
    assert box.seen.listed() == {}
    box.seen.none_left()


def _until_closed(box: Box, code: str) -> None:
    try:
        box.run({"code": code, "timeoutMs": 600_000})
    except Exception:  # noqa: BLE001 - what it raises then is not this clause's
        pass


class Host:
    """A host process of its own, around the implementation."""

    def __init__(self, seen: Marked, oracle: Oracle, option: Any, settings: dict[str, Any], prefix: tuple[str, ...] = ()) -> None:
        order = {
            "engine": oracle.docker_host,
            "runtime": option.runtime,
            "image": seen.image,
            "settings": settings,
            "adapter": option.adapter,
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(repository()), *sys.path])}
        self.process = subprocess.Popen(
            [*(prefix or (sys.executable,)), "-m", "conformance.host", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
        )

    def say(self, job: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the host process ended with {self.process.wait()}"
        heard: dict[str, Any] = json.loads(line)
        return heard

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


NewHost = Callable[..., tuple[Host, Marked]]


@pytest.fixture
def new_host(oracle: Oracle, image: str, request: pytest.FixtureRequest) -> Iterator[NewHost]:
    hosts: list[Host] = []

    def new(settings: dict[str, Any], prefix: tuple[str, ...] = ()) -> tuple[Host, Marked]:
        seen = oracle.mark(image)
        host = Host(seen, oracle, request.config.option, settings, prefix)
        hosts.append(host)
        assert host.hear() == {"starting": True}
        return host, seen

    yield new
    for host in hosts:
        host.end()


@clause("end.killed")
@pytest.mark.parametrize("state", ["idle", "running", "creating", "starting"])
def test_after_a_killed_host_no_container_is_left(new_host: NewHost, state: str) -> None:
    host, seen = new_host({"pool_size": 3})
    if state in ("creating", "starting"):
        wanted = frozenset({"create"}) if state == "creating" else STARTED
        eventually(lambda: seen.which(wanted), f"containers are {state}")
    else:
        assert host.hear()["ready"] is True
        if state == "running":
            for _ in range(2):
                host.say({"code": "while True: pass", "timeoutMs": 600_000})
            time.sleep(1)
    host.process.send_signal(signal.SIGKILL)
    host.process.wait()
    seen.none_left()


@clause("host.group")
def test_a_user_who_is_not_root_and_in_the_sockets_group(new_host: NewHost, oracle: Oracle) -> None:
    facts = Path(oracle.socket).stat()
    if os.getuid() != 0:
        prefix: tuple[str, ...] = ()  # such a user is running this very suite
    elif facts.st_gid == 0 or not facts.st_mode & stat.S_IWGRP:
        not_applicable("the engine's socket is of no group but root's")
    else:
        python = _python_for_others()
        change = shutil.which("setpriv")
        assert change, "setpriv (util-linux) is needed to become another user"
        prefix = (change, "--reuid=65534", "--regid=65534", f"--groups={facts.st_gid}", "--inh-caps=-all", "--no-new-privs", python)
    host, seen = new_host({"pool_size": 2}, prefix)
    ready = host.hear()
    assert ready["uid"] != 0
    if prefix:
        assert ready["groups"] == [facts.st_gid]
    assert len(seen.listed("running")) == 2
    host.say("print('Hello, world!')")
    assert host.hear()["result"]["stdout"] == "Hello, world!\n"
    assert host.process.stdin is not None
    host.process.stdin.close()
    assert host.process.wait(60) == 0
    seen.none_left()


def _python_for_others() -> str:
    """An interpreter of this version that any user may execute: this one may lie in somebody's
    home."""
    for candidate in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}", "/usr/bin/python3"):
        path = Path(candidate).resolve()
        open_to_all = path.exists() and all(folder.stat().st_mode & stat.S_IXOTH for folder in path.parents)
        version = subprocess.run([candidate, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True, check=False)
        if open_to_all and version.stdout.strip() == str(tuple(sys.version_info[:2])):
            return candidate
    return not_applicable(f"no Python {sys.version_info[0]}.{sys.version_info[1]} that another user may execute")
