"""The server's log: one JSON object a line on stderr, and how much of it strangers can cause."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import time
from collections.abc import Callable
from typing import Any

import structlog

RATE, BURST = 10.0, 100.0
"""Lines a second that clients without a key can cause in the long run, and at once."""


class LogLimiter(logging.Filter):
    """A token bucket for log lines. The next line that passes says how many did not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._tokens = BURST
        self._told = clock()
        self._left_out = 0

    def passes(self) -> int | None:
        """Return how many lines were left out before this one; None if this one is left out too."""
        now = self._clock()
        self._tokens = min(BURST, self._tokens + (now - self._told) * RATE)
        self._told = now
        if self._tokens < 1:
            self._left_out += 1
            return None
        self._tokens -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        left_out = self.passes()
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} lines before it were left out)"
            record.args = ()
        return left_out is not None


def set_up_logs(level: str) -> None:
    """Log one JSON object a line to stderr: our own events, the library's and uvicorn's."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("dayfly", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # These two speak of connections, so anybody who can connect can make them speak.
    for name in ("uvicorn.error", "asyncio"):
        logging.getLogger(name).addFilter(LogLimiter())


def quiet_accept_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Log a failed accept() as one line without its traceback: asyncio tries again by itself."""

    def handle(loop: asyncio.AbstractEventLoop, told: dict[str, Any]) -> None:
        error = told.get("exception")
        if "socket.accept" in str(told.get("message")):
            logging.getLogger("asyncio").error("a connection cannot be accepted: %s", error)
        else:
            loop.default_exception_handler(told)

    loop.set_exception_handler(handle)
