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
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

Heard = Callable[[str, str], None]
"""Is told the stream and the text of each piece of output when it arrives. What it raises ends the
run, and its program."""
Told = Callable[[dict[str, Any]], None]


class SessionOver(Exception):
    """A session cannot go on. `delivered`: whether the program was handed over."""

    def __init__(self, why: str, *, delivered: bool) -> None:
        super().__init__(why)
        self.delivered = delivered


class Session(Protocol):
    """One container that runs many programs, one after the other."""

    def run(self, job: str | Mapping[str, Any], *, clean: bool = False, heard: Heard | None = None) -> dict[str, Any]:
        """Run one program; `clean`: without the files of earlier ones. RuntimeError while another
        one runs, SessionOver at the end."""

    def close(self) -> None:
        """End the container."""


class Sandbox(Protocol):
    """A sandbox under test. What `run` raises is the answer's "error"; it returns the answer's
    "result" in its JSON form."""

    def initialize(self) -> None:
        """Make the pool, and return when it can take programs."""

    def run(self, job: str | Mapping[str, Any], *, heard: Heard | None = None) -> dict[str, Any]:
        """Run one program; may be called from several threads at once. TypeError and ValueError for
        a job that makes no sense."""

    def session(self, **bounds: float) -> Session:
        """Open a session. The bounds are max_runs, max_seconds and idle_seconds; TypeError and
        ValueError for those that make no sense."""

    def judge(
        self,
        code: str,
        cases: Sequence[Mapping[str, Any]],
        *,
        told: Told | None = None,
        checker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Judge a submission, and return the report in its JSON form. Cases and checker are in
        theirs; `told` gets each case of the report when it is known. The options are stop and
        concurrency."""

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

        `settings` are pool_size, timeout_ms, memory_limit_mb, python ("2" or "3"), preload (names
        of modules) and limits (a mapping); what is not there is left to the implementation's
        default.
        """

    def server(self, image: str, *, port: int, keys: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        """Return the command that serves POST /compile and /v1/sessions on this port of 127.0.0.1
        for whoever has one of the keys.

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

    def server(self, image: str, *, port: int, keys: Sequence[str], settings: Mapping[str, Any]) -> list[str]:
        """See Implementation."""
        hashed = [f"judge-{number}=sha256:{hashlib.sha256(key.encode()).hexdigest()}" for number, key in enumerate(keys)]
        flags: dict[str, str] = {"port": str(port), "image": image, "keys": ",".join(hashed)}
        flags |= {name: str(value) for name, value in self._options.items() if value is not None}
        flags |= {name: ",".join(value) for name, value in settings.items()}
        words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)]
        return [sys.executable, "-m", "dayfly", "serve", *words]


class DayflySandbox:
    """dayfly's Sandbox, with answers in their JSON form."""

    def __init__(self, sandbox: Any) -> None:
        self.sandbox = sandbox

    def initialize(self) -> None:
        """See Sandbox."""
        self.sandbox.initialize()

    def run(self, job: str | Mapping[str, Any], *, heard: Heard | None = None) -> dict[str, Any]:
        """See Sandbox."""
        return _answer(self.sandbox.run(job, on_output=_told(heard)))

    def session(self, **bounds: float) -> Session:
        """See Sandbox."""
        session = self.sandbox.session(**bounds)
        session.open()
        return DayflySession(session)

    def judge(
        self,
        code: str,
        cases: Sequence[Mapping[str, Any]],
        *,
        told: Told | None = None,
        checker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """See Sandbox."""
        from dayfly.judge import Cases  # noqa: PLC0415

        given = {"cases": cases, **({} if checker is None else {"checker": checker})}
        on_case = told and (lambda case: told(json.loads(msgspec.json.encode(case))))
        return _answer(self.sandbox.judge(code, msgspec.convert(given, Cases), on_case=on_case, **options))

    def close(self) -> None:
        """See Sandbox."""
        self.sandbox.close()


class DayflySession:
    """dayfly's Session, likewise."""

    def __init__(self, session: Any) -> None:
        import dayfly  # noqa: PLC0415

        self.session = session
        self._lost = dayfly.SessionLost

    def run(self, job: str | Mapping[str, Any], *, clean: bool = False, heard: Heard | None = None) -> dict[str, Any]:
        """See Session."""
        try:
            return _answer(self.session.run(job, clean=clean, on_output=_told(heard)))
        except self._lost as error:
            raise SessionOver(str(error), delivered=error.delivered) from error

    def close(self) -> None:
        """See Session."""
        self.session.close()


def _answer(result: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(result.to_json())
    return answer


def _told(heard: Heard | None) -> Callable[[Any], None] | None:
    return heard and (lambda piece: heard(piece.stream, piece.text))


def load(name: str, docker_host: str, runtime: str | None) -> Implementation:
    """Return the implementation that `package.module:Class` names."""
    module, _, attribute = name.partition(":")
    made: Implementation = getattr(importlib.import_module(module), attribute)(docker_host, runtime)
    return made
