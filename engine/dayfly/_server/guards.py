"""What a request must have to reach a route: a key, and a body of JSON."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from . import bodies, runs
from .config import is_loopback
from .context import app_context, request_context
from .keys import ANONYMOUS, Key
from .problems import Problem

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::\d{1,5})?")


def require_key(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,  # noqa: ARG001
) -> None:
    """Require a key, in X-API-Key or as a bearer token; where there is none, a request to
    localhost."""
    headers = connection.headers
    secret = _secret(headers)
    key = app_context(connection.scope).keys.find(secret)
    if key is None:
        raise Problem(403, "key", "This needs a key", "No API key or incorrect value provided")
    if key is ANONYMOUS:
        _require_local(headers)
    request_context(connection.scope).key = key


def require_no_key(name: str) -> Any:
    """Return a guard that lets in requests without a key, as one key of this name. A key that is
    given must be right."""

    def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if app_context(connection.scope).keys.open or _secret(connection.headers) is not None:
            require_key(connection, handler)
        else:
            _require_no_page(connection.headers)
            context = request_context(connection.scope)
            context.key, context.stranger = Key(name, b""), True

    return guard


def _secret(headers: Any) -> str | None:
    secret: str | None = headers.get("x-api-key")
    if secret is None:
        given = headers.get("authorization", "").strip()
        scheme, _, token = given.partition(" ")
        # Clients of Piston's send the key alone.
        secret = token.strip() if scheme.lower() == "bearer" else given if given and " " not in given else None
    return secret


def _require_local(headers: Any) -> None:
    """Refuse what a web page elsewhere may send: Problem."""
    host = headers.get("host", "")
    match = _HOST.fullmatch(host)
    if match is None or not is_loopback(match["name"]):
        # A web page whose name was made to mean 127.0.0.1 (DNS rebinding) comes with that name.
        detail = "without a key, only requests to localhost are answered"
        raise Problem(403, "host", "This host is not served", detail)
    _require_no_page(headers)


def _require_no_page(headers: Any) -> None:
    """Refuse what a page of another site sends: Problem."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    if (origin is not None and not _same(origin, headers.get("host", ""))) or site not in ("same-origin", "none"):
        detail = "without a key, requests of other sites' pages are not answered"
        raise Problem(403, "origin", "This origin is not served", detail)


def elsewhere(headers: Mapping[str, str], allowed: Collection[str]) -> Problem | None:
    """Return the problem of a request that is for another host than those allowed, in lower case,
    or comes from a page of another."""
    match = _HOST.fullmatch(headers.get("host", ""))
    if match is None or match["name"].lower() not in allowed:
        return Problem(403, "host", "This host is not served", "this server is not called by this name (allowed_hosts)")
    if (origin := headers.get("origin")) is not None:
        try:
            match = _HOST.fullmatch(urlsplit(origin).netloc)
        except ValueError:
            match = None
        if match is None or match["name"].lower() not in allowed:
            return Problem(403, "origin", "This origin is not served", "pages of other hosts are not answered (allowed_hosts)")
    return None


def _same(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def require_json(
    connection: ASGIConnection[Any, Any, Any, Any],
    handler: BaseRouteHandler,  # noqa: ARG001
) -> None:
    """Refuse any other type: a web page may send those to anywhere without asking, but not JSON."""
    headers = connection.headers
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise Problem(
            415,
            "encoded",
            "The request is encoded",
            f"Content-Encoding {encoding[:40]!r} is not supported; send the body as it is",
            headers={"Accept-Encoding": "identity"},
        )
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = kind == "application/json"
    empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    if connection.scope["path"] == "/compile" and (empty or not is_json):
        raise runs.no_code()  # as its body parser has it
    if not is_json:
        detail = "the Content-Type must be application/json"
        raise Problem(415, "no-json", "The request is not JSON", detail)
    if empty:
        raise bodies.malformed("the body is empty")
