"""The command `dayfly`: run a program, look at this host, remove orphans, build images.

A thin shell around the library: it reads what it is given, hands it over, and turns what comes back
into bytes, lines and an exit code. It owns what a process brings with it: standard streams that may
be closed, slow or gone, signals, and exit codes that callers rely on.

Stdout and stderr carry the program's bytes as they were written, and nothing else but whole lines
on stderr that begin with `dayfly: `. What a program wrote is never put into such a line, and what
an engine said only on one line, without control characters.

Importing this module without the extra `cli` ends the interpreter with a line that says how to
install it: there is no other use of it. What `dayfly run` does not need (doctor, image, most of
rich) is imported where it is used: a run should begin at once.
"""

# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import contextlib
import enum
import errno
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
except ModuleNotFoundError as missing:
    sys.exit(f"dayfly: the command needs {missing.name}, which is not installed: pip install 'dayfly[cli]'")

import anyio
import msgspec

from . import _orphans as orphans
from ._engine_api import EngineAPI
from ._errors import DayflyError
from ._job import UNSET, Job
from ._limits import MAX_RUN_BYTES, MAX_TIMEOUT_MS, Limits
from ._limits import number as check_number
from ._names import DEFAULT_IMAGE, DEFAULT_IMAGE_PYTHON2, DEFAULT_IMAGE_SCIENCE
from ._result import Outcome, Piece, Result
from ._sandbox import AsyncSandbox
from ._save import save
from ._sync import Sandbox
from ._version import __version__

if TYPE_CHECKING:
    from rich.text import Text

    from .judge._sources import Cases

