"""POST /run_code and GET /v1/ping: SandboxFusion's wire format, so that its clients switch by
changing a URL.

Training loops take any answer but 200 and 504 for a lost reward. So whatever passes by waiting is
waited for (quotas, a full queue, a sandbox that is being started) up to the request's
`compile_timeout` and a few seconds more, and is a 504 then. Limits that are asked for are clamped,
not refused. A failure of the sandbox is a 200 with the status SandboxError, as there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Annotated, Any, Literal

import msgspec
from litestar import MediaType, Response, get, post
from litestar.openapi import ResponseSpec
from litestar.types import ASGIApp, Receive, Scope, Send

from dayfly import DayflyError, Job, Outcome, PoolError, PoolFull, PoolTimeout, Result

from . import bodies
from .config import Config
from .context import AppContext, RequestContext, app_context, request_context
from .guards import require_json, require_key, require_no_key
from .problems import RUN_CODE, NotReady, Problem, invalid, too_late
from .quotas import Refused
from .runs import gone_noted, note_job, note_run, send_body, unless_gone
from .service import Run

PATH, PING = RUN_CODE, "/v1/ping"
KEY = "(run_code)"
"""The key by which requests without one are counted. No key in a file can have this name."""
PAUSE = 0.05
"""Seconds between two tries where a place in the quotas, or a sandbox, is waited for."""

Members = msgspec.Meta(max_length=bodies.MOST_MEMBERS)


class RunCodeRequest(msgspec.Struct):
    """What SandboxFusion takes. Other members are ignored, as there."""

    code: str
    language: str = "python"
    stdin: str | None = None
    run_timeout: float = 10
    """Seconds; clamped to `max_timeout_ms`."""
    compile_timeout: float = 10
    """Seconds to wait at most, beside `run_code_wait_seconds`."""
    memory_limit_MB: float | None = None  # noqa: N815 - its name there
    """Clamped to what the server's containers have, which all have the same."""
    files: Annotated[dict[str, bytes | None], Members] = {}
    """Path to content in base64; null: no file."""
    fetch_files: Annotated[list[str], Members] = []
    """Names, not patterns."""


class CommandResult(msgspec.Struct):
    """How the program ended."""

    status: Literal["Finished", "TimeLimitExceeded"]
    execution_time: float
    """Seconds."""
    return_code: int | None
    """-n after signal n; null after a time-out."""
    stdout: str
    stderr: str


