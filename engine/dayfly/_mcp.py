"""The tools of `dayfly mcp` and of `/mcp` on the server, on the official SDK (the extra `mcp`).

What a program did, a failure of its own among it, is a result that the model reads. A failure of
the sandbox is a protocol error, which it does not see. Nothing persists from one call to the next,
but files where `--keep-files` asks for it.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import mimetypes
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any
from urllib.parse import quote

import anyio
import msgspec
from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, ConfigDict, Field

from ._errors import DayflyError, SessionLost
from ._job import Job
from ._limits import MAX_SECONDS, MAX_SESSION_RUNS
from ._result import SVG, Outcome, Result
from ._sandbox import AsyncSandbox
from ._session import AsyncSession
from ._version import __version__
from .judge import Call, Case, JudgeResult, Verdict

INTERNAL_ERROR = -32603
"""JSON-RPC's number."""
SHOWN = 20_000
"""Characters of each stream in the text of a result; what is in the middle is left out."""
MOST_IMAGES = 5
MOST_PACKAGES = 60
CASE_SHOWN = 1_000
"""Characters of each stream of a case in the structured content."""

Run = Callable[[Job, Any], Awaitable[Result]]
"""Runs a job of a call, whose Context is the second argument. DayflyError becomes a protocol error,
ValueError one of the tool's."""


Judge = Callable[[str, Sequence[Case], Any], Awaitable[JudgeResult]]
"""Judges a submission of a call, whose Context is the last argument. Errors as for Run."""
MOST_CASES = 100
MOST_FAILURES = 10
"""Failures in the text of a result; all are in the structured content."""


class TestCase(BaseModel):
    """A case: input and expected output, or a call of a function and the expected value."""

    model_config = ConfigDict(extra="forbid")

    stdin: str = ""
    expected_output: str | None = None
    function: str | None = None
    args: list[Any] = []
    expected: Any = None


class CaseOutput(BaseModel):
    """What became of a case."""

    verdict: str
    feedback: str
    stdout: str
    stderr: str


class TestOutput(BaseModel):
    """What became of a submission."""

    verdict: str
    passed: int
    total: int
    cases: list[CaseOutput]


class FileInfo(BaseModel):
    """A file that came out; its content is a resource beside."""

    path: str
    size: int


class RunOutput(BaseModel):
    """What the program did, as facts of the sandbox."""

    outcome: str
    """`ok`, `error`, `signal`, `timeout`, `out_of_memory` or `output_limit`."""
    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    wall_ms: float
    files: list[FileInfo]
    files_skipped: list[dict[str, str]]
    messages: list[Any]
    """Those that a limit on their text has left."""
    messages_left_out: int
    last_value: str | None


_NAME = re.compile(r"[A-Za-z0-9._-]{1,60}")
_NOTHING_KEPT = "Each call is a new interpreter: no variable, import or file is left from an earlier call."
_FILES_KEPT = "Each call is a new interpreter: no variable or import is left from an earlier call; files in the working directory are."


class Facts(msgspec.Struct, frozen=True):
    """What the model is told of the place where its programs run."""

    python: str
    """The version, as far as it is known."""
    memory_mb: float
    max_seconds: float
    """Wall time of a program that asks for the most."""
    case_seconds: float
    """Wall time of a test case."""
    packages: Sequence[str] | None = None
    """Names of what is installed beside the standard library; None: not known yet."""
    preload: Sequence[str] = ()
    keep_files: bool = False

    def of_run_python(self) -> str:
        """Return the description of `run_python`."""
        return (
            f"Run a Python {self.python} program in an isolated container, and return what it printed. "
            f"{_FILES_KEPT if self.keep_files else _NOTHING_KEPT} {self._installed()} Print what you want to see. "
            f"Memory: {self.memory_mb:g} MB, files included. Time: {self.max_seconds:g} s at most. "
            "Name in `fetch` the files to get back, as paths or patterns (`out/*.csv`)."
        )

    def of_run_python_tests(self) -> str:
        """Return the description of `run_python_tests`."""
        return (
            f"Run a Python {self.python} program, or a function that it defines, on test cases, each in a fresh interpreter, and say "
            "which fail. A case has `stdin` and `expected_output`, compared word by word; or `function`, `args` and `expected`, a JSON "
            f"value. {self._installed()} Memory: {self.memory_mb:g} MB. Time: {self.case_seconds:g} s for each case. Cases: {MOST_CASES} "
            "at most."
        )

    def _installed(self) -> str:
        text = "There is no network, and nothing can be installed; the standard library is there"
        names = [name for name in self.packages or () if _NAME.fullmatch(name)]
        if self.packages is None:
            text += ", and what `importlib.metadata` lists"
        elif names:
            left = len(names) - MOST_PACKAGES
            text += f", and {', '.join(names[:MOST_PACKAGES])}" + (f" and {left} packages more" if left > 0 else "")
        else:
            text += ", and no other package"
        return text + (f". Imported already: {', '.join(self.preload)}." if self.preload else ".")


