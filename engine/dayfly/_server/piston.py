"""POST /api/v2/execute and GET /api/v2/runtimes: Piston's wire format, for Python.

Errors have Piston's form, an object with `message`; the statuses are this server's, but what cannot
be run is a 400, as there.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Mapping
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.openapi import ResponseSpec
from litestar.types import ASGIApp, Send

from dayfly import Job, Outcome, PoolError, Result, SandboxError

from . import bodies
from .config import Config
from .context import AppContext, RequestContext, app_context, request_context
from .guards import require_json, require_key
from .problems import NotReady, Problem, problem
from .runs import RunAnswer, send_body

PATH = "/api/v2/execute"
LANGUAGES = {"3": "python", "2": "python2"}
ALIASES = {"3": ["py", "py3", "python3"], "2": ["py2"]}
TIMES = ("run_timeout", "compile_timeout", "run_cpu_time", "compile_cpu_time")

_VERSION = re.compile(r"(\^|~|>=|=|v)?(\*|x|\d+(?:\.(?:\d+|x|\*)){0,2})")


class ExecuteRequest(msgspec.Struct):
    """What Piston takes. Its checks are made by hand, since its messages are part of its
    interface."""

    language: Any = None
    version: Any = None
    """A selector: `*`, `3`, `3.x`, `3.11.2`, `^3.10`, `~3.11`, `>=3.8`."""
    files: Any = None
    """`{name?, content, encoding?}` each; the first one in utf8 is the program."""
    stdin: Any = None
    args: Any = None
    run_timeout: Any = None
    """Milliseconds of wall time, at most `max_timeout_ms`."""
    compile_timeout: Any = None
    run_cpu_time: Any = None
    compile_cpu_time: Any = None
    run_memory_limit: Any = None
    compile_memory_limit: Any = None


class Runtime(msgspec.Struct):
    """One interpreter of the image."""

    language: str
    version: str
    aliases: list[str]


class Stage(msgspec.Struct):
    """How the program ended."""

    stdout: str
    stderr: str
    output: str
    """Both, in the order of arrival."""
    code: int | None
    signal: str | None
    message: str | None
    status: str | None
    """RE: exit code. SG: signal. TO: time. OL, EL: output. XX: the sandbox failed."""
    cpu_time: float | None
    """Milliseconds."""
    wall_time: float | None
    memory: int | None
    """Bytes."""


class ExecuteResponse(msgspec.Struct):
    """What Piston answers."""

    language: str
    version: str
    run: Stage


_decoder = msgspec.json.Decoder(ExecuteRequest)


def runtimes(pythons: Mapping[str, str]) -> dict[str, Runtime]:
    """Return the runtimes for interpreters as `AsyncSandbox.pythons` names them, by the same
    names."""
    whole = {name: ".".join([*version.split("."), "0", "0"][:3]) for name, version in pythons.items()}
    return {name: Runtime(LANGUAGES[name], version, ALIASES[name]) for name, version in whole.items()}


def matches(selector: str, version: str) -> bool:
    """Whether a selector of npm's semver, of the simple ones, means this version."""
    match = _VERSION.fullmatch(selector)
    if match is None:
        return False
    sign, text = match[1], match[2]
    wanted = [int(part) for part in text.split(".") if part.isdigit()]
    has = [int(part) for part in version.split(".")]
    if sign == ">=" or not wanted:
        return has >= wanted
    if sign == "^":
        return has[0] == wanted[0] and has >= wanted
    if sign == "~":
        return has[: min(2, len(wanted))] == wanted[:2] and has >= wanted
    return has[: len(wanted)] == wanted


def _refused(message: str) -> Problem:
    return Problem(400, "piston", "The request makes no sense", message, delivered=False)


def job_of(request: ExecuteRequest, known: Mapping[str, Runtime], config: Config) -> tuple[Job, Runtime]:
    """Return the Job, and the runtime that it asks for. Problem 400, with Piston's own words."""
    for name in ("language", "version"):
        if not isinstance(getattr(request, name), str) or not getattr(request, name):
            raise _refused(f"{name} is required as a string")
    if not isinstance(request.files, list):
        raise _refused("files is required as an array")
    for index, file in enumerate(request.files):
        if not isinstance(file, dict) or not isinstance(file.get("content"), str):
            raise _refused(f"files[{index}].content is required as a string")
    found = next(
        (
            (name, one)
            for name, one in known.items()
            if request.language in (one.language, *one.aliases) and matches(request.version, one.version)
        ),
        None,
    )
    if found is None:
        raise _refused(f"{request.language:.40}-{request.version:.40} runtime is unknown")
    _check_limits(request, config)
    stdin = "" if request.stdin is None else request.stdin
    if not isinstance(stdin, str):
        raise _refused("if present, stdin is required as a string")
    source, files = _files(request.files)
    try:
        job = Job(
            code_bytes=source,
            v3=found[0] == "3",
            stdin=stdin if stdin.endswith("\n") else stdin + "\n",  # as there
            args=request.args or (),
            files=files,
            timeout_ms=max(1, request.run_timeout or config.timeout_ms),
            cpu_limit_ms=max(1, request.run_cpu_time) if (request.run_cpu_time or 0) > 0 else None,
        )
    except (TypeError, ValueError) as error:
        raise _refused(str(error)) from None
    return job, found[1]


def _check_limits(request: ExecuteRequest, config: Config) -> None:
    most = {**dict.fromkeys(TIMES, config.max_timeout_ms), "run_memory_limit": config.memory_mb * 1e6}
    for name in (*TIMES, "run_memory_limit", "compile_memory_limit"):
        value = getattr(request, name)
        if value is None or value == 0:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _refused(f"if specified, {name} must be a number")
        if name in most and value > most[name]:
            raise _refused(f"{name} cannot exceed the configured limit of {most[name]:g}")
        if value < 0 and (value != -1 or name == "run_timeout"):
            raise _refused(f"{name} must be non-negative")


