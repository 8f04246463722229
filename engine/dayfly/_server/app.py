"""The whole ASGI application: the routes, their errors, and the middleware around them."""

from __future__ import annotations

import contextlib
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp

from dayfly import __version__

from . import docs, routes
from .connections import Connections
from .context import AppContext, request_context
from .middleware import Middleware
from .problems import MEDIA_TYPE, ClientGone, ProblemDetails, problem
from .tracing import Tracing

log = structlog.stdlib.get_logger("dayfly.server")


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[ProblemDetails]:
    context = request_context(request.scope)
    told = problem(error)
    context.notes["problem"] = "client-gone" if isinstance(error, ClientGone) else told.slug
    if told.status == 500 and not isinstance(error, ClientGone):
        log.error("a handler raised what nobody foresaw", request_id=context.id, exc_info=error)
    return Response(
        told.details(context.id),
        status_code=told.status,
        headers=told.headers,
        media_type=MEDIA_TYPE,
    )


def application(context: AppContext, tracing: Tracing, connections: Connections | None = None) -> ASGIApp:
    """Return the whole ASGI application. Its lifespan starts the sandbox, and closes it."""

    route_handlers = routes.handlers(context.config)
    protocol: Any = contextlib.nullcontext()
    if context.config.mcp:
        from . import mcp  # noqa: PLC0415 - an extra of its own, which takes its time

        tools = mcp.Mcp(context.config, context.service)
        route_handlers.append(mcp.handler(tools))
        protocol = tools.running()

    @contextlib.asynccontextmanager
    async def lifespan(_: Litestar) -> Any:
        context.service.start()
        try:
            async with protocol:
                yield
        finally:
            context.sessions.stop()
            await context.service.stop()
            tracing.close()

    key = SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")
    app = Litestar(
        route_handlers,
        lifespan=[lifespan],
        exception_handlers={Exception: _on_error},
        openapi_config=OpenAPIConfig(
            title="dayfly",
            version=__version__,
            description="Untrusted Python code in single-use, hardened containers.",
            components=Components(security_schemes={"key": key}),
            path="/schema",
            render_plugins=docs.PLUGINS,
            use_handler_docstrings=True,
        ),
        debug=False,
        logging_config=None,
    )
    routes.document_bodies(app.openapi_schema, context.config)
    paths = frozenset(route.path for route in app.routes)
    return Middleware(app, context, tracing, paths, connections)