TIMED_OUT = 124
"""As with timeout(1)."""
FAILED = 125
"""As with `docker run`: it was not the program that failed."""
WIDTH_IN_FILES = 160
"""Characters in a line of a table that is not written to a terminal."""
SECOND_SIGNAL_AFTER = 1.0
"""Seconds. timeout(1) sends its signal twice at once; one that comes later means that its sender no
longer waits."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Untrusted Python code in single-use, hardened containers.",
)
images = typer.Typer(no_args_is_help=True, help="The images that containers are made of.")
app.add_typer(images, name="image")

_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp", "image/svg+xml": "svg"}

DockerHost = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="The engine. Default: DOCKER_HOST, the Docker context, the usual sockets.", show_default=False),
]
Runtime = Annotated[str | None, typer.Option(metavar="NAME", help="A runtime of the engine: crun, runsc.")]
RunnerImage = Annotated[str, typer.Option(metavar="NAME", help="A runner image.")]
LimitFields = Annotated[
    list[str] | None, typer.Option("--limit", metavar="NAME=VALUE", help="Any field of dayfly.Limits; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


class Python(str, enum.Enum):
    """The interpreters that a program may ask for."""

    THREE = "3"
    TWO = "2"


def main() -> None:
    """Run the command. It ends the process."""
    _open_standard_streams()
    logging.basicConfig(format="dayfly: %(message)s", level=logging.WARNING)
    app(prog_name="dayfly")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"dayfly {__version__}")
        raise typer.Exit


@app.callback()
def _dayfly(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


# dayfly run


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    file: Annotated[str | None, typer.Argument(metavar="[FILE|-]", help="The program; - reads it from stdin.", show_default=False)] = None,
    rest: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ARG]...", help="For its sys.argv, options too: dayfly's own come before FILE.", show_default=False),
    ] = None,
    *,
    code: Annotated[str | None, typer.Option("-c", metavar="CODE", help="The program itself.")] = None,
    timeout_ms: Annotated[float, typer.Option(help="Milliseconds of wall time.")] = 10_000,
    memory_mb: Annotated[float, typer.Option(help="Memory in 10^6 bytes, files in /tmp included.")] = 50,
    python: Annotated[Python, typer.Option(help="2 needs an image built with --python2.")] = Python.THREE,
    stdin: Annotated[str | None, typer.Option(metavar="FILE", help="The program's stdin; - is this one's. Default: empty.")] = None,
    data: Annotated[str | None, typer.Option(metavar="JSON", help="For the program's `import sandbox; sandbox.data`.")] = None,
    args: Annotated[list[str] | None, typer.Option("--arg", metavar="TEXT", help="For its sys.argv, before ARGs; may be repeated.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="For its environment; may be repeated.")] = None,
    put: Annotated[
        list[str] | None, typer.Option("--file", metavar="PATH[=NAME]", help="A file for its working directory; may be repeated.")
    ] = None,
    fetch: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Files that come back, for --out or --json; may be repeated.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Where they are written; made if it is not there.")] = None,
    figures: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where figures of matplotlib and other images are written; made if it is not there.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are in DIR already.")] = False,
    merge_stderr: Annotated[bool, typer.Option("--merge-stderr", help="Stderr into stdout, in the order of writing.")] = False,
    preload: Annotated[list[str] | None, typer.Option(metavar="MODULE", help="Imported before the run; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of its random generators.")] = None,
    cpus: Annotated[float | None, typer.Option(help="Processors' worth of time.", show_default="1.0")] = None,
    pids: Annotated[int | None, typer.Option(help="Processes and threads at once.", show_default="64")] = None,
    output_bytes: Annotated[int | None, typer.Option(help="Output kept of each stream.", show_default="1000000")] = None,
    limit: LimitFields = None,
    image: Annotated[str | None, typer.Option(metavar="NAME", help="A runner image.", show_default=DEFAULT_IMAGE)] = None,
    runtime: Runtime = None,
    docker_host: DockerHost = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON when it ends, and no live output.")] = False,
) -> None:
    """Run one program in a fresh container that is gone afterwards. Its output streams live.

    The exit code is the program's; 128+N if signal N ended it.
    124: time-out. 137: out of memory.
    125: the sandbox failed, its input makes no sense, or a file was not written.
    2: the command line cannot be read.
    """
    with _told(FAILED):
        output = _Output()
        words = rest or []
        if code is not None and file is not None:  # as with `python3 -c CODE ARG`
            words = [file, *words]
            file = None
        files = [_source_and_name(text) for text in put or ()]
        if [file, stdin, *(source for source, _ in files)].count("-") > 1:
            raise ValueError("only one of the program, its stdin and its files can come from stdin")
        if (out is not None and not fetch) or (fetch and out is None and not as_json):
            raise ValueError("--fetch GLOB says which files come back, --out DIR where they are written: give both, or --fetch with --json")
        job = Job(
            code=_code(file, code),
            data=UNSET if data is None else _json(data),
            stdin_bytes=None if stdin is None else _read(stdin),
            args=[*(args or ()), *words],
            env=dict(_pair("--env", text) for text in env or ()),
            files=_files(files),
            fetch=fetch or (),
            merge_stderr=merge_stderr,
            seed=seed,
            figures=figures is not None,
        )
        for folder in filter(None, (out, figures)):
            Path(folder).mkdir(parents=True, exist_ok=True)
        sandbox = Sandbox(
            1,
            timeout_ms,
            memory_mb,
            image=image or (DEFAULT_IMAGE if python is Python.THREE else DEFAULT_IMAGE_PYTHON2),
            limits=_limits(limit or (), cpus=cpus, pids=pids, stdout_bytes=output_bytes, stderr_bytes=output_bytes),
            runtime=runtime,
            docker_host=docker_host,
            python=python.value,
            preload=preload,
            max_containers=1,  # no second one is made for a single run
        )
        try:
            sandbox.initialize()
            result = sandbox.run(job, on_output=None if as_json else output.program)
        finally:
            sandbox.close()
        if as_json:
            output.write(1, msgspec.json.encode(result) + b"\n")
        for note in _notes(result, timeout_ms=timeout_ms, memory_mb=memory_mb, whole=as_json):
            output.say(note)
        not_written = [
            (folder, path, why)
            for folder, files_out in ((out, result.files), (figures, _images(result)))
            if folder is not None
            for path, why in save(files_out, folder, replace=force).items()
        ]
        for folder, path, why in not_written:
            output.say(f"{path!r} was not written to {folder}: {why}{' (--force replaces it)' * (why == os.strerror(errno.EEXIST))}")
        raise typer.Exit(FAILED if not_written else _exit_code(result))


def _code(file: str | None, code: str | None) -> str | bytes:
    """The program: a file's bytes as they are, so that Python reads their encoding."""
    if (file is None) == (code is None):
        raise ValueError("give one program: a FILE, - for stdin, or -c CODE")
    if code is not None:
        return code
    assert file is not None
    return _read(file)


