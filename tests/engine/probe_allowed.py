"""Runs inside a container: uses what a program may expect of Python, and prints name -> "ok" or the
error. Python >= 3.8."""
# About system calls, on whatever Python the container has: no pathlib, no types.
# ruff: noqa: PTH101, PTH104, PTH108, PTH116, PTH118, PTH123, PTH211
# mypy: ignore-errors

import asyncio
import concurrent.futures
import ctypes
import json
import multiprocessing
import os
import resource
import select
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback

LIBC = ctypes.CDLL(None, use_errno=True)


def square(value):
    return value * value


def threads():
    results = []
    pool = [threading.Thread(target=results.append, args=(n,)) for n in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    assert sorted(results) == list(range(8))


def thread_pool():
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]


def processes(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
    queue = context.Queue()
    child = context.Process(target=queue.put, args=("hello",))
    child.start()
    assert queue.get(timeout=20) == "hello"
    child.join()


def process_pool():
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]


def shared_memory():
    from multiprocessing import shared_memory as shm

    block = shm.SharedMemory(create=True, size=4096)
    block.buf[0] = 7
    block.close()
    block.unlink()


def run_process():
    done = subprocess.run(["sh", "-c", "cat; exit 3"], input=b"piped", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (3, b"piped")


def posix_spawn():
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "pass"], os.environ)
    assert os.waitpid(pid, 0)[1] == 0


def async_io():
    async def handle(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        writer.close()
        server.close()
        child = await asyncio.create_subprocess_exec("echo", "hi", stdout=subprocess.PIPE)
        assert (await child.communicate())[0] == b"hi\n"

    asyncio.run(main())


def database():
    with tempfile.NamedTemporaryFile() as file:
        connection = sqlite3.connect(file.name)
        connection.execute("create table t (x)")
        connection.execute("insert into t values (1)")
        connection.commit()
        assert connection.execute("select x from t").fetchall() == [(1,)]
        connection.close()


def tls():
    assert ssl.create_default_context().verify_mode == ssl.CERT_REQUIRED
    assert len(ssl.RAND_bytes(16)) == 16


def sockets():
    for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            socket.socket(family, kind).close()
    left, right = socket.socketpair()
    left.send(b"x")
    assert right.recv(1) == b"x"
    left.close()
    right.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as one:
        one.bind(("127.0.0.1", 0))
        one.sendto(b"self", one.getsockname())
        assert one.recv(10) == b"self"


def signals():
    got = []
    signal.signal(signal.SIGUSR1, lambda *called: got.append(called))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR1)
    signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
    assert len(got) == 3
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    group = os.fork()
    if group == 0:
        os.setsid()
        time.sleep(30)
        os._exit(0)
    while os.getpgid(group) != group:
        time.sleep(0.001)
    os.killpg(group, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(group, 0)[1]) == signal.SIGKILL
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.signal(signal.SIGALRM, lambda *called: got.append(called))
    signal.sigtimedwait([signal.SIGUSR2], 0.05)


def own_limits():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    resource.prlimit(0, resource.RLIMIT_NOFILE)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.nice(1)
    os.setpriority(os.PRIO_PROCESS, 0, 2)
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    assert os.cpu_count() >= 1


def files():
    with tempfile.TemporaryDirectory() as directory:
        os.mkfifo(os.path.join(directory, "fifo"))
        path = os.path.join(directory, "file")
        with open(path, "w") as file:
            file.write("x" * 10000)
            file.flush()
            os.fsync(file.fileno())
        os.link(path, path + "2")
        os.symlink(path, path + "3")
        os.rename(path + "2", path + "4")
        os.truncate(path, 10)
        os.chmod(path, 0o600)
        os.utime(path)
        os.posix_fallocate(os.open(path, os.O_RDWR), 0, 100)
        assert os.stat(path).st_size == 100
        assert os.statvfs(directory).f_bsize


def descriptors():
    reader, writer = os.pipe()
    poll = select.epoll()
    poll.register(reader, select.EPOLLIN)
    os.write(writer, b"x")
    assert poll.poll(1) == [(reader, select.EPOLLIN)]
    if hasattr(os, "memfd_create"):
        os.close(os.memfd_create("x"))
    if hasattr(os, "pidfd_open"):
        os.close(os.pidfd_open(os.getpid()))


def native_code():
    assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(square)(5) == 25  # libffi closures map memory executable


