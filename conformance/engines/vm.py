"""One more column: a host with cgroup v2, as a virtual machine under qemu's software emulation,
which needs no /dev/kvm and is slow.

    python -m conformance.engines.vm                   judge its engine
    python -m conformance.engines.vm pytest tests/...  run a command in it

Makes the machine (Debian trixie: its kernel, docker.io, crun, python3) with mmdebstrap, boots it,
and judges its engine from here, over a relay from a Unix socket to the machine's port. A container
takes several seconds there, so only the clauses in `CLAUSES` are judged: those that rest on
the kernel, the cgroups and the engine. The disk is kept in `~/.cache/dayfly-conformance`.

A command runs in a copy of the files that git knows here, with dayfly and `NEEDS` importable: for
tests that look at the kernel and at cgroups by themselves.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from conformance import adapter
from conformance.oracle import Oracle, repository
from conformance.report import FOLDER

CLAUSES = (
    "initialize.exact",
    "new.memory",
    "run.string",
    "failure.memory*",
    "pool.single-use",
    "pool.isolated",
    "confined.*",
    "end.close",
    "end.killed",
    "limit.*",
    "preload.*",
    "files.*",
    "session.*",
    "protocol.dialogue",
    "protocol.stdin-end",
    "protocol.session",
    "protocol.stop",
    "protocol.files",
)
CACHE = Path("~/.cache/dayfly-conformance").expanduser()
PACKAGES = "linux-image-cloud-amd64,docker.io,crun,iproute2,ca-certificates,initramfs-tools,python3"
PYTHON = "3.13"
"""What the machine has."""
NEEDS = ("httpx>=0.28,<1", "msgspec>=0.21", "hypothesis", "pytest>=9", "pytest-timeout>=2.4", "trio")
PORT = 23_750
BOOT = 300.0
"""Seconds until its engine must answer."""

_INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm; mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# As systemd does it: the daemon in a cgroup of its own, where it can see what limits there are.
mkdir /sys/fs/cgroup/engine; echo $$ > /sys/fs/cgroup/engine/cgroup.procs
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control; done
ip link set lo up
for device in /sys/class/net/e*; do ip link set "${device##*/}" up; ip addr add 10.0.2.15/24 dev "${device##*/}"; done
[ ! -b /dev/vdb ] || { mount /dev/vdb /mnt; sh /mnt/command >/dev/ttyS1 2>&1 & }
dockerd -H tcp://0.0.0.0:2375 -H unix:///var/run/docker.sock --tls=false --iptables=false --ip6tables=false --bridge=none \\
    --exec-opt native.cgroupdriver=cgroupfs --add-runtime crun=/usr/bin/crun
echo o > /proc/sysrq-trigger
"""


_COMMAND = """# Waits for the runner image, and tells how the command ended.
until python3 - <<'END'
import socket
with socket.socket(socket.AF_UNIX) as engine:
    engine.connect("/var/run/docker.sock")
    engine.sendall(b"GET /images/{image}/json HTTP/1.0\\r\\n\\r\\n")
    raise SystemExit(b" 200 " not in engine.recv(100))
END
do sleep 2; done 2>/dev/null
cd /mnt/repository
export HOME=/root TERM=dumb PYTHONPATH=/mnt/repository/engine:/mnt/repository/runner_stdio:/mnt/packages
{command}
echo "{ended}$?"
"""
_ENDED = "[conformance] the command ended with status "


def make() -> None:
    """Make the machine's disk, kernel and initrd, if they are not there."""
    recipe = CACHE / "recipe"
    if (CACHE / "disk").exists() and recipe.exists() and recipe.read_text() == PACKAGES + _INIT:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        root = Path(scratch) / "root"
        subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(root)], check=True)
        (root / "sbin" / "vm-init").write_text(_INIT)
        (root / "sbin" / "vm-init").chmod(0o755)
        for kind, name in (("vmlinuz", "kernel"), ("initrd.img", "initrd")):
            shutil.copyfile(next((root / "boot").glob(f"{kind}-*")), CACHE / name)
        disk = Path(scratch) / "disk"
        subprocess.run(["mkfs.ext4", "-q", "-d", str(root), str(disk), "6G"], check=True)
        disk.rename(CACHE / "disk")
        recipe.write_text(PACKAGES + _INIT)