def _files(given: list[dict[str, Any]]) -> tuple[bytes, dict[str, bytes]]:
    """Return the program, and all files by their names."""
    main: str | None = None
    files: dict[str, bytes] = {}
    for index, file in enumerate(given):
        name, encoding = file.get("name") or f"file{index}.code", file.get("encoding") or "utf8"
        if not isinstance(name, str):
            raise _refused(f"if specified, files[{index}].name must be a string")
        if name in files:
            raise _refused(f"files[{index}].name is {name!r:.80}, as that of another file")
        try:
            files[name] = _content(file["content"], encoding)
        except (TypeError, ValueError):
            raise _refused(f"files[{index}] is not valid {encoding!s:.20}") from None
        main = name if main is None and encoding == "utf8" else main
    if main is None:
        raise _refused("files must include at least one utf8 encoded file")
    source = files[main]
    if files.pop("main.py", None) is not None and main != "main.py":
        raise _refused(f"a file is named main.py, which is the program's name here; the program is {main!r:.80}")
    return source, files


def _content(text: str, encoding: Any) -> bytes:
    match encoding:
        case "utf8":
            return text.encode()
        case "base64":
            return msgspec.convert(text, bytes)
        case "hex":
            return bytes.fromhex(text)
    raise ValueError


def stage_of(result: Result) -> Stage:
    """Return how Piston says that a program ended."""
    status = message = None
    number = result.signal
    match result.outcome:
        case Outcome.ERROR:
            status, message = "RE", f"Exited with error status {result.exit_code}"
        case Outcome.SIGNAL | Outcome.OUT_OF_MEMORY:
            number = number or signal.SIGKILL
            status, message = "SG", f"Caught fatal signal {int(number)}"
        case Outcome.TIMEOUT:
            number, status, message = signal.SIGKILL, "TO", "Time limit exceeded (wall clock)"
        case Outcome.OUTPUT_LIMIT:
            name = "stderr" if result.stderr_dropped else "stdout"
            number, status, message = signal.SIGKILL, "EL" if name == "stderr" else "OL", f"{name} length exceeded"
    if result.outcome is Outcome.OUT_OF_MEMORY:
        message = "Memory limit exceeded"
    return Stage(
        stdout=result.stdout,
        stderr=result.stderr,
        output=result.combined,
        code=result.exit_code if number is None else None,
        signal=None if number is None else _name(number),
        message=message,
        status=status,
        cpu_time=result.cpu_ms,
        wall_time=result.wall_ms,
        memory=result.peak_memory_bytes,
    )


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIG{number}"


LOST = Stage("", "", "", None, None, "the sandbox failed after it had been given the program", "XX", None, None, None)


class PistonAnswer(RunAnswer):
    """The answer to POST /api/v2/execute."""

    def __init__(self, app: AppContext) -> None:
        super().__init__()
        self._app = app
        self._runtime: Runtime | None = None

    async def decode(self, body: bytes, max_timeout_ms: float) -> Job:  # noqa: ARG002
        """See RunAnswer."""
        known = _standing(self._app)
        job: Job
        job, self._runtime = await bodies.decode(_decoder, body, make=lambda request: job_of(request, known, self._app.config))
        return job

    async def answer(self, app: AppContext, context: RequestContext, job: Job, send: Send) -> None:
        """See RunAnswer. A failure of the sandbox in the middle of the run is an end, as there."""
        try:
            await super().answer(app, context, job, send)
        except (PoolError, SandboxError) as error:
            if not error.delivered:
                raise
            await send_body(send, self._encoded(LOST), {"content-type": "application/json"}, app.config.client_seconds)

    async def encode(self, result: Result) -> bytes:
        """See RunAnswer."""
        stage = stage_of(result)
        return self._encoded(stage) if len(stage.output) <= bodies.THREAD_ABOVE else await asyncio.to_thread(self._encoded, stage)

    def _encoded(self, stage: Stage) -> bytes:
        assert self._runtime is not None
        return msgspec.json.encode(ExecuteResponse(self._runtime.language, self._runtime.version, stage))


def _standing(app: AppContext) -> dict[str, Runtime]:
    """Return the runtimes. NotReady while no sandbox stands, which knows them."""
    if not app.service.pythons:
        raise NotReady("the sandbox is being started")
    return runtimes(app.service.pythons)


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, str]]:
    told = problem(error)
    if told.status == 500:
        raise error
    request_context(request.scope).notes["problem"] = told.slug
    status = 400 if told.status == 422 else told.status
    return Response({"message": told.detail}, status_code=status, headers=told.headers, media_type="application/json")


BODY = ExecuteRequest


def handlers(config: Config) -> list[Any]:  # noqa: ARG001 - as for others' formats
    """Return the routes."""

    @post(
        PATH,
        status_code=200,
        guards=[require_key, require_json],
        exception_handlers={Exception: _on_error},
        responses={200: ResponseSpec(ExecuteResponse, generate_examples=False, description="As Piston answers.")},
        tags=["Piston"],
        security=[{"key": []}],
    )
    async def execute(request: Request[Any, Any, Any]) -> ASGIApp:
        """Run a program: Piston's wire format."""
        return PistonAnswer(app_context(request.scope))

    @get("/api/v2/runtimes", guards=[require_key], exception_handlers={Exception: _on_error}, tags=["Piston"], security=[{"key": []}])
    async def list_runtimes(request: Request[Any, Any, Any]) -> list[Runtime]:
        """The interpreters of the image."""
        return list(_standing(app_context(request.scope)).values())

    return [execute, list_runtimes]
