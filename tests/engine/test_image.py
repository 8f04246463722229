"""Building images: what is in them, what cannot be built and what is said then, and that nothing is
left of what failed."""

from __future__ import annotations

import ast
import io
import json
import os
import platform
import secrets
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from dayfly import AsyncSandbox, DayflyError, EngineError, ImageMissing, Job, Limits, Sandbox, StartFailed, __version__
from dayfly import _image as images
from dayfly import _seccomp as seccomp
from dayfly._engine_api import EngineAPI
from dayfly._image import wheels, workbench
from dayfly._image.answers import last_status
from dayfly._image.recipe import Facts, Recipe
from dayfly._messages import PROTOCOL
from dayfly.judge import Call, Case, Verdict

from ..documents import ROOT, block, blocks, run

DEFAULT = f"dayfly/python:{__version__}"


@pytest.fixture
def anyio_backend() -> str:
    """A build takes seconds, and most of what is tested here is above the event loop. The tests of
    a whole build and of its cancellation have both."""
    return "asyncio"


@pytest.fixture
async def api(docker_host: str) -> AsyncIterator[EngineAPI]:
    async with EngineAPI(docker_host) as api:
        yield api


@pytest.fixture
def tag(engine: Any) -> Iterator[str]:
    """A tag of the test's own; the image goes with the test."""
    name = f"dayfly-test/image:{secrets.token_hex(6)}"
    yield name
    engine.call("DELETE", f"/images/{name}", force="1")


