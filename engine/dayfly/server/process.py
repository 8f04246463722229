"""One server process: its socket, its log, its signals, and what it does about clients that are slow on purpose.

SIGTERM and SIGINT stop it: no new connection is taken, what runs may finish within `drain_seconds`, then the sandbox is closed. SIGHUP
reads the keys again. A killed process leaves nothing either; the library sees to that.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import signal
import socket
import sys
from types import FrameType
from typing import Any

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .app import Context, application
from .config import Config, ConfigError
from .keys import Ring
from .quotas import Quotas
from .service import Service
from .tracing import Tracing

log = structlog.stdlib.get_logger("dayfly.server")


def check(config: Config) -> tuple[Ring, Tracing]:
    """Read what the configuration points to. ConfigError if it cannot be used."""
    try:
        ring = Ring(config.keys, config.keys_file)
    except OSError as error:
        raise ConfigError(f"keys_file: {config.keys_file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not config.loopback and not len(ring):
        raise ConfigError(f"keys_file: {config.keys_file} has no key, and host {config.host} is not a loopback address")
    return ring, Tracing(wanted=config.traces)


def serve(config: Config) -> None:
    """Serve until a signal says stop. ConfigError if it cannot begin."""
    ring, tracing = check(config)
    set_up_logs(config.log_level)
    listener = _listen(config.host, config.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again when all is done: that is the end, and a good one.
        signal.signal(number, _leave)
    try:
        asyncio.run(_serve(config, ring, tracing, listener))
    finally:
        log.info("stopped")


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(0)


async def _serve(config: Config, ring: Ring, tracing: Tracing, listener: socket.socket) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, ring.reload)
    quotas = Quotas(per_minute=config.rate_per_minute, burst=config.rate_burst, concurrency=config.concurrency)
    context = Context(config, Service(config, tracing), ring, quotas)
    server = uvicorn.Server(
        uvicorn.Config(
            application(context, tracing),
            http=type("Protocol", (Impatient,), {"patience": config.client_seconds}),
            ws="none",
            lifespan="on",
            proxy_headers=False,  # the edge reads them, and believes only trusted proxies
            server_header=False,
            access_log=False,
            log_config=None,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
        )
    )
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", keys=len(ring), playground=config.playground)
    await server.serve(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2_048)
    except OSError as error:
        raise ConfigError(f"host, port: cannot listen at {host} port {port}: {error.strerror}") from None
    return listener


class Impatient(H11Protocol):
    """uvicorn's protocol, and two deadlines that it lacks: for a request to arrive whole, and for a client that has stopped reading.

    Without them a client holds its connection, and what is buffered for it, for as long as it likes. A refused request needs no deadline:
    it is answered without its body being read.
    """

    patience = 15.0
    """Seconds."""

    _arriving: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._arriving = self.loop.call_later(self.patience, transport.abort)

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            if self._arriving is None:
                self._arriving = self.loop.call_later(self.patience, self.transport.abort)
        else:
            self._stop("_arriving")

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.patience, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        super().resume_writing()
        self._stop("_reading")

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._stop("_arriving")
        self._stop("_reading")
        super().connection_lost(exc)

    def _stop(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)


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
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("dayfly", "uvicorn"):
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
