"""What goes wrong, as application/problem+json (RFC 9457). One table from exceptions to answers;
nothing else decides a status.

A client can rely on `type`: a 429 is its own doing (`rate-exceeded`, `concurrency-exceeded`), a 503
the server's (`queue-full`, `queue-timeout`, `not-ready`, `overloaded`, `sandbox-failed`), and both
carry Retry-After. `delivered` says whether the program may have run. The member `error` repeats
`detail` under the name that clients of code-execution-api-demo read. What an engine said is for the
log, not for clients: it may name paths and hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from litestar.exceptions import HTTPException, ValidationException

from dayfly import DayflyError, PoolClosed, PoolFull, PoolTimeout, SandboxError, SessionLost

from .quotas import ConcurrencyExceeded, RateExceeded

MEDIA_TYPE = "application/problem+json"
RUN_CODE = "/run_code"
"""The path of SandboxFusion's wire format."""


class ProblemDetails(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The body of every answer that is not a success."""

    type: str
    title: str
    status: int
    detail: str
    error: str
    """The same as `detail`."""
    instance: str = ""
    """The request's id, as in the header X-Request-ID and in the server's log."""
    delivered: bool | None = None
    """Whether the program had been handed to a container, so that it may have run in part or
    whole."""


class Problem(Exception):
    """An answer that is not a success. `slug` is the end of its `type`."""

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str,
        *,
        retry_after: int | None = None,
        delivered: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = detail
        self.delivered = delivered
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def details(self, request_id: str) -> ProblemDetails:
        """Return the body."""
        return ProblemDetails(
            type=f"/problems/{self.slug}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            error=self.detail,
            instance=f"/requests/{request_id}",
            delivered=self.delivered,
        )


class ClientGone(Exception):
    """The client has gone away, or does not read: nobody is left to answer."""


class NotReady(Exception):
    """There is no sandbox to run in, yet or any more. The message is for everybody."""


def invalid(detail: str) -> Problem:
    """A request that can be read, and makes no sense or is over a limit."""
    return Problem(422, "invalid", "The request cannot be run", detail)


def too_late(why: str) -> Problem:
    """What is not run at RUN_CODE: the one refusal that training loops do not take for an
    answer."""
    return Problem(504, "run-code-timeout", "The wait was too long", f"the program has not run: {why}", delivered=False)


def problem(error: BaseException) -> Problem:  # noqa: PLR0911 - a table
    """Return the answer for what a handler raised."""
    match error:
        case Problem():
            return error
        case RateExceeded():
            return Problem(429, "rate-exceeded", "Too many runs for this key", str(error), retry_after=error.retry_after)
        case ConcurrencyExceeded():
            return Problem(429, "concurrency-exceeded", "Too many runs at once for this key", str(error), retry_after=error.retry_after)
        case PoolClosed(delivered=True):
            detail = "the server was stopped while the program was running"
            return Problem(502, "container-lost", "The container was lost", detail, delivered=True)
        case NotReady() | PoolClosed():
            detail = str(error) if isinstance(error, NotReady) else "the sandbox is being closed"
            return Problem(503, "not-ready", "The sandbox is not ready", detail, retry_after=2, delivered=False)
        case PoolFull():
            return Problem(503, "queue-full", "The queue is full", "too many runs are waiting already", retry_after=1, delivered=False)
        case PoolTimeout():
            detail = "no container became free within the queue's time limit"
            return Problem(503, "queue-timeout", "The wait was too long", detail, retry_after=2, delivered=False)
        case SessionLost(delivered=False):
            return Problem(410, "session-ended", "The session has ended", "the session has ended; open another", delivered=False)
        case SandboxError(delivered=True):
            return Problem(502, "container-lost", "The container was lost", "it failed after it had been given the program", delivered=True)
        case DayflyError():
            detail = "the sandbox failed before it had been given the program"
            return Problem(503, "sandbox-failed", "The sandbox failed", detail, retry_after=2, delivered=False)
        case ValidationException():
            return invalid(_reason(error))
        case HTTPException():
            slug, title = _NAMES.get(error.status_code, ("http", "The request was refused"))
            return Problem(error.status_code, slug, title, error.detail or title, headers=error.headers)
        case _:
            return Problem(500, "internal", "Internal error", "see the server's log for this request's id")


_NAMES = {
    400: ("malformed", "The request cannot be read"),
    404: ("not-found", "There is no such resource"),
    405: ("method-not-allowed", "The resource has no such method"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-type", "The request's type is not supported"),
}


def _reason(error: ValidationException) -> str:
    parts: list[Any] = error.extra if isinstance(error.extra, list) else []
    texts = [
        f"{part['key']}: {part['message']}" if part.get("key") not in (None, "", "data") else str(part.get("message"))
        for part in parts
        if isinstance(part, dict)
    ]
    return "; ".join(texts) or error.detail
