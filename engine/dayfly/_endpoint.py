"""Where the engine is: from an address, the environment, or the Docker context to one Endpoint.

Owns the order of precedence and the meaning of an address. It reads files, and never opens a
connection. The order is the Docker client's own, with the rootless socket last: the argument,
DOCKER_HOST, the current context (DOCKER_CONTEXT, then `currentContext` of config.json),
/var/run/docker.sock, then the rootless sockets.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

SYSTEM_SOCKET = "/var/run/docker.sock"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's address. `socket` is the path of a Unix socket, or None where `host` and `port`
    are to be dialled."""

    address: str
    """As it was given or found, for messages: `unix:///var/run/docker.sock`."""
    socket: str | None = None
    host: str = "docker"
    port: int | None = None
    tls: str | None = None
    """Directory with ca.pem, cert.pem and key.pem; empty: the system's own authorities and no
    client certificate."""
    tls_verify: bool = True

    @property
    def base_url(self) -> str:
        """The URL that API paths are added to."""
        port = "" if self.port is None else f":{self.port}"
        return f"{'http' if self.tls is None else 'https'}://{self.host}{port}"

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings, or None for plain connections. Raises ValueError for material that
        cannot be read."""
        if self.tls is None:
            return None
        folder = Path(self.tls) if self.tls else None
        try:
            authority = folder / "ca.pem" if folder else None
            context = ssl.create_default_context(cafile=str(authority) if authority and authority.exists() else None)
            if not self.tls_verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if folder and (folder / "cert.pem").exists():
                context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"cannot use the TLS files in {self.tls} for {self.address}: {error}") from error
        return context


def resolve(
    docker_host: str | Endpoint | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    system_socket: str = SYSTEM_SOCKET,
) -> Endpoint:
    """Find the engine. TypeError or ValueError for an address, context or TLS setting that makes no
    sense.

    An Endpoint is returned as it is. A process that makes sandbox after sandbox resolves once: the
    Docker client's files may be half written, or unreadable without a free descriptor, later on.
    """
    if isinstance(docker_host, Endpoint):
        return docker_host
    if docker_host is not None and not isinstance(docker_host, str):
        raise TypeError(f"docker_host must be a str, not {type(docker_host).__name__}")
    home = Path(environ.get("HOME") or "~").expanduser()
    config = Path(environ.get("DOCKER_CONFIG") or home / ".docker")
    if docker_host is not None:
        return _parse(docker_host, "docker_host", environ, config)
    if environ.get("DOCKER_HOST"):
        return _parse(environ["DOCKER_HOST"], "DOCKER_HOST", environ, config)
    context = environ.get("DOCKER_CONTEXT") or _current_context(config)
    if context and context != "default":
        return _from_context(context, config)
    rootless = [Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "docker.sock", home / ".docker/run/docker.sock"]
    found = next((path for path in [Path(system_socket), *rootless] if _exists(path)), Path(system_socket))
    return Endpoint(address=f"unix://{found}", socket=str(found))


def _parse(address: str, source: str, environ: Mapping[str, str], config: Path) -> Endpoint:
    scheme, found, rest = address.partition("://")
    if not found or not rest.strip("/"):
        raise ValueError(f"{source} must be an address like unix:///var/run/docker.sock or tcp://host:2376, not {address!r}")
    if scheme == "unix":
        # Absolute, like the folder below: the watchdog process has another working directory.
        return Endpoint(address=address, socket=os.path.abspath(rest))  # noqa: PTH100 - resolve() would follow links
    if scheme not in ("tcp", "http", "https"):
        raise ValueError(
            f"{source}={address!r}: the scheme {scheme}:// is not supported, only unix:// and tcp://; forward the engine's socket instead"
        )
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{source}={address!r} is not a valid address: {error}") from error
    if not host or parts.path.strip("/") or parts.query or parts.username:
        raise ValueError(f"{source}={address!r}: expected {scheme}://host:port and nothing else")
    verify = environ.get("DOCKER_TLS_VERIFY", "") not in ("", "0")
    tls: str | None = None
    if verify or scheme == "https" or environ.get("DOCKER_CERT_PATH"):
        # The Docker client looks for its certificates in the configuration's own folder where no
        # other is named.
        default = str(config) if _exists(config / "ca.pem") or _exists(config / "cert.pem") else ""
        tls = environ.get("DOCKER_CERT_PATH") or default
        tls = os.path.abspath(tls) if tls else ""  # noqa: PTH100
        verify = verify or scheme == "https"
    port = port or (2375 if tls is None else 2376)
    return Endpoint(address=address, host=f"[{host}]" if ":" in host else host, port=port, tls=tls, tls_verify=verify)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that is closed to this user
        return False


def _current_context(config: Path) -> str | None:
    try:
        settings = json.loads((config / "config.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # a service may have a home that is closed to it; the Docker client goes on without one, too
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the Docker client's settings in {config / 'config.json'}: {error}; set DOCKER_HOST") from error
    name = settings.get("currentContext") if isinstance(settings, dict) else None
    return name if isinstance(name, str) else None


def _from_context(name: str, config: Path) -> Endpoint:
    identity = hashlib.sha256(name.encode()).hexdigest()  # the client's own naming of the folder
    path = config / "contexts" / "meta" / identity / "meta.json"
    try:
        docker = json.loads(path.read_bytes())["Endpoints"]["docker"]
        address = docker["Host"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the current Docker context {name!r} cannot be read ({path}: {error!r}); set DOCKER_HOST or docker_host="
        ) from error
    if not isinstance(address, str):
        raise ValueError(f"the Docker context {name!r} has no address but {address!r:.80}; set DOCKER_HOST or docker_host=")  # noqa: TRY004 - what a file holds is a value
    folder = config / "contexts" / "tls" / identity / "docker"
    own: dict[str, str] = {}
    if folder.is_dir():
        own = {"DOCKER_CERT_PATH": str(folder), "DOCKER_TLS_VERIFY": "" if docker.get("SkipTLSVerify") else "1"}
    return _parse(address, f"the Docker context {name!r}", own, config)
