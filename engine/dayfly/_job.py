"""What is to be run: one Job, checked as far as it can be without knowing a sandbox's limits.

Bad input ends here or in `request`, before any container is touched: TypeError for a wrong type,
ValueError for a wrong value. What the program's text means is Python's to say: any bytes are a
program, if only one with a syntax error.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec
from msgspec import UNSET, UnsetType

from ._limits import MAX_TIMEOUT_MS, Limits, number
from ._messages import MAX_FILES, MAX_PATTERNS, PATH_BYTES, RUN_SIZE, Request, Run, encode, path_problem
from ._result import has_finite_numbers

if TYPE_CHECKING:
    from typing import Unpack  # from 3.11 on; no run-time code reads the annotation

    Source = str | bytes | None
    FileContent = str | bytes
else:
    # What the JSON form may hold: msgspec reads these, and one JSON string cannot be two types.
    Source = str | None
    FileContent = bytes

RUN_ROOM = RUN_SIZE - 32
"""What is left of a `run` frame beside its token."""
PROGRAM, DATA = "main.py", "data.json"
MOST_FILES = MAX_FILES - 2
"""Of `files`, beside the two above."""


class RunOptions(TypedDict, total=False):
    """The keyword parameters of a run, beside its code. None, or UNSET for `data`, is as if it were
    not given."""

    timeout_ms: float | None
    """Milliseconds of wall time, 1 or more."""
    cpu_limit_ms: float | None
    """Milliseconds of processor time, of all the program's processes together, 1 or more."""
    v3: bool | None
    """True: Python 3. False: Python 2.7."""
    data: Any
    """Any JSON value: `import sandbox; sandbox.data`. Also the one line of stdin where no stdin is
    given."""
    stdin: str | bytes | None
    """Standard input."""
    args: Sequence[str] | None
    """`sys.argv[1:]`."""
    env: Mapping[str, str] | None
    """Added to the program's environment."""
    files: Mapping[str, str | bytes] | None
    """Path to content: files in the working directory when the program starts."""
    fetch: Sequence[str] | None
    """Paths and patterns of the files to give back."""
    merge_stderr: bool | None
    """Write stderr into stdout's pipe, as `2>&1` does: all output in the order of writing, in
    `stdout`."""
    seed: int | None
    """Seed of the random generators."""
    figures: bool | None
    """Give the figures of matplotlib that it shows, or has open at its end, as displays."""
    last_value: bool | None
    """Give the value of the last expression."""


