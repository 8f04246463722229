"""What the suite asks of an implementation, and the one place where dayfly is imported.

Another implementation is judged by writing one class like `Dayfly` and naming it:
`--adapter package.module:Class`. The answers are those of the documented JSON form, so that nothing
of the implementation's own types gets into a test.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any, Protocol


class Sandbox(Protocol):
    """A sandbox under test. What `run` raises is the answer's "error"; it returns the answer's
    "result" in its JSON form."""

    def initialize(self) -> None:
        """Make the pool, and return when it can take programs."""

    def run(self, job: str | Mapping[str, Any]) -> dict[str, Any]:
        """Run one program; may be called from several threads at once. TypeError and ValueError for
        a job that makes no sense."""

    def close(self) -> None:
        """Leave nothing behind."""


class Implementation(Protocol):
    """What makes sandboxes on one engine."""

    version: str

    def __init__(self, docker_host: str, runtime: str | None) -> None:
        """Use this engine, and this runtime of it; None: its default."""

    def image(self, *, python2: bool = False) -> str:
        """Return the name of the image that containers are made from."""

    def sandbox(self, image: str, settings: Mapping[str, Any]) -> Sandbox:
        """Return a sandbox whose containers are of `image`.

        `settings` are pool_size, timeout_ms, memory_limit_mb, python ("2" or "3") and limits (a
        mapping); what is not there is left to the implementation's default.
        """

    def server(self, image: str, *, port: int, key: str, settings: Mapping[str, Any]) -> list[str]:
        """Return the command that serves POST /compile on this port of 127.0.0.1 for whoever has
        the key.

        `settings` may be allowed_networks (a list).
        """


class Dayfly:
    """dayfly itself."""

    def __init__(self, docker_host: str, runtime: str | None) -> None:
        import dayfly  # noqa: PLC0415 - nothing else in the suite may load it

        self._dayfly = dayfly
        self._options = {"docker_host": docker_host, "runtime": runtime}
        self.version = dayfly.__version__

    def image(self, *, python2: bool = False) -> str:
        """See Implementation."""
        return f"dayfly/{'python2' if python2 else 'python'}:{self.version}"

    def sandbox(self, image: str, settings: Mapping[str, Any]) -> Sandbox:
        """See Implementation."""
        options = {**settings, **self._options, "image": image}
        if "limits" in options:
            options["limits"] = self._dayfly.Limits(**options["limits"])
        return DayflySandbox(self._dayfly.Sandbox(**options))

    def server(self, image: str, *, port: int, key: str, settings: Mapping[str, Any]) -> list[str]:
        """See Implementation."""
        flags: dict[str, str] = {"port": str(port), "image": image, "keys": f"judge=sha256:{hashlib.sha256(key.encode()).hexdigest()}"}
        flags |= {name: str(value) for name, value in self._options.items() if value is not None}
        flags |= {name: ",".join(value) for name, value in settings.items()}
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
        return [sys.executable, "-m", "dayfly", "serve", *words]


class DayflySandbox:
    """dayfly's Sandbox, with answers in their JSON form."""

    def __init__(self, sandbox: Any) -> None:
        import msgspec  # noqa: PLC0415 - dayfly's own way to JSON

        self._encode = msgspec.json.encode
        self.sandbox = sandbox

    def initialize(self) -> None:
        """See Sandbox."""
        self.sandbox.initialize()

    def run(self, job: str | Mapping[str, Any]) -> dict[str, Any]:
        """See Sandbox."""
        answer: dict[str, Any] = json.loads(self._encode(self.sandbox.run(job)))
        return answer

    def close(self) -> None:
        """See Sandbox."""
        self.sandbox.close()


def load(name: str, docker_host: str, runtime: str | None) -> Implementation:
    """Return the implementation that `package.module:Class` names."""
    module, _, attribute = name.partition(":")
    made: Implementation = getattr(importlib.import_module(module), attribute)(docker_host, runtime)
    return made
