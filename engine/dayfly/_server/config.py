"""Every setting of the server as one frozen value, read from a TOML file, the environment and
flags, in rising order of strength.

A setting has one name: `port` in the file, `DAYFLY_SERVE_PORT` in the environment, `--port` as a
flag. The table `[limits]` has the fields of `dayfly.Limits`: `DAYFLY_SERVE_LIMITS_PIDS`,
`--limits-pids`. Lists are comma-separated outside the file. Every value is checked before anything
is done, and an error names where the value came from. Nothing else in the server reads the
environment.

click reads the flags; msgspec reads the file and checks the values. pydantic-settings would do all
of it, and was tried: it reads a missing file as an empty one, passes over unknown variables of the
environment, and takes `port = true` for 1.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec

from dayfly import AsyncSandbox, Limits
from dayfly._endpoint import Endpoint
from dayfly._limits import (
    MAX_CONTAINERS,
    MAX_MEMORY_MB,
    MAX_POOL,
    MAX_SECONDS,
    MAX_SESSION_RUNS,
    MAX_TIMEOUT_MS,
    MAX_WAITING,
    MIN_MEMORY_MB,
)
from dayfly._names import DEFAULT_IMAGE

ENVIRONMENT = "DAYFLY_SERVE_"
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^][:/@,\s]+")
LIMITS = "limits_"
JSON_GROWTH = 6
"""Bytes that JSON may take for one byte of UTF-8: `\\u0001`."""
JSON_ENVELOPE = 65_536
"""Bytes of a request beside its code and input: names, brackets, white space."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _about(text: str, **bounds: Any) -> msgspec.Meta:
    return msgspec.Meta(description=text, **bounds)


