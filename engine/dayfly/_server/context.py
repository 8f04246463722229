"""What one request and one server know: the request context, and what all routes share."""

from __future__ import annotations

from typing import Any

import msgspec

from .bodies import BodyMemory
from .case_sets import CaseSets
from .config import Config
from .keys import Key, KeyStore
from .quotas import Quotas
from .service import Service
from .sessions import Sessions


class RequestContext(msgspec.Struct):
    """What is known of one request; it becomes one line of the log."""

    id: str
    client: str
    key: Key | None = None
    """None: no key was checked, so the request is unauthenticated."""
    stranger: bool = False
    """It was let in without a key, as one of all those that have none; `key` stands for them."""
    read: bool = False
    """The body was read and decoded."""
    notes: dict[str, Any] = {}
    """More fields for the log line: outcome, times, the problem's name."""

    @property
    def key_name(self) -> str:
        """The key's name for logs: `anonymous` without one."""
        return "anonymous" if self.key is None else self.key.name


class AppContext(msgspec.Struct, frozen=True):
    """What the routes share."""

    config: Config
    service: Service
    sessions: Sessions
    keys: KeyStore
    quotas: Quotas
    bodies: BodyMemory
    case_sets: CaseSets


def request_context(scope: Any) -> RequestContext:
    """Return the context that the middleware put into the scope."""
    context: RequestContext = scope["dayfly.request"]
    return context


def app_context(scope: Any) -> AppContext:
    """Return what the routes share; the middleware put it into the scope."""
    context: AppContext = scope["dayfly.app"]
    return context
