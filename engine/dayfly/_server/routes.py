"""The routes: their paths and documentation. What a run does is `runs`'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from litestar import MediaType, Request, Response, delete, get, post
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import OpenAPI, OpenAPIMediaType, Reference, RequestBody
from litestar.types import ASGIApp
from prometheus_client import CONTENT_TYPE_LATEST

from dayfly import Job, Result, __version__
from dayfly._job import MOST_FILES
from dayfly._messages import MAX_PATTERNS
from dayfly.judge import Cases, JudgeResult

from . import bodies, docs, judging, runs
from .config import Config
from .context import app_context, request_context
from .guards import require_json, require_key
from .problems import MEDIA_TYPE, ProblemDetails
from .sessions import SessionState


class Readiness(msgspec.Struct):
    """Whether runs are taken, and if not, why."""

    ready: bool
    detail: str


class ServerLimits(msgspec.Struct, rename="camel"):
    """What this server gives a program at most, and by default."""

    version: str
    key_required: bool
    python: str
    """Interpreter of a program that does not say: "3" or "2"."""
    timeout_ms: float
    max_timeout_ms: float
    memory_mb: float
    code_bytes: int
    input_bytes: int
    stdout_bytes: int
    stderr_bytes: int
    file_count: int
    """Files that come back."""
    file_bytes: int
    """Their contents, summed."""
    displays: int
    """Figures and other displays that come back."""
    display_bytes: int
    """Their JSON, summed."""
    preload: list[str]
    """Modules that every program finds imported."""
    request_bytes: int
    """The body of a request, as JSON."""
    case_sets_bytes: int
    """Memory that the sets of cases take together."""
    sessions: int
    """Sessions of one key at once; 0: this server has none."""
    session_runs: int
    session_seconds: float
    session_idle_seconds: float
    arg_count: int = bodies.MOST_MEMBERS
    """Members of `args`, and of `env`."""
    input_file_count: int = MOST_FILES
    """Members of `files` and `filesText` together."""
    fetch_count: int = MAX_PATTERNS
    """Members of `fetch`."""


# Documentation.


def _problems(*statuses: int) -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(
            ProblemDetails,
            generate_examples=False,
            media_type=MEDIA_TYPE,
            description=_MEANING[status],
        )
        for status in statuses
    }


_MEANING = {
    400: "It cannot be read, or there is no code.",
    403: "The key, or the address.",
    404: "This key has no such session, or no such cases.",
    409: "Another program is running in the session.",
    410: "The session has ended; the problem says why.",
    413: "The body is too large.",
    415: "It is not JSON, or is compressed.",
    422: "It makes no sense, or asks for more than this server gives.",
    429: "The key is over its rate or its concurrency; see Retry-After.",
    502: "The container was lost; the program may have run.",
    503: "The queue is full, the wait was too long, or the sandbox is not ready: see `type` and Retry-After.",
}
_SESSION_PROBLEMS = (403, 404, 410)
_RUN_PROBLEMS = (400, 403, 413, 415, 422, 429, 502, 503)

_BODIES: dict[str, type[msgspec.Struct]] = {
    "/compile": bodies.CompileRequest,
    "/v1/run": Job,
    "/v1/run/stream": Job,
    "/v1/cases": Cases,
    "/v1/judge": judging.JudgeRequest,
    "/v1/judge/stream": judging.JudgeRequest,
    "/v1/sessions": bodies.SessionRequest,
    "/v1/sessions/{session_id}/run": Job,
    "/v1/sessions/{session_id}/run/stream": Job,
}


def document_bodies(schema: OpenAPI, config: Config) -> None:
    """Add the bodies of requests to the OpenAPI document: no handler has them as a parameter."""
    kinds = dict(_BODIES)
    for formats in _others(config):
        kinds[formats.PATH] = formats.BODY
    _, schemas = msgspec.json.schema_components(dict.fromkeys(kinds.values()), ref_template="#/components/schemas/{name}")
    assert schema.components is not None
    assert schema.components.schemas is not None
    assert schema.paths is not None
    schema.components.schemas.update(schemas)
    for path, kind in kinds.items():
        operation = schema.paths[path].post
        assert operation is not None
        reference = Reference(ref=f"#/components/schemas/{kind.__name__}")
        content = {"application/json": OpenAPIMediaType(schema=reference)}
        operation.request_body = RequestBody(content=content, required=True)


def _result(kind: Any, media_type: str, description: str, *, session: bool = False, judge: bool = False) -> dict[int, ResponseSpec]:
    return {
        200: ResponseSpec(kind, generate_examples=False, media_type=media_type, description=description),
        **_problems(*_RUN_PROBLEMS, *((404, 409, 410) if session else (404,) if judge else ())),
    }


_CASE_EVENTS = "Events: `started` {queueMs}; `case`, one for each, in their order; last, `verdict` (a JudgeResult) or `error`."
_EVENTS = "Events: `started` {queueMs}; `output` {stream, text, data?}, as written; last, `result` (a Result) or `error`."


# Runs.


@post(
    "/compile",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(runs.CompileResult, "application/json", "The documented names."),
    tags=["runs"],
    security=[{"key": []}],
)
async def compile_() -> ASGIApp:
    """Run a program: the contract of code-execution-api-demo."""
    return runs.CompileAnswer()


@post(
    "/v1/run",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(Result, "application/json", "All that is known of the run."),
    tags=["runs"],
    security=[{"key": []}],
)
async def run(combined: bool = True) -> ASGIApp:
    """Run a program, and return all that is known of it. `combined=false` leaves that member
    out."""
    return runs.RunAnswer(combined=combined)


@post(
    "/v1/run/stream",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(str, "text/event-stream", _EVENTS),
    tags=["runs"],
    security=[{"key": []}],
)
async def run_stream(combined: bool = True) -> ASGIApp:
    """Run a program, and send its output as server-sent events. Closing the connection ends the
    run."""
    return runs.StreamAnswer(combined=combined)


# Judgings.


@post(
    "/v1/cases",
    status_code=201,
    guards=[require_key, require_json],
    responses={
        201: ResponseSpec(judging.CaseSet, generate_examples=False, description="What names the cases in a judging by this key."),
        **_problems(400, 403, 413, 415, 422, 429, 503),
    },
    tags=["judge"],
    security=[{"key": []}],
)
async def cases() -> ASGIApp:
    """Keep a set of cases in memory, for many judgings. The ones used longest ago are forgotten
    first."""
    return judging.CasesAnswer()


@post(
    "/v1/judge",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(JudgeResult, "application/json", "The verdict, and what is known of each case.", judge=True),
    tags=["judge"],
    security=[{"key": []}],
)
async def judge() -> ASGIApp:
    """Run a submission on many cases, and return the verdict."""
    return judging.JudgeAnswer(stream=False)


@post(
    "/v1/judge/stream",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(str, "text/event-stream", _CASE_EVENTS, judge=True),
    tags=["judge"],
    security=[{"key": []}],
)
async def judge_stream() -> ASGIApp:
    """Run a submission on many cases, and send each case's result as it is known. Closing the
    connection ends the judging."""
    return judging.JudgeAnswer(stream=True)


# Sessions.


@post(
    "/v1/sessions",
    status_code=201,
    guards=[require_key, require_json],
    responses={
        201: ResponseSpec(SessionState, generate_examples=False, description="The session, which only this key can use."),
        **_problems(400, 403, 404, 413, 415, 422, 429, 503),
    },
    tags=["sessions"],
    security=[{"key": []}],
)
async def session_open() -> ASGIApp:
    """Open a session: one container that runs many programs, each in a fresh process. Files are
    kept."""
    return runs.SessionAnswer()


@get(
    "/v1/sessions",
    guards=[require_key],
    responses=_problems(403),
    tags=["sessions"],
    security=[{"key": []}],
)
async def session_list(request: Request[Any, Any, Any]) -> list[SessionState]:
    """The sessions that this key has open, oldest first."""
    return app_context(request.scope).sessions.list(request_context(request.scope).key_name)


@get(
    "/v1/sessions/{session_id:str}",
    guards=[require_key],
    responses=_problems(*_SESSION_PROBLEMS),
    tags=["sessions"],
    security=[{"key": []}],
)
async def session_show(request: Request[Any, Any, Any], session_id: str) -> SessionState:
    """One session of this key."""
    return app_context(request.scope).sessions.find(request_context(request.scope).key_name, session_id).state


@delete(
    "/v1/sessions/{session_id:str}",
    guards=[require_key],
    responses=_problems(*_SESSION_PROBLEMS),
    tags=["sessions"],
    security=[{"key": []}],
)
async def session_close(request: Request[Any, Any, Any], session_id: str) -> None:
    """End a session, and a program that runs in it."""
    await app_context(request.scope).sessions.close(request_context(request.scope).key_name, session_id)


@post(
    "/v1/sessions/{session_id:str}/run",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(Result, "application/json", "All that is known of the run.", session=True),
    tags=["sessions"],
    security=[{"key": []}],
)
async def session_run(session_id: str, combined: bool = True, clean: bool = False) -> ASGIApp:
    """Run a program in a session. `clean=true` wipes the files of earlier programs first."""
    return runs.RunAnswer(combined=combined, session=session_id, clean=clean)


@post(
    "/v1/sessions/{session_id:str}/run/stream",
    status_code=200,
    guards=[require_key, require_json],
    responses=_result(str, "text/event-stream", _EVENTS, session=True),
    tags=["sessions"],
    security=[{"key": []}],
)
async def session_stream(session_id: str, combined: bool = True, clean: bool = False) -> ASGIApp:
    """Run a program in a session, and send its output as server-sent events."""
    return runs.StreamAnswer(combined=combined, session=session_id, clean=clean)


# About the server.


@get("/v1/limits", tags=["about"])
async def limits(request: Request[Any, Any, Any]) -> ServerLimits:
    """What this server gives a program at most, and by default."""
    app = app_context(request.scope)
    config = app.config
    return ServerLimits(
        version=__version__,
        key_required=not app.keys.open,
        python=config.python,
        timeout_ms=config.timeout_ms,
        max_timeout_ms=config.max_timeout_ms,
        memory_mb=config.memory_mb,
        code_bytes=config.limits.code_bytes,
        input_bytes=config.limits.input_bytes,
        stdout_bytes=config.limits.stdout_bytes,
        stderr_bytes=config.limits.stderr_bytes,
        file_count=config.limits.file_count,
        file_bytes=config.limits.file_bytes,
        displays=config.limits.displays,
        display_bytes=config.limits.display_bytes,
        preload=list(app.service.preload),
        request_bytes=config.max_request_bytes,
        case_sets_bytes=config.case_sets_bytes,
        sessions=config.session_share(len(app.keys)),
        session_runs=config.session_runs,
        session_seconds=config.session_seconds,
        session_idle_seconds=config.session_idle_seconds,
    )


@get("/healthz", tags=["about"])
async def healthz() -> dict[str, bool]:
    """Whether this process answers."""
    return {"ok": True}


@get(
    "/readyz",
    tags=["about"],
    responses={503: ResponseSpec(Readiness, generate_examples=False, description="Not now; `detail` says why.")},
)
async def readyz(request: Request[Any, Any, Any]) -> Response[Readiness]:
    """Whether the engine answers and a container is warm."""
    reason = app_context(request.scope).service.not_ready
    ready = Readiness(reason is None, reason or "ready")
    return Response(ready, status_code=200 if reason is None else 503)


@get(
    "/metrics",
    guards=[require_key],
    media_type=MediaType.TEXT,
    tags=["about"],
    responses=_problems(403),
    security=[{"key": []}],
)
async def metrics(request: Request[Any, Any, Any]) -> Response[str]:
    """Metrics in Prometheus's text format. Runs of other keys are one series, `others`."""
    text = app_context(request.scope).service.metrics.text(request_context(request.scope).key_name)
    return Response(text.decode(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def handlers(config: Config) -> list[Any]:
    """Return every route that the configuration asks for."""
    of_sessions = [session_open, session_list, session_show, session_close, session_run, session_stream]
    made = [compile_, run, run_stream, cases, judge, judge_stream, *of_sessions, limits, healthz, readyz, metrics]
    for formats in _others(config):
        made += formats.handlers(config)
    return [*made, *docs.handlers(playground=config.playground)]


def _others(config: Config) -> Iterator[Any]:
    """The modules of others' wire formats that are asked for. No fault of theirs is one of a server
    that does without."""
    if config.run_code:
        from . import fusion  # noqa: PLC0415

        yield fusion
    if config.piston:
        from . import piston  # noqa: PLC0415

        yield piston
