"""The executor under a real CodeAgent of smolagents, whose model says what the test has written
down."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dayfly import Sandbox

from .. import documents

pytestmark = pytest.mark.filterwarnings("ignore")  # smolagents' own


@pytest.fixture(scope="module")
def sandbox(image: str) -> Iterator[Sandbox]:
    with Sandbox(1, image=image, max_containers=3) as made:
        yield made


def scripted(*steps: str) -> Any:
    """Return a model that says these steps, one after the other."""
    from smolagents import Model
    from smolagents.models import ChatMessage, MessageRole

    class Scripted(Model):  # type: ignore[misc]
        said = iter(steps)

        def generate(self, *_: Any, **__: Any) -> Any:
            return ChatMessage(role=MessageRole.ASSISTANT, content=f"Thought: go on\n<code>\n{next(self.said)}\n</code>")

    return Scripted()


def answers(sandbox: Sandbox, *steps: str, tools: Any = ()) -> tuple[Any, list[str]]:
    """Return the agent's answer, and what it was told after each step."""
    from smolagents import CodeAgent

    from dayfly.adapters.smolagents import DayflyExecutor

    executor = DayflyExecutor(sandbox, timeout_ms=5_000)
    with CodeAgent(tools=[*tools], model=scripted(*steps), executor=executor, max_steps=len(steps), verbosity_level=0) as agent:
        answer = agent.run("the task")
        told = [str(step.error or step.observations) for step in agent.memory.steps if hasattr(step, "observations")]
    return answer, told


def test_the_example_of_the_page_runs(image: str) -> None:
    names = {
        "model": scripted(
            "primes = [n for n in range(2, 10_000) if all(n % d for d in range(2, int(n**0.5) + 1))]", "final_answer(len(primes))"
        )
    }
    code = documents.block("docs/frameworks.md", "from smolagents import CodeAgent")
    documents.run(code.replace("agent.run(", "answer = agent.run("), names)
    assert names["answer"] == 1229


def test_steps_build_on_each_other_up_to_the_final_answer(sandbox: Sandbox) -> None:
    answer, told = answers(
        sandbox,
        "import math as m\nfrom collections import Counter\nrows = [1, 2]\nsame = rows\nprint('one')\nopen('f', 'w').write('kept')",
        "class Point:\n    x = m.pi\n@staticmethod\ndef twice(x):\n    return 2 * x\np = Point()\nsame.append(3)",
        "def area(p, at=p):\n    return round(at.x)\nwith open('f') as file:\n    print(file.read())\nrows",
        "final_answer({'area': area(p), 'twice': twice(21), 'rows': tuple(rows), 'most': Counter('aab').most_common(1)})",
    )
    assert answer == {"area": 3, "twice": 42, "rows": (1, 2, 3), "most": [("a", 2)]}
    assert "one" in told[0]
    assert "kept" in told[2]
    assert "[1, 2, 3]" in told[2]


def test_what_does_not_persist_is_said(sandbox: Sandbox) -> None:
    _, told = answers(sandbox, "f = lambda: 1\nx = 1", "final_answer(x)")
    assert "Not kept for the next step: f" in told[0]


def test_an_error_is_told_with_its_line_and_the_agent_goes_on(sandbox: Sandbox) -> None:
    answer, told = answers(
        sandbox,
        "x = 6\ny = x / 0\nz = 1",
        "while True: pass",
        "def (",
        "import os; os._exit(3)",
        "final_answer(x * 7)",
    )
    assert answer == 42
    assert 'File "<step>", line 2' in told[0]
    assert "y = x / 0" in told[0]
    assert "ZeroDivisionError" in told[0]
    assert "timeout" in told[1]
    assert "SyntaxError" in told[2]
    assert "before its end" in told[3]


def test_half_of_a_surrogate_pair_is_an_error_of_the_step(sandbox: Sandbox) -> None:
    answer, told = answers(
        sandbox,
        "print('\ud83d')",
        "raise ValueError('\\ud83d')",
        "class Odd:\n    __repr__ = lambda self: '\\ud83d'\nOdd()",
        "final_answer('mended')",
    )
    assert answer == "mended"
    assert "UnicodeEncodeError" in told[0]
    assert "ValueError: \\ud83d" in told[1]
    assert "\\ud83d" in told[2]


def test_tools_run_in_the_container(sandbox: Sandbox) -> None:
    from smolagents import tool

    @tool  # type: ignore[untyped-decorator]
    def where(name: str) -> str:
        """Say where it runs.

        Args:
            name: of the caller.
        """
        import pathlib

        return f"{name} in {pathlib.Path.cwd()}"

    assert answers(sandbox, "final_answer(where('it'))", tools=[where])[0] == "it in /sandbox"


def test_the_session_ends_with_the_agent(sandbox: Sandbox) -> None:
    answers(sandbox, "final_answer(1)")
    assert sandbox.stats().sessions == 0
