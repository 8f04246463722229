"""Tries to get out, to get at its keeper, and to stay. Ends with status 0 if everything failed as
it should."""

import ctypes
import os
import socket
import subprocess
import sys
import time

succeeded = []


def attempt(what, attack):
    try:
        attack()
    except Exception as error:  # noqa: BLE001 - however it fails, it fails
        print(f"  failed: {what} ({type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''})")
    else:
        print(f"  SUCCEEDED: {what}")
        succeeded.append(what)


def system_call(name, *args):
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def write(path, data="x"):
    with open(path, "w") as file:
        file.write(data)


def stop_the_keeper():
    os.kill(1, 9)
    os.kill(1, 19)
    time.sleep(0.2)
    os.kill(1, 0)
    raise RuntimeError("process 1 is still there")


def fork_bomb():
    children = []
    try:
        for _ in range(10_000):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            children.append(pid)
    finally:
        for pid in children:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def fill_the_disk():
    with open("/tmp/full", "wb") as file:
        while True:
            file.write(b"x" * 100_000)


def execute_from_tmp():
    write("/tmp/tool", "#!/bin/sh\necho hello\n")
    os.chmod("/tmp/tool", 0o700)
    subprocess.run(["/tmp/tool"], check=True)


attempt("connect to the internet", lambda: socket.create_connection(("1.1.1.1", 53), timeout=2))
attempt("find the Docker socket", lambda: os.stat("/var/run/docker.sock"))
attempt("talk to the hypervisor (AF_VSOCK)", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("become root", lambda: os.setuid(0))
attempt("open a new user namespace", lambda: system_call("unshare", 0x10000000))
attempt("mount a file system", lambda: system_call("mount", b"none", b"/tmp", b"tmpfs", 0, None))
attempt("change the image", lambda: write("/usr/bin/python3"))
attempt("load a kernel helper", lambda: write("/proc/sys/kernel/core_pattern", "|/tmp/x"))
attempt("read process 1's memory", lambda: open("/proc/1/mem", "rb"))
attempt("write forged results to process 1's stdout", lambda: write("/proc/1/fd/1"))
attempt("trace process 1", lambda: system_call("ptrace", 16, 1, 0, 0))
attempt("kill or stop process 1", stop_the_keeper)
attempt("a fork bomb", fork_bomb)
attempt("execute a program of its own from /tmp", execute_from_tmp)
attempt("fill the disk", fill_the_disk)

# A daemon that would outlive its program: it is gone before the result is there.
if os.fork() == 0:
    os.setsid()
    time.sleep(3600)
print("  left behind: a daemon in a session of its own")
sys.exit(1 if succeeded else 0)
