"""The thread of a sandbox for threads: `close` at each step of `initialize` and of `close`, as a
signal handler may call it."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import anyio
import pytest

from dayfly import PoolClosed, Result
from dayfly import _sync as module
from dayfly._events import Event
from dayfly._sync import ThreadedSandbox


class Fake:
    """A sandbox of an event loop that says what was done with it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.closed = anyio.Event()

    async def initialize(self) -> None:
        self.said.append("initialize")
        with anyio.move_on_after(0.01):
            await self.closed.wait()
            raise PoolClosed("the sandbox was closed while it was being initialized")
        self.said.append("open")

    async def close(self) -> None:
        self.said.append("close")
        self.closed.set()
        await anyio.sleep(0.005)

    async def run(self, code: Any, **_: Any) -> Result:
        raise NotImplementedError

    def _prepare(self, code: Any, options: Any) -> Any:
        raise NotImplementedError

    def _events(self, wanted: Any) -> AsyncGenerator[Event, None]:
        raise NotImplementedError


class Plain(Fake):
    """One that holds nothing that cannot be pickled before it is initialized."""

    def __init__(self) -> None:
        self.said: list[str] = []

    async def initialize(self) -> None:
        self.said.append("initialize")

    async def close(self) -> None:
        self.said.append("close")


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dayfly sandbox"]


@contextmanager
def interrupted(step: int, handler: Callable[[], object]) -> Iterator[list[int]]:
    """Call `handler` in this thread before the line of `_sync` that it executes as the `step`th
    one. Yields where that was."""
    where: list[int] = []
    left = step

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line" and not where:
            left -= 1
            if left < 0:
                where.append(frame.f_lineno)
                handler()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield where
    finally:
        sys.settrace(before)


def initialize_with(step: int) -> tuple[str, list[int]]:
    """Call `close` at this step of `initialize`; return how that ended, and where the step is."""
    fake = Fake()
    sandbox = ThreadedSandbox(fake)
    how = "opened"
    with interrupted(step, sandbox.close) as where:
        try:
            sandbox.initialize()
        except PoolClosed:
            how = "refused"
    assert sandbox._loop is not None
    if sandbox._loop.closing:
        assert threads() == []
        assert ("open" in fake.said) is (how == "opened")
    else:  # it had not begun, so there was nothing to close
        assert fake.said == ["initialize", "open"]
        assert sandbox._loop.open
    with pytest.raises(RuntimeError, match="once"):
        sandbox.initialize()
    sandbox.close()
    assert "close" in fake.said
    assert threads() == []
    return how, where


def test_close_at_each_step_of_initialize() -> None:
    ends = []
    for step in range(500):
        how, where = initialize_with(step)
        if not where:
            break
        ends.append(how)
    assert len(ends) < 500
    # How many steps there are depends on what the other thread has done by then: the last one need
    # not be behind the opening.
    assert (ends[0], ends.count("refused") > 10) == ("opened", True)


def close_with(step: int) -> list[int]:
    fake = Fake()
    sandbox = ThreadedSandbox(fake)
    sandbox.initialize()
    with interrupted(step, sandbox.close) as where:
        sandbox.close()
    assert fake.said == ["initialize", "open", "close"]
    assert threads() == []
    return where


def test_close_at_each_step_of_close() -> None:
    steps = next(step for step in range(500) if not close_with(step))
    assert steps > 10


def test_close_before_initialize_changes_nothing() -> None:
    fake = Fake()
    sandbox = ThreadedSandbox(fake)
    sandbox.close()
    with pytest.raises(PoolClosed, match="not initialized"):
        sandbox.run("1")
    with sandbox:
        assert fake.said == ["initialize", "open"]
    with pytest.raises(PoolClosed, match="closed"):
        sandbox.run("1")


def test_close_in_another_thread_while_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, go_on, inside = Fake(), threading.Event(), threading.Event()
    sandbox = ThreadedSandbox(fake)
    serve = anyio.run

    def late(*arguments: Any) -> Any:
        inside.set()
        go_on.wait()
        return serve(*arguments)

    monkeypatch.setattr(anyio, "run", late)
    errors: list[BaseException] = []

    def initialize() -> None:
        try:
            sandbox.initialize()
        except PoolClosed as error:
            errors.append(error)

    opener, closer = threading.Thread(target=initialize), threading.Thread(target=sandbox.close)
    opener.start()
    inside.wait()
    closer.start()
    while sandbox._loop is None or not sandbox._loop.closing:
        pass
    go_on.set()
    opener.join()
    closer.join()
    assert [str(error) for error in errors] == ["the sandbox is closed"]
    assert fake.said == ["close"]
    assert threads() == []


def test_a_thread_that_cannot_be_started_leaves_nothing_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("can't start new thread")

    sandbox = ThreadedSandbox(Fake())
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            sandbox.initialize()
    sandbox.close()
    with pytest.raises(PoolClosed, match="closed"):
        sandbox.run("1")


def test_a_loop_that_cannot_be_made_leaves_nothing_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("Too many open files")

    sandbox = ThreadedSandbox(Fake())
    monkeypatch.setattr(anyio, "run", fail)
    with pytest.raises(OSError, match="Too many"):
        sandbox.initialize()
    sandbox.close()
    assert threads() == []


def test_a_sandbox_that_is_forgotten_in_its_own_thread_closes() -> None:
    """The garbage collector runs in any thread."""
    fake = Fake()
    sandbox: list[ThreadedSandbox[Fake]] = [ThreadedSandbox(fake)]
    sandbox[0].initialize()
    loop = sandbox[0]._loop
    assert loop is not None

    async def forget() -> None:
        sandbox.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="was not closed"):
        loop.call(forget)
    loop.close()
    assert fake.said == ["initialize", "open", "close"]
    assert threads() == []


def test_it_can_be_pickled_before_it_is_initialized() -> None:
    """Workers of a training loop are given one."""
    with pickle.loads(pickle.dumps(ThreadedSandbox(Plain()))) as sandbox:
        assert sandbox._sandbox.said == ["initialize"]


def test_what_close_raises_is_raised() -> None:
    class Failing(Fake):
        async def close(self) -> None:
            raise KeyError("a fault")

    sandbox = ThreadedSandbox(Failing())
    sandbox.initialize()
    for _ in range(2):
        with pytest.raises(KeyError):
            sandbox.close()
    assert threads() == []
