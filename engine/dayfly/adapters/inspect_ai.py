"""Inspect: the tool `dayfly/python`, each call of which is a program in a container of its own.
inspect_ai finds it by its entry point.

    from dayfly.adapters.inspect_ai import python

    Task(dataset=..., solver=[use_tools(python(memory_limit_mb=200)), generate()])

It is a tool and no sandbox of Inspect's: those are boxes with a shell, in which files stay.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import anyio
import msgspec
from inspect_ai.tool import Tool, ToolCall, ToolCallContent, ToolCallView, tool

from dayfly import Outcome, Result, Sandbox
from dayfly.remote import RemoteSandbox

__all__ = ["python"]

_sandboxes: dict[bytes, Sandbox | RemoteSandbox] = {}
_making = threading.Lock()


def _sandbox(url: str | None, key: str | None, options: dict[str, Any]) -> Sandbox | RemoteSandbox:
    """Return the sandbox of all tools with these arguments. It is closed when the interpreter
    exits."""
    name = msgspec.json.encode([url, key, options], order="sorted", enc_hook=repr)
    with _making:  # the first calls come at once, and would each make a pool
        if name not in _sandboxes:
            made = Sandbox(**options) if url is None else RemoteSandbox(url, key)
            made.initialize()
            _sandboxes[name] = made
        return _sandboxes[name]


def _viewer(call: ToolCall) -> ToolCallView:
    return ToolCallView(call=ToolCallContent(title="python", format="markdown", content=f"```python\n{call.arguments.get('code')}\n```\n"))


_SHOWN = {Outcome.SIGNAL: "The program was killed by signal {}.", Outcome.OUT_OF_MEMORY: "The program was killed: it was out of memory."}


def shown(result: Result) -> str:
    """Return what the model reads. TimeoutError for a program whose time was up, as Inspect's own
    tools do."""
    if result.outcome is Outcome.TIMEOUT:
        raise TimeoutError
    why = _SHOWN.get(result.outcome, "").format(result.signal)
    return "\n".join(part for part in (why, result.stderr, result.stdout) if part)


def python(timeout_ms: float | None = None, url: str | None = None, key: str | None = None, **options: Any) -> Tool:
    """Python code execution tool, without network.

    timeout_ms: wall time of a program. url, key: of a `dayfly serve` elsewhere. options: Sandbox's,
    where there is no url.
    """

    if url is not None and options:
        raise TypeError(f"{', '.join(options)}: with a url, these are settings of the server")

    async def execute(code: str) -> str:
        """Execute a Python program, and return what it prints.

        Each program is a new interpreter: no variable, import or file is left from an earlier one.
        There is no network. Use print() to see a value.

        Args:
          code: The Python program.
        """
        sandbox = await anyio.to_thread.run_sync(_sandbox, url, key, options)
        run = functools.partial(sandbox.run, code, timeout_ms=timeout_ms)
        # Inspect itself bounds how many run at once. A sample that is cancelled does not wait: its
        # program ends at its time-out.
        return shown(await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)))

    return execute


python = tool(viewer=_viewer, parallel=True)(python)