def _read(path: str) -> bytes:
    """Read a file, or stdin. No more than could ever be handed over: it may be endless."""
    with open(0, "rb", closefd=False) if path == "-" else Path(path).open("rb") as file:
        content = file.read(MAX_RUN_BYTES + 1)
    if len(content) > MAX_RUN_BYTES:
        raise ValueError(f"{'stdin' if path == '-' else path} is larger than {MAX_RUN_BYTES:,} bytes, the most that can be handed over")
    return content


def _source_and_name(text: str) -> tuple[str, str]:
    """Take a `--file` apart. What is behind the last `=` is the file's name in the container."""
    path, equals, name = text.rpartition("=")
    return (path, name) if equals else (text, Path(text).name)


def _files(given: Sequence[tuple[str, str]]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for source, name in given:
        if name in found:
            raise ValueError(f"--file {name!r:.80} is given twice")
        found[name] = _read(source)
    return found


def _images(result: Result) -> dict[str, bytes]:
    """Name the images that the program showed, in their order."""
    return {f"figure-{number}.{_EXTENSIONS[kind]}": data for number, (kind, data) in enumerate(result.images(), 1)}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--data is not valid JSON: {error}") from None


def _pair(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{option} needs the form KEY=VALUE, not {text!r:.80}")
    return key, value


def _limits(others: Sequence[str], **named: float | None) -> Limits:
    fields = [field.name for field in msgspec.structs.fields(Limits)]
    values: dict[str, Any] = {}
    for name, text in (_pair("--limit", other) for other in others):
        if name not in fields:
            raise ValueError(f"--limit {name!r:.80} is unknown; there are {', '.join(fields)}")
        values[name] = _value(text)
    values |= {name: value for name, value in named.items() if value is not None}
    try:
        return Limits(**values)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _value(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _exit_code(result: Result) -> int:
    if result.outcome is Outcome.TIMEOUT:
        return TIMED_OUT
    if result.signal is not None:
        return 128 + result.signal  # SIGKILL, and so 137, where it ran out of memory
    assert result.exit_code is not None
    return result.exit_code


_SKIPPED: dict[str, str] = {
    "too_large": "too large for what is left of --limit file_bytes",
    "too_many": "too many files (--limit file_count), or too many names to look at",
    "not_regular": "not a regular file, or behind a link",
    "name": "its name is not UTF-8, or too long, or too deep in folders",
    "unreadable": "it cannot be read",
    "missing": "there is no such file",
}


def _notes(result: Result, *, timeout_ms: float, memory_mb: float, whole: bool) -> Iterator[str]:
    """What the exit code and the output do not tell. `whole`: the result is printed as well,
    messages and all."""
    match result.outcome:
        case Outcome.TIMEOUT:
            yield f"the program was killed at its time-out of {timeout_ms:g} ms (--timeout-ms)"
        case Outcome.OUT_OF_MEMORY:
            yield f"the program was killed at its memory limit of {memory_mb:g} MB (--memory-mb)"
        case Outcome.OUTPUT_LIMIT:
            yield "the program was killed for its output (--limit on_output_limit=kill)"
        case Outcome.SIGNAL:
            assert result.signal is not None
            yield f"the program was ended by signal {result.signal} ({signal.strsignal(result.signal)})"
    for stream, cut, dropped in (
        ("stdout", result.stdout_truncated, result.stdout_dropped),
        ("stderr", result.stderr_truncated, result.stderr_dropped),
    ):
        if cut:
            yield f"{stream} is truncated{f', {dropped:,} bytes were dropped' if dropped else ''} (--output-bytes)"
    if result.messages_dropped:
        yield f"{result.messages_dropped:,} messages were dropped, over a limit or not valid JSON"
    if result.displays_dropped:
        yield f"{result.displays_dropped:,} displays were dropped, over a limit or not a bundle"
    if result.messages_raw and not whole:
        yield f"{len(result.messages_raw):,} messages that the program sent are shown with --json"
    for skipped in result.files_skipped:
        yield f"{skipped.path!r} did not come back: {_SKIPPED[skipped.why]}"
    if result.files_skipped_dropped:
        yield f"{result.files_skipped_dropped:,} more files did not come back"


# dayfly judge


class Stop(str, enum.Enum):
    """What ends a judging early."""

    FIRST = "first"
    GROUP = "group"


@app.command()
def judge(
    submission: Annotated[str, typer.Argument(metavar="SUBMISSION", help="The program; - reads it from stdin.")],
    *,
    cases: Annotated[
        str, typer.Option(metavar="DIR|FILE", help="A folder of *.in and *.ans files, a Kattis or ICPC problem, or a JSON file of cases.")
    ],
    checker: Annotated[
        str | None, typer.Option(metavar="NAME|JSON", help="tokens, lines, exact, floats, json, set, lcb, …; or its JSON form.")
    ] = None,
    cpu_ms: Annotated[float | None, typer.Option(help="Milliseconds of processor time for each case.")] = None,
    wall_ms: Annotated[float | None, typer.Option(help="Milliseconds of wall time for each case.", show_default="10000")] = None,
    memory_mb: Annotated[float, typer.Option(help="Memory in 10^6 bytes, files in /tmp included.")] = 256,
    stop: Annotated[Stop | None, typer.Option(help="Skip what is behind the first failure, or the rest of its group.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Containers that share the cases.", show_default="one for each processor")] = None,
    preload: Annotated[list[str] | None, typer.Option(metavar="MODULE", help="Imported before each case; may be repeated.")] = None,
    limit: LimitFields = None,
    image: RunnerImage = DEFAULT_IMAGE,
    runtime: Runtime = None,
    docker_host: DockerHost = None,
    as_json: AsJson = False,
) -> None:
    """Judge one submission by many cases, and show each case's verdict as it is known.

    The exit code is 0 only if it is accepted; 1: any other verdict; 125: the sandbox or the checker
    failed.
    """
    from ._judge_view import View
    from .judge._cases import CaseLimits
    from .judge._verdicts import Verdict

    with _told(FAILED):
        wanted, code = _cases(cases), _read(submission)
        workers = min((os.cpu_count() or 1) if concurrency is None else concurrency, len(wanted))
        options: Any = {"checker": _checker(checker), "stop": None if stop is None else stop.value, "concurrency": workers}
        options["limits"] = CaseLimits(cpu_ms=cpu_ms, wall_ms=wall_ms)
        sandbox = Sandbox(
            workers,
            memory_limit_mb=memory_mb,
            image=image,
            limits=_limits(limit or ()),
            runtime=runtime,
            docker_host=docker_host,
            preload=preload,
        )
        with View(len(wanted), shown=not as_json) as view, sandbox:
            told = sandbox.judge(code, wanted, on_case=view.case, **options)
        if as_json:
            _Output().write(1, told.to_json() + b"\n")
        else:
            view.verdict(told)
        raise typer.Exit(0 if told.verdict is Verdict.ACCEPTED else FAILED if told.verdict is Verdict.JUDGE_ERROR else 1)


def _cases(path: str) -> Cases:
    """The cases of a folder, or of a JSON file: our own form, LiveCodeBench's, or
    SandboxFusion's."""
    from .judge._sources import Cases

    if Path(path).is_dir():
        return Cases.from_folder(path)
    content = _read(path)
    try:
        shape = json.loads(content)
        if isinstance(shape, dict) and "inputs" in shape:
            return Cases.from_lcb(shape)
        if isinstance(shape, list):
            return Cases.from_sandbox_fusion(shape)
        return msgspec.json.decode(content, type=Cases)
    except (ValueError, RecursionError, msgspec.DecodeError) as error:
        raise ValueError(f"{path} does not hold cases: {error}") from None


def _checker(text: str | None) -> Any:
    from .judge._programs import AnyChecker

    if text is None:
        return None
    given = text if text.startswith("{") else json.dumps({"type": text})
    try:
        return msgspec.json.decode(given, type=AnyChecker)
    except msgspec.DecodeError as error:
        raise ValueError(f"--checker {text!r:.80}: {error}") from None


# dayfly doctor, clean, image


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def serve(context: typer.Context) -> None:
    """Serve runs over HTTP: an API with keys and limits, and a page to try it. Its own --help says
    more."""
    try:
        from ._server import command
    except ModuleNotFoundError as missing:
        if missing.name != "click":
            raise
        sys.exit("dayfly: the server needs click, which is not installed: pip install 'dayfly[server]'")
    command.main(context.args)


@app.command()
def mcp(
    *,
    pool_size: Annotated[int, typer.Option(help="Containers kept warm.")] = 1,
    timeout_ms: Annotated[float, typer.Option(help="Milliseconds of wall time of a program that does not say.")] = 10_000,
    max_timeout_ms: Annotated[float, typer.Option(help="Milliseconds that a program may ask for.")] = 60_000,
    memory_mb: Annotated[float, typer.Option(help="Memory in 10^6 bytes, files in /tmp included.")] = 50,
    preload: Annotated[list[str] | None, typer.Option(metavar="MODULE", help="Imported before each run; may be repeated.")] = None,
    image: RunnerImage = DEFAULT_IMAGE,
    runtime: Runtime = None,
    keep_files: Annotated[bool, typer.Option("--keep-files", help="Keep files from one call to the next, in one session.")] = False,
    docker_host: DockerHost = None,
) -> None:
    """Serve the tools `run_python` and `run_python_tests` to one agent, by the Model Context
    Protocol over stdin and stdout, until it goes."""
    try:
        from . import _mcp
    except ModuleNotFoundError as missing:
        sys.exit(f"dayfly: this needs {missing.name}, which is not installed: pip install 'dayfly[mcp]'")
    with _told(FAILED):
        sandbox = AsyncSandbox(pool_size, timeout_ms, memory_mb, image=image, runtime=runtime, docker_host=docker_host, preload=preload)
        check_number("--max-timeout-ms", max_timeout_ms, least=sandbox.timeout_ms, most=MAX_TIMEOUT_MS)
        _mcp.main(sandbox, max_seconds=max_timeout_ms / 1_000, keep_files=keep_files)


@app.command()
def doctor(
    *,
    image: Annotated[str, typer.Option(metavar="NAME", help="The image that sandboxes are to use.")] = DEFAULT_IMAGE,
    runtime: Annotated[str | None, typer.Option(metavar="NAME", help="The runtime that they are to use.")] = None,
    docker_host: DockerHost = None,
    as_json: AsJson = False,
) -> None:
    """Show what this host enforces and what it does not. The exit code is 1 if there is a
    failure."""
    from rich.text import Text

    from ._doctor import consult

    colours = {"ok": "green", "warning": "yellow", "failure": "bold red"}
    with _told(1):
        findings = anyio.run(partial(consult, docker_host, image=image, runtime=runtime))
        rows = [(finding.name, Text(finding.level, colours[finding.level]), finding.found, finding.advice) for finding in findings]
        _show(findings, as_json, {"what": 0, "": 0, "found": 16, "to do": 16}, rows)
        raise typer.Exit(any(finding.level == "failure" for finding in findings))


@app.command()
def clean(*, docker_host: DockerHost = None) -> None:
    """Remove containers whose host process is dead, and show them. The exit code is 1 if one could
    not be removed."""

    async def work() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        async with EngineAPI(docker_host) as engine:
            gone = await orphans.reap(engine)
            return gone, [row for row in await orphans.find(engine) if row.get("State") != "removing"]

    with _told(1):
        gone, left = anyio.run(work)
        if not gone and not left:
            print("nothing was left over")
            return
        rows = [
            (
                str((row.get("Names") or ["?"])[0]).lstrip("/"),
                str(row["Id"])[:12],
                f"was {row.get('State')}" if row in gone else f"{row.get('State')}, could not be removed",
                str(row["Labels"].get("dayfly.pid", "?")),
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.get("Created", 0))),
            )
            for row in (*gone, *left)
        ]
        _show(None, False, {"removed": 0, "id": 0, "state": 0, "made by process": 0, "made at": 0}, rows)
        raise typer.Exit(bool(left))


@images.command("build")
def image_build(
    *,
    base: Annotated[
        str | None,
        typer.Option(metavar="IMAGE", help="debian:SUITE, or an image with Python 3.8 or newer.", show_default="debian:bookworm"),
    ] = None,
    tag: Annotated[str | None, typer.Option(metavar="NAME", help="Its name.", show_default=DEFAULT_IMAGE)] = None,
    python2: Annotated[
        bool, typer.Option("--python2", help=f"With Python 2.7. The defaults are then debian:bullseye and {DEFAULT_IMAGE_PYTHON2}.")
    ] = False,
    pip: Annotated[list[str] | None, typer.Option(metavar="REQUIREMENT", help="What programs may import; may be repeated.")] = None,
    apt: Annotated[list[str] | None, typer.Option(metavar="PACKAGE", help="A Debian package; may be repeated.")] = None,
    science: Annotated[
        bool,
        typer.Option("--science", help=f"With numpy, pandas, matplotlib, scipy, sympy and pillow; named {DEFAULT_IMAGE_SCIENCE}."),
    ] = False,
    allow_source: Annotated[
        bool, typer.Option("--allow-source", help="Build what has no wheel from source: runs its setup code on this host, as this user.")
    ] = False,
    preload: Annotated[
        list[str] | None, typer.Option(metavar="MODULE", help="What programs find imported, unless it is said otherwise; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build anew, though nothing has changed.")] = False,
    docker_host: DockerHost = None,
) -> None:
    """Build the image that containers are made of. What it does goes to stderr, the image's id to
    stdout."""
    from rich.console import Console

    from ._build_view import BuildView
    from ._image import build

    async def work() -> str:
        with BuildView(Console(stderr=True)) as view:
            async with EngineAPI(docker_host) as engine:
                return await build(
                    engine,
                    base=base,
                    tag=tag,
                    python2=python2,
                    pip=pip or (),
                    apt=apt or (),
                    science=science,
                    allow_source=allow_source,
                    preload=preload or (),
                    force=force,
                    progress=lambda line: view.told(_printable(line)),
                )

    with _told(1):
        print(anyio.run(work))


@images.command("ls")
def image_ls(*, docker_host: DockerHost = None, as_json: AsJson = False) -> None:
    """List the runner images that the engine has, newest first."""
    from ._image import Image, ls

    async def work() -> list[Image]:
        async with EngineAPI(docker_host) as engine:
            return await ls(engine)

    with _told(1):
        found = anyio.run(work)
        rows = [
            (
                ", ".join(image.tags) or "(no name)",
                image.id.removeprefix("sha256:")[:12],
                ", ".join(image.pythons.values()),
                image.base,
                f"{image.size_bytes / 1e6:.0f}",
                " ".join([*image.pip, *image.apt]),
            )
            for image in found
        ]
        _show(found, as_json, {"image": 0, "id": 0, "Python": 6, "base": 8, "MB": 0, "with": 8}, rows)


def _printable(text: str) -> str:
    """A line of text without control characters, some of which a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in text)


def _show(value: Any, as_json: bool, columns: Mapping[str, int], rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table, or `value` as JSON. Columns have their least width, down to which they fold;
    those with 0 do not."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(value)).decode())
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, least in columns.items():
        table.add_column(name, no_wrap=not least, overflow="fold", min_width=least or None)
    for row in rows:
        # Text, in which no markup is looked for: some of it was said by others.
        table.add_row(*(Text(_printable(cell)) if isinstance(cell, str) else cell for cell in row))
    if sys.stdout.isatty():
        Console().print(table)
        return
    console = Console(width=WIDTH_IN_FILES)
    with console.capture() as capture:
        console.print(table)
    print(*(line.rstrip() for line in capture.get().splitlines()), sep="\n")


# What a process brings with it.


class _Stopped(KeyboardInterrupt):
    """A signal asks for the end. The event loop lets a KeyboardInterrupt through, and no other
    exception of this kind."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _catch_signals() -> None:
    """Let the first signal raise, so that everything ends in good order; it is in the way of
    nothing afterwards.

    Later ones are ignored for a moment, then end the process at once: its containers see that, and
    end by themselves.
    """
    first = 0.0

    def stop(number: int, _: object) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            raise _Stopped(number)
        if time.monotonic() - first > SECOND_SIGNAL_AFTER:
            os._exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1), or a job in the background of a shell
            signal.signal(number, stop)