@pytest.fixture
def unchanged(engine: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Fail if the test leaves a root, a build container or a temporary file behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = made_by_builds(engine)
    yield
    deadline = time.monotonic() + 5
    while (after := made_by_builds(engine)) - before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert after - before == set()
    assert list(tmp_path.iterdir()) == []


def made_by_builds(engine: Any) -> set[str]:
    """Roots and build containers. A finished image has its tag from the first, so none can be left
    without the test's own."""
    _, found = engine.call("GET", "/images/json", all="1", filters={"label": ["dayfly.root"]})
    _, benches = engine.call("GET", "/containers/json", all="1", filters={"name": ["dayfly-build-"]})
    return {row["Id"] for row in [*found, *benches] if "dayfly.inputs" not in (row["Labels"] or {})}


def import_image(docker_host: str, name: str, changes: str = "", files: dict[str, str] | None = None) -> str:
    """Make an image of a few files, none of them an interpreter."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in (files or {"etc/empty": ""}).items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text), 0o755
            tar.addfile(entry, io.BytesIO(text.encode()))
    query = {"fromSrc": "-", "repo": name.partition(":")[0], "tag": name.partition(":")[2], **({"changes": changes} if changes else {})}
    with httpx.Client(transport=httpx.HTTPTransport(uds=docker_host.removeprefix("unix://")), base_url="http://engine") as client:
        answer = client.post("/images/create", params=query, content=buffer.getvalue())
    assert answer.status_code == 200, answer.text
    return name


def look_inside(image: str, code: str, *, memory_limit_mb: int = 50) -> Any:
    with Sandbox(image=image, memory_limit_mb=memory_limit_mb, limits=Limits(stdout_bytes=4_000_000)) as sandbox:
        result = sandbox.run(f"import sandbox\n{code}", timeout_ms=60_000)
    assert not result.is_error, result.stderr
    return result.messages[0]


# What is in an image.


def test_the_default_image_is_compiled_and_has_no_installer(image: str) -> None:
    found = look_inside(
        image,
        """if True:
        import importlib.util, os, shutil, stat, subprocess, sys, sysconfig
        import asyncio, bz2, ctypes, curses, dbm, decimal, lzma, multiprocessing, readline
        import sqlite3, ssl, uuid, zlib, zoneinfo
        stdlib = sysconfig.get_paths()["stdlib"]
        sources = [os.path.join(folder, name) for folder, _, names in os.walk(stdlib) for name in names if name.endswith(".py")]
        special = [os.path.join(folder, name) for folder, _, names in os.walk("/") for name in names
                   if not folder.startswith(("/proc", "/sys", "/dev")) and os.lstat(os.path.join(folder, name)).st_mode & 0o6000]
        sandbox.send({
            "sources": len(sources),
            "uncompiled": [path for path in sources if not os.path.exists(importlib.util.cache_from_source(path))],
            "special": special,
            "installers": [name for name in ("apt", "apt-get", "dpkg", "perl", "mount", "su") if shutil.which(name)],
            "tools": [name for name in ("sh", "bash", "env", "ls", "grep", "sed", "tar") if not shutil.which(name)],
            "python": [os.path.realpath(shutil.which(name)) for name in ("python", "python3")],
            "pip": [subprocess.run([name, "install", "x"], capture_output=True, text=True).stderr for name in ("pip", "pip3")]
                   + [subprocess.run([sys.executable, "-m", "pip", "install", "x"], capture_output=True, text=True).stderr],
            "pip_module": subprocess.run([sys.executable, "-c", "import pip"], capture_output=True, text=True).stderr.splitlines()[-1],
            "berlin": str(zoneinfo.ZoneInfo("Europe/Berlin")),
        })""",
    )
    assert found["sources"] > 500
    assert len(set(found.pop("python"))) == 1
    assert set(found.pop("pip")) == {"pip: this sandbox has no network; packages are part of its image: dayfly image build --pip NAME\n"}
    assert found.pop("pip_module") == "ModuleNotFoundError: No module named 'pip'"
    assert found == {"sources": found["sources"], "uncompiled": [], "special": [], "installers": [], "tools": [], "berlin": "Europe/Berlin"}


def test_the_image_has_labels_and_little_configuration(engine: Any, image: str) -> None:
    config = engine.call("GET", f"/images/{image}/json")[1]["Config"]
    labels = config["Labels"]
    assert (labels["dayfly.protocol"], labels["dayfly.version"], labels["dayfly.base"]) == (str(PROTOCOL), __version__, "debian:bookworm")
    assert json.loads(labels["dayfly.pythons"])["3"].startswith("3.11.")
    assert len(labels["dayfly.inputs"]) == 64
    assert config["User"] == "65534:65534"
    assert [entry.partition("=")[0] for entry in config["Env"]] == ["PATH"]
    assert not config["Volumes"]
    # Labels by which the cleaner knows containers would make every container of the image an
    # orphan.
    assert not any(name in labels for name in ("dayfly.instance", "dayfly.pid"))


def test_python_2_is_there_beside_python_3(image_python2: str) -> None:
    with Sandbox(image=image_python2) as sandbox:
        old = sandbox.run(
            "import sandbox, sys, sqlite3, ssl, ctypes\nprint sandbox.data; sandbox.send(sys.version_info[:2])", v3=False, data=1
        )
        new = sandbox.run("import sandbox, sys, sqlite3, ssl, ctypes\nprint(sandbox.data); sandbox.send(sys.version_info[:2])", data=2)
    assert (old.stdout, old.messages, new.stdout, new.messages) == ("1\n", [[2, 7]], "2\n", [[3, 9]])


RETURNS = """\
import numpy as np
def f(): return [np.int64(3), np.float32(0.5), np.bool_(True), np.arange(4).reshape(2, 2), np.float64("nan")]
"""
NUMPY = "import numpy as np; sandbox.send([np.__version__, float(np.linalg.det(np.eye(20) * 2)), sandbox.__file__])"


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_wheels_go_into_an_image_on_another_image(api: EngineAPI, image: str, tag: str) -> None:
    said: list[str] = []
    built = await images.build(api, base=DEFAULT, tag=tag, pip=["numpy"], progress=said.append)
    _, determinant, path = await anyio.to_thread.run_sync(lambda: look_inside(built, NUMPY, memory_limit_mb=150))
    assert determinant == pytest.approx(2**20)
    assert path.endswith("/sandbox.py")
    async with AsyncSandbox(image=built, memory_limit_mb=150) as sandbox:
        told = await sandbox.judge(RETURNS, [Case(call=Call("f"), expected=[3, 0.5, True, [[0, 1], [2, 3]], {"$float": "nan"}])])
        assert told.verdict is Verdict.ACCEPTED, told
    assert any("numpy" in line for line in said)
    (listed,) = [one for one in await images.ls(api) if tag in one.tags]
    assert (listed.id, listed.pip, listed.base, listed.protocol, listed.version) == (built, ["numpy"], DEFAULT, PROTOCOL, __version__)
    # Built once: the same inputs are the same image, others are not, and force builds anew.
    said.clear()
    assert await images.build(api, base=DEFAULT, tag=tag, pip=["numpy"], progress=said.append) == built
    assert said == [f"{tag} is up to date"]
    assert await images.build(api, base=DEFAULT, tag=tag) != built
    await api.remove_image(built)  # it has lost its tag, and is still there for who uses it by id


async def test_modules_of_the_image_are_preloaded_by_default(api: EngineAPI, image: str, tag: str) -> None:
    await images.build(api, base=DEFAULT, tag=tag, preload=["fractions", "decimal", "os.path", "fractions"])
    (listed,) = [one for one in await images.ls(api) if tag in one.tags]
    assert listed.preload == ["fractions", "decimal", "os.path"], "in the order given"
    look = Job(code="import sys; print([name in sys.modules for name in ('decimal', 'fractions', 'statistics')])")
    for given, found, preloaded in (
        (None, "[True, True, False]\n", True),
        ((), "[False, False, False]\n", False),
        (("statistics",), "[True, True, True]\n", True),
    ):
        async with AsyncSandbox(image=tag, preload=given) as sandbox:
            result = await sandbox.run(look)
            assert (result.stdout, result.preloaded) == (found, preloaded)
            assert list(sandbox.preload) == (listed.preload if given is None else list(given))
    # Its preload is not that of an image that is made from it.
    await images.build(api, base=tag, tag=tag)
    assert [one.preload for one in await images.ls(api) if tag in one.tags] == [[]]


PLOT = """
import matplotlib.font_manager, numpy, os, pandas, PIL, scipy, sympy
import matplotlib.pyplot as plt
pandas.DataFrame({"a": numpy.arange(3)}).plot()
plt.show()
print(os.path.exists(".cache"), len(matplotlib.font_manager.fontManager.ttflist) > 10)
"""


PNG = b"\x89PNG\r\n\x1a\n"
RANDOM = """
import random, numpy, sympy.core.random
print(random.random(), numpy.random.rand(), sympy.core.random.rng.random(), sympy.core.random.random_complex_number(), sep=";", end="")
"""
SEEDED = """
import random, numpy, sympy.core.random
random.seed(7); numpy.random.seed(7); sympy.core.random.seed(7)
print(random.random(), numpy.random.rand(), sympy.core.random.rng.random(), sympy.core.random.random_complex_number(), sep=";", end="")
"""


@pytest.mark.timeout(600)
async def test_the_science_image_draws_and_has_its_fonts(api: EngineAPI, image: str, tag: str, tmp_path: Path) -> None:
    await images.build(api, base=DEFAULT, tag=tag, science=True)
    async with AsyncSandbox(image=tag, memory_limit_mb=400, timeout_ms=60_000) as sandbox:
        result = await sandbox.run(PLOT, figures=True)
    assert (result.stdout, result.stderr) == ("False True\n", "")
    ((kind, data),) = result.images()
    assert (kind, data[:8]) == ("image/png", PNG)
    preload = ("numpy", "pandas", "sympy", "matplotlib.pyplot")
    async with AsyncSandbox(image=tag, memory_limit_mb=400, timeout_ms=60_000, preload=preload) as sandbox, sandbox.session() as session:
        runs = [await session.run(RANDOM) for _ in range(3)]
        assert [run.stderr for run in runs] == [""] * 3
        numbers = [run.stdout.split(";") for run in runs]
        assert [len(set(drawn)) for drawn in zip(*numbers, strict=True)] == [3] * 4, "a fork shares the state of generators"
        seeded = [(await session.run(RANDOM, seed=seed)).stdout.split(";") for seed in (7, 7, -7)]
        assert seeded[0] == seeded[1] != seeded[2]
        assert (await session.run(SEEDED)).stdout.split(";") == seeded[0]
        result = await session.run(PLOT, figures=True)
        assert (result.stdout, result.stderr, len(result.images())) == ("False True\n", "", 1)
    await anyio.to_thread.run_sync(follow_the_pages, tag, tmp_path)
    for name in ("plots/figure-1.png", "plot-1.png", "plot.png"):
        assert (tmp_path / name).read_bytes()[:8] == PNG


def follow_the_pages(tag: str, folder: Path) -> None:
    """Do what README and docs/figures.md say, with the image that is there."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    names: dict[str, Any] = {}
    run(block("docs/figures.md", "import base64").replace('"science"', repr(tag)), names)
    assert names["png"][:8] == PNG
    readme = [one.code for one in blocks("README.md", "sh") if "--image science" in one.code]
    _, figures = (ROOT / "docs" / "figures.md").read_text().split("## A CSV in, a plot out\n")
    steps = [(one.language, one.code) for one in blocks("docs/figures.md") if one.code in figures.partition("\n## ")[0]]
    assert [language for language, _ in steps] == ["sh", "py", "sh"]
    assert len(readme) == 1
    printed = []
    for language, code in [*steps, ("sh", readme[0].replace("dayfly image build", ": "))]:
        there = code.replace("--image science", f"--image {tag}").replace('image="science"', f'image="{tag}"')
        command = [sys.executable, "-c", there] if language == "py" else ["bash", "-euc", there]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, (there, done.stdout, done.stderr)
        printed.append(done.stdout)
    assert printed == ["", "", "", "10\n"]


@pytest.mark.timeout(600)
async def test_another_suite_with_wheels_and_packages(api: EngineAPI, engine: Any, tag: str) -> None:
    before = made_by_builds(engine)
    built = await images.build(api, base="debian:trixie", tag=tag, pip=["numpy>=2"], apt=["tree"])
    look = f"import subprocess, sys; subprocess.run(['tree', '--version'], check=True); assert sys.version_info[:2] == (3, 13); {NUMPY}"
    version, determinant, _ = await anyio.to_thread.run_sync(lambda: look_inside(built, look, memory_limit_mb=150))
    assert int(version.partition(".")[0]) >= 2 and determinant == pytest.approx(2**20)
    await api.remove_image(tag)
    # The root went with the last image that stood on it.
    assert made_by_builds(engine) - before == set()


# What cannot be built.

BAD = [
    ({"base": "debian:buzz"}, ValueError, "bullseye, bookworm, trixie"),
    ({"base": "debian:bookworm-slim"}, ValueError, "no such Debian suite"),
    ({"base": "debian:bookworm", "python2": True}, ValueError, "only bullseye has Python 2.7"),
    ({"base": DEFAULT, "apt": ["tree"]}, ValueError, "debian:SUITE"),
    ({"base": ""}, ValueError, "base"),
    ({"base": "--help"}, ValueError, "base"),
    ({"base": "a/../../images/json"}, ValueError, "part of dots|of dots alone"),
    ({"base": "a/./b"}, ValueError, "of dots alone"),
    ({"base": "a//b"}, ValueError, "an empty part"),
    ({"base": "a/.."}, ValueError, "of dots alone"),
    ({"apt": ["bash-"]}, ValueError, "Debian package"),
    ({"base": 3}, TypeError, "base must be a str"),
    ({"tag": "No Such"}, ValueError, "tag"),
    ({"tag": ""}, ValueError, "tag"),
    ({"pip": "numpy"}, TypeError, "not one str"),
    ({"pip": ["--index-url=http://evil"]}, ValueError, "requirement"),
    ({"pip": ["./folder"]}, ValueError, "requirement"),
    ({"pip": ["x @ https://example.org/x.whl"]}, ValueError, "requirement"),
    ({"pip": [3]}, TypeError, "pip must be a str"),
    ({"apt": ["-o", "x"]}, ValueError, "Debian package"),
    ({"apt": ["tree,perl"]}, ValueError, "Debian package"),
    ({"preload": ["a b"]}, ValueError, "name of a module"),
    ({"preload": ["os;1"]}, ValueError, "name of a module"),
    ({"preload": [f"m{number}" for number in range(33)]}, ValueError, "33 modules; 32 are allowed"),
    ({"python2": "yes"}, TypeError, "bool"),
    ({"allow_source": 1}, TypeError, "allow_source must be a bool"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=[str(row[0]) for row in BAD])
async def test_a_bad_argument_is_refused_before_the_engine_is_asked(arguments: Any, kind: type[Exception], text: str) -> None:
    # An engine that was never connected to: any call would be an EngineUnreachable.
    with pytest.raises(kind, match=text):
        await images.build(EngineAPI("unix:///nowhere"), **arguments)


async def test_without_mmdebstrap(api: EngineAPI, tag: str, unchanged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DayflyError, match="install mmdebstrap"):
        await images.build(api, tag=tag)


async def test_mmdebstraps_own_error_is_told(api: EngineAPI, tag: str, unchanged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    # A suite that no root is kept of, from a mirror that cannot be reached: port 1 of this machine
    # refuses at once.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DayflyError, match=r"(?s)mmdebstrap failed.*127\.0\.0\.1"):
        await images.build(api, base="debian:forky", tag=tag)


async def test_a_base_without_python(api: EngineAPI, docker_host: str, tag: str, unchanged: None) -> None:
    base = import_image(docker_host, tag)
    with pytest.raises(DayflyError, match=r"has no python3 in its PATH"):
        await images.build(api, base=base, tag=f"{tag}-built")


async def test_a_base_whose_python_is_no_python(
    api: EngineAPI, engine: Any, image: str, docker_host: str, tag: str, unchanged: None
) -> None:
    base = import_image(docker_host, tag, files={"usr/bin/python3": "#!/no/such/interpreter\n"})
    with pytest.raises(DayflyError, match=r"has no python3|ended early"):
        await images.build(api, base=base, tag=f"{tag}-built")


async def test_a_base_with_a_volume(api: EngineAPI, docker_host: str, tag: str, unchanged: None) -> None:
    base = import_image(docker_host, tag, changes="VOLUME /data")
    with pytest.raises(ValueError, match="VOLUME /data"):
        await images.build(api, base=base, tag=f"{tag}-built")


@pytest.mark.parametrize(
    ("label", "says"), [("LABEL dayfly.protocol=1", "speaks protocol 1, and this dayfly needs 2"), ("", "is not a runner image")]
)
def test_an_image_of_another_protocol_is_refused(docker_host: str, tag: str, label: str, says: str) -> None:
    image = import_image(docker_host, tag, changes=label)
    with pytest.raises(StartFailed, match=f"{says}.*: build it again with `dayfly image build --tag {tag}`") as caught:
        Sandbox(image=image).initialize()
    assert not caught.value.delivered


async def test_a_base_that_is_nowhere(api: EngineAPI, tag: str, unchanged: None) -> None:
    # Port 1 of this machine: a registry that refuses at once.
    with pytest.raises(ImageMissing, match=r"no image 'localhost:1/none:1'.*debian:SUITE"):
        await images.build(api, base="localhost:1/none:1", tag=tag)


async def test_a_base_without_python_2(api: EngineAPI, image: str, tag: str, unchanged: None) -> None:
    with pytest.raises(DayflyError, match=r"no python2\.7"):
        await images.build(api, base=DEFAULT, tag=tag, python2=True)


async def test_a_module_to_preload_that_is_not_there(api: EngineAPI, image: str, tag: str, unchanged: None) -> None:
    with pytest.raises(DayflyError, match="No module named 'nonesuch'"):
        await images.build(api, base=DEFAULT, tag=tag, preload=["json", "nonesuch"])


async def test_a_requirement_that_has_no_wheel(api: EngineAPI, image: str, tag: str, unchanged: None) -> None:
    with pytest.raises(DayflyError, match=r"numpy==0\.0\.1"):
        await images.build(api, base=DEFAULT, tag=tag, pip=["numpy==0.0.1"])


async def test_a_package_without_a_wheel_names_the_flag(api: EngineAPI, image: str, tag: str, unchanged: None) -> None:
    with pytest.raises(DayflyError, match=r"no wheel of docopt fits .*--allow-source.*setup code on this host"):
        await images.build(api, base=DEFAULT, tag=tag, pip=["docopt"])
    # There is source of the package, but none of this version: the message does not say that there
    # is.
    with pytest.raises(DayflyError, match=r"no wheel of six==99 fits .*source distributions of six: .*No matching distribution"):
        await images.build(api, base=DEFAULT, tag=tag, pip=["six==99"])


async def test_a_dependency_without_a_wheel_is_told(api: EngineAPI, image: str, tag: str) -> None:
    said: list[str] = []
    # Newer releases need docopt, so pip takes an old one that does not.
    await images.build(api, base=DEFAULT, tag=tag, pip=["num2words"], progress=said.append)
    (line,) = [line for line in said if "num2words: pip passed over newer versions" in line]
    assert "--allow-source" in line
    with pytest.raises(DayflyError, match=r"no wheel of docopt>=0\.6\.2 fits .*--allow-source"):
        await images.build(api, base=DEFAULT, tag=tag, pip=["num2words==0.5.14"])


async def test_source_is_built_when_it_is_allowed(api: EngineAPI, image: str, tag: str) -> None:
    said: list[str] = []
    built = await images.build(api, base=DEFAULT, tag=tag, pip=["num2words>=0.5.14"], allow_source=True, progress=said.append)
    look = "import docopt, num2words; sandbox.send([docopt.__version__, num2words.num2words(42)])"
    assert await anyio.to_thread.run_sync(look_inside, built, look) == ["0.6.2", "forty-two"]
    assert any(line.startswith("building a wheel of docopt==0.6.2 from source") for line in said)


def source(folder: Path, name: str, *needs: str, extension: bool = False) -> None:
    """Write a source distribution of a package that is a module of one line."""
    modules = "ext_modules=[setuptools.Extension('_ext', ['ext.c'])]" if extension else f"py_modules=['{name}']"
    setup = f"import setuptools; setuptools.setup(name='{name}', version='1.0', {modules}, install_requires={list(needs)})"
    files = {f"{name}.py": "", "ext.c": "int x;", "setup.py": setup, "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{path}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content.encode()))


def wheel(folder: Path, name: str, tags: str, *needs: str, python: str = ">=3") -> None:
    """Write a wheel of a package that has nothing in it."""
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: {python}\n"
    metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-1.0-{tags}.whl", "w") as archive:
        archive.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tags}\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Fetch wheels of a package of the test's own index for an image's Python; return what was
    fetched, pip left out."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", f"{os.environ.get('PIP_FIND_LINKS', '')} {tmp_path}".strip())

    def fetch(name: str, version: str = platform.python_version(), *, allow_source: bool = True) -> list[str]:
        recipe = Recipe(base="b", tag="t", python2=False, pip=(name,), apt=(), allow_source=allow_source, preload=())
        facts = Facts(version=version, platform="linux-x86_64", glibc="2.36", python2=None)
        anyio.run(wheels.fetch_wheels, recipe, facts, tmp_path / "wheels", tmp_path, lambda _: None)
        return sorted(path.name for path in (tmp_path / "wheels").iterdir() if not path.name.startswith("pip-"))

    return fetch


def test_source_of_a_dependency_of_a_dependency(fetch: Callable[..., list[str]], tmp_path: Path) -> None:
    source(tmp_path, "dayflytop", "dayflymiddle")
    wheel(tmp_path, "dayflymiddle", "py3-none-any", "dayflybottom")
    source(tmp_path, "dayflybottom")
    with pytest.raises(DayflyError, match=r"no wheel of dayflybottom fits .*--allow-source"):
        fetch("dayflymiddle", allow_source=False)
    assert fetch("dayflytop") == [f"dayfly{name}-1.0-py3-none-any.whl" for name in ("bottom", "middle", "top")]


def test_source_where_only_the_host_has_a_wheel(fetch: Callable[..., list[str]], tmp_path: Path) -> None:
    host = "cp" + "".join(platform.python_version_tuple()[:2])
    wheel(tmp_path, "dayflytop", f"{host}-none-any", "dayflybottom")
    source(tmp_path, "dayflytop", "dayflybottom")
    wheel(tmp_path, "dayflybottom", f"{host}-none-any")
    source(tmp_path, "dayflybottom")
    assert fetch("dayflytop", "3.8.2") == [f"dayfly{name}-1.0-py3-none-any.whl" for name in ("bottom", "top")]


def test_a_wheel_for_a_newer_python_than_the_hosts(fetch: Callable[..., list[str]], tmp_path: Path) -> None:
    wheel(tmp_path, "dayflytop", "py3-none-any", python=">=3.50")
    assert fetch("dayflytop", "3.50.1") == ["dayflytop-1.0-py3-none-any.whl"]


def test_extension_modules_for_another_python(fetch: Callable[..., list[str]], tmp_path: Path) -> None:
    source(tmp_path, "dayflytop", extension=True)
    with pytest.raises(DayflyError, match=r"dayflytop.* has extension modules.* the image has Python 3\.8\.2"):
        fetch("dayflytop", "3.8.2")


@pytest.mark.parametrize(
    ("host", "inside", "runs"),
    [
        (("glibc", "2.36"), "2.36", True),
        (("glibc", "2.9"), "2.36", True),
        (("glibc", "2.41"), "2.36", False),
        (("glibc", "2.36"), "", False),
        (("", ""), "2.36", False),
    ],
)
def test_compiled_wheels_need_a_c_library_as_new(monkeypatch: pytest.MonkeyPatch, host: tuple[str, str], inside: str, runs: bool) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: host)
    facts = Facts(version=platform.python_version(), platform="linux-x86_64", glibc=inside, python2=None)
    assert wheels._runs_in_image(facts) is runs
    assert not wheels._runs_in_image(msgspec.structs.replace(facts, version="3.8.2"))


def test_the_c_library_of_any_base_reads_another_hosts_file(tmp_path: Path) -> None:
    # The functions of the workbench's program, without what it does.
    program = ast.parse((Path(workbench.__file__).parent / "workbench_program.py").read_text())
    program.body = [node for node in program.body if isinstance(node, (ast.Import, ast.FunctionDef, ast.Assign))]
    names: dict[str, Any] = {}
    exec(compile(program, "workbench_program.py", "exec"), names)
    folders = [tmp_path / "lib", tmp_path / "usr/lib64"]
    names["FOLDERS"] = [*map(str, folders), str(tmp_path / "none")]
    text = b"\x7fELF\0/etc/hosts\0x/etc/hosts\0/etc/hosts.allow\0/etc/host.conf\0"
    changed = [
        "lib/libc-2.28.so",
        "lib/x86_64-linux-gnu/libc.so.6",
        "lib/libnss_files.so.2",
        "lib/ld-musl-x86_64.so.1",
        "usr/lib64/libc.so.6",
    ]
    others = ["lib/libcrypto.so.3", "lib/libc.a", "usr/lib64/libcap.so.2", "usr/lib64/python3/hosts.py"]
    for name in (*changed, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
        (tmp_path / name).chmod(0o751)
    (tmp_path / "lib/libc.musl-x86_64.so.1").symlink_to("ld-musl-x86_64.so.1")
    before = set(tmp_path.rglob("*"))
    with (tmp_path / changed[0]).open("rb") as running:
        names["change_libraries"]()
        assert running.read() == text  # a program that runs keeps what it has
    assert set(tmp_path.rglob("*")) == before
    for name in changed:
        assert (tmp_path / name).read_bytes() == text.replace(b"/etc/hosts\0", b"/lib/hosts\0")
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o751
    assert {(tmp_path / name).read_bytes() for name in others} == {text}
    assert (tmp_path / "lib/libc.musl-x86_64.so.1").is_symlink()


async def test_an_engine_that_refuses_an_import_says_why() -> None:
    with pytest.raises(EngineError, match="importing: no space left on device"):
        last_status(b'{"status":"x"}\r\n{"errorDetail":{"message":"..."},"error":"no space left on device"}\r\n', "importing")


# Nothing is left, however it ends.


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.usefixtures("image")
@pytest.mark.parametrize("moment", ["making a root", "extracting archives", "installing the runner", "committing"])
async def test_a_cancelled_build_leaves_nothing(api: EngineAPI, engine: Any, tag: str, unchanged: None, moment: str) -> None:
    """Cancelled as soon as the build says that it has got to `moment`."""
    with anyio.CancelScope() as scope:

        def cancel(line: str) -> None:
            if moment in line:
                scope.cancel()

        debian = moment in ("making a root", "extracting archives")
        await images.build(api, base="debian:bookworm" if debian else DEFAULT, tag=tag, force=True, progress=cancel)
    assert scope.cancelled_caught
    assert engine.call("GET", f"/images/{tag}/json")[0] == 404
    assert children_of_this_process("mmdebstrap") == []


@pytest.mark.timeout(300)
async def test_mmdebstrap_mounts_nothing_on_the_host_and_may_be_killed(api: EngineAPI, tag: str, unchanged: None, tmp_path: Path) -> None:
    """Mounts of its that stayed would lead whoever removes the directory into the host's own
    /dev/shm."""
    seen: list[str] = []

    def kill(line: str) -> None:
        if "installing essential packages" in line:
            time.sleep(1)  # it mounts right after it has said so
            seen.append(mounts())
            (process,) = children_of_this_process("mmdebstrap")
            os.killpg(process, signal.SIGKILL)

    with pytest.raises(DayflyError, match="mmdebstrap failed"):
        await images.build(api, base="debian:bookworm", tag=tag, force=True, progress=kill)
    seen.append(mounts())
    assert [str(tmp_path) in text for text in seen] == [False, False]


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def children_of_this_process(name: str) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if name in command and parent == str(os.getpid()):
            found.append(int(folder.name))
    return found


KILLED = """
import anyio, os, signal, sys
from dayfly import _image as image
from dayfly._engine_api import EngineAPI
from dayfly._messages import PROTOCOL

def die(line):
    if "installing" in line:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with EngineAPI(sys.argv[1]) as engine:
        await image.build(engine, base=sys.argv[2], tag=sys.argv[3], progress=die)

anyio.run(main)
"""


def test_a_killed_build_leaves_no_container(engine: Any, docker_host: str, image: str, tag: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, docker_host, DEFAULT, tag]
    done = subprocess.run(command, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 5
    while benches := engine.call("GET", "/containers/json", all="1", filters={"name": ["dayfly-build-"]})[1]:
        assert time.monotonic() < deadline, benches
        time.sleep(0.1)
    assert engine.call("GET", f"/images/{tag}/json")[0] == 404


async def test_only_old_unstarted_workbenches_are_removed(
    api: EngineAPI, engine: Any, image: str, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def name() -> str:
        return f"dayfly-build-{secrets.token_hex(8)}"

    body = workbench.create_body(image)
    left = await api.create(name(), body)
    strangers = [
        await api.create(other, form)
        for other, form in (
            (f"{name()}-of-mine", body),
            (f"my-{name()}", body),
            (f"dayfly-build-{'g' * 16}", body),
            (name(), {"Image": image, "HostConfig": {"AutoRemove": True}}),
            (name(), {**body, "Entrypoint": ["python3", "-m", "build"]}),
            (name(), {**body, "StdinOnce": False}),
            (name(), {**body, "User": "1:1"}),
            (name(), {**body, "Volumes": {"/data": {}}}),
        )
    ]

    def there(container: str) -> bool:
        return bool(engine.call("GET", f"/containers/{container}/json")[0] == 200)

    try:
        await images.build(api, base=DEFAULT, tag=tag)
        # It may be that of a build beside this one, between create and start.
        assert there(left)
        monkeypatch.setattr(workbench, "ABANDONED_AFTER", 0.0)
        await images.build(api, base=DEFAULT, tag=tag, force=True)
        assert not there(left)
        assert all(map(there, strangers))
    finally:
        for stranger in strangers:
            await api.remove(stranger)


async def test_the_workbench_has_limits_and_the_filter(api: EngineAPI, engine: Any, tag: str) -> None:
    seen: list[tuple[dict[str, Any], dict[str, str]]] = []

    def look(line: str) -> None:
        if "installing" in line:
            for row in engine.call("GET", "/containers/json", filters={"name": ["dayfly-build-"]})[1]:
                found = engine.call("GET", f"/containers/{row['Id']}/json")[1]
                status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
                seen.append((found["HostConfig"], dict(line.split(":\t", 1) for line in status.splitlines())))

    await images.build(api, base=DEFAULT, tag=tag, force=True, progress=look)
    assert seen
    for host, status in seen:
        assert host["Memory"] == host["MemorySwap"] == workbench.WORKBENCH_MEMORY_BYTES
        assert host["PidsLimit"] == workbench.WORKBENCH_PIDS
        assert set(host["SecurityOpt"]) == {"no-new-privileges", f"seccomp={seccomp.profile(loopback=False)}"}
        assert (host["NetworkMode"], host["Privileged"], host["Binds"]) == ("none", False, None)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert int(status["CapEff"], 16) == 1 << 1 | 1 << 3  # CAP_DAC_OVERRIDE, CAP_FOWNER


# A base that means harm.

ANSWER = '{{"version":"3.11.2","platform":"linux-x86_64","glibc":"{}","python2":null}}'
HOSTILE = [
    ("while :; do printf %065536d 0; done", "more than 1,048,576 bytes"),
    (f"echo '{ANSWER.format('2.20000000')}'", "makes no sense"),
    (f"echo '{ANSWER.format('2.36.1.1')}'", "makes no sense"),
    (r"""printf '%s\n' '{"error":"\u001b]0;owned\u0007\u009bx"}'""", r"\\x1b\]0;owned\\x07\\x9bx"),
    (r"""printf '\033]0;owned\007\n'""", r"\\x1b\]0;owned\\x07"),
    (r"""printf '\033]0;owned\007' >&2""", r"ended early: \\x1b\]0;owned\\x07"),
    ("echo '[]'; sleep 1", "makes no sense"),
]


@pytest.mark.parametrize(("script", "said"), HOSTILE, ids=["flood", "glibc", "dots", "error", "escapes", "stderr", "list"])
async def test_a_hostile_base_is_refused(api: EngineAPI, image: str, tag: str, unchanged: None, script: str, said: str) -> None:
    # An image of ours whose python3 is a script.
    made = await api.create(f"dayfly-test-{secrets.token_hex(8)}", {
        "Image": image, "User": "0:0",
        "Entrypoint": ["/bin/sh", "-c", 'f=/usr/local/bin/python3; printf "%s" "$1" >$f; chmod 755 $f', "-"],
        "Cmd": [f"#!/bin/sh\n{script}\n"],
    })  # fmt: skip
    try:
        await api.start(made)
        await api.call("POST", f"/containers/{made}/wait")
        name, _, version = tag.rpartition(":")
        await api.call("POST", "/commit", query={"container": made, "repo": name, "tag": version}, body={})
    finally:
        await api.remove(made)
    with pytest.raises(DayflyError, match=said) as refused:
        await images.build(api, base=tag, tag=f"{tag}-built")
    assert str(refused.value).isprintable()
