"""The tool `dayfly/python` in a real evaluation of Inspect, with its own mock model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dayfly import Limits, Sandbox
from dayfly.adapters import inspect_ai as adapter

from .. import documents

pytestmark = pytest.mark.filterwarnings("ignore")  # Inspect's own


@pytest.fixture(autouse=True)
def _one_sandbox(image: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tool's sandbox ends with the interpreter: here it ends with the test."""
    adapter._sandboxes.clear()
    made: list[Sandbox] = []

    def make(**options: Any) -> Sandbox:
        made.append(Sandbox(image=image, **options))
        return made[-1]

    monkeypatch.setattr(adapter, "Sandbox", make)
    yield
    assert len(made) <= 1
    for sandbox in made:
        sandbox.close()


def test_inspect_finds_it_by_its_entry_point() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "from inspect_ai.util import registry_create\n"
        "assert not [name for name in sys.modules if name.startswith('dayfly')]\n"
        "print(registry_create('tool', 'dayfly/python'), 'dayfly.adapters.inspect_ai' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.endswith(" True\n"), done.stderr


def test_options_of_a_sandbox_are_refused_with_a_url() -> None:
    with pytest.raises(TypeError, match="memory_limit_mb: with a url, these are settings of the server"):
        adapter.python(url="http://localhost:1", memory_limit_mb=200)


def test_first_calls_at_once_make_one_sandbox(image: str) -> None:
    options = {"limits": Limits(stdout_bytes=10), "pool_size": 1}
    with ThreadPoolExecutor(8) as threads:
        made = {*threads.map(lambda _: adapter._sandbox(None, None, dict(options)), range(8))}
    (one,) = made
    assert one.run("print('x' * 20)").stdout == "x" * 10


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from inspect_ai import eval  # noqa: A004
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    names: dict[str, Any] = {"dataset": [Sample(input="What is 6 * 7?")]}
    code = documents.block("docs/frameworks.md", "from inspect_ai import Task")
    documents.run(code.replace("\nTask(", "\ntask = Task("), names)
    call = ModelOutput.for_tool_call("mockllm/model", "python", {"code": "print(6 * 7)"})
    outputs = [call, ModelOutput.from_content("mockllm/model", "42")]
    for output in outputs:
        output.usage = ModelUsage()
    (log,) = eval(names["task"], model=get_model("mockllm/model", custom_outputs=outputs), display="none")
    assert log.samples is not None
    assert [message.text for message in log.samples[0].messages if message.role == "tool"] == ["42\n"]


def test_an_evaluation_calls_it_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from inspect_ai import Task, eval  # noqa: A004
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.util import registry_create

    tool: Any = registry_create("tool", "dayfly/python", timeout_ms=1_000)
    codes = ["print(6 * 7)", "1/0", "while True: pass", "import os; os.abort()"]
    calls = [ModelOutput.for_tool_call("mockllm/model", "python", {"code": code}) for code in codes]
    outputs = [*calls, ModelOutput.from_content("mockllm/model", "42")]
    for output in outputs:
        output.usage = ModelUsage()  # else it counts tokens, by what it would fetch from elsewhere
    model = get_model("mockllm/model", custom_outputs=outputs)
    task = Task(dataset=[Sample(input="What is 6 * 7?", target="42")], solver=[use_tools(tool), generate()], scorer=includes())
    (log,) = eval(task, model=model, display="none")
    assert log.status == "success", log.error
    assert log.samples is not None
    said = [message for message in log.samples[0].messages if message.role == "tool"]
    assert said[0].text == "42\n"
    assert "ZeroDivisionError" in said[1].text
    assert said[2].error is not None
    assert said[2].error.type == "timeout"
    assert "signal 6" in said[3].text
    assert log.results is not None
    assert log.results.scores[0].metrics["accuracy"].value == 1
