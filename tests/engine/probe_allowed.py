"""Runs inside a container: uses what a program may expect of Python, and prints name -> "ok" or the error. Python >= 3.8."""
# About system calls, on whatever Python the container has: no pathlib, no types.
# ruff: noqa: PTH101, PTH104, PTH116, PTH118, PTH123, PTH211
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
        with open(path, "rb") as source, open(path + "5", "wb") as target:
            os.sendfile(target.fileno(), source.fileno(), 0, 100)
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


def terminal():
    leader, follower = os.openpty()
    assert os.isatty(follower)
    os.get_terminal_size(follower)
    os.set_blocking(leader, False)


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
        own_limits, files, descriptors, native_code, terminal, traces,
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