class RunCodeResponse(msgspec.Struct):
    """What SandboxFusion answers."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str
    compile_result: None = None
    run_result: CommandResult | None = None
    executor_pod_name: None = None
    files: dict[str, bytes] = {}


_decoder = msgspec.json.Decoder(RunCodeRequest)


def job_of(request: RunCodeRequest, max_timeout_ms: float) -> Job:
    """Return the Job. Problem 422 for a language other than Python, and for a file that may not
    be."""
    if request.language != "python":
        raise invalid(f"language is {request.language[:40]!r}; this server runs python")
    files = {path: content for path, content in request.files.items() if content is not None}
    timeout = min(max(1.0, request.run_timeout * 1_000), max_timeout_ms)
    try:
        return Job(code=request.code, stdin=request.stdin, timeout_ms=timeout, files=files, fetch=request.fetch_files)
    except (TypeError, ValueError) as error:
        raise invalid(str(error)) from None


def response_to(result: Result, job: Job, memory_mb: float) -> RunCodeResponse:
    """Return the answer that stands for the result of a job."""
    signal = 9 if result.outcome in (Outcome.OUT_OF_MEMORY, Outcome.OUTPUT_LIMIT) else result.signal
    late = result.outcome is Outcome.TIMEOUT
    stderr = result.stderr
    if result.outcome is Outcome.OUT_OF_MEMORY:
        stderr += f"killed at its memory limit of {memory_mb:g} MB\n"
    ended = CommandResult(
        status="TimeLimitExceeded" if late else "Finished",
        execution_time=round(result.wall_ms / 1_000, 6),
        return_code=None if late else result.exit_code if signal is None else -signal,
        stdout=result.stdout,
        stderr=stderr,
    )
    # A name with `*` or `?` is a pattern to the sandbox, which matches that name, and others.
    files = {path: content for path, content in result.files.items() if path in job.fetch}
    return RunCodeResponse("Success" if result.outcome is Outcome.OK else "Failed", "", run_result=ended, files=files)


class RunCodeAnswer:
    """One request, as an ASGI application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app, context = app_context(scope), request_context(scope)
        try:
            with gone_noted(context):
                await self._serve(app, context, scope, receive, send)
        except Problem as told:
            if told.status in (429, 503):
                raise too_late(str(told)) from None
            raise

    @staticmethod
    async def _serve(app: AppContext, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        assert context.key is not None
        begun = time.monotonic()
        most_ms, wait_seconds = app.config.max_timeout_ms, app.config.run_code_wait_seconds
        # How long it may wait is in the body, so that is read before there is a place in the
        # quotas. While it waits for memory it sends nothing, and is not to be cut off for that.
        with app.bodies.hold(context.key.name, wait_seconds=min(wait_seconds, app.config.client_seconds / 2)) as take:
            body = await bodies.read(scope, receive, app.config.max_request_bytes, take)
            seconds, job = await bodies.decode(
                _decoder, body, make=lambda request: (max(0.0, request.compile_timeout), job_of(request, most_ms))
            )
            del body
            note_job(app.config, context, job)
            # Clients count from the start. What was long in coming has a second still.
            deadline = max(begun + seconds + wait_seconds, time.monotonic() + min(1.0, wait_seconds))
            answer = await unless_gone(_answer(app, context, job, deadline), receive)
            encoded = await asyncio.to_thread(msgspec.json.encode, answer)  # it may be large
            await send_body(send, encoded, {"content-type": "application/json"}, app.config.client_seconds)


async def _answer(app: AppContext, context: RequestContext, job: Job, deadline: float) -> RunCodeResponse:
    try:
        done = await _run(app, context, job, deadline)
    except DayflyError as error:
        context.notes["outcome"] = "SandboxError"
        return RunCodeResponse("SandboxError", f"the sandbox failed: {type(error).__name__}")
    note_run(app.config, context, done)
    return response_to(done.result, job, app.config.memory_mb)


async def _run(app: AppContext, context: RequestContext, job: Job, deadline: float) -> Run:
    """Run the job when there is a place for it. Problem 504 after `deadline`, and what else
    Service.run raises."""
    assert context.key is not None
    why = "there was no time to wait"
    with contextlib.ExitStack() as place:
        placed = False
        while (left := deadline - time.monotonic()) > 0:
            try:
                if not placed:  # a request takes one of its key's tokens, however often it is tried
                    place.enter_context(app.quotas.run(context.key, time.monotonic()))
                    placed = True
                return await app.service.run(job, key=context.key.name, wait_seconds=left)
            except (Refused, NotReady, PoolError) as error:
                if getattr(error, "delivered", False):
                    raise
                why = _WAITED.get(type(error)) or str(error)
            await asyncio.sleep(PAUSE)
    raise too_late(why)


_WAITED: dict[type, str] = {PoolFull: "the queue is full", PoolTimeout: "no container became free"}

BODY = RunCodeRequest


def handlers(config: Config) -> list[Any]:
    """Return the routes."""

    @post(
        PATH,
        status_code=200,
        guards=[require_no_key(KEY) if config.run_code_without_key else require_key, require_json],
        responses={200: ResponseSpec(RunCodeResponse, generate_examples=False, description="As SandboxFusion answers.")},
        tags=["SandboxFusion"],
    )
    async def run_code() -> ASGIApp:
        """Run a program: SandboxFusion's wire format."""
        return RunCodeAnswer()

    @get(PING, media_type=MediaType.JSON, tags=["SandboxFusion"])
    async def ping() -> Response[bytes]:
        """Whether this process answers: the JSON string "pong"."""
        return Response(msgspec.json.encode("pong"), media_type=MediaType.JSON)

    return [run_code, ping]