class Job(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One program and its input. Its JSON form has the documented names: `code`, `v3`, `timeoutMs`,
    `data`.

    Raises TypeError or ValueError for anything that cannot be run.
    """

    code: Source = None
    """Python source as text; written as UTF-8. Bytes are taken for `code_bytes`."""
    code_bytes: bytes | None = None
    """Python source as it is in a file, with a PEP 263 cookie if it has one; base64 in JSON. One of
    the two is given."""
    v3: bool | None = None
    """True: Python 3. False: Python 2.7. None: the sandbox's default."""
    timeout_ms: float | None = None
    """Milliseconds of wall time, 1 or more. None: the sandbox's default."""
    cpu_limit_ms: float | None = None
    """Milliseconds of processor time, of all the program's processes together, 1 or more. None: no
    limit but `timeout_ms`. Without effect where the kernel does not count it: under gVisor,
    `Result.cpu_ms` is None."""
    data: Any = UNSET
    """Any JSON value: `import sandbox; sandbox.data`. Also the one line of stdin where no stdin is
    given. A `msgspec.Raw` is taken as JSON text, checked, and passed on without being decoded."""
    stdin: str | None = None
    """Standard input as text; None: empty, or `data`."""
    stdin_bytes: bytes | None = None
    """Standard input as bytes; base64 in JSON. At most one of the two."""
    args: Sequence[str] = ()
    """`sys.argv[1:]`."""
    env: Mapping[str, str] = {}
    """Added to the program's environment."""
    files: Mapping[str, FileContent] = {}
    """Path to content of files in the working directory; base64 in JSON. Text is written as UTF-8.

    Paths are relative and POSIX: at most 1,024 bytes, 16 parts of at most 255 bytes, none of them
    ".." """
    files_text: Mapping[str, str] = {}
    """The same as text, for JSON; what is given here is found in `files`."""
    fetch: Sequence[str] = ()
    """Files of the working directory to give back when the program has ended: paths, and patterns
    with "*", "?" and "**"."""
    merge_stderr: bool = False
    """Write stderr into stdout's pipe, as `2>&1` does: all output in the order of writing, in
    `stdout`."""
    seed: int | None = None
    """Seed of `random` and of the preloaded modules' generators. None: each run has its own random
    numbers. Python 3 only; without effect beside an `env` that an interpreter reads at its start
    (docs/preload.md)."""
    figures: bool = False
    """Give each figure of matplotlib that the program shows, or has open at its end, in
    `Result.displays`. Python 3 only."""
    last_value: bool = False
    """Give the value of the program's last statement, if that is an expression, as
    `Result.last_value`. Python 3 only."""

    def __post_init__(self) -> None:
        self._check_code()
        if self.v3 is not None and not isinstance(self.v3, bool):
            raise TypeError(f"v3 must be True, False or None, not {self.v3!r:.80}")
        if self.timeout_ms is not None:
            check_timeout(self.timeout_ms)
        if self.cpu_limit_ms is not None:
            number("cpu_limit_ms", self.cpu_limit_ms, least=1, most=MAX_TIMEOUT_MS)
        if self.stdin is not None:
            _text("stdin", self.stdin, nul=True)
        if self.stdin_bytes is not None and type(self.stdin_bytes) is not bytes:
            raise TypeError(f"stdin_bytes must be bytes, not {type(self.stdin_bytes).__name__}")
        if self.stdin is not None and self.stdin_bytes is not None:
            raise ValueError("stdin and stdin_bytes are both given; one of them is enough")
        if not isinstance(self.env, Mapping):
            raise TypeError(f"env must be a mapping of str to str, not {type(self.env).__name__}")
        # Copies: what is checked must be what is sent, and the caller's own list may change
        # meanwhile.
        msgspec.structs.force_setattr(self, "args", _texts("args", self.args))
        msgspec.structs.force_setattr(self, "env", dict(self.env))
        for key, value in self.env.items():
            _text("an env key", key)
            if not key or "=" in key:
                raise ValueError(f"the env key {key!r:.80} is empty or has a '=' in it")
            _text(f"env[{key!r:.80}]", value)
        msgspec.structs.force_setattr(self, "files", self._checked_files())
        msgspec.structs.force_setattr(self, "files_text", {})
        msgspec.structs.force_setattr(self, "fetch", _texts("fetch", self.fetch))
        _check_fetch(self.fetch)
        for name in ("merge_stderr", "figures", "last_value"):
            if not isinstance(flag := getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {flag!r:.80}")
        if self.seed is not None and type(self.seed) is not int:
            raise TypeError(f"seed must be an int or None, not {type(self.seed).__name__}")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError("seed must fit 64 bits: from -2^63 to 2^63 - 1")

    @property
    def source(self) -> bytes:
        """The program as the bytes of its file."""
        # A lone surrogate becomes bytes that Python refuses as a syntax error of the program.
        return self.code.encode("utf-8", "surrogatepass") if isinstance(self.code, str) else self.code_bytes or b""

    def _check_code(self) -> None:
        if self.code is not None and self.code_bytes is not None:
            raise ValueError("code and code_bytes are both given; one of them is enough")
        if type(self.code) is bytes:
            msgspec.structs.force_setattr(self, "code_bytes", self.code)
            msgspec.structs.force_setattr(self, "code", None)
        elif self.code_bytes is not None:
            if type(self.code_bytes) is not bytes:
                raise TypeError(f"code_bytes must be bytes, not {type(self.code_bytes).__name__}")
        # A subclass of str may lie about itself.
        elif type(self.code) is not str:
            raise TypeError(f"code must be a str or bytes, not {type(self.code).__name__}")

    def _checked_files(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for name, given in (("files", self.files), ("files_text", self.files_text)):
            if not isinstance(given, Mapping):
                raise TypeError(f"{name} must be a mapping of paths to bytes or str, not {type(given).__name__}")
            for path, content in given.items():
                _check_path(name, path)
                if path in found:
                    raise ValueError(f"the file {path!r:.80} is given twice")
                if type(content) is str:
                    _text(f"{name}[{path!r:.80}]", content, nul=True)
                    found[path] = content.encode()
                elif type(content) is bytes:
                    found[path] = content
                else:
                    raise TypeError(f"{name}[{path!r:.80}] must be bytes or a str, not {type(content).__name__}")
        if len(found) > MOST_FILES:
            raise ValueError(f"{len(found):,} files are given; {MOST_FILES:,} are allowed")
        taken = {PROGRAM, DATA} if self.data is not UNSET else {PROGRAM}
        for path in found:
            if path in taken:
                raise ValueError(f"the file {path!r} is made from {'code' if path == PROGRAM else 'data'}; give it there")
            parts = path.split("/")
            for end in range(1, len(parts)):
                if (folder := "/".join(parts[:end])) in found or folder in taken:
                    raise ValueError(f"{folder!r:.80} is a file, and a folder of the file {path!r:.80}")
        return found


def check_timeout(value: Any) -> float:
    """Return a time-out in milliseconds as a float; TypeError or ValueError if it is none."""
    return number("timeout_ms", value, least=1, most=MAX_TIMEOUT_MS)


def as_job(what: str | bytes | Job | Mapping[str, Any], **options: Unpack[RunOptions]) -> Job:
    """Return the Job for what `run` was called with. A mapping has the JSON form's names; what is
    given beside it wins.

    TypeError for a keyword that is not in RunOptions.
    """
    for name in options:
        if name not in RunOptions.__annotations__:
            raise TypeError(f"a run has no keyword {name!r}; it may have {', '.join(RunOptions.__annotations__)}")
    changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None and name not in {"data", "stdin"}}
    if (data := options.get("data", UNSET)) is not UNSET:
        changes["data"] = data
    if (stdin := options.get("stdin")) is not None:
        if not isinstance(stdin, (str, bytes)):
            raise TypeError(f"stdin must be str or bytes, not {type(stdin).__name__}")
        changes |= {"stdin": stdin, "stdin_bytes": None} if isinstance(stdin, str) else {"stdin": None, "stdin_bytes": stdin}
    if isinstance(what, Mapping):
        what = _from_mapping(what)
    elif not isinstance(what, (str, bytes, Job)):
        raise TypeError(f"code must be a str or bytes, a Job or a mapping, not {type(what).__name__}")
    if isinstance(what, Job):
        return msgspec.structs.replace(what, **changes) if changes else what
    return Job(code=what, **changes)


def to_json(job: Job) -> bytes:
    """Return the job's JSON form. TypeError or ValueError for data that JSON cannot carry."""
    changes: dict[str, Any] = {}
    if job.data is not UNSET:
        changes["data"] = msgspec.Raw(_json(job.data).encode())
    if job.code is not None:  # which may have lone surrogates
        changes |= {"code": None, "code_bytes": job.source}
    return msgspec.json.encode(msgspec.structs.replace(job, **changes))


def request(job: Job, limits: Limits, *, timeout_ms: float, python: str, clean: bool = False) -> Request:
    """Return all that hands `job` over. ValueError for code or input over the limits, or data that
    JSON cannot carry.

    `clean` is for a session: what earlier programs left in the working files is wiped first.
    """
    if not isinstance(clean, bool):
        raise TypeError(f"clean must be True or False, not {clean!r:.80}")
    source = job.source
    if len(source) > limits.code_bytes:
        raise ValueError(f"code is {len(source):,} bytes in UTF-8; the limit (code_bytes) is {limits.code_bytes:,}")
    stdin = job.stdin_bytes if job.stdin is None else job.stdin.encode()
    files: dict[str, bytes] = {PROGRAM: source}
    if job.data is not UNSET:
        files[DATA] = data = _json(job.data).encode()
        if stdin is None:
            stdin = data + b"\n"
    version: Literal["2", "3"] = "2" if (python == "2" if job.v3 is None else not job.v3) else "3"
    if version == "2" and (job.figures or job.last_value or job.seed is not None):
        raise ValueError("figures, last_value and seed need Python 3")
    texts = (*job.args, *job.env, *job.env.values())
    given = job.stdin_bytes if job.stdin is None else stdin
    size = len(given or b"") + sum(len(text.encode()) for text in texts) + len(files.get(DATA, b""))
    size += sum(len(path.encode()) + len(content) for path, content in job.files.items())
    if size > limits.input_bytes:
        raise ValueError(f"stdin, data, args, env and files are {size:,} bytes together; the limit (input_bytes) is {limits.input_bytes:,}")
    files |= {path: bytes(content) for path, content in job.files.items() if not isinstance(content, str)}
    run = Run(
        token="",
        clean=clean,
        python=version,
        args=list(job.args),
        env=dict(job.env),
        stdin=bool(stdin),
        merge_stderr=job.merge_stderr,
        seed=job.seed,
        timeout_ms=math.ceil(timeout_ms if job.timeout_ms is None else job.timeout_ms),
        cpu_limit_ms=None if job.cpu_limit_ms is None else math.ceil(job.cpu_limit_ms),
        open_files=limits.open_files,
        stdout_limit=limits.stdout_bytes,
        stderr_limit=limits.stderr_bytes,
        on_output_limit=limits.on_output_limit,
        message_limit=limits.message_bytes,
        message_count=limits.messages,
        display_limit=limits.display_bytes,
        display_count=limits.displays,
        figures=job.figures,
        last_value=job.last_value,
        fetch=list(job.fetch),
        file_limit=limits.file_bytes,
        file_count=limits.file_count,
    )
    # In JSON a control character takes six bytes. A frame that is too large must be refused here:
    # later on, a container would be spent.
    if 6 * sum(len(text.encode()) + 4 for text in (*texts, *job.fetch)) > RUN_ROOM and (size := len(encode(run))) > RUN_ROOM:
        raise ValueError(f"args, env and fetch are {size:,} bytes as a frame; the protocol allows {RUN_ROOM:,}")
    return Request(run=run, files=tuple(files.items()), stdin=stdin or b"")


def _from_mapping(mapping: Mapping[Any, Any]) -> Job:
    names = {field.encode_name: field.name for field in msgspec.structs.fields(Job)}
    unknown = [key for key in mapping if key not in names]
    if unknown:
        raise ValueError(f"a job has no key {unknown[0]!r:.80}; it may have {', '.join(names)}")
    if "code" not in mapping and "codeBytes" not in mapping:
        raise ValueError("a job needs the key 'code' or 'codeBytes'")
    values: dict[str, Any] = {names[key]: value for key, value in mapping.items()}
    for key, name in (("stdinBytes", "stdin_bytes"), ("codeBytes", "code_bytes")):
        if isinstance(values.get(name), str):
            values[name] = _from_base64(key, values[name])
    if isinstance(values.get("files"), Mapping):
        values["files"] = {
            path: _from_base64(f"files[{path!r:.80}]", content) if isinstance(content, str) else content
            for path, content in values["files"].items()
        }
    return Job(**values)


def _from_base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{name} is not valid base64: {error}") from None


def _texts(what: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise TypeError(f"{what} must be a sequence of str, not {type(values).__name__}")
    for index, value in enumerate(values):
        _text(f"{what}[{index}]", value)
    return tuple(values)


def _check_path(what: str, path: Any) -> None:
    if type(path) is not str:
        raise TypeError(f"a path of {what} must be a str, not {type(path).__name__}")
    if problem := path_problem(path):
        raise ValueError(f"the path {path!r:.80} of {what} {problem}")


def _check_fetch(patterns: Sequence[str]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"fetch has {len(patterns):,} paths; {MAX_PATTERNS} are allowed")
    for pattern in patterns:
        if len(pattern.encode()) > PATH_BYTES or ("*" not in pattern and "?" not in pattern):
            _check_path("fetch", pattern)
        elif pattern.startswith("/") or {"", ".", ".."} & set(pattern.split("/")):
            raise ValueError(f"the pattern {pattern!r:.80} of fetch must be relative, and no part of it may be empty, '.' or '..'")


def _text(what: str, value: Any, *, nul: bool = False) -> None:
    # A subclass of str may lie about itself.
    if type(value) is not str:
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not nul and "\0" in value:
        raise ValueError(f"{what} has a NUL character at position {value.index(chr(0))}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has a lone surrogate at position {error.start}, which is not text") from None


def _json(data: Any) -> str:
    if isinstance(data, msgspec.Raw):  # JSON text already: checked, and never built
        try:
            encoded = msgspec.json.format(bytes(data), indent=-1)
            text = encoded.decode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"data is not valid JSON: {error}") from None
        if not has_finite_numbers(encoded):
            raise ValueError("data has a number that is out of range")
        return text
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except TypeError as error:
        raise TypeError(f"data is not a JSON value: {error}") from None
    except RecursionError:
        raise ValueError("data is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("data has a string with a lone surrogate, which JSON cannot carry") from None
    except ValueError as error:
        raise ValueError(f"data is not a JSON value: {error}") from None
    return text


__all__ = ["UNSET", "Job", "RunOptions", "UnsetType", "as_job", "check_timeout", "request", "to_json"]
