"""Where the engine is, in the Docker client's own order of precedence; and that what breaks on the
way is an error of dayfly's own."""

from __future__ import annotations

import hashlib
import inspect
import json
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpcore
import httpx
import pytest

from dayfly import EngineError, EngineRefused, EngineUnreachable
from dayfly._connection import AttachedStream, Connection, _refusal
from dayfly._endpoint import Endpoint, resolve
from dayfly._engine_api import NEWEST_API, EngineAPI, _decode, negotiate


class Host:
    """A home, a run-time folder and a system socket, all of them in a folder of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.config = self.home / ".docker"
        self.config.mkdir(parents=True)
        self.system = root / "docker.sock"
        self.environ = {"HOME": str(self.home), "XDG_RUNTIME_DIR": str(root / "run")}

    def resolve(self, docker_host: str | None = None, **environ: str) -> Endpoint:
        return resolve(docker_host, environ={**self.environ, **environ}, system_socket=str(self.system))

    def current(self, name: object) -> None:
        (self.config / "config.json").write_text(json.dumps({"currentContext": name}))

    def context(self, name: str, meta: Any, *, folder: Path | None = None, tls: bool = False) -> Path:
        identity = hashlib.sha256(name.encode()).hexdigest()
        home = folder or self.config
        path = home / "contexts" / "meta" / identity / "meta.json"
        path.parent.mkdir(parents=True)
        path.write_text(meta if isinstance(meta, str) else json.dumps(meta))
        material = home / "contexts" / "tls" / identity / "docker"
        if tls:
            material.mkdir(parents=True)
        return material

    def touch(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def to(address: str, **more: Any) -> dict[str, Any]:
    return {"Name": "x", "Endpoints": {"docker": {"Host": address, **more}}}


# Precedence.


def test_each_source_gives_way_to_the_one_before_it(host: Host) -> None:
    rootless_home = host.touch("home/.docker/run/docker.sock")
    assert host.resolve().socket == str(rootless_home)
    rootless = host.touch("run/docker.sock")
    assert host.resolve().socket == str(rootless)
    host.system.touch()
    assert host.resolve().socket == str(host.system)
    host.context("current", to("unix:///current"))
    host.current("current")
    assert host.resolve().socket == "/current"
    host.context("chosen", to("unix:///chosen"))
    assert host.resolve(DOCKER_CONTEXT="chosen").socket == "/chosen"
    assert host.resolve(DOCKER_CONTEXT="chosen", DOCKER_HOST="unix:///variable").socket == "/variable"
    assert host.resolve("unix:///argument", DOCKER_CONTEXT="chosen", DOCKER_HOST="unix:///variable").socket == "/argument"


def test_the_system_socket_is_the_last_resort(host: Host) -> None:
    assert host.resolve() == Endpoint(address=f"unix://{host.system}", socket=str(host.system))


def test_an_empty_variable_is_none(host: Host) -> None:
    assert host.resolve(DOCKER_HOST="", DOCKER_CONTEXT="", DOCKER_CONFIG="", DOCKER_TLS_VERIFY="", DOCKER_CERT_PATH="").socket == str(
        host.system
    )


@pytest.mark.parametrize("name", ["default", "", None, 7, ["x"]])
def test_the_default_context_is_no_context(host: Host, name: object) -> None:
    host.current(name)
    assert host.resolve().socket == str(host.system)


def test_another_folder_of_settings_may_be_named(host: Host) -> None:
    elsewhere = host.root / "elsewhere"
    host.context("c", to("unix:///there"), folder=elsewhere)
    (elsewhere / "config.json").write_text('{"currentContext": "c"}')
    assert host.resolve(DOCKER_CONFIG=str(elsewhere)).socket == "/there"
    assert host.resolve().socket == str(host.system)


def test_a_home_that_is_not_set_is_looked_up(tmp_path: Path) -> None:
    assert resolve("unix:///x", environ={}).socket == "/x"
    assert resolve(environ={"DOCKER_HOST": "unix:///x"}).socket == "/x"


@pytest.mark.parametrize("meta", [
    "", "{", "[]", "null", '"x"', "{}", '{"Endpoints": {}}', '{"Endpoints": {"docker": {}}}', '{"Endpoints": [1]}',
    '{"Endpoints": {"docker": {"Host": null}}}', '{"Endpoints": {"docker": {"Host": 7}}}', '{"Endpoints": {"docker": {"Host": ""}}}',
    '{"Endpoints": {"docker": "x"}}',
])  # fmt: skip
def test_an_unreadable_context_is_a_value_error(host: Host, meta: str) -> None:
    host.context("broken", meta)
    with pytest.raises(ValueError, match=r"the (current )?Docker context 'broken'"):
        host.resolve(DOCKER_CONTEXT="broken")


def test_a_missing_context_is_a_value_error(host: Host) -> None:
    host.current("gone")
    with pytest.raises(ValueError, match=r"'gone' cannot be read .* set DOCKER_HOST or docker_host="):
        host.resolve()


@pytest.mark.parametrize("text", ["", "{", "\xff", "[", '{"currentContext"'])
def test_settings_that_cannot_be_read_are_a_value_error(host: Host, text: str) -> None:
    (host.config / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"config\.json.*set DOCKER_HOST"):
        host.resolve()
    assert host.resolve(DOCKER_HOST="unix:///x").socket == "/x"


@pytest.mark.parametrize("text", ["[]", "null", "7", '"x"', "{}"])
def test_settings_without_a_context_are_no_error(host: Host, text: str) -> None:
    (host.config / "config.json").write_text(text)
    assert host.resolve().socket == str(host.system)


# Addresses.


@pytest.mark.parametrize(("address", "url", "path"), [
    ("unix:///var/run/docker.sock", "http://docker", "/var/run/docker.sock"),
    ("unix://relative.sock", "http://docker", f"{Path.cwd()}/relative.sock"),
    ("unix://../up.sock", "http://docker", f"{Path.cwd().parent}/up.sock"),
    ("unix:///a b\u00e4%20", "http://docker", "/a b\u00e4%20"),
    ("tcp://engine:2375", "http://engine:2375", None),
    ("tcp://engine", "http://engine:2375", None),
    ("tcp://engine:2375/", "http://engine:2375", None),
    ("tcp://127.0.0.1:1", "http://127.0.0.1:1", None),
    ("tcp://[::1]:2375", "http://[::1]:2375", None),
    ("tcp://[fe80::1]", "http://[fe80::1]:2375", None),
    ("http://engine:80", "http://engine:80", None),
    ("https://engine", "https://engine:2376", None),
    ("https://[::1]:9", "https://[::1]:9", None),
])  # fmt: skip
def test_addresses(host: Host, address: str, url: str, path: str | None) -> None:
    for endpoint in (host.resolve(address), host.resolve(DOCKER_HOST=address)):
        assert (endpoint.base_url, endpoint.socket, endpoint.address) == (url, path, address)
        assert httpx.URL(endpoint.base_url).host
        assert (endpoint.tls is not None) == url.startswith("https")


@pytest.mark.parametrize("address", [
    "ssh://user@host", "npipe:////./pipe/docker_engine", "fd://", "fd://3", "ftp://x", "vsock://2:2375", "UNIX:///x", "docker://x",
])  # fmt: skip
def test_other_schemes_are_refused_by_name(host: Host, address: str) -> None:
    for given in ({"docker_host": address}, {"DOCKER_HOST": address}):
        with pytest.raises(ValueError, match=r"not supported, only unix:// and tcp://|must be an address like"):
            host.resolve(**given)


@pytest.mark.parametrize("address", [
    "", " ", "/var/run/docker.sock", "docker.sock", "localhost:2375", "unix:", "unix:/x", "unix://", "unix:///", "tcp://", "tcp:///", "://",
    "tcp://:2375", "tcp://host:port", "tcp://host:99999", "tcp://host:-1", "tcp://host:2375/path", "tcp://host?query", "tcp://user@host",
    "tcp://user:secret@host", "tcp://[::1", "tcp://::1:2375:x", "https://",
])  # fmt: skip
def test_a_bad_address_is_a_value_error_with_its_source(host: Host, address: str) -> None:
    with pytest.raises(ValueError, match="docker_host"):
        host.resolve(address)
    if address:
        with pytest.raises(ValueError, match="DOCKER_HOST"):
            host.resolve(DOCKER_HOST=address)


@pytest.mark.parametrize("address", [1, b"unix:///x", Path("/x"), ["unix:///x"], True])
def test_an_address_that_is_no_str_is_a_type_error(address: Any) -> None:
    with pytest.raises(TypeError, match="docker_host must be a str"):
        resolve(address)


# TLS.


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that signs itself, under the three names that Docker uses."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(
        [*command, "-subj", "/CN=engine", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    (folder / "ca.pem").write_bytes((folder / "cert.pem").read_bytes())
    return folder


@pytest.mark.parametrize(("scheme", "environ", "tls", "verify", "port"), [
    ("tcp", {}, None, True, 2375),
    ("tcp", {"DOCKER_TLS_VERIFY": "0"}, None, True, 2375),
    ("tcp", {"DOCKER_TLS_VERIFY": "1"}, "", True, 2376),
    ("tcp", {"DOCKER_TLS_VERIFY": "no, thanks"}, "", True, 2376),  # any text means yes, as with the Docker client
    ("tcp", {"DOCKER_CERT_PATH": "/c"}, "/c", False, 2376),
    ("tcp", {"DOCKER_CERT_PATH": "/c", "DOCKER_TLS_VERIFY": "1"}, "/c", True, 2376),
    ("https", {}, "", True, 2376),
    ("https", {"DOCKER_CERT_PATH": "/c"}, "/c", True, 2376),
    ("unix", {"DOCKER_CERT_PATH": "/c", "DOCKER_TLS_VERIFY": "1"}, None, True, None),
])  # fmt: skip
def test_when_tls_is_spoken_and_checked(
    host: Host, scheme: str, environ: dict[str, str], tls: str | None, verify: bool, port: int | None
) -> None:
    endpoint = host.resolve(f"{scheme}:///x" if scheme == "unix" else f"{scheme}://engine", **environ)
    assert (endpoint.tls, endpoint.port) == (tls, port)
    if tls is not None:
        assert endpoint.tls_verify is verify


def test_a_relative_certificate_folder_becomes_absolute(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host.root)
    endpoint = host.resolve("tcp://engine", DOCKER_CERT_PATH="certs/../tls")
    assert endpoint.tls == str(host.root / "tls")
    assert host.resolve("unix://docker.sock").socket == str(host.system)


def test_a_relative_settings_folder_becomes_absolute(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(host.root)
    host.touch("settings/ca.pem")
    assert host.resolve("tcp://engine", DOCKER_CONFIG="settings", DOCKER_TLS_VERIFY="1").tls == str(host.root / "settings")


def test_an_absolute_path_keeps_its_links(host: Host) -> None:
    link = host.root / "link.sock"
    link.symlink_to(host.touch("real.sock"))
    assert host.resolve(f"unix://{link}").socket == str(link)


def test_certificates_default_to_the_settings_folder(host: Host, material: Path) -> None:
    (host.config / "ca.pem").write_bytes((material / "ca.pem").read_bytes())
    assert host.resolve("tcp://engine", DOCKER_TLS_VERIFY="1").tls == str(host.config)
    assert host.resolve("tcp://engine").tls is None


def test_the_certificates_are_used(host: Host, material: Path) -> None:
    strict = host.resolve("tcp://engine", DOCKER_CERT_PATH=str(material), DOCKER_TLS_VERIFY="1").ssl_context()
    assert strict is not None
    assert (strict.verify_mode, strict.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(strict.get_ca_certs()) == 1, "the named authority, and none of the system's"
    lenient = host.resolve("tcp://engine", DOCKER_CERT_PATH=str(material)).ssl_context()
    assert lenient is not None
    assert (lenient.verify_mode, lenient.check_hostname) == (ssl.CERT_NONE, False)
    assert host.resolve("tcp://engine").ssl_context() is None
    assert host.resolve("unix:///x").ssl_context() is None


def test_without_material_the_system_s_authorities_are_asked(host: Host) -> None:
    context = host.resolve("https://engine").ssl_context()
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED


@pytest.mark.parametrize("broken", ["ca.pem", "cert.pem", "key.pem"])
def test_material_that_cannot_be_used_is_a_value_error(host: Host, material: Path, broken: str, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (folder / name).write_bytes(b"nonsense" if name == broken else (material / name).read_bytes())
    with pytest.raises(ValueError, match=r"cannot use the TLS files"):
        host.resolve("tcp://engine", DOCKER_CERT_PATH=str(folder), DOCKER_TLS_VERIFY="1").ssl_context()


@pytest.mark.parametrize(("more", "verify"), [({}, True), ({"SkipTLSVerify": False}, True), ({"SkipTLSVerify": True}, False)])
def test_a_context_brings_its_own_tls_and_no_variable_changes_it(host: Host, more: dict[str, Any], verify: bool) -> None:
    material = host.context("c", to("tcp://engine:2376", **more), tls=True)
    endpoint = host.resolve(DOCKER_CONTEXT="c", DOCKER_CERT_PATH="/other", DOCKER_TLS_VERIFY="" if verify else "1")
    assert (endpoint.tls, endpoint.tls_verify) == (str(material), verify)


def test_a_home_that_is_closed_to_this_user_is_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a systemd unit with ProtectHome has it."""

    def closed(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", closed)
    monkeypatch.setattr(Path, "exists", closed)
    assert host.resolve().socket == str(host.system)
    assert host.resolve("tcp://engine", DOCKER_TLS_VERIFY="1").tls == ""


def test_a_context_without_tls_is_plain(host: Host) -> None:
    host.context("c", to("tcp://engine:2375"))
    assert host.resolve(DOCKER_CONTEXT="c", DOCKER_CERT_PATH="/other", DOCKER_TLS_VERIFY="1").tls is None


# The errors of others.

FOREIGN = [
    thing
    for module in (httpx, httpcore)
    for _, thing in sorted(inspect.getmembers(module, inspect.isclass))
    if issubclass(thing, Exception)
] + [OSError, ConnectionResetError, BrokenPipeError, socket.gaierror, ssl.SSLError, PermissionError, FileNotFoundError, TimeoutError,
     anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream]  # fmt: skip


def made(kind: type[Exception]) -> Exception:
    """One of them, whatever its constructor wants."""
    error: Exception = kind.__new__(kind, "said")
    error.args = ("said",)
    return error


named = pytest.mark.parametrize("kind", FOREIGN, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")


@named
async def test_any_exception_under_a_call_is_engine_unreachable(kind: type[Exception]) -> None:
    connection = Connection(resolve("tcp://engine"), 30)
    with pytest.raises(EngineUnreachable, match="GET /x"), connection._bounded("GET /x", 5):
        raise made(kind)


class Broken:
    """The connection under an attached stream, of which every use raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.status_code = 101
        self.extensions = {"network_stream": self}

    async def read(self, *_: Any) -> bytes:
        raise self.error

    write = read

    async def aclose(self) -> None:
        raise self.error

    async def aiter_raw(self) -> Any:
        raise self.error
        yield b""

    def get_extra_info(self, _: str) -> None:
        return None


@named
@pytest.mark.parametrize("status", [101, 200])
async def test_any_exception_of_a_stream_is_engine_unreachable(kind: type[Exception], status: int) -> None:
    broken: Any = Broken(made(kind))
    broken.status_code = status
    stream = AttachedStream(broken, broken, "c0ffee")
    for use in (stream.read, lambda: stream.write(b"x")):
        with pytest.raises(EngineUnreachable, match="the attached stream of c0ffee broke"):
            await use()
    stream.shut_down()
    await stream.aclose()


async def test_our_own_errors_and_a_programmers_pass_through() -> None:
    connection = Connection(resolve("tcp://engine"), 30)
    for error in (EngineRefused("x", status=500), EngineError("x"), ZeroDivisionError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, connection._bounded("GET /x", 5):
            raise error
        assert caught.value is error


async def test_a_late_call_is_engine_unreachable_with_its_time() -> None:
    connection = Connection(resolve("tcp://engine"), 30)
    with pytest.raises(EngineUnreachable, match=r"GET /x: no answer .* within 0\.01 s"), connection._bounded("GET /x", 0.01):
        await anyio.sleep(30)


async def test_the_cancellation_of_a_caller_is_no_error_of_the_engines() -> None:
    connection = Connection(resolve("tcp://engine"), 30)
    with anyio.move_on_after(0.01) as scope, connection._bounded("GET /x", 30):
        await anyio.sleep(30)
    assert scope.cancelled_caught


async def test_a_socket_that_is_not_there_is_said_to_be_so(tmp_path: Path) -> None:
    with pytest.raises(EngineUnreachable, match=r"there is no socket .*/none\.sock: is Docker installed and running\?"):
        async with EngineAPI(f"unix://{tmp_path}/none.sock"):
            pass


async def test_a_socket_on_which_nobody_answers_is_said_to_be_so(tmp_path: Path) -> None:
    path = str(tmp_path / "dead.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(EngineUnreachable, match="the socket exists, but no daemon answers on it"):
        async with EngineAPI(f"unix://{path}"):
            pass


async def test_calls_after_the_end_are_engine_unreachable() -> None:
    engine = EngineAPI("tcp://engine")
    with pytest.raises(EngineUnreachable, match="is closed"):
        await engine.info()
    await engine.aclose()


# What the engine says.


@pytest.mark.parametrize(("version", "chosen"), [
    ({"ApiVersion": "1.41"}, "1.41"),
    ({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}, "1.41"),
    ({"ApiVersion": "1.51", "MinAPIVersion": "1.24"}, "1.51"),
    ({"ApiVersion": "1.99", "MinAPIVersion": "1.24"}, "1.51"),
    ({"ApiVersion": "2.0", "MinAPIVersion": "1.24"}, "1.51"),
    ({"ApiVersion": "1.60", "MinAPIVersion": "1.55"}, "1.55"),
    ({"ApiVersion": "1.44", "MinAPIVersion": ""}, "1.44"),
])  # fmt: skip
def test_the_version_is_the_newest_that_both_know(version: dict[str, Any], chosen: str) -> None:
    assert negotiate(version, "here") == chosen
    assert NEWEST_API == (1, 51)


@pytest.mark.parametrize("api", ["1.40", "1.9", "1.4", "0.99"])
def test_an_engine_too_old_is_refused_with_what_is_needed(api: str) -> None:
    with pytest.raises(EngineError, match=rf"here speaks API {api}; dayfly needs 1\.41"):
        negotiate({"ApiVersion": api}, "here")


@pytest.mark.parametrize("version", [
    {}, {"ApiVersion": None}, {"ApiVersion": ""}, {"ApiVersion": "x"}, {"ApiVersion": "1"}, {"ApiVersion": 1.41}, {"ApiVersion": "1.41.1"},
    {"ApiVersion": ["1.41"]}, {"ApiVersion": "1.41", "MinAPIVersion": "x"}, {"ApiVersion": "1." + "9" * 5_000},
])  # fmt: skip
def test_what_is_no_engine_is_said_to_be_none(version: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="is not a Docker Engine") as caught:
        negotiate(version, "here")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(("answer", "said"), [
    (b'{"message":"no such thing"}', "no such thing"), (b"", "nothing more"), (b"<html>", "<html>"), (b"\xff", "\ufffd"), (b"[]", r"\[\]"),
    (b'{"error":"x"}', "error"), (b'{"message":null}', "None"), (b"x" * 10_000, "xxx"), (b'{"message":' + b"[" * 100_000, "message"),
])  # fmt: skip
def test_a_refusal_has_call_status_and_the_engines_message(answer: bytes, said: str) -> None:
    error = _refusal("POST /x", 418, answer)
    assert isinstance(error, EngineRefused)
    assert error.status == 418
    with pytest.raises(EngineRefused, match=rf"^POST /x: the engine answered 418: .*{said}") as caught:
        raise error
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"null", b"<html>", b"\xff", b"[" * 100_000, b'{"a":' * 50_000, b"7"])
def test_an_answer_of_another_shape_is_an_engine_error(answer: bytes) -> None:
    with pytest.raises(EngineError, match="GET /x: the engine's answer makes no sense"):
        _decode("GET /x", answer, dict[str, Any])


async def test_no_proxy_of_the_environment_stands_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(EngineUnreachable):
            async with EngineAPI(f"tcp://127.0.0.1:{port}", deadline=0.2):
                pass
        connection, _ = server.accept()
        with connection:
            assert connection.recv(100).startswith(b"GET /version HTTP/1.1\r\n")