LIST_PACKAGES = Job(
    v3=True,
    code="import importlib.metadata, sandbox\n"
    "names = {found.metadata['Name'] for found in importlib.metadata.distributions()}\n"
    "sandbox.send(sorted(name for name in names if name and name not in ('pip', 'setuptools', 'wheel'))[:1_000])",
)


async def packages_by(run: Callable[[Job], Awaitable[Result]]) -> list[str] | None:
    """Return the packages of the image, asked of a container. None if that fails."""
    try:
        found: Any = (await run(LIST_PACKAGES)).messages[0]
    except (DayflyError, LookupError, ValueError):
        return None
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else None


class _Server(MCPServer[Any]):
    """An MCP server whose tools are described when they are listed."""

    facts: Callable[[], Awaitable[Facts]]

    async def list_tools(self) -> list[Tool]:
        """See MCPServer."""
        told = await self.facts()
        texts = {"run_python": told.of_run_python(), "run_python_tests": told.of_run_python_tests()}
        return [tool.model_copy(update={"description": texts[tool.name]}) for tool in await super().list_tools()]

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """See MCPServer, which drops arguments that the tool has not."""
        for tool in await super().list_tools():
            known = tool.input_schema.get("properties", {})
            if tool.name == name and (unknown := [argument for argument in arguments if argument not in known]):
                raise ToolError(f"{name} has no argument {unknown[0]!r:.80}; it has {', '.join(known)}")
        return await super().call_tool(name, arguments, context)


def server(run: Run, judge: Judge, *, facts: Callable[[], Awaitable[Facts]], max_seconds: float) -> MCPServer[Any]:
    """Return an MCP server with the tools `run_python` and `run_python_tests`."""
    mcp = _Server("dayfly", version=__version__, instructions="Runs untrusted Python, each program in a container of its own.")
    mcp.facts = facts
    annotations = ToolAnnotations(
        title="Run Python", read_only_hint=True, destructive_hint=False, idempotent_hint=False, open_world_hint=False
    )

    @mcp.tool(annotations=annotations)
    async def run_python(  # noqa: PLR0917 - the SDK reads the names
        code: Annotated[str, Field(description="The program. Figures of matplotlib come back as images.")],
        ctx: Context[Any, Any],
        stdin: Annotated[str, Field(description="Its standard input.")] = "",
        files: Annotated[
            dict[str, str], Field(description="Files in its working directory: relative path to text, or to a data: URL with base64.")
        ] = {},  # noqa: B006 - never changed
        fetch: Annotated[list[str], Field(description="Paths and patterns of files to return.")] = [],  # noqa: B006
        timeout_seconds: Annotated[float | None, Field(description="Wall time.", gt=0)] = None,
    ) -> Annotated[CallToolResult, RunOutput]:
        with _failures():
            job = Job(
                code=code,
                stdin=stdin,
                files={path: _content(text) for path, text in files.items()},
                fetch=fetch,
                timeout_ms=None if timeout_seconds is None else max(1.0, min(timeout_seconds, max_seconds) * 1_000),
                figures=True,
                last_value=True,
            )
            result = await run(job, ctx)
        return answer(result)

    @mcp.tool(annotations=annotations.model_copy(update={"title": "Test Python"}))
    async def run_python_tests(
        code: Annotated[str, Field(description="The program, or the module with the function.")],
        cases: Annotated[list[TestCase], Field(description="The cases.", min_length=1, max_length=MOST_CASES)],
        ctx: Context[Any, Any],
    ) -> Annotated[CallToolResult, TestOutput]:
        with _failures():
            told = await judge(code, [_case(number, case) for number, case in enumerate(cases, 1)], ctx)
        if told.verdict is Verdict.JUDGE_ERROR:
            raise MCPError(INTERNAL_ERROR, "the sandbox failed while it judged")
        return test_answer(told)

    return mcp


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Make bad input an error of the tool, which the model reads, and a failure of the sandbox one
    of the protocol."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ToolError(str(error)) from None
    except DayflyError as error:
        raise MCPError(INTERNAL_ERROR, f"the sandbox failed: {type(error).__name__}") from error


