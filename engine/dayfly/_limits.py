"""What one program may use. Values only; `spec` and the runner turn them into the kernel's own
limits."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec

MAX_RUN_BYTES = 40_000_000
"""Ceiling of code, of input, and of what a program may send: what this process holds in memory for
one run."""

MAX_WAITING = 1_000_000
"""Ceiling of callers in a queue."""
MAX_QUEUE_MS = 1e12
"""Ceiling of the time in it."""
MAX_POOL, MAX_CONTAINERS = 10_000, 100_000
"""Ceilings of containers that are kept warm, and of those alive."""
MIN_MEMORY_MB, MAX_MEMORY_MB = 16.0, 1e9
"""Bounds of a container's memory. The engine's own floor is 6 MiB; a runner and a Python do not
start in less than 16 MB."""
MAX_SECONDS = 604_800.0
"""Ceiling of the time of a program, of a session and of its idle time: a week."""
MAX_TIMEOUT_MS = MAX_SECONDS * 1_000
MAX_SESSION_RUNS = 1_000_000
SESSION_RUNS, SESSION_SECONDS, SESSION_IDLE = 100, 600.0, 60.0
"""What a session has unless it asks for something else: programs, age, idle time."""


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of a run beside its time and memory. Sizes are bytes, 1 MB is 10^6.

    Raises TypeError for a value of the wrong type and ValueError for one out of range, naming the
    field. The sum of the tmpfs sizes and `shm_bytes` counts against the container's memory when it
    is used.
    """

    cpus: float = 1.0
    """Processors' worth of time, by CFS quota: 0.01 or more. `os.cpu_count()` inside is this number
    rounded up, and at most `pids` less 8."""
    pids: int = 64
    """Processes and threads at once, the runner's own two among them: 8 or more."""
    tmpfs_bytes: int = 16_000_000
    """Size of `/tmp`, and again of the working directory."""
    tmpfs_inodes: int = 4_096
    """Files and directories in each of the two, and in `/dev/shm`."""
    shm_bytes: int = 8_000_000
    """Size of `/dev/shm`."""
    open_files: int = 256
    """Descriptors of one process: 16 or more."""
    file_size_bytes: int = 16_000_000
    """Largest file that may be written (RLIMIT_FSIZE)."""
    loopback: bool = True
    """TCP inside the container; UDP too, where its memory is charged to the container: on cgroup
    v2, with crun, under gVisor. Without it only Unix sockets are left: what waits for `accept` is
    the host's memory and counts against no container."""
    stdout_bytes: int = 1_000_000
    """Output kept of stdout; what is over is counted, dropped and flagged."""
    stderr_bytes: int = 1_000_000
    """The same for stderr."""
    on_output_limit: Literal["truncate", "kill"] = "truncate"
    """truncate: the program goes on, its further output is dropped. kill: the run ends, outcome
    `output_limit`."""
    messages: int = 1_000
    """Values that `sandbox.send` may deliver."""
    message_bytes: int = 1_000_000
    """Their JSON text, summed."""
    displays: int = 20
    """Figures and other displays that a program may deliver."""
    display_bytes: int = 8_000_000
    """Their size as JSON, summed."""
    file_count: int = 64
    """Files that `fetch` may give back."""
    file_bytes: int = 8_000_000
    """Their contents, summed."""
    code_bytes: int = 1_000_000
    """Size of the code in UTF-8; more is a ValueError."""
    input_bytes: int = 4_000_000
    """Size of stdin, data, args, env and files together; more is a ValueError."""

    def __post_init__(self) -> None:
        number("cpus", self.cpus, least=0.01, most=4_096)
        integer("pids", self.pids, least=8, most=4_194_304)
        integer("tmpfs_bytes", self.tmpfs_bytes, least=65_536, most=2**40)
        integer("tmpfs_inodes", self.tmpfs_inodes, least=16, most=2**31)
        integer("shm_bytes", self.shm_bytes, least=65_536, most=2**40)
        integer("open_files", self.open_files, least=16, most=1_000_000)
        integer("file_size_bytes", self.file_size_bytes, least=65_536, most=2**40)
        integer("stdout_bytes", self.stdout_bytes, least=1, most=2**40)
        integer("stderr_bytes", self.stderr_bytes, least=1, most=2**40)
        integer("messages", self.messages, least=0, most=1_000_000)
        integer("message_bytes", self.message_bytes, least=0, most=MAX_RUN_BYTES)
        integer("displays", self.displays, least=0, most=1_000_000)
        integer("display_bytes", self.display_bytes, least=0, most=MAX_RUN_BYTES)
        integer("file_count", self.file_count, least=0, most=1_000_000)
        integer("file_bytes", self.file_bytes, least=0, most=2**40)
        integer("code_bytes", self.code_bytes, least=1, most=MAX_RUN_BYTES)
        integer("input_bytes", self.input_bytes, least=0, most=MAX_RUN_BYTES)
        loopback: Any = self.loopback
        if not isinstance(loopback, bool):
            raise TypeError(f"loopback must be True or False, not {loopback!r:.80}")
        choice: Any = self.on_output_limit
        if type(choice) is not str:
            raise TypeError(f"on_output_limit must be a str, not {type(choice).__name__}")
        if choice not in ("truncate", "kill"):
            raise ValueError(f"on_output_limit must be 'truncate' or 'kill', not {choice!r:.80}")


def integer(name: str, value: Any, *, least: int, most: int) -> int:
    """Return `value` if it is an int within the bounds; TypeError or ValueError if not. No bool,
    nor any other subclass."""
    # A subclass may compare as it likes, and the codec of the frames takes none.
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:,} to {most:,}, not {_shown(value)}")
    return value


def number(name: str, value: Any, *, least: float, most: float) -> float:
    """Return `value` as a float if it is a finite int or float within the bounds; else raise as
    above."""
    if type(value) not in (int, float):
        raise TypeError(f"{name} must be an int or a float, not {type(value).__name__}")
    # A comparison with NaN is False whichever way it is put, so finiteness is asked for by name.
    if (isinstance(value, float) and not math.isfinite(value)) or not least <= value <= most:
        raise ValueError(f"{name} must be a finite number from {least:,} to {most:,}, not {_shown(value)}")
    return float(value)


def _shown(value: Any) -> str:
    # Python refuses to write out an int of many thousand digits, with a ValueError that names no
    # field.
    return repr(value) if isinstance(value, float) or abs(value) < 10**30 else "an int of that size"
