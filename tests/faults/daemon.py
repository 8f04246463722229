"""A Docker Engine of the tests' own, to be stopped, killed and frozen: own data, own socket, own
containerd, own network namespace.

The namespace matters: a second daemon without a bridge deletes the bridge of the first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import httpx

from .conftest import Oracle

NO_NETWORK = ("--bridge=none", "--iptables=false", "--ip6tables=false")
UP_WITHIN = 30.0


class Daemon:
    """One dockerd. `start` returns when it answers. `address` stays the same from one start to the
    next."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dayfly-dockerd-", dir="/var/lib"))
        # A path in /var/lib may be too long for a socket.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="dayfly-"))
        self._log = (self._folder / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None
        socket = self._socket_folder / "s"
        self.address = f"unix://{socket}"
        self.oracle = Oracle(str(socket))

    def start(self, *options: str) -> None:
        places = {
            "data-root": self._folder / "data",
            "exec-root": self._socket_folder / "x",
            "pidfile": self._folder / "pid",
            "host": self.address,
        }
        command = ["unshare", "--net", "dockerd", *(f"--{name}={place}" for name, place in places.items()), *NO_NETWORK, *options]
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._end_containerd()
        # unshare becomes dockerd: signals meet the daemon itself.
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
        end = time.monotonic() + UP_WITHIN
        while not self.answers():
            assert self._process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.05)

    def _end_containerd(self) -> None:
        """It dies with its daemon. A zombie, where nothing reaps those, would be waited for by the
        next daemon as if it lived."""
        for pid in self._processes("containerd"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._processes("containerd"):
            time.sleep(0.01)
        (self._socket_folder / "x/containerd/containerd.pid").unlink(missing_ok=True)

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return self.oracle.call("GET", "/_ping")[0] == 200
        return False

    def said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-3_000:]

    def load(self, engine: Oracle, image: str) -> None:
        """Copy an image from another engine."""
        host = "http://engine"
        with (
            httpx.Client(transport=httpx.HTTPTransport(uds=engine.path), base_url=host, timeout=60) as theirs,
            httpx.Client(transport=httpx.HTTPTransport(uds=self.oracle.path), base_url=host, timeout=60) as ours,
            theirs.stream("GET", f"/images/{image}/get") as archive,
        ):
            archive.raise_for_status()
            ours.post("/images/load", content=archive.iter_raw(), headers={"Content-Type": "application/x-tar"}).raise_for_status()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> None:
        """Until it is dead."""
        assert self._process is not None
        self._process.wait(30)

    def containers(self) -> list[str]:
        """Names of dayfly's containers. A restarted daemon may list one, dead and nameless, that it
        does not have any more."""
        return [str(row["Names"]) for row in self.oracle.containers() if self.oracle.call("GET", f"/containers/{row['Id']}/json")[0] != 404]

    def programs(self) -> list[int]:
        """Processes in containers of ours, as the kernel sees them: children of its shims. A shim
        alone is the engine's affair."""
        shims = {str(pid) for pid in self._processes("containerd-shim-runc-v2")}
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if parent in shims and state != "Z":
                    found.append(int(entry.name))
        return found

    @staticmethod
    def runs(pid: int) -> str:
        """A process's command line; empty if it is no more."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""

    def has_no_program(self, pid: int) -> bool:
        """Whether a container's first process is a runner that was given nothing to run, or the
        engine's own before it is even that."""
        what = self.runs(pid)
        if what in ("", "runc init"):  # gone by now, or waiting for the engine's word to become what the container is for
            return True
        return "dayfly_runner" in what and not Path(f"/proc/{pid}/root/sandbox/main.py").exists()

    def kill_programs(self) -> None:
        """End what is in containers of ours, and their shims."""
        for pid in self.programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.kill_shims()

    def kill_shims(self) -> None:
        for pid in self._processes("containerd-shim-runc-v2"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _processes(self, name: str) -> list[int]:
        """Those of this program whose command line names our socket folder."""
        mine = f"{self._socket_folder}/x".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if Path(command.partition(b"\0")[0].decode()).name == name and mine in command:
                    found.append(int(entry.name))
        return found

    def close(self) -> None:
        """Stop it, and remove all that it has left on this machine."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.kill_programs()
        self._end_containerd()
        self._log.close()
        roots = (str(self._folder), str(self._socket_folder))
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(roots)), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=False)
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)