def copies():
    """What uses sendfile, attributes and flushes where it can, and does without."""
    import pathlib
    import shutil

    with tempfile.TemporaryDirectory() as directory:
        source = os.path.join(directory, "source")
        with open(source, "wb") as file:
            file.write(bytes(range(256)) * 4000)
            file.flush()
            os.fsync(file.fileno())
        for copy in (shutil.copyfile, shutil.copy, shutil.copy2):
            target = os.path.join(directory, copy.__name__)
            copy(source, target)
            with open(source, "rb") as one, open(target, "rb") as other:
                assert one.read() == other.read()
        shutil.copytree(directory, directory + "2")
        shutil.rmtree(directory + "2")
        shutil.move(source, target + "3")
        path = pathlib.Path(directory, "copy")
        assert path.read_bytes() == pathlib.Path(target + "3").read_bytes()
        if hasattr(path, "copy"):  # 3.14
            assert path.copy(pathlib.Path(directory, "again")).read_bytes() == path.read_bytes()
        left, right = socket.socketpair()

        def sending():
            with open(path, "rb") as file:
                left.sendfile(file)
            left.close()

        sender = threading.Thread(target=sending)
        sender.start()
        got = b"".join(iter(lambda: right.recv(65536), b""))
        sender.join()
        assert got == path.read_bytes()

        async def send():
            loop = asyncio.get_running_loop()
            near, far = socket.socketpair()
            near.setblocking(False)
            with open(path, "rb") as file:  # noqa: ASYNC230 - a small file
                count = await loop.sock_sendfile(near, file, 0, 4096)
            assert count == 4096 == len(far.recv(8192))
            near.close()
            far.close()

        asyncio.run(send())


def locks():
    import fcntl

    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as other:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_UN)
        fcntl.flock(file, fcntl.LOCK_SH)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    path = tempfile.mkstemp()[1]
    with open(path) as one, open(path) as two:  # sandbox.send needs these to exclude each other
        fcntl.flock(one, fcntl.LOCK_EX)
        try:
            fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            raise AssertionError("an exclusive lock excludes nobody")
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.unlink(path)


def servers():
    """Servers on the loopback, of the usual kinds, with several clients at once."""
    import http.server
    import multiprocessing.connection
    import socketserver
    import urllib.request

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 300_000)

        def log_message(self, *arguments):
            pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert {len(body) for body in pool.map(lambda _: urllib.request.urlopen(url).read(), range(24))} == {300_000}
        server.shutdown()
    with multiprocessing.connection.Listener(("127.0.0.1", 0), authkey=b"x") as listener:
        peer = threading.Thread(target=lambda: listener.accept().send("hello"))
        peer.start()
        with multiprocessing.connection.Client(listener.address, authkey=b"x") as client:
            assert client.recv() == "hello"
        peer.join()

    async def many():
        server = await asyncio.start_server(lambda _, writer: (writer.write(b"y"), writer.close()), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]

        async def one():
            reader, writer = await asyncio.open_connection(*address)
            data = await reader.read()
            writer.close()
            return data

        begun = time.monotonic()
        assert set(await asyncio.gather(*(one() for _ in range(16)))) == {b"y"}
        assert time.monotonic() - begun < 0.9, "a connection was refused at first"
        server.close()

    asyncio.run(many())


def other_processes():
    """Limits of others are asked for by number, one's own set by 0; processors are set by
    number."""
    child = subprocess.Popen(["sleep", "30"])
    for pid in (os.getpid(), child.pid):
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (1, 1)
        resource.prlimit(0, resource.RLIMIT_NOFILE, resource.prlimit(pid, resource.RLIMIT_NOFILE))
        os.sched_setaffinity(pid, os.sched_getaffinity(pid))
    child.kill()
    child.wait()


def traces():
    import faulthandler
    import tracemalloc

    tracemalloc.start()
    tracemalloc.stop()
    faulthandler.enable()


def main():
    found = {}
    checks = [
        threads, thread_pool, process_pool, shared_memory, run_process, posix_spawn, async_io, database, tls, sockets, signals,
        own_limits, files, descriptors, native_code, traces, copies, locks, servers, other_processes,
    ]  # fmt: skip
    named = {check.__name__: check for check in checks}
    for method in multiprocessing.get_all_start_methods():
        named["multiprocessing " + method] = lambda method=method: processes(method)
    for name, check in named.items():
        try:
            check()
            found[name] = "ok"
        except BaseException:  # noqa: BLE001 - whatever it was, it is the finding
            found[name] = traceback.format_exc(limit=-2)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