def _case(number: int, case: TestCase) -> Case:
    """Return the case. ValueError if it does not say what is expected: it would be accepted,
    whatever the program prints."""
    given = case.model_fields_set
    if case.function is not None and "expected" in given and case.expected_output is None:
        return Case(stdin=case.stdin, call=Call(case.function, case.args), expected=case.expected)
    if case.expected_output is not None and not given & {"function", "args", "expected"}:
        return Case(stdin=case.stdin, expected=case.expected_output)
    raise ValueError(f"case {number} needs expected_output; or function and expected, and no expected_output")


def test_answer(told: JudgeResult) -> CallToolResult:
    """Return a verdict as text that a model reads, and as structured content beside it."""
    outputs = [
        CaseOutput(
            verdict=case.verdict.value,
            feedback=case.feedback,
            stdout="" if case.result is None else _cut(case.result.stdout, CASE_SHOWN),
            stderr="" if case.result is None else _cut(case.result.stderr, CASE_SHOWN),
        )
        for case in told.cases
    ]
    failures = [(number, case) for number, case in enumerate(outputs, 1) if case.verdict != "accepted"]
    lines = [f"{told.verdict.value}: {told.passed} of {told.total} cases passed.", told.feedback]
    for number, case in failures[:MOST_FAILURES] if not told.feedback else ():
        lines.append(f"Case {number}: {case.verdict}. {case.feedback}".rstrip())
        lines.append(case.stderr.strip()[-1_000:])
    output = TestOutput(verdict=told.verdict.value, passed=told.passed, total=told.total, cases=outputs)
    text = "\n".join(line for line in lines if line)
    return CallToolResult(content=[TextContent(text=text)], structured_content=output.model_dump(), is_error=bool(failures))


def _content(text: str) -> str | bytes:
    head, comma, data = text.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64") and comma):
        return text
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        raise ValueError(f"a data: URL in files is not valid base64: {error}") from None


def answer(result: Result) -> CallToolResult:
    """Return a result as the blocks that a model reads, and as structured content beside them."""
    # Clients take pixels only.
    images = [ImageContent(data=base64.b64encode(data).decode(), mime_type=kind) for kind, data in result.images() if kind != SVG]
    content: list[ContentBlock] = [TextContent(text=_text(result, more_images=len(images) - MOST_IMAGES)), *images[:MOST_IMAGES]]
    content += [_resource(path, data) for path, data in result.files.items()]
    messages = _first_messages(result)
    value = _value(result)
    output = RunOutput(
        outcome=result.outcome.value,
        exit_code=result.exit_code,
        signal=result.signal,
        stdout=_cut(result.stdout),
        stderr=_cut(result.stderr),
        wall_ms=result.wall_ms,
        files=[FileInfo(path=path, size=len(data)) for path, data in result.files.items()],
        files_skipped=[{"path": file.path, "why": file.why} for file in result.files_skipped],
        messages=messages,
        messages_left_out=len(result.messages_raw) - len(messages) + result.messages_dropped,
        last_value=None if value is None else _cut(value),
    )
    return CallToolResult(content=content, structured_content=output.model_dump(), is_error=result.is_error)


_ENDS = {
    Outcome.TIMEOUT: "The program was killed: its time was up.",
    Outcome.OUT_OF_MEMORY: "The program was killed: it was out of memory.",
    Outcome.OUTPUT_LIMIT: "The program was killed: it wrote too much.",
}


