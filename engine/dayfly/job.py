"""What is to be run: one Job, checked as far as it can be without knowing a sandbox's limits.

Bad input ends here or in `request`, before any container is touched: TypeError for a wrong type, ValueError for a wrong value.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from .limits import Limits, number
from .messages import RUN_SIZE, Run, encode

MAX_TIMEOUT_MS = 7 * 24 * 3_600_000.0


class Job(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    """One program and its input. Its JSON form has the documented names: `code`, `v3`, `timeoutMs`, `data`.

    Raises TypeError or ValueError for anything that cannot be run.
    """

    code: str
    """Python source. Not empty, without NUL and lone surrogates."""
    v3: bool | None = None
    """True: Python 3. False: Python 2.7. None: the sandbox's default."""
    timeout_ms: float | None = None
    """Milliseconds of wall time, 1 or more. None: the sandbox's default."""
    data: Any = UNSET
    """Any JSON value: `import sandbox; sandbox.data`. Also the one line of stdin where no stdin is given.
    A `msgspec.Raw` is taken as JSON text, checked, and passed on without being decoded."""
    stdin: str | None = None
    """Standard input as text; None: empty, or `data`."""
    stdin_bytes: bytes | None = None
    """Standard input as bytes; base64 in JSON. At most one of the two."""
    args: Sequence[str] = ()
    """`sys.argv[1:]`."""
    env: Mapping[str, str] = {}
    """Added to the program's environment."""

    def __post_init__(self) -> None:
        _text("code", self.code)
        if not self.code:
            raise ValueError("code is empty")
        if self.v3 is not None and not isinstance(self.v3, bool):
            raise TypeError(f"v3 must be True, False or None, not {self.v3!r:.80}")
        if self.timeout_ms is not None:
            check_timeout(self.timeout_ms)
        if self.stdin is not None:
            _text("stdin", self.stdin, nul=True)
        if self.stdin_bytes is not None and type(self.stdin_bytes) is not bytes:
            raise TypeError(f"stdin_bytes must be bytes, not {type(self.stdin_bytes).__name__}")
        if self.stdin is not None and self.stdin_bytes is not None:
            raise ValueError("stdin and stdin_bytes are both given; one of them is enough")
        if isinstance(self.args, (str, bytes)) or not isinstance(self.args, Sequence):
            raise TypeError(f"args must be a sequence of str, not {type(self.args).__name__}")
        if not isinstance(self.env, Mapping):
            raise TypeError(f"env must be a mapping of str to str, not {type(self.env).__name__}")
        # Copies: what is checked must be what is sent, and the caller's own list may change meanwhile.
        msgspec.structs.force_setattr(self, "args", tuple(self.args))
        msgspec.structs.force_setattr(self, "env", dict(self.env))
        for index, value in enumerate(self.args):
            _text(f"args[{index}]", value)
        for key, value in self.env.items():
            _text("an env key", key)
            if not key or "=" in key:
                raise ValueError(f"the env key {key!r:.80} is empty or has a '=' in it")
            _text(f"env[{key!r:.80}]", value)


def check_timeout(value: Any) -> float:
    """Return a time-out in milliseconds as a float; TypeError or ValueError if it is none."""
    return number("timeout_ms", value, least=1, most=MAX_TIMEOUT_MS)


