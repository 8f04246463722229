"""The two pages, as files of this package: the playground at /, and the documentation of the API at
/schema.

Both are written by hand, but for the editor, which `tools/editor/build` makes of CodeMirror, and
load nothing from anywhere else. The Content-Security-Policy, which the middleware sends with
every answer, says so: no inline script or style, nobody may frame them, and no text ever becomes
HTML (`require-trusted-types-for`).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from litestar import MediaType, Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}


def _file(path: str, name: str) -> HTTPRouteHandler:
    content = files(__package__).joinpath("page", name).read_text(encoding="utf-8")
    kind = _TYPES[name[name.rindex(".") :]]

    async def page() -> Response[str]:
        return Response(content, headers={"Content-Type": kind})

    return get(path, include_in_schema=False)(page)


def handlers(*, playground: bool) -> Sequence[HTTPRouteHandler]:
    """Return the routes of the pages; the playground's only if it is wanted."""
    names = [("/page.css", "page.css"), ("/schema/page.js", "schema.js")]
    if playground:
        names += [("/", "index.html"), ("/page.js", "page.js"), ("/editor.js", "editor.js")]
    return [_file(path, name) for path, name in names]


class _Docs(OpenAPIRenderPlugin):
    """The documentation page, which reads /schema/openapi.json by itself."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """See OpenAPIRenderPlugin."""
        return files(__package__).joinpath("page", "schema.html").read_bytes()


PLUGINS = [_Docs(path="/", media_type=MediaType.HTML), JsonRenderPlugin()]