def luggage(folder: Path, image: str, command: list[str]) -> Path:
    """Make a disk with a copy of the repository, what it needs, and the command."""
    root, files = folder / "luggage", ["git", "ls-files", "-z"]
    for name in subprocess.run(files, cwd=repository(), stdout=subprocess.PIPE, check=True).stdout.decode().split("\0")[:-1]:
        (root / "repository" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository() / name, root / "repository" / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(root / "packages")]
    subprocess.run([*pip, "--python-version", PYTHON, "--only-binary=:all:", *NEEDS], check=True)
    (root / "command").write_text(_COMMAND.format(image=image, command=shlex.join(command), ended=_ENDED))
    disk = folder / "luggage.disk"
    subprocess.run(["mkfs.ext4", "-q", "-d", str(root), str(disk), "1G"], check=True)
    return disk


@contextlib.contextmanager
def booted(second: Path | None = None) -> Iterator[tuple[str, IO[str]]]:
    """Boot the machine, and yield the address of its engine and what its second console says. What
    it changes on its disks is forgotten."""
    # One processor: with two, the emulation was seen to run into code that the kernel was just
    # patching on the other, and the kernel to panic.
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "4096", "-smp", "1", "-display", "none", "-no-reboot"]
    command += ["-kernel", str(CACHE / "kernel"), "-initrd", str(CACHE / "initrd"), "-snapshot"]
    command += ["-append", "root=/dev/vda rw init=/sbin/vm-init console=ttyS0 quiet panic=-1"]
    command += ["-drive", f"file={CACHE / 'disk'},format=raw,if=virtio", "-device", "virtio-net-pci,netdev=n"]
    command += ["-drive", f"file={second},format=raw,if=virtio"] * (second is not None)
    command += ["-netdev", f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{PORT}-:2375"]
    command += ["-serial", f"file:{CACHE / 'console'}", "-serial", "stdio"]
    with tempfile.TemporaryDirectory() as folder:
        machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace")
        assert machine.stdout is not None
        try:
            path = f"{folder}/vm.sock"
            threading.Thread(target=_relay, args=(path,), daemon=True).start()
            deadline = time.monotonic() + BOOT
            while not _answers():
                if machine.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"the machine does not come up: see {CACHE / 'console'}")
                time.sleep(1)
            yield f"unix://{path}", machine.stdout
        finally:
            machine.kill()
            machine.wait()


def _answers() -> bool:
    try:
        with socket.create_connection(("127.0.0.1", PORT), 5) as connection:
            connection.settimeout(20)
            connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in connection.recv(4096)
    except OSError:
        return False


def _relay(path: str) -> None:
    """Hand each connection to the Unix socket on to the machine's port."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(100)
        while True:
            near, _ = server.accept()
            try:
                far = socket.create_connection(("127.0.0.1", PORT))
            except OSError:
                near.close()
                continue
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_copy, args=(source, target), daemon=True).start()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main() -> None:
    """Judge the machine's engine, or run a command in the machine."""
    make()
    local = "unix:///var/run/docker.sock"
    name = adapter.load("conformance.adapter:Dayfly", local, None).image()
    with (
        tempfile.TemporaryDirectory(dir=CACHE) as folder,
        booted(luggage(Path(folder), name, sys.argv[1:]) if sys.argv[1:] else None) as (address, said),
    ):
        print(f"[conformance] the machine is up; it is given {name}", flush=True)  # noqa: T201
        Oracle(address).call("POST", "/images/load", data=Oracle(local).call("GET", f"/images/{name}/get"))
        if sys.argv[1:]:
            for line in said:
                print(line, end="", flush=True)  # noqa: T201
                if line.startswith(_ENDED):
                    sys.exit(int(line.removeprefix(_ENDED)))
            sys.exit(f"the machine ended: see {CACHE / 'console'}")
        report = repository() / "build" / "conformance" / "vm"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(FOLDER / "pytest.toml"),
            str(FOLDER),
            "-q",
            "-p",
            "no:cacheprovider",
            "--engine-only",
        ]
        command += ["--report", str(report), "--column", "docker-26 in a VM", "--timeout", "1800"]
        command += [word for name in CLAUSES for word in ("--clause", name)]
        environment = {**os.environ, "DOCKER_HOST": address, "CONFORMANCE_PATIENCE": "300"}
        sys.exit(subprocess.run(command, env=environment, cwd=repository(), check=False).returncode)


if __name__ == "__main__":
    main()