def as_job(
    what: str | Job | Mapping[str, Any],
    *,
    timeout_ms: float | None = None,
    v3: bool | None = None,
    data: Any = UNSET,
    stdin: str | bytes | None = None,
    args: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> Job:
    """Return the Job for what `run` was called with. A mapping has the JSON form's names; what is given beside it wins.

    None means not given; UNSET for `data`, which may be None.
    """
    given = {"timeout_ms": timeout_ms, "v3": v3, "args": args, "env": env}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if data is not UNSET:
        changes["data"] = data
    if stdin is not None:
        if not isinstance(stdin, (str, bytes)):
            raise TypeError(f"stdin must be str or bytes, not {type(stdin).__name__}")
        changes |= {"stdin": stdin, "stdin_bytes": None} if isinstance(stdin, str) else {"stdin": None, "stdin_bytes": stdin}
    if isinstance(what, Mapping):
        what = _from_mapping(what)
    if isinstance(what, Job):
        return msgspec.structs.replace(what, **changes) if changes else what
    return Job(code=what, **changes)


def request(job: Job, limits: Limits, *, timeout_ms: float, python: str) -> Run:
    """Return the frame that hands `job` over. ValueError for code or input over the limits, or data that JSON cannot carry."""
    size = len(job.code.encode())
    if size > limits.code_bytes:
        raise ValueError(f"code is {size:,} bytes in UTF-8; the limit (code_bytes) is {limits.code_bytes:,}")
    stdin = job.stdin_bytes if job.stdin is None else job.stdin.encode()
    data = None if job.data is UNSET else _json(job.data)
    texts = (*job.args, *job.env, *job.env.values(), data or "")
    size = len(stdin or b"") + sum(len(text.encode()) for text in texts)
    if size > limits.input_bytes:
        raise ValueError(f"stdin, data, args and env are {size:,} bytes together; the limit (input_bytes) is {limits.input_bytes:,}")
    run = Run(
        code=job.code,
        python="2" if (python == "2" if job.v3 is None else not job.v3) else "3",
        args=list(job.args),
        env=dict(job.env),
        stdin=stdin,
        data=data,
        timeout_ms=math.ceil(timeout_ms if job.timeout_ms is None else job.timeout_ms),
        open_files=limits.open_files,
        stdout_limit=limits.stdout_bytes,
        stderr_limit=limits.stderr_bytes,
        on_output_limit=limits.on_output_limit,
        message_limit=limits.message_bytes,
        message_count=limits.messages,
    )
    # In JSON a control character takes six bytes. A frame that is too large must be refused here: later on, a container would be spent.
    if (size := len(encode(run))) > RUN_SIZE:
        raise ValueError(f"the program with its input is {size:,} bytes as a frame; the protocol allows {RUN_SIZE:,}")
    return run


def _from_mapping(mapping: Mapping[Any, Any]) -> Job:
    names = {field.encode_name: field.name for field in msgspec.structs.fields(Job)}
    unknown = [key for key in mapping if key not in names]
    if unknown:
        raise ValueError(f"a job has no key {unknown[0]!r:.80}; it may have {', '.join(names)}")
    if "code" not in mapping:
        raise ValueError("a job needs the key 'code'")
    values: dict[str, Any] = {names[key]: value for key, value in mapping.items()}
    if isinstance(values.get("stdin_bytes"), str):
        try:
            values["stdin_bytes"] = base64.b64decode(values["stdin_bytes"], validate=True)
        except ValueError as error:
            raise ValueError(f"stdinBytes is no base64: {error}") from None
    return Job(**values)


def _text(what: str, value: Any, *, nul: bool = False) -> None:
    # A subclass of str may lie about itself.
    if type(value) is not str:
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    if not nul and "\0" in value:
        raise ValueError(f"{what} has a NUL character at position {value.index(chr(0))}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} has a lone surrogate at position {error.start}, which is no text") from None


def _json(data: Any) -> str:
    if isinstance(data, msgspec.Raw):  # JSON text already: checked, and never built
        try:
            return msgspec.json.format(bytes(data), indent=-1).decode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"data is not valid JSON: {error}") from None
    try:
        text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except TypeError as error:
        raise TypeError(f"data is no JSON value: {error}") from None
    except RecursionError:
        raise ValueError("data is nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("data has a string with a lone surrogate, which JSON cannot carry") from None
    except ValueError as error:
        raise ValueError(f"data is no JSON value: {error}") from None
    return text


__all__ = ["UNSET", "Job", "UnsetType", "as_job", "check_timeout", "request"]
