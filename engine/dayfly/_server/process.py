"""One server process: its socket, its descriptors, its signals.

SIGTERM and SIGINT stop it: no new connection is taken, what runs may finish within `drain_seconds`,
then the sandbox is closed. SIGHUP reads the keys again. A killed process leaves nothing either; the
library sees to that.
"""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import socket
import sys
from types import FrameType
from typing import Any

import structlog
import uvicorn

from dayfly._endpoint import Endpoint, resolve

from .app import application
from .bodies import BodyMemory
from .case_sets import CaseSets
from .config import Config, ConfigError
from .connections import BACKLOG, RESERVED, Connections, raise_descriptor_limit
from .context import AppContext
from .keys import KeyStore
from .logs import quiet_accept_errors, set_up_logs
from .quotas import Quotas
from .service import Service
from .sessions import Sessions
from .tracing import Tracing

log = structlog.stdlib.get_logger("dayfly.server")


def check(config: Config) -> tuple[KeyStore, Tracing]:
    """Read what the configuration points to. ConfigError if it cannot be used."""
    try:
        store = KeyStore(config.keys, config.keys_file)
    except OSError as error:
        raise ConfigError(f"keys_file: {config.keys_file}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if not config.loopback and not len(store):
        raise ConfigError(f"keys_file: {config.keys_file} has no key, and host {config.host} is not a loopback address")
    if config.mcp and importlib.util.find_spec("mcp") is None:
        raise ConfigError("mcp: the package mcp is not installed: pip install 'dayfly[mcp]'")
    return store, Tracing(wanted=config.traces)


def serve(config: Config) -> None:
    """Serve until a signal says stop. ConfigError if it cannot begin."""
    store, tracing = check(config)
    set_up_logs(config.log_level)
    most = _connections(config, raise_descriptor_limit())
    endpoint = resolve(config.docker_host)
    listener = _listen(config.host, config.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again when all is done: that is the end, and a good one.
        signal.signal(number, _leave)
    try:
        died = asyncio.run(_serve(config, store, tracing, listener, endpoint=endpoint, most=most))
    finally:
        log.info("stopped")
    if died:
        sys.exit(1)


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    sys.exit(0)


def _connections(config: Config, descriptors: int) -> int:
    """Return how many connections fit below the limit of descriptors. ConfigError if hardly any."""
    free = descriptors - RESERVED - 4 * config.slots
    if free < 16:
        raise ConfigError(
            f"{descriptors} descriptors (ulimit -n) are too few for {config.slots} containers: "
            f"{RESERVED + 4 * config.slots + 16} or more are needed"
        )
    return min(config.max_connections, free)


async def _serve(
    config: Config,
    store: KeyStore,
    tracing: Tracing,
    listener: socket.socket,
    *,
    endpoint: Endpoint,
    most: int,
) -> bool:
    """Serve until a signal says stop. True if the server ended because it could not go on."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, store.reload)
    quiet_accept_errors(loop)
    died = False

    def die() -> None:
        nonlocal died
        died = server.should_exit = True

    quotas = Quotas(per_minute=config.rate_per_minute, burst=config.rate_burst, concurrency=config.concurrency)
    keyless = config.run_code and config.run_code_without_key  # whose runs are one key's, beside the others
    service = Service(config, tracing, endpoint, key_count=lambda: len(store) + keyless, on_death=die)
    context = AppContext(
        config=config,
        service=service,
        sessions=Sessions(config, service, lambda: len(store)),
        keys=store,
        quotas=quotas,
        bodies=BodyMemory(config.max_bodies_bytes),
        case_sets=CaseSets(config.case_sets_bytes),
    )
    connections = Connections(most, seconds=config.client_seconds, request_bytes=config.max_request_bytes)
    protocol: Any = connections.protocol  # uvicorn calls it, though it says that it wants a class
    server = uvicorn.Server(
        uvicorn.Config(
            application(context, tracing, connections),
            http=protocol,
            ws="none",
            lifespan="on",
            proxy_headers=False,  # the middleware reads them, and believes only trusted proxies
            server_header=False,
            access_log=False,
            log_config=None,
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=max(1, round(config.drain_seconds)),
        )
    )
    host, port = listener.getsockname()[:2]
    log.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", keys=len(store), playground=config.playground)
    await server.serve(sockets=[listener])
    return died


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"host, port: cannot listen at {host} port {port}: {error.strerror}") from None
    return listener