class _Held(logging.Handler):
    """Holds back what the library logs, since the error that follows may say it again."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def __enter__(self) -> None:
        log = logging.getLogger("dayfly")
        log.addHandler(self)
        log.propagate = False

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("dayfly")
        log.propagate = True
        log.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record for later."""
        self._records.append(record)

    def tell(self, *, but: str | None = None) -> None:
        """Log what was held back, without what `but` says."""
        for record in self._records:
            if but is None or but not in record.getMessage():
                logging.getLogger().handle(record)


@contextlib.contextmanager
def _told(code: int) -> Iterator[None]:
    """Tell of what goes wrong in one line, and exit with `code`."""
    held = _Held()
    try:
        _catch_signals()
        with held:
            yield
        held.tell()
        return
    except typer.Exit:
        held.tell()
        raise
    except _Stopped as stopped:
        code = 128 + stopped.number
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE  # whoever read our output has gone; there is nobody to tell
    except OSError as error:
        _Output().say(f"{error.filename or 'output'}: {error.strerror}")
    except (DayflyError, ValueError) as error:
        held.tell(but=str(error))
        _Output().say(str(error))
    except Exception:
        logging.getLogger("dayfly").exception("this is a bug in dayfly")
    raise typer.Exit(code)


def _open_standard_streams() -> None:
    """See to it that 0, 1 and 2 are open: else the engine's connection would get such a number, and
    the program's output with it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


class _Output:
    """Bytes to stdout and stderr, at once and without a buffer, and lines of our own between
    them."""

    def __init__(self) -> None:
        self._mixed = os.path.sameopenfile(1, 2)
        self._in_line = False

    def program(self, piece: Piece) -> None:
        """Write what the program wrote."""
        self.write(1 if piece.stream == "stdout" else 2, piece.data)
        if piece.data and (self._mixed or piece.stream == "stderr"):
            self._in_line = not piece.data.endswith(b"\n")

    def say(self, text: str) -> None:
        """Write a line of our own to stderr, on a line of its own. If nobody can read it, so be
        it."""
        line = _printable(" ".join(text.split()))
        with contextlib.suppress(OSError):
            self.write(2, (b"\n" if self._in_line else b"") + f"dayfly: {line}\n".encode(errors="replace"))
        self._in_line = False

    @staticmethod
    def write(number: int, data: bytes) -> None:
        """Write all of it, however long the reader takes. OSError if it cannot be written."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(number, rest) :]
            except BlockingIOError:  # somebody who shares it has made it non-blocking
                select.select([], [number], [])


if __name__ == "__main__":
    main()
