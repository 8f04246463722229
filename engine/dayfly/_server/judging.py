"""POST /v1/judge, /v1/judge/stream and /v1/cases: many cases for one submission, as ASGI
applications.

A judging waits for one turn, as a run does. More containers it takes only where they are free and
nobody waits. A set of cases may be sent once and then be named by its hash; sets are kept in
memory, up to a bound, each for its key.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable
from typing import Any

import msgspec
import structlog
from litestar.types import Receive, Scope, Send

from dayfly import DayflyError
from dayfly.judge import CaseLimits, CaseResult, Cases, JudgeResult
from dayfly.judge._judging import KEPT_OUTPUT
from dayfly.judge._programs import AnyChecker

from . import bodies
from .case_sets import memory
from .config import Config
from .context import AppContext, RequestContext, app_context, request_context
from .problems import invalid
from .runs import Put, event, gone_noted, note_verdict, send_body, started, stream, unless_gone
from .service import off_loop

log = structlog.stdlib.get_logger("dayfly.server")

MOST_VALUES = 500_000
"""JSON values in a request: each takes a hundred bytes of memory, whatever its size as text."""
MOST_KEPT = 1_000_000
"""Characters of a stream that a report may keep."""


class JudgeRequest(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A submission, and its cases or the id of a set that was sent before."""

    code: str | None = None
    code_bytes: bytes | None = None
    """The same as base64; one of the two."""
    cases: Cases | None = None
    case_set: str | None = None
    """What POST /v1/cases has answered as `id`."""
    checker: AnyChecker | None = None
    """Wins over the set's own."""
    limits: CaseLimits | None = None
    stop: str | None = None
    """`first`, `group`, or null for none."""
    concurrency: int = 1
    """Containers, if that many are free; at most the server's `judge_concurrency`."""
    keep_output: int = KEPT_OUTPUT
    """Characters of each stream that the report keeps of a case."""


class CaseSet(msgspec.Struct, rename="camel"):
    """A set of cases that the server keeps."""

    id: str
    """The SHA-256 of the body."""
    cases: int


judge_decoder = msgspec.json.Decoder(JudgeRequest)
cases_decoder = msgspec.json.Decoder(Cases)


class CasesAnswer:
    """The answer to POST /v1/cases."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app, context = app_context(scope), request_context(scope)
        assert context.key is not None
        with gone_noted(context), app.quotas.run(context.key, time.monotonic()), app.bodies.hold(context.key.name) as take:
            body = await bodies.read(scope, receive, app.config.max_request_bytes, take)
            cases = await bodies.decode(cases_decoder, body, most_values=MOST_VALUES, max_timeout_ms=app.config.max_timeout_ms)
            context.read = True
            kept = CaseSet(hashlib.sha256(body).hexdigest(), len(cases))
            app.case_sets.keep(context.key.name, kept.id, cases, await asyncio.to_thread(memory, body, len(cases)))
            await send_body(send, msgspec.json.encode(kept), {"content-type": "application/json"}, app.config.client_seconds, status=201)


class JudgeAnswer:
    """The answer to POST /v1/judge, or with `stream` to POST /v1/judge/stream."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        app, context = app_context(scope), request_context(scope)
        assert context.key is not None
        with gone_noted(context), app.quotas.run(context.key, time.monotonic()), app.bodies.hold(context.key.name) as take:
            body = await bodies.read(scope, receive, app.config.max_request_bytes, take)
            most_ms = app.config.max_timeout_ms
            wanted: JudgeRequest = await bodies.decode(judge_decoder, body, most_values=MOST_VALUES, max_timeout_ms=most_ms)
            _one_of_each(wanted)
            cases = app.case_sets.find(context.key.name, wanted.case_set) if wanted.case_set is not None else wanted.cases
            assert cases is not None
            code, options = await off_loop(len(cases), _checked, wanted, cases, app.config)
            context.read = True
            context.notes |= {"code_bytes": len(code), "cases": len(cases)}
            serve = self._serve_events if self._stream else self._serve_whole
            await unless_gone(serve(app, context, send, code, options), receive)

    async def _serve_whole(self, app: AppContext, context: RequestContext, send: Send, code: bytes, options: dict[str, Any]) -> None:
        assert context.key is not None
        told = _shown(await app.service.judge(code, key=context.key.name, **options))
        note_verdict(context, told)
        await send_body(send, await _encoded(told), {"content-type": "application/json"}, app.config.client_seconds)

    async def _serve_events(self, app: AppContext, context: RequestContext, send: Send, code: bytes, options: dict[str, Any]) -> None:
        assert context.key is not None

        def start(put: Put) -> Awaitable[JudgeResult]:
            key = context.key_name
            return app.service.judge(code, key=key, on_start=started(put), on_case=lambda case: put(event("case", _case(case))), **options)

        async def last(told: JudgeResult) -> bytes:
            told = _shown(told)
            note_verdict(context, told)
            return b"event: verdict\ndata: " + await _encoded(told) + b"\n\n"

        await stream(context, send, start, last)