def _text(result: Result, *, more_images: int) -> str:
    parts = [result.stdout and _cut(result.stdout), result.stderr and f"stderr:\n{_cut(result.stderr)}"]
    if result.is_error:
        how = f"signal {result.signal}" if result.signal is not None else f"exit code {result.exit_code}"
        parts.insert(0, _ENDS.get(result.outcome, f"The program ended with {how}."))
    if value := _value(result):
        parts.append(f"The value of the last expression: {_cut(value)}")
    if more_images > 0:
        parts.append(f"{more_images} more images are left out.")
    if result.displays_dropped:
        parts.append(f"{result.displays_dropped} displays were dropped, over a limit.")
    parts += [f"The file {file.path} is not here: {file.why}." for file in result.files_skipped]
    return "\n".join(part for part in parts if part) or "The program printed nothing."


def _cut(text: str, most: int = SHOWN) -> str:
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[{len(text) - most:,} characters are left out]\n{text[-half:]}"


def _first_messages(result: Result) -> list[Any]:
    """Return what the program sent, as long as it is no more text than is shown of a stream."""
    sizes = itertools.accumulate(len(bytes(raw)) for raw in result.messages_raw)
    count = sum(1 for size in sizes if size <= SHOWN)
    return [msgspec.json.decode(raw) for raw in result.messages_raw[:count]]


def _value(result: Result) -> str | None:
    """Return the last value as a notebook shows it: not None, which most calls return."""
    value = result.last_value
    return None if value is None or value["repr"] == "None" else value["repr"]


def _resource(path: str, data: bytes) -> EmbeddedResource:
    uri, kind = f"file:///sandbox/{quote(path)}", mimetypes.guess_type(path)[0]
    try:
        return EmbeddedResource(resource=TextResourceContents(uri=uri, mime_type=kind or "text/plain", text=data.decode()))
    except UnicodeDecodeError:
        kind = kind or "application/octet-stream"
        return EmbeddedResource(resource=BlobResourceContents(uri=uri, mime_type=kind, blob=base64.b64encode(data).decode()))


class KeptFiles:
    """Runs the programs of one client in one session, one after the other, so that files are
    kept."""

    def __init__(self, sandbox: AsyncSandbox) -> None:
        self._sandbox = sandbox
        self._session: AsyncSession | None = None
        self._turn = anyio.Lock()

    async def run(self, job: Job, _: Any) -> Result:
        """Run a job. ValueError, which the model reads, where the files are lost."""
        async with self._turn:
            if self._session is None:
                session = self._sandbox.session(max_runs=MAX_SESSION_RUNS, max_seconds=MAX_SECONDS, idle_seconds=MAX_SECONDS)
                await session.open()
                self._session = session
            try:
                return await self._session.run(job)
            except SessionLost as error:
                session, self._session = self._session, None
                await session.close()
                ran = "this program may have run" if error.delivered else "this program has not run"
                raise ValueError(f"the files of earlier calls are lost with their container; {ran}: {error}") from error


async def serve_stdio(sandbox: AsyncSandbox, *, max_seconds: float, keep_files: bool) -> None:
    """Serve one client over stdin and stdout until it goes. Raises what `AsyncSandbox.initialize`
    raises."""
    async with sandbox:

        async def run(job: Job, _: Any) -> Result:
            return await sandbox.run(job)

        known = Facts(
            python=sandbox.pythons.get(sandbox.python, sandbox.python),
            memory_mb=sandbox.memory_bytes / 1e6,
            max_seconds=max_seconds,
            case_seconds=sandbox.timeout_ms / 1_000,
            packages=await packages_by(sandbox.run),
            preload=sandbox.preload,
            keep_files=keep_files,
        )

        async def facts() -> Facts:
            return known

        async def judge(code: str, cases: Sequence[Case], _: Any) -> JudgeResult:
            return await sandbox.judge(code, cases)

        mcp = server(KeptFiles(sandbox).run if keep_files else run, judge, facts=facts, max_seconds=max_seconds)
        await mcp.run_stdio_async()


def main(sandbox: AsyncSandbox, *, max_seconds: float, keep_files: bool) -> None:
    """Serve one client over stdin and stdout until it goes."""

    async def serve() -> None:
        await serve_stdio(sandbox, max_seconds=max_seconds, keep_files=keep_files)

    anyio.run(serve)
