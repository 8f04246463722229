"""Configuration, keys and quotas: what is accepted, what is refused, and that a refusal says which
value and where it came from."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dayfly import Limits
from dayfly._server import keys, process
from dayfly._server.config import Config, ConfigError, load, settings
from dayfly._server.quotas import ConcurrencyExceeded, Quotas, RateExceeded


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("DAYFLY_")}
    return subprocess.run(
        [sys.executable, "-m", "dayfly", "serve", *arguments], env={**own, **environment}, capture_output=True, text=True, check=False
    )


def test_every_setting_has_flag_variable_and_place_in_the_file(tmp_path: Path) -> None:
    shown = command("--help", COLUMNS="200").stdout
    for setting in settings():
        assert setting.flag in shown
        assert setting.help.endswith(".")
        if setting.default is None or setting.default == []:
            continue
        text = str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)
        assert load(None, {setting.variable: text}, {}) == load(None, {}, {setting.name: text}) == Config()


@pytest.mark.parametrize("name", ["running_per_key", "request_bytes", "max_containers"])
def test_a_number_without_a_default_is_a_number(name: str) -> None:
    assert getattr(load(None, {}, {name: "5000"}), name) == 5_000
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: Expected"):
        load(None, {}, {name: "many"})
    if name != "max_containers":
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')}: Expected `int` >= "):
            load(None, {}, {name: "0"})


def test_flag_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "dayfly.toml"
    file.write_text('port = 1\npool_size = 2\nallowed_networks = ["10.0.0.0/8", "::1"]\n[limits]\npids = 20\nstdout_bytes = 5000\n')
    config = load(
        str(file),
        {"DAYFLY_SERVE_PORT": "2", "DAYFLY_SERVE_LIMITS_PIDS": "21", "DAYFLY_SERVE_PLAYGROUND": "true", "HOME": "/"},
        {"port": "3", "trusted_proxies": "127.0.0.1, 10.0.0.1"},
    )
    assert (config.port, config.pool_size, config.playground) == (3, 2, True)
    assert config.limits == Limits(pids=21, stdout_bytes=5000)
    assert config.allowed_networks == ["10.0.0.0/8", "::1"]
    assert config.trusted_proxies == ["127.0.0.1", "10.0.0.1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 99999", "port: Expected `int` <= 65535; given: 99999"),
        ("port = true", "port: Expected `int`, got `bool`; given: True"),
        ('port = "80"', "port: Expected `int`, got `str`"),
        ("prot = 80", "prot: there is no such setting"),
        ("[limits]\nstdout_bites = 1", "limits_stdout_bites: there is no such setting"),
        ("limits_pids = 20", "[limits_pids]: there is no such setting"),
        ("[limits]\npids = 1", "pids must be from 8"),
        ("limits = 4", "limits is a table"),
        ("port = ", "Invalid"),
        ('allowed_networks = ["10.0.0.1/8"]', "allowed_networks: 10.0.0.1/8 has host bits set"),
        ("timeout_ms = 70000", "timeout_ms (70000) is more than max_timeout_ms (60000)"),
        ("pool_size = 4\nmax_containers = 3", "max_containers (3) is less than pool_size (4)"),
        ('allowed_hosts = ["sandbox.example:8000"]', "allowed_hosts: 'sandbox.example:8000' is not a name or an address without a port"),
        ('allowed_hosts = ["https://sandbox.example"]', "allowed_hosts: 'https://sandbox.example' is not a name"),
        ('host = "0.0.0.0"', "not a loopback address and there is no key"),
        ('host = "example.org"', "not a loopback address and there is no key"),
        ('preload = ["os", "a b"]', "preload has 'a b', which is not the name of a module"),
        ('preload = "os"', "preload: Expected `array`, got `str`"),
        ('image = "a b"', "image 'a b' has characters"),
        ('keys = ["alice"]', "keys, entry 1: not of the form name=sha256:hash"),
        (f'keys = ["a=sha256:{"0" * 64} rate_per_minute=x"]', "keys, entry 1 (a): Expected `float"),
        (f'keys = ["a=sha256:{"0" * 64} rate_per_minute=nan"]', "rate_per_minute is a finite number, 0 or more"),
        (f'keys = ["a=sha256:{"0" * 64} concurrency=-1"]', "concurrency is 0 or more"),
        (f'keys = ["a=sha256:{"0" * 64} rate_burst=2 rate_burst=3"]', "keys, entry 1 (a): a limit is there twice"),
        ('keys_file = "/nowhere/keys"', "keys_file: /nowhere/keys: No such file or directory"),
        ('docker_host = "ftp://x"', "ftp"),
        ("max_bodies_bytes = 60000000", "less than twice request_bytes (30,065,536)"),
    ],
)
def test_a_wrong_file_is_refused_with_a_line_that_says_why(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "dayfly.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        process.check(load(str(file), {}, {}))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--host", "::"], ["--host", "0.0.0.0", "--keys-file", "empty"]])
def test_the_command_refuses_in_one_line_before_anything_is_done(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").write_text("# nobody yet\n")
    done = command(*(str(tmp_path / text) if text == "empty" else text for text in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dayfly: ")
    assert done.stderr.count("\n") == 1
    assert "--port: Expected `int`" in done.stderr or "not a loopback address" in done.stderr


def test_a_wrong_variable_or_flag_is_named() -> None:
    for environment, flags, told in (
        ({"DAYFLY_SERVE_PORT": "no"}, {}, "DAYFLY_SERVE_PORT: Expected `int`, got `str`; given: 'no'"),
        ({}, {"port": "99999"}, "--port: Expected `int` <= 65535; given: '99999'"),
        ({"DAYFLY_SERVE_PROT": "1"}, {}, "DAYFLY_SERVE_PROT: there is no such setting"),
        ({}, {"rate_per_minute": "-1"}, "--rate-per-minute: Expected `float` >= 0"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(None, environment, flags)
        assert told in str(caught.value)


def test_a_refused_key_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "dayfly.toml"
    file.write_text(f'keys = "alice={keys.new()}"')
    with pytest.raises(ConfigError) as caught:
        load(str(file), {}, {})
    assert str(caught.value) == f"{file}: keys: Expected `array`, got `str`"


@pytest.mark.parametrize("package", ["click", "litestar"])
def test_without_its_packages_the_server_says_how_to_get_them(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; sys.argv[1:] = ['serve']; from dayfly._cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"dayfly: the server needs {package}, which is not installed: pip install 'dayfly[server]'\n"


def test_a_valid_configuration_is_shown_without_hashes() -> None:
    entry = keys.line("alice", keys.new())
    done = command("--check-config", "--keys", entry, "--host", "0.0.0.0", "--pool-size", "3")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["pool_size"], shown["keys"]) == (3, ["alice"])
    assert "sha256" not in done.stdout


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    done = command("key", "new", "alice", "--file", str(file))
    key = done.stdout.strip()
    assert len(key) > 40
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    store = keys.KeyStore([], str(file))
    found = store.find(key)
    assert found is not None
    assert found.name == "alice"
    for wrong in (None, "", key[:-1], key + "x", key.upper(), "\udcff"):
        assert store.find(wrong) is None
    again = command("key", "new", "alice", "--file", str(file))
    assert (again.returncode, again.stdout) == (2, "")
    assert "already" in again.stderr
    assert command("key", "new", "a b", "--file", str(file)).returncode == 2


def test_keys_are_read_again_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    now = 0.0
    file, first, second = tmp_path / "keys", keys.new(), keys.new()
    file.write_text(keys.line("first", first) + " concurrency=3  # a comment\n\n")
    store = keys.KeyStore([], str(file), clock=lambda: now)
    found = store.find(first)
    assert found is not None
    assert found.concurrency == 3
    file.write_text(keys.line("second", second))
    assert store.find(second) is None  # looked at once a second
    now = 1.5
    assert store.find(second) is not None
    assert store.find(first) is None
    for broken in (lambda: file.write_text("second=" + second), file.unlink):
        broken()
        now += 2
        assert store.find(second) is not None
    file.write_text("")
    store.reload()
    assert store.find(second) is None  # all keys taken away: nobody comes in, not everybody
    assert not store.open


@pytest.mark.parametrize("own", ["speed=3", "concurrency=x", "concurrency=1.5", "rate_burst=0", "concurrency=1.2.3"])
def test_a_key_with_bad_limits_is_refused_without_its_hash(own: str) -> None:
    entry = keys.line("alice", keys.new())
    with pytest.raises(ValueError, match="entry 1") as caught:
        keys.parse([f"{entry} {own}"], "the file")
    assert entry.partition(":")[2] not in str(caught.value)


def test_the_rate_is_a_bucket_that_fills_again() -> None:
    quotas = Quotas(per_minute=60, burst=3, concurrency=0)
    alice, bob = keys.Key("alice", b""), keys.Key("bob", b"", rate_per_minute=0)
    for _ in range(3):
        with quotas.run(alice, 100.0):
            pass
    with pytest.raises(RateExceeded) as caught, quotas.run(alice, 100.2):
        pass
    assert caught.value.retry_after == 1
    with quotas.run(alice, 101.1):
        pass
    with pytest.raises(RateExceeded), quotas.run(alice, 101.2):
        pass
    for _ in range(50):  # another key's account is its own, and 0 means without limit
        with quotas.run(bob, 101.2):
            pass


def test_a_place_is_given_back_whatever_happens() -> None:
    quotas = Quotas(per_minute=0, burst=1, concurrency=2)
    key = keys.Key("alice", b"")
    with quotas.run(key, 0.0), quotas.run(key, 0.0):
        with pytest.raises(ConcurrencyExceeded), quotas.run(key, 0.0):
            pass
        with pytest.raises(ConcurrencyExceeded), quotas.run(keys.Key("alice", b"", concurrency=1), 0.0):
            pass
    with pytest.raises(KeyError), quotas.run(key, 0.0):
        raise KeyError
    with quotas.run(key, 0.0), quotas.run(key, 0.0):
        pass