def _one_of_each(wanted: JudgeRequest) -> None:
    """Problem if there is no submission, or no cases, or two."""
    if (wanted.code is None) == (wanted.code_bytes is None):
        raise invalid("give one of code and codeBytes")
    if (wanted.cases is None) == (wanted.case_set is None):
        raise invalid("give one of cases and caseSet")


def _checked(wanted: JudgeRequest, cases: Cases, config: Config) -> tuple[bytes, dict[str, Any]]:
    """Return the code, and the options of Service.judge. Problem for what this server does not
    give."""
    if wanted.stop not in ("first", "group", None):
        raise invalid(f"stop must be 'first', 'group' or null, not {wanted.stop!r:.80}")
    if not 1 <= wanted.concurrency <= 1_000:
        raise invalid(f"concurrency is {wanted.concurrency}; 1 to 1,000 are possible")
    if not 0 <= wanted.keep_output <= MOST_KEPT:
        raise invalid(f"keepOutput is {wanted.keep_output}; this server takes 0 to {MOST_KEPT:,}")
    limits = _bounded((wanted.limits or CaseLimits()).over(cases.limits or CaseLimits()), config)
    own = [case if case.limits is None else msgspec.structs.replace(case, limits=_bounded(case.limits, config)) for case in cases.cases]
    code = wanted.code.encode("utf-8", "surrogatepass") if wanted.code is not None else wanted.code_bytes or b""
    return code, {
        "cases": msgspec.structs.replace(cases, cases=own),
        "checker": wanted.checker,
        "limits": limits,
        "stop": wanted.stop,
        "concurrency": min(wanted.concurrency, config.judge_concurrency),
        "keep_output": wanted.keep_output,
        "max_seconds": config.judge_seconds,
    }


def _bounded(limits: CaseLimits, config: Config) -> CaseLimits:
    bodies.check_time("wallMs", limits.wall_ms, config.max_timeout_ms)
    bodies.check_time("cpuMs", limits.cpu_ms, config.max_timeout_ms)
    if limits.cpu_ms is None or limits.wall_ms is not None:
        return limits
    return msgspec.structs.replace(limits, wall_ms=min(limits.wall(config.timeout_ms), config.max_timeout_ms))


def _case(case: CaseResult) -> CaseResult:
    """Return a case as a client may see it: what the engine said of a failure is for the log."""
    if not isinstance(case.exception, DayflyError):
        return case
    log.info("a case could not be judged", error=case.error)
    return msgspec.structs.replace(case, error=type(case.exception).__name__)


def _shown(told: JudgeResult) -> JudgeResult:
    return msgspec.structs.replace(told, cases=[_case(case) for case in told.cases])


async def _encoded(told: JudgeResult) -> bytes:
    """Return the JSON form, made in a thread."""
    return await asyncio.to_thread(told.to_json)