class ConfigError(Exception):
    """A setting that cannot be used. One line, which names the setting and where it came from."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings. Times are milliseconds or seconds as their names say, sizes bytes; 0 means "no
    limit" only where it says so."""

    host: Annotated[str, _about("Address to listen at. Beyond loopback it takes a key.", min_length=1)] = "127.0.0.1"
    port: Annotated[int, _about("TCP port; 0: any free one.", ge=0, le=65535)] = 8000
    playground: Annotated[bool, _about("Serve the page at /.")] = False

    keys: Annotated[list[str], _about("API keys, each name=sha256:hash, as `dayfly serve key new` prints them.")] = []
    keys_file: Annotated[str | None, _about("File with one key a line, read again when it changes.")] = None
    rate_per_minute: Annotated[float, _about("Runs a minute for each key; 0: no limit.", ge=0, le=1e9)] = 600
    rate_burst: Annotated[int, _about("Runs that a key may begin at once after a pause.", ge=1, le=1_000_000)] = 60
    concurrency: Annotated[int, _about("Runs of a key at once, waiting ones among them; 0: no limit.", ge=0, le=100_000)] = 32
    running_per_key: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTAINERS)] | None,
        _about("Containers that a key may have at once; none given: half, if there are two keys."),
    ] = None
    allowed_networks: Annotated[list[str], _about("Networks that clients may come from; none: all.")] = []
    allowed_hosts: Annotated[list[str], _about("Names in Host, without a port, that are served, and pages of theirs; none: any.")] = []
    trusted_proxies: Annotated[list[str], _about("Networks whose X-Forwarded-For is believed.")] = []

    pool_size: Annotated[int, _about("Containers kept warm.", ge=1, le=MAX_POOL)] = 4
    max_containers: Annotated[int | None, _about("Containers alive at all; none given: twice pool_size.")] = None
    timeout_ms: Annotated[float, _about("Wall time of a program that does not say.", ge=1, le=MAX_TIMEOUT_MS)] = 10_000
    max_timeout_ms: Annotated[float, _about("Wall time that a program may ask for.", ge=1, le=MAX_TIMEOUT_MS)] = 60_000
    memory_mb: Annotated[float, _about("Memory of a program, in 10^6 bytes.", ge=MIN_MEMORY_MB, le=MAX_MEMORY_MB)] = 50
    python: Annotated[Literal["3", "2"], _about("Interpreter of a program that does not say.")] = "3"
    preload: Annotated[list[str], _about("Modules that every program finds imported; none given: those of the image.")] = []
    image: Annotated[str, _about("Runner image.", min_length=1)] = DEFAULT_IMAGE
    runtime: Annotated[str | None, _about("Runtime of the engine: crun, runsc.")] = None
    docker_host: Annotated[str | None, _about("The engine's address.")] = None
    cgroup_parent: Annotated[str | None, _about("Control group that bounds all containers together.")] = None
    limits: Annotated[Limits, _about("All other limits of a program.")] = Limits()

    max_sessions: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_CONTAINERS)] | None,
        _about("Sessions open at once; 0: none; none given: half of max_containers."),
    ] = None
    sessions_per_key: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=MAX_CONTAINERS)] | None,
        _about("Sessions of a key at once; none given: half of max_sessions, if there are two keys."),
    ] = None
    session_runs: Annotated[int, _about("Programs that a session may ask for.", ge=1, le=MAX_SESSION_RUNS)] = 1_000
    session_seconds: Annotated[float, _about("Age that a session may ask for.", ge=1, le=MAX_SECONDS)] = 3_600
    session_idle_seconds: Annotated[float, _about("Idle time that a session may ask for.", ge=1, le=MAX_SECONDS)] = 300

    judge_concurrency: Annotated[int, _about("Containers that a judging may have at once.", ge=1, le=1_000)] = 4
    judge_seconds: Annotated[float, _about("A judging may take so long; cases beyond are judge errors.", ge=1, le=86_400)] = 300
    case_sets_bytes: Annotated[int, _about("Memory for sets of cases that are kept, together.", ge=0, le=1_000_000_000_000)] = 64_000_000

    run_code: Annotated[bool, _about("Serve POST /run_code and GET /v1/ping, as SandboxFusion does.")] = False
    run_code_without_key: Annotated[bool, _about("Take requests to /run_code without a key; all together have the quotas of one.")] = False
    run_code_wait_seconds: Annotated[float, _about("A request to /run_code waits so long beside its compile_timeout.", ge=0, le=3_600)] = 8

    piston: Annotated[bool, _about("Serve POST /api/v2/execute and GET /api/v2/runtimes, as Piston does.")] = False

    mcp: Annotated[bool, _about("Serve POST /mcp, the Model Context Protocol; needs the extra `mcp`.")] = False

    max_waiting: Annotated[int, _about("Runs in the queue at most.", ge=0, le=MAX_WAITING)] = 200
    queue_timeout_ms: Annotated[float, _about("Time in the queue at most.", ge=1, le=3_600_000)] = 10_000
    max_requests: Annotated[int, _about("Requests at once at most, of whatever kind.", ge=1, le=1_000_000)] = 512
    request_bytes: Annotated[
        Annotated[int, msgspec.Meta(ge=1_024, le=1_000_000_000)] | None,
        _about("Size of a request's body; none given: what code and input can take in JSON."),
    ] = None
    max_bodies_bytes: Annotated[
        int,
        _about("Bodies of requests at once, together; a key has half.", ge=1_024, le=1_000_000_000_000),
    ] = 256_000_000
    max_connections: Annotated[int, _about("Connections at once; the one idle longest is closed first.", ge=1, le=100_000)] = 1_000
    client_seconds: Annotated[float, _about("A client may take so long to send a request, or stop reading.", ge=0.1, le=3_600)] = 15
    drain_seconds: Annotated[float, _about("At a stop, runs under way may take so long.", ge=0, le=3_600)] = 20

    log_level: Annotated[Literal["debug", "info", "warning", "error"], _about("What is logged.")] = "info"
    log_programs: Annotated[bool, _about("Log code and output too.")] = False
    traces: Annotated[bool, _about("Export OpenTelemetry traces, as OTEL_EXPORTER_OTLP_ENDPOINT says; needs the extra `otel`.")] = False

    def __post_init__(self) -> None:
        networks("allowed_networks", self.allowed_networks)
        networks("trusted_proxies", self.trusted_proxies)
        for host in self.allowed_hosts:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"allowed_hosts: {host!r:.80} is not a name or an address without a port, such as sandbox.example or [::1]"
                )
        if self.timeout_ms > self.max_timeout_ms:
            raise ValueError(f"timeout_ms ({self.timeout_ms:g}) is more than max_timeout_ms ({self.max_timeout_ms:g})")
        if self.max_containers is not None and self.max_containers < self.pool_size:
            raise ValueError(f"max_containers ({self.max_containers}) is less than pool_size ({self.pool_size})")
        if self.max_sessions and self.max_sessions >= self.slots:
            raise ValueError(f"max_sessions ({self.max_sessions}) leaves none of {self.slots} containers (max_containers) to single runs")
        if not self.loopback and not self.keys and not self.keys_file:
            raise ValueError(
                f"host {self.host} is not a loopback address and there is no key: whoever reaches it could run code. "
                "Make one with `dayfly serve key new NAME --file FILE`, and set keys_file"
            )
        if self.max_bodies_bytes < 2 * self.max_request_bytes:
            raise ValueError(f"max_bodies_bytes ({self.max_bodies_bytes:,}) is less than twice request_bytes ({self.max_request_bytes:,})")
        self.sandbox()  # its own checks of what is left: names, addresses

    @property
    def loopback(self) -> bool:
        """True if nobody but this machine can reach it."""
        return is_loopback(self.host)

    def shown(self) -> dict[str, Any]:
        """Return the settings for people to see: hashes of keys are cut off after the names."""
        return {**msgspec.to_builtins(self), "keys": [entry.partition("=")[0] for entry in self.keys]}

    @property
    def max_request_bytes(self) -> int:
        """Bytes of a request's body at most: whatever the limits of a program allow fits."""
        if self.request_bytes is not None:
            return self.request_bytes
        return JSON_GROWTH * (self.limits.code_bytes + self.limits.input_bytes) + JSON_ENVELOPE

    @property
    def slots(self) -> int:
        """Containers alive at all."""
        return 2 * self.pool_size if self.max_containers is None else self.max_containers

    def running_share(self, keys: int) -> int:
        """Return how many runs of one key may be in containers at once, of `keys` keys."""
        if self.running_per_key is not None:
            return self.running_per_key
        return max(1, self.slots // 2) if keys > 1 else self.slots

    @property
    def session_slots(self) -> int:
        """Sessions open at once. Never as many as containers: single runs go on whatever sessions
        do."""
        return self.slots // 2 if self.max_sessions is None else self.max_sessions

    def session_share(self, keys: int) -> int:
        """Return how many sessions one key may have at once, of `keys` keys."""
        if self.sessions_per_key is not None:
            return min(self.sessions_per_key, self.session_slots)
        return -(-self.session_slots // 2) if keys > 1 else self.session_slots

    def sandbox(self, endpoint: Endpoint | None = None) -> AsyncSandbox:
        """Return a new sandbox as configured; not initialized. TypeError or ValueError for what it
        refuses.

        endpoint: the engine, where it was resolved before.
        """
        engine: Any = self.docker_host if endpoint is None else endpoint
        return AsyncSandbox(
            self.pool_size,
            self.timeout_ms,
            self.memory_mb,
            image=self.image,
            limits=self.limits,
            runtime=self.runtime,
            docker_host=engine,
            python=self.python,
            preload=self.preload or None,
            max_waiting=self.slots,  # the server's own queue is before it
            queue_timeout_ms=self.queue_timeout_ms,
            max_containers=self.max_containers,
            cgroup_parent=self.cgroup_parent,
        )


ABOUT_LIMITS = {
    "cpus": "Processors that a program may keep busy.",
    "pids": "Processes and threads of a program at once, the runner's two among them.",
    "tmpfs_bytes": "Size of /tmp, and again of the working directory.",
    "tmpfs_inodes": "Files and directories in each of the two, and in /dev/shm.",
    "shm_bytes": "Size of /dev/shm.",
    "open_files": "Open descriptors of one process.",
    "file_size_bytes": "Largest file that a program may write.",
    "loopback": "TCP inside the container; there is never another network.",
    "stdout_bytes": "Bytes of stdout that are kept.",
    "stderr_bytes": "Bytes of stderr that are kept.",
    "on_output_limit": "What happens to a program that writes more: truncate or kill.",
    "messages": "Values that a program may hand back by sandbox.send.",
    "message_bytes": "Size of these values as JSON, together.",
    "displays": "Figures and other displays that a program may hand back.",
    "display_bytes": "Size of the displays as JSON, together.",
    "file_count": "Files that a program may hand back.",
    "file_bytes": "Size of these files, together.",
    "code_bytes": "Size of the code in UTF-8.",
    "input_bytes": "Size of stdin, data, args, env and files, together.",
}
"""The fields of `dayfly.Limits` in a line each; its docstrings say more."""


class Setting(msgspec.Struct, frozen=True):
    """One setting by its flat name: `port`, `limits_pids`."""

    name: str
    type: Any
    help: str
    default: Any

    @property
    def flag(self) -> str:
        """`--port`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """`DAYFLY_SERVE_PORT`."""
        return ENVIRONMENT + self.name.upper()

    def convert(self, value: Any, origin: str, *, text: bool) -> Any:
        """Return the checked value. ConfigError names `origin` and the value.

        text: the value comes from a variable or a flag, where everything is text and a list is
        comma-separated.
        """
        if text and isinstance(value, str) and list[str] in (self.type, *get_args(self.type)):
            value = [part.strip() for part in value.split(",") if part.strip()]
        try:
            return msgspec.convert(value, self.type, strict=not text)
        except msgspec.ValidationError as error:
            given = "" if self.name == "keys" else f"; given: {value!r:.80}"  # somebody may have put a key there, not its hash
            raise ConfigError(f"{origin}: {error}{given}") from None


def settings() -> Iterator[Setting]:
    """Every setting, in the order of the value's fields."""
    for prefix, kind in (("", Config), (LIMITS, Limits)):
        hints = get_type_hints(kind, include_extras=True)
        for field in msgspec.structs.fields(kind):
            if field.name == "limits":
                continue
            hint = hints[field.name]
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            about = next((meta.description for meta in get_args(hint)[1:] if isinstance(meta, msgspec.Meta)), None)
            yield Setting(prefix + field.name, hint, about or ABOUT_LIMITS[field.name], default)


def load(file: str | None, environment: Mapping[str, str], flags: Mapping[str, str | bool]) -> Config:
    """Return the configuration. ConfigError for a value that cannot be used, wherever it comes
    from.

    file: path of a TOML file, or None. flags: what was given on the command line, by flat name.
    """
    known = {setting.name: setting for setting in settings()}
    given = [] if file is None else [(name, value, f"{file}: {name}", False) for name, value in _table(file)]
    given += [
        (variable.removeprefix(ENVIRONMENT).lower(), text, variable, True)
        for variable, text in environment.items()
        if variable.startswith(ENVIRONMENT)
    ]
    given += [(name, value, known[name].flag, True) for name, value in flags.items()]
    values: dict[str, Any] = {}
    for name, value, origin, text in given:
        if name not in known:
            raise ConfigError(f"{origin}: there is no such setting; see `dayfly serve --help`")
        values[name] = known[name].convert(value, origin, text=text)
    limits = {name.removeprefix(LIMITS): values.pop(name) for name in list(values) if name.startswith(LIMITS)}
    try:
        return Config(**values, limits=Limits(**limits))
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


def _table(file: str) -> Iterator[tuple[str, Any]]:
    """Yield what the file says, by flat name; in the file, a limit stands in the table `limits` and
    nowhere else."""
    try:
        table = msgspec.toml.decode(Path(file).read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{file}: {error}") from None
    limits = table.pop("limits", {})
    if not isinstance(limits, dict):
        raise ConfigError(f"{file}: limits is a table: [limits]")
    for name, value in table.items():
        yield (f"[{name}]" if name.startswith(LIMITS) else name), value
    for name, value in limits.items():
        yield LIMITS + name, value


def networks(name: str, texts: list[str]) -> tuple[Network, ...]:
    """Return the networks that `texts` name, an address being a network of one. ValueError if one
    is none."""
    try:
        return tuple(ipaddress.ip_network(text) for text in texts)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def is_loopback(host: str) -> bool:
    """True for `localhost` and the loopback addresses; any other name may mean any address, so it
    is False."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
