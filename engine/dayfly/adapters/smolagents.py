"""smolagents: an executor for CodeAgent. Each step is a program of one session: a fresh process
with the files of the earlier ones.

    from dayfly.adapters.smolagents import DayflyExecutor

    with Sandbox(memory_limit_mb=200) as sandbox:
        with CodeAgent(tools=[], model=model, executor=DayflyExecutor(sandbox)) as agent:
            agent.run("...")

What persists from step to step: files; what a step imports and defines at its top level, which is
done again; variables that pickle takes. What does not persist (open files, generators, lambdas) is
named in the step's log. Tools run in the container, too.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from smolagents.local_python_executor import CodeOutput
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import RemotePythonExecutor
from smolagents.utils import AgentError

from dayfly import Sandbox

__all__ = ["DayflyExecutor"]

SHOWN = 20_000
"""Characters of a value."""

STEP = Path(__file__).with_name("smolagents_step.py").read_text(encoding="utf-8")


class DayflyExecutor(RemotePythonExecutor):  # type: ignore[misc] # it has no types
    """Runs the steps of one agent in one session of a sandbox, until `cleanup`. timeout_ms: wall
    time of a step."""

    def __init__(self, sandbox: Sandbox, *, timeout_ms: float | None = None) -> None:
        super().__init__([], AgentLogger(LogLevel.ERROR))
        self._timeout_ms = timeout_ms
        self._tools = False
        self._session = sandbox.session(max_runs=1_000_000, max_seconds=604_800, idle_seconds=604_800)
        self._session.open()

    def run_code_raise_errors(self, code: str) -> CodeOutput:
        """Run a step. AgentError for what the agent can mend: an exception, a time-out, too much
        memory."""
        # As bytes: half of a surrogate pair is not JSON, and is for Python to refuse.
        source = base64.b64encode(code.encode("utf-8", "surrogatepass")).decode()
        result = self._session.run(STEP, data={"code": source, "shown": SHOWN, "tools": self._tools}, timeout_ms=self._timeout_ms)
        told = result.messages[-1] if result.messages else {}
        if result.is_error or "error" in told or not told:
            why = told.get("error") or f"The step ended before its end ({result.outcome}); what it did to variables is lost."
            raise AgentError(f"{result.combined}\n{why}", self.logger)
        logs = result.combined + "".join(f"\n(Not kept for the next step: {name})" for name in told["lost"])
        if "final" in told:
            return CodeOutput(self._deserialize_final_answer(told["final"]), logs, is_final_answer=True)
        return CodeOutput(told.get("value"), logs, is_final_answer=False)

    def send_tools(self, tools: dict[str, Any]) -> None:
        """Define the agent's tools in the container."""
        self._tools = True
        super().send_tools(tools)
        self._tools = False

    def install_packages(self, additional_imports: list[str]) -> list[str]:
        """Nothing can be installed: what tools need is in the image."""
        return additional_imports

    def cleanup(self) -> None:
        """End the session."""
        self._session.close()
