"""The counters that the kernel keeps of the container: OOM kills, peak memory, processor
time.

Facts of the kernel that the program cannot forge. The files are opened before it starts, and read
again when it has ended: at that time there may be no descriptor, or no memory, left to open them
with. What is not there is None.
"""

import os


class Counters:
    """`version` is 2 or 1 after the hierarchy whose files were found, 0 for none."""

    def __init__(self, root: str = "/sys/fs/cgroup") -> None:
        if os.path.exists(root + "/cgroup.controllers"):
            self.version = 2
            self._cpu_name: bytes | None = b"usage_usec"
            self._cpu_per_ms = 1e3
            self._oom_kills = _open(root + "/memory.events")
            self._peak = _open(root + "/memory.peak")
            self._cpu = _open(root + "/cpu.stat")
            self._usage, self._stat = root + "/memory.current", root + "/memory.stat"
            self._files = b"inactive_file", b"active_file"
        else:
            self.version = 1
            self._cpu_name = None
            self._cpu_per_ms = 1e6
            self._oom_kills = _open(root + "/memory/memory.oom_control")
            self._peak = _open(root + "/memory/memory.max_usage_in_bytes")
            self._cpu = _open(root + "/cpuacct/cpuacct.usage")
            self._usage, self._stat = root + "/memory/memory.usage_in_bytes", root + "/memory/memory.stat"
            self._files = b"total_inactive_file", b"total_active_file"
        if self._oom_kills is self._peak is self._cpu is None:
            self.version = 0
        self._at_start: tuple[int | None, int | None] = (None, None)
        self._highest = 0

    def start(self) -> None:
        """Take what was counted so far as zero."""
        self._at_start = self._oom_kills_and_cpu()

    def cpu(self) -> "float | None":
        """Return the ms of cpu since start."""
        now, then = _number(self._cpu, self._cpu_name), self._at_start[1]
        return None if now is None or then is None else (now - then) / self._cpu_per_ms

    def usage(self) -> "int | None":
        """Return the bytes that the container uses now, without the files that the kernel caches.

        It gives those up where memory is short. They are charged to the container that read them
        first, which is any of those on the host. For use before a program is there: it opens files.
        """
        usage, stat = _open(self._usage), _open(self._stat)
        try:
            used, cached = _number(usage), sum([_number(stat, name) or 0 for name in self._files])
        finally:
            for file in (usage, stat):
                if file is not None:
                    os.close(file)
        return None if used is None else max(used - cached, 0)

    def read(self) -> "tuple[int | None, int | None, float | None]":
        """Return (kills since start, bytes at the peak, ms of cpu since start).

        No program can reset the kernel's peak, nor can we. So it is that of the container's life,
        and None where it was as high at an earlier call: this program's own is not known then.
        """
        oom_kills, cpu = [
            None if now is None or then is None else now - then for now, then in zip(self._oom_kills_and_cpu(), self._at_start)
        ]
        peak = _number(self._peak)
        if peak is not None:
            self._highest, peak = max(peak, self._highest), peak if peak > self._highest else None
        return oom_kills, peak, None if cpu is None else round(cpu / self._cpu_per_ms, 3)

    def _oom_kills_and_cpu(self) -> "tuple[int | None, int | None]":
        return _number(self._oom_kills, b"oom_kill"), _number(self._cpu, self._cpu_name)


def _open(path: str) -> "int | None":
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _number(file: "int | None", name: "bytes | None" = None) -> "int | None":
    """Return the number in the file, or on its line `name number`; None where there is no such."""
    if file is None:
        return None
    try:
        words = os.pread(file, 4096, 0).split()
        return int(words[0] if name is None else words[words.index(name) + 1])
    except (OSError, ValueError, IndexError):
        return None
