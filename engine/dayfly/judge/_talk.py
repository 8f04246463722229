"""A submission and an interactor: each reads what the other writes, in a container of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import msgspec

from dayfly import _events as events
from dayfly._errors import DayflyError, SandboxError
from dayfly._messages import Output, Request, Started
from dayfly._result import Result
from dayfly._session import AsyncSession

TRIES = 3
"""Containers that a program is offered to, as long as none of them has received it."""
TRANSCRIPT = 4_096
"""Characters of what was said that are kept."""


async def offered(session: AsyncSession, wanted: Request) -> AsyncGenerator[events.Event, None]:
    """Run a program and yield what happens. One that no container has received is offered again."""
    for tries_left in reversed(range(TRIES)):
        try:
            async with aclosing(session._events(wanted)) as happening:
                async for event in happening:
                    yield event
            return
        except SandboxError as error:
            if error.delivered or not tries_left:
                raise


class Talk:
    """One conversation. What the two write is bounded by the limits on their output."""

    def __init__(self, submission: AsyncSession, interactor: AsyncSession) -> None:
        self._sessions = {">": submission, "<": interactor}
        self._results: dict[str, Result] = {}
        self._waiting: dict[str, list[bytes]] = {">": [], "<": []}
        """What each is to read, until its program has started; b"" is the end."""
        self._started: set[str] = set()
        self._ready = anyio.Event()
        """The interactor has started, or cannot."""
        self._first = self._speaker = ""
        self._errors: list[DayflyError] = []
        self.transcript = ""

    @property
    def interactor_first(self) -> bool:
        """Whether the interactor ended first, by itself."""
        return self._first == "<"

    @property
    def interactor_result(self) -> Result:
        """What the interactor did."""
        return self._results["<"]

    async def hold(self, submission: Request, interactor: Request) -> Result:
        """Run both until both have ended, and return the submission's result.

        The submission starts when the interactor has: its time is not spent on waiting for a
        container, and if that fails, the submission has not run. Raises what a run of a session
        raises.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run, "<", ">", interactor, tasks)
            await self._ready.wait()
            if not self._errors:
                await self._run(">", "<", submission, tasks)
        if self._errors:
            raise self._errors[0]
        return self._results[">"]

    async def _run(self, own: str, other: str, request: Request, tasks: anyio.abc.TaskGroup) -> None:
        fold = events.Fold()
        run = msgspec.structs.replace(request.run, stdin=True)
        try:
            async with aclosing(offered(self._sessions[own], msgspec.structs.replace(request, run=run, stdin=b"", live=True))) as happening:
                async for event in happening:
                    if isinstance(event, Started):
                        self._started.add(own)
                        self._ready.set()
                        self._feed(own)
                    elif isinstance(event, Output) and event.stream == "stdout":
                        self._note(own, event.data)
                        self._feed(other, event.data)
                    for item in fold.take(event):
                        if isinstance(item, Result):
                            self._results[own] = item
                            self._first = self._first or own
        except DayflyError as error:
            self._errors.append(error)
            tasks.cancel_scope.cancel()
        self._ready.set()
        self._feed(other, b"")

    def _feed(self, name: str, *pieces: bytes) -> None:
        self._waiting[name] += pieces
        if name in self._started:
            for piece in self._waiting[name]:
                self._sessions[name]._feed(piece)
            self._waiting[name].clear()

    def _note(self, own: str, data: bytes) -> None:
        said = self.transcript
        for line in data.decode("utf-8", "replace").splitlines(keepends=True):
            if len(said) >= TRANSCRIPT:
                break
            fresh = said.endswith("\n") or not said
            if own != self._speaker and not fresh:
                said, fresh = said + "\n", True
            said += f"{own} {line}" if fresh else line
            self._speaker = own
        self.transcript = said[:TRANSCRIPT]
