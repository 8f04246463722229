"""Building the image that every container runs: a root file system, the runner, and what programs may import.

Two steps, since they change at different rates. The root: Debian's own packages by mmdebstrap (`debian:SUITE`, no registry
needed), imported without a tag, or any image that has Python 3.8 or newer. On it the workbench: one container without a
network that is handed the runner and the wheels over its stdin, installs them, byte-compiles the standard library, takes
set-user-id bits off, and is committed. The wheels were fetched here, on the host.

What must never happen here: a network in a build container; a half-made image (an import or a commit is one call, and the
tag goes on with the commit); a container left behind by a host process that dies (StdinOnce and AutoRemove, as everywhere in dayfly).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import anyio
import anyio.abc
import msgspec

from . import _seccomp as seccomp
from . import _spec as spec
from ._engine_api import EngineAPI
from ._errors import DayflyError, EngineError, EngineRefused, ImageMissing
from ._messages import PROTOCOL
from ._names import DEFAULT_IMAGE, DEFAULT_IMAGE_PYTHON2, PROTOCOL_LABEL
from ._stdcopy import STDOUT, StreamDecoder
from ._version import __version__

log = logging.getLogger("dayfly")

DEFAULT_BASE = "debian:bookworm"
DEFAULT_BASE_PYTHON2 = "debian:bullseye"

SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid")
"""Debian's releases whose Python 3 the runner knows; bullseye is the last with Python 2.7."""

DEADLINE = 1_800.0
"""Seconds for one step: an import, a pull, an installation of wheels."""

WORKBENCH_MEMORY_BYTES = 2_000_000_000
WORKBENCH_PIDS = 512
UNREAD_BYTES = 1_048_576
"""What a build container may say without a line's end, and what is kept of its stderr."""
ABANDONED_AFTER = 60.0
"""Seconds that a build container may lie there before it is started; it takes some milliseconds."""

Progress = Callable[[str], None]

_MIRROR, _SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_WORKBENCH_NAME = "dayfly-build-"
_HOSTS = f"""127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
127.0.0.1\t{spec.HOSTNAME}
"""
"""What Docker writes into a container with a network, and the container's own name."""

_PATH = next(entry for entry in spec.ENVIRONMENT if entry.startswith("PATH="))
"""Where the base must have its python3: a container of the image is started with no other."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One runner image that the engine has."""

    id: str
    tags: list[str]
    version: str
    """Of dayfly; a sandbox of another version may refuse it."""
    protocol: int
    pythons: dict[str, str]
    """`{"3": "3.11.2"}`, and "2" where it has Python 2.7."""
    base: str
    pip: list[str]
    apt: list[str]
    size_bytes: int
    created: float
    """Seconds since the epoch, by the engine's clock."""


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the base's own python3 says of itself. The base may be anybody's: it is believed in nothing."""

    version: Annotated[str, msgspec.Meta(pattern=r"^3\.[0-9]{1,3}\.[0-9A-Za-z.+]{1,20}$")]
    platform: Annotated[str, msgspec.Meta(pattern=r"^[a-z]{1,20}-[A-Za-z0-9_.-]{1,30}$")]
    glibc: Annotated[str, msgspec.Meta(pattern=r"^(2\.[0-9]{1,3}(\.[0-9]{1,3})?)?$")]
    """"2.36"; empty where the C library is another."""
    python2: Annotated[str, msgspec.Meta(pattern=r"^2\.7\.[0-9A-Za-z.+]{1,20}$")] | None


class _Done(msgspec.Struct, frozen=True, kw_only=True):
    done: Literal[True]


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """What every line of the workbench may have."""

    error: str | None = None


class _Recipe(msgspec.Struct, frozen=True, kw_only=True):
    base: str
    tag: str
    python2: bool
    pip: tuple[str, ...]
    apt: tuple[str, ...]
    allow_source: bool

    @property
    def suite(self) -> str | None:
        name, _, suite = self.base.partition(":")
        return suite if name == "debian" else None


async def build(
    engine: EngineAPI,
    *,
    base: str | None = None,
    tag: str | None = None,
    python2: bool = False,
    pip: Sequence[str] = (),
    apt: Sequence[str] = (),
    allow_source: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> str:
    """Build a runner image, tag it, and return its id; return at once if `tag` is what these inputs gave last time.

    `base` is `debian:SUITE` or an image with Python 3.8 or newer, which is pulled if the engine lacks it; `python2` asks
    for Python 2.7 as well. `pip` are requirements (`numpy>=2`), installed from wheels; `apt` Debian packages, for a Debian
    base only. `allow_source` lets packages of `pip`, and what they need, be built from source where they have no wheel:
    their setup code then runs on this host, as this user. `force` builds anew from today's packages. `progress` is called
    with lines of text.

    Raises ValueError or TypeError for a bad argument, EngineError for what the engine refuses, and DayflyError for
    everything else that keeps it from being built, saying what to do. Nothing is left behind then.
    """
    recipe = _checked(base, tag, pip, apt, python2=python2, allow_source=allow_source)
    say = progress or (lambda _: None)
    if recipe.suite and shutil.which("mmdebstrap") is None:
        raise DayflyError(
            f"{recipe.base} is made with mmdebstrap, which is not here: install mmdebstrap (and, on Ubuntu, debian-archive-keyring), "
            "or give a base image that has Python (python:3.13-slim)"
        )
    if recipe.pip and importlib.util.find_spec("pip") is None:
        raise DayflyError(f"pip is needed to fetch wheels, and {sys.executable} has none: run  {sys.executable} -m ensurepip")

    origin = _root_digest(recipe) if recipe.suite else await _base_image(engine, recipe.base, say)
    inputs = _digest(origin, recipe.python2, recipe.pip, _WORKBENCH, _NO_PIP, _HOSTS, __version__, _runner_files())
    if not force and (built := await _built(engine, recipe.tag, inputs)):
        say(f"{recipe.tag} is up to date")
        return built

    imported = None
    if recipe.suite:
        root = None if force else await _root(engine, origin)
        if root is None:
            root = imported = await _import_debian(engine, recipe, origin, say)
    else:
        root = origin
    try:
        image = await _finish(engine, recipe, root, inputs, say)
    except BaseException:
        if imported:
            await _quietly(engine.remove_image(imported))
        raise
    say(f"{recipe.tag} is built: {image}")
    return image


async def ls(engine: EngineAPI) -> list[Image]:
    """Return the runner images that the engine has, newest first."""
    found = []
    for row in await engine.list_images(PROTOCOL_LABEL):
        label = row.get("Labels") or {}
        try:
            found.append(
                Image(
                    id=row["Id"],
                    tags=[tag for tag in row.get("RepoTags") or [] if tag != "<none>:<none>"],
                    version=label.get("dayfly.version", ""),
                    protocol=int(label[PROTOCOL_LABEL]),
                    pythons=msgspec.json.decode(label.get("dayfly.pythons", "{}"), type=dict[str, str]),
                    base=label.get("dayfly.base", ""),
                    pip=label.get("dayfly.pip", "").split(),
                    apt=label.get("dayfly.apt", "").split(),
                    size_bytes=int(row["Size"]),
                    created=float(row["Created"]),
                )
            )
        except (KeyError, TypeError, ValueError):
            continue  # somebody else's label of that name
    return sorted(found, key=lambda image: image.created, reverse=True)


# What was asked for, checked before anything starts.


def _checked(base: str | None, tag: str | None, pip: Sequence[str], apt: Sequence[str], *, python2: bool, allow_source: bool) -> _Recipe:
    for name, flag in (("python2", python2), ("allow_source", allow_source)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name} must be a bool, not {type(flag).__name__}")
    if base is None:
        base = DEFAULT_BASE_PYTHON2 if python2 else DEFAULT_BASE
    if tag is None:
        tag = DEFAULT_IMAGE_PYTHON2 if python2 else DEFAULT_IMAGE
    recipe = _Recipe(
        base=_matching("base", base, r"[a-z0-9][\w.:/@-]*", "the name of an image, or debian:SUITE"),
        tag=_matching("tag", tag, r"[a-z0-9][a-z0-9._:/-]*(:[\w][\w.-]{0,127})?", "a name for an image (dayfly/python:mine)"),
        python2=python2,
        pip=_all_matching("pip", pip, r"[A-Za-z0-9][\w.-]*\s*(\[[\w.,\s-]+\])?\s*([=<>!~][^;@/\s]*)?", "a requirement (numpy>=2)"),
        apt=_all_matching("apt", apt, r"[a-z0-9][a-z0-9+.-]*[a-z0-9+]", "a Debian package"),
        allow_source=allow_source,
    )
    if re.search(r"(^|/)\.*(/|$)", recipe.base):
        # It becomes part of a path of the Engine API, where a/../.. would be another call.
        raise ValueError(f"base={base!r}: an empty part, or one of dots alone, is not part of the name of an image")
    if recipe.suite is not None and recipe.suite not in SUITES:
        raise ValueError(f"base={base!r}: no such Debian suite is known here, only {', '.join(SUITES)}")
    if recipe.suite not in (None, "bullseye") and python2:
        raise ValueError(f"base={base!r}: only bullseye has Python 2.7; use debian:bullseye, or an image that has it")
    if recipe.suite is None and apt:
        raise ValueError(
            f"base={base!r}: apt packages need a base debian:SUITE, since no build container has a network; or use a base that has them"
        )
    return recipe


def _matching(name: str, value: Any, pattern: str, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}: {value!r:.80}")
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{name}: {value!r:.80} is not {what}")
    return value


def _all_matching(name: str, values: Sequence[str], pattern: str, what: str) -> tuple[str, ...]:
    if isinstance(values, str):
        raise TypeError(f"{name} must be a sequence of str, not one str: {values!r:.80}")
    # Without spaces, so that a list of them can be written into a label and split again.
    return tuple(sorted({re.sub(r"\s", "", _matching(name, value, pattern, what)) for value in values}))


def _digest(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


# The root from Debian's packages.

# What a Python program's standard library is made of beyond the package python3; libstdc++ is what wheels expect of any system.
_PACKAGES = ("python3", "libstdc++6", "tzdata")
_PACKAGES_OF = {"bullseye": ("python3-distutils",), "bookworm": ("python3-distutils",)}  # newer suites' Python has none

_UNWANTED = (
    r"apt|bsdutils|debconf|dpkg|e2fsprogs|init-system-helpers|login(\..*)?|logsave|mount|ncurses-bin|passwd|perl.*|lib.*-perl|libperl.*"
    r"|sysvinit-utils|usr-is-merged|usrmerge|util-linux.*"
    r"|lib(apt-pkg|audit|blkid|cap-ng|debconfclient|ext2fs|lastlog|mount|pam|semanage|sepol|smartcols|ss|subid|systemd|udev)[-0-9.t].*"
)
"""Packages of Debian's essential set that are there to install others and to run a machine. Nothing that `python3` needs."""

# Run outside of the root, which is $1. With packages of the user's own everything stays: they may stand on any of it.
_SLIM = f"""set -eu
unwanted=$(dpkg-query --root="$1" -W -f '${{Package}}\\n' | grep -Ex '{_UNWANTED}' || true)
dpkg --root="$1" --force-all --purge $unwanted >"$1/purge.log" 2>&1 || {{ tail -n 20 "$1/purge.log" >&2; exit 1; }}
rm -rf "$1/purge.log" "$1"/var/lib/dpkg/info "$1"/var/lib/dpkg/*-old"""


def _root_digest(recipe: _Recipe) -> str:
    return _digest(_mmdebstrap(recipe, ""))


def _mmdebstrap(recipe: _Recipe, tar: str) -> list[str]:
    suite = str(recipe.suite)
    packages = [*_PACKAGES, *_PACKAGES_OF.get(suite, ()), *recipe.apt, *(["python2.7"] if recipe.python2 else [])]
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")]
    suites = [f"deb {_MIRROR} {suite} main"]
    if suite != "sid":
        suites += [f"deb {_MIRROR} {suite}-updates main", f"deb {_SECURITY} {suite}-security main"]
    return [
        "mmdebstrap",
        "--variant=essential",
        "--format=tar",
        f"--include={','.join(packages)}",
        *excluded,
        *(() if recipe.apt else (f"--customize-hook={_SLIM}",)),
        *((f"--keyring={_KEYRING}",) if Path(_KEYRING).exists() else ()),  # another distribution's apt does not know Debian's keys
        suite,
        tar,
        *suites,
    ]


async def _root(engine: EngineAPI, digest: str) -> str | None:
    filters = msgspec.json.encode({"label": [f"dayfly.root={digest}"]}).decode()
    rows = await engine.ask("GET", "/images/json", query={"all": "1", "filters": filters})
    # Children inherit the label; a root itself has no `dayfly.inputs`.
    return next((str(row["Id"]) for row in rows if "dayfly.inputs" not in (row.get("Labels") or {})), None)


async def _import_debian(engine: EngineAPI, recipe: _Recipe, digest: str, say: Progress) -> str:
    with _scratch() as scratch:
        tar = scratch / "root.tar"
        say(f"making a root file system of {recipe.base} with mmdebstrap, half a minute or so")
        await _run(_mmdebstrap(recipe, str(tar)), scratch, say, prefix=await _own_mounts())
        say(f"importing it, {tar.stat().st_size / 1e6:.0f} MB")
        # Untagged: it belongs to the images made from it, and the engine removes it with the last of them.
        query = {"fromSrc": "-", "changes": f"LABEL dayfly.root={digest}"}
        headers = {"Content-Type": "application/x-tar"}
        answer = await engine.call("POST", "/images/create", query=query, content=_pieces(tar), headers=headers, deadline=DEADLINE)
    return _last_status(answer, "importing the root file system")


async def _own_mounts() -> list[str]:
    """A prefix that gives a command mounts of its own.

    Run by root, mmdebstrap mounts /proc, /sys and the host's own /dev/shm into the root, in the host's mount namespace. If it
    were killed, they would stay, and whoever removed the directory would empty the host's /dev/shm. Here they end with it.
    """
    prefix = ["unshare", "--mount", "--propagation", "private", "--"]
    if os.geteuid() != 0:
        return []  # it makes namespaces by itself
    try:
        done = await anyio.run_process([*prefix, "true"], check=False)
    except FileNotFoundError:
        raise DayflyError(
            "the command unshare (package util-linux) is missing: without it mmdebstrap would mount on the host itself"
        ) from None
    # Root in a container may mount nothing, with a namespace or without; mmdebstrap does without mounts then.
    return prefix if done.returncode == 0 else []


async def _pieces(file: Path) -> AsyncIterator[bytes]:
    async with await anyio.open_file(file, "rb") as source:
        while piece := await source.read(1_048_576):
            yield piece


def _last_status(answer: bytes, doing: str) -> str:
    """The last status of a stream of JSON objects. The engine says 200 first, and tells errors inside."""
    status = ""
    for line in answer.splitlines():
        said = msgspec.json.decode(line) if line.strip() else {}
        if not isinstance(said, dict):
            raise EngineError(f"{doing}: the engine answered {line[:80]!a}")
        if said.get("error") is not None:
            raise EngineError(f"{doing}: {shown(said['error'])}")
        status = str(said.get("status") or status)
    return status


# A base image of the engine's.


async def _base_image(engine: EngineAPI, name: str, say: Progress) -> str:
    """Return the base's id, pulled if it is not there."""
    try:
        found = await engine.inspect_image(name)
    except ImageMissing:
        say(f"pulling {name}")
        query = {"fromImage": name if ":" in name.rpartition("/")[2] else f"{name}:latest"}
        try:
            _last_status(await engine.call("POST", "/images/create", query=query, deadline=DEADLINE), f"pulling {name}")
            found = await engine.inspect_image(name)
        except EngineError as error:
            raise ImageMissing(
                f"the engine has no image {name!r}, and could not pull it ({error}); or use a base debian:SUITE, which needs no registry"
            ) from error
    volumes = (found.get("Config") or {}).get("Volumes")
    if volumes:
        raise ValueError(
            f"base={name!r} declares the VOLUME {', '.join(volumes)}: a directory of the host in each container, without a limit"
        )
    return str(found["Id"])


async def _built(engine: EngineAPI, tag: str, inputs: str) -> str | None:
    try:
        found = await engine.inspect_image(tag)
    except ImageMissing:
        return None
    labels = (found.get("Config") or {}).get("Labels") or {}
    return str(found["Id"]) if labels.get("dayfly.inputs") == inputs else None


# The workbench.

# Runs as root in the container, by its own python3. It writes one line of JSON at each step, and waits for the end of
# its stdin when it is done: that is when the container is committed. Python 3.4 must understand it, to be told that it is too old.
_WORKBENCH = r"""
import compileall, json, os, platform, re, shutil, site, stat, subprocess, sys, sysconfig, tarfile, tempfile

def tell(**facts):
    print(json.dumps(facts), flush=True)

def run(*command):
    streams = dict(stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    done = subprocess.run(command, env=dict(os.environ, HOME=work, TMPDIR=work), **streams)
    if done.returncode:
        sys.exit("%s failed: %s" % (os.path.basename(command[0]), done.stdout.decode(errors="replace")[-3000:].strip()))
    return done.stdout.decode(errors="replace").strip()

def add(name, folder):
    os.makedirs(folder, mode=0o755, exist_ok=True)
    source, target = os.path.join(work, name), os.path.join(folder, name)
    if os.path.isdir(source):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)

# Docker puts an empty file over /etc/hosts of every container without a network, whatever the image has there.
# So the C library, glibc or musl, is changed to read another file.
HOSTS = "/lib/hosts"
LIBRARY = r"(libc|libnss_files|ld-musl-\w+)[-.].*so(\..*)?"
RESOLVE = "import socket as s; print([s.getaddrinfo('localhost', 1, family)[0][4][0] for family in (s.AF_INET, s.AF_INET6)])"

def name_loopback(text):
    with open(HOSTS, "w") as file:
        file.write(text)
    os.chmod(HOSTS, 0o644)
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        for parent, _, names in os.walk(folder):
            for path in [os.path.join(parent, name) for name in names if re.fullmatch(LIBRARY, name)]:
                if not os.path.islink(path):
                    use_hosts(path)
    if run(sys.executable, "-c", RESOLVE) != "['127.0.0.1', '::1']":
        sys.exit("its C library does not resolve localhost by a hosts file")

def use_hosts(path):
    with open(path, "rb") as file:
        library = file.read()
    # The new path is as long as the old one, and ends like it: a linker may keep one text for both "hosts" and this.
    changed = library.replace(b"/etc/hosts\0", HOSTS.encode() + b"\0")
    if changed != library:
        with open(path + ".new", "wb") as file:
            file.write(changed)
        shutil.copymode(path, path + ".new")
        os.rename(path + ".new", path)  # programs that run keep the old one

work = tempfile.mkdtemp(dir="/")
try:
    if sys.version_info < (3, 8):
        sys.exit("its python3 is %s, and the runner needs 3.8 or newer" % platform.python_version())
    if "dayfly_runner" in sys.modules:
        sys.exit("the runner was loaded into its own build")
    python2 = shutil.which("python2.7")
    version2 = python2 and run(python2, "-c", "import platform; print(platform.python_version())")
    tell(version=platform.python_version(), platform=sysconfig.get_platform(), glibc=platform.libc_ver()[1], python2=version2 or None)
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
        tar.extractall(work)
    with open(os.path.join(work, "order.json")) as file:
        order = json.load(file)
    if order["pip"]:
        wheels = os.path.join(work, "wheels")
        pip = [name for name in os.listdir(wheels) if name.startswith("pip-")][0]
        run(sys.executable, os.path.join(wheels, pip, "pip"), "install", "--no-index", "--find-links", wheels, "--no-cache-dir",
            "--no-compile", "--no-warn-script-location", "--root-user-action=ignore", "--break-system-packages",
            "--disable-pip-version-check", *order["pip"])
    folder = site.getsitepackages()[0]
    for name in order["files"]:
        add(name, folder)
    if python2:
        folder2 = run(python2, "-c", "import site; print(site.getsitepackages()[0])")
        add("sandbox.py", folder2)
        run(python2, "-m", "compileall", "-q", os.path.join(folder2, "sandbox.py"))
    beside = os.path.dirname(shutil.which("python3"))
    if not shutil.which("python"):
        os.symlink("python3", os.path.join(beside, "python"))
    for name in ("pip", "pip3"):
        if not shutil.which(name):
            path = os.path.join(beside, name)
            with open(path, "w") as file:
                file.write(order["no_pip"])
            os.chmod(path, 0o755)
    name_loopback(order["hosts"])
    for path in [sysconfig.get_paths()["stdlib"]] + site.getsitepackages():
        if os.path.isdir(path):
            compileall.compile_dir(path, quiet=2, workers=0)  # what is compiled already is left as it is
    run(sys.executable, "-c", "import importlib.util as u; import sandbox; assert u.find_spec('dayfly_runner')")
    device = os.stat("/").st_dev
    for parent, folders, names in os.walk("/"):
        folders[:] = [name for name in folders if os.lstat(os.path.join(parent, name)).st_dev == device]
        for name in names:
            path = os.path.join(parent, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & 0o6000:
                os.chmod(path, stat.S_IMODE(mode) & 0o1777)
    shutil.rmtree(work)
    tell(done=True)
    sys.stdin.buffer.read()
except SystemExit as error:
    tell(error=str(error))
except BaseException as error:
    tell(error="%s: %s" % (type(error).__name__, error))
finally:
    shutil.rmtree(work, ignore_errors=True)
"""


async def _finish(engine: EngineAPI, recipe: _Recipe, root: str, inputs: str, say: Progress) -> str:
    """Put the runner and the wheels on the root, commit and tag it; return the image's id."""
    name = f"{_WORKBENCH_NAME}{secrets.token_hex(8)}"
    body = {
        "Image": root,
        "Entrypoint": ["python3", "-c", _WORKBENCH],
        "Cmd": [],
        "Env": [_PATH],
        "User": "0:0",
        "WorkingDir": "/",
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "AutoRemove": True,
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE", "FOWNER"],  # to take bits off files of other owners
            # What runs here came from a base or a wheel that may be anybody's.
            "SecurityOpt": ["no-new-privileges", f"seccomp={seccomp.profile(loopback=False)}"],
            "Memory": WORKBENCH_MEMORY_BYTES,
            "MemorySwap": WORKBENCH_MEMORY_BYTES,
            "PidsLimit": WORKBENCH_PIDS,
            "LogConfig": {"Type": "none", "Config": {}},
        },
    }
    bench = _Workbench(engine, name, recipe.base)
    try:
        await _sweep(engine, await engine.create(name, body))
        with anyio.fail_after(DEADLINE), _scratch() as scratch:
            facts = await bench.start()
            if recipe.python2 and facts.python2 is None:
                raise DayflyError(f"{recipe.base} has no python2.7")
            context = await _context(recipe, facts, scratch, say)
            say("installing the runner" + (" and the wheels" if recipe.pip else "") + ", compiling the standard library")
            await bench.send(context)
            await bench.next(_Done)
        pythons = {"3": facts.version, **({"2": facts.python2} if facts.python2 else {})}
        say("committing the image")
        return await _commit(engine, name, recipe, {"dayfly.inputs": inputs, "dayfly.pythons": msgspec.json.encode(pythons).decode()})
    except TimeoutError:
        raise DayflyError(f"building on {recipe.base} took more than {DEADLINE:g} s") from None
    finally:
        await bench.aclose()
        await _quietly(engine.remove(name))


async def _commit(engine: EngineAPI, container: str, recipe: _Recipe, labels: dict[str, str]) -> str:
    config = {
        "Entrypoint": [],
        "Cmd": ["python3"],
        "User": "65534:65534",
        "Env": [_PATH],
        "Labels": {
            **labels,
            PROTOCOL_LABEL: str(PROTOCOL),
            "dayfly.version": __version__,
            "dayfly.base": recipe.base,
            "dayfly.pip": " ".join(recipe.pip),
            "dayfly.apt": " ".join(recipe.apt),
        },
    }
    repository, colon, tag = recipe.tag.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = recipe.tag, "latest"
    # Not paused: the workbench is done and waits.
    query = {"container": container, "repo": repository, "tag": tag, "pause": "0", "comment": "dayfly image build"}
    answer = await engine.ask("POST", "/commit", query=query, body=config, deadline=DEADLINE)
    return str((await engine.inspect_image(str(answer["Id"])))["Id"])


async def _sweep(engine: EngineAPI, own: str) -> None:
    """Remove workbenches that were created and never started: the one state in which the engine does not remove them by itself.

    One may be another build's, just about to be started. Its age tells, by the engine's clock: that of our own new one is 0.
    No label of an owner, as other containers have: the image that is committed would inherit it.
    """
    filters = msgspec.json.encode({"name": [f"^/?{_WORKBENCH_NAME}"], "status": ["created"]}).decode()
    rows = await engine.ask("GET", "/containers/json", query={"all": "1", "filters": filters}) or []
    created = {str(row["Id"]): float(row.get("Created") or 0) for row in rows}
    for container, since in created.items():
        if container != own and since <= created.get(own, 0.0) - ABANDONED_AFTER:
            await _quietly(engine.remove(container))


_Line = TypeVar("_Line", _Facts, _Done)


class _Workbench:
    """The running container, from the host's side: lines of JSON out of it, one tar into it."""

    def __init__(self, engine: EngineAPI, name: str, base: str) -> None:
        self._engine, self._name, self._base = engine, name, base
        self._decoder = StreamDecoder()
        self._stdout, self._stderr = bytearray(), bytearray()
        self._stream: Any = None

    async def start(self) -> _Facts:
        self._stream = await self._engine.attach(self._name)
        try:
            await self._engine.start(self._name)
        except EngineRefused as error:
            if "executable file not found" in str(error) or "no such file" in str(error):
                raise DayflyError(f"{self._base} has no python3 in its {_PATH}: the base must have Python 3.8 or newer") from error
            raise
        return await self.next(_Facts)

    async def send(self, tar: Path) -> None:
        async for piece in _pieces(tar):
            await self._stream.write(piece)

    async def next(self, kind: type[_Line]) -> _Line:
        """Return the next line of its stdout. DayflyError if it is an error, or not what is due."""
        while b"\n" not in self._stdout:
            data = await self._stream.read()
            if not data:
                said = shown(self._stderr[-2_000:].decode(errors="replace").strip())
                raise DayflyError(f"building on {self._base}: the container ended early{': ' + said if said else ''}")
            for stream, piece in self._decoder.feed(data):
                (self._stdout if stream == STDOUT else self._stderr).extend(piece)
            del self._stderr[:-UNREAD_BYTES]
            if len(self._stdout) > UNREAD_BYTES:
                raise DayflyError(f"building on {self._base}: its python3 wrote more than {UNREAD_BYTES:,} bytes that are no answer")
        line, _, rest = bytes(self._stdout).partition(b"\n")
        self._stdout = bytearray(rest)
        try:
            error = msgspec.json.decode(line, type=_Said).error
            if error is None:
                return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, ValueError, RecursionError):
            raise DayflyError(f"building on {self._base}: its python3 answered {line[:200]!a}, which makes no sense here") from None
        raise DayflyError(f"building on {self._base}: {shown(error)}")

    async def aclose(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()


_NO_PIP = """#!/bin/sh
echo "pip: this sandbox has no network; packages are part of its image: dayfly image build --pip NAME" >&2
exit 1
"""
"""The command `pip` of an image that has none. Programs call it, and should learn why it fails."""


async def _context(recipe: _Recipe, facts: _Facts, scratch: Path, say: Progress) -> Path:
    """Write the tar that the workbench is sent: its order, the runner's files, the wheels."""
    wheels = scratch / "wheels"
    wheels.mkdir()
    if recipe.pip:
        say(f"fetching wheels for Python {facts.version}: {' '.join(recipe.pip)}")
        await _fetch_wheels(recipe, facts, wheels, scratch, say)
    files = _runner_files()
    order = {"hosts": _HOSTS, "pip": recipe.pip, "no_pip": _NO_PIP, "files": sorted({name.partition("/")[0] for name in files})}
    (scratch / "order.json").write_bytes(msgspec.json.encode(order))
    for name, content in files.items():
        (scratch / name).parent.mkdir(exist_ok=True)
        (scratch / name).write_text(content, encoding="utf-8")
    target = scratch / "context.tar"

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    def write() -> None:
        with tarfile.open(target, "w") as tar:
            for name in ("order.json", "wheels", *order["files"]):
                tar.add(scratch / name, name, filter=plain)

    await anyio.to_thread.run_sync(write, abandon_on_cancel=False)
    return target


def _runner_files() -> dict[str, str]:
    """What goes into the image's site-packages, by relative path: the package, and beside it what lies in its folder `site`."""
    found = importlib.util.find_spec("dayfly_runner")  # looked up, never imported
    if found is None or not found.submodule_search_locations:
        raise DayflyError("the package dayfly_runner, which is installed together with dayfly, is missing: install dayfly anew")
    package = Path(next(iter(found.submodule_search_locations)))
    files = {f"dayfly_runner/{file.name}": file for file in package.glob("*.py")} | {
        file.name: file for file in (package / "site").glob("*.p*")
    }
    return {name: file.read_text(encoding="utf-8") for name, file in sorted(files.items())}


class _Download(msgspec.Struct, frozen=True):
    url: str


class _Metadata(msgspec.Struct, frozen=True):
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9]([\w.-]{0,98}[A-Za-z0-9])?$")]
    version: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]{0,98}$")]


class _Chosen(msgspec.Struct, frozen=True):
    metadata: _Metadata
    download_info: _Download


class _Report(msgspec.Struct, frozen=True):
    """What `pip install --report` writes."""

    install: list[_Chosen]


_PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")


async def _fetch_wheels(recipe: _Recipe, facts: _Facts, wheels: Path, scratch: Path, say: Progress) -> None:
    if recipe.allow_source:
        await _build_wheels(recipe.pip, facts, wheels, scratch, say)
    major, minor = facts.version.split(".")[:2]
    machine = facts.platform.partition("-")[2].replace("-", "_").replace(".", "_")
    if facts.glibc:
        newest = int(facts.glibc.split(".")[1])
        platforms = [f"manylinux_2_{number}_{machine}" for number in range(newest, 4, -1)] + [f"manylinux2014_{machine}"]
    else:
        platforms = [f"musllinux_1_{number}_{machine}" for number in (2, 1, 0)]
    log_file = scratch / "pip.log"
    command = [*_PIP, "--log", str(log_file), "download", "--only-binary=:all:", "--find-links", str(wheels)]
    command += ["--dest", str(wheels), "--implementation", "cp", "--python-version", f"{major}.{minor}"]
    command += [f"--platform={platform}" for platform in (*platforms, f"linux_{machine}")]
    advice = "" if recipe.allow_source else " (--allow-source builds wheels from source, which runs setup code on this host)"
    try:
        # pip itself comes along: the base need not have one.
        await _run([*command, "pip", *recipe.pip], scratch, lambda _: None)
    except DayflyError as error:
        missing = re.search(r"No matching distribution found for ([A-Za-z0-9][\w.-]*)", str(error))
        if missing is None or recipe.allow_source or not await _has_source(missing[1], scratch):
            raise
        raise DayflyError(
            f"no wheel of {missing[1]} fits Python {facts.version} of the image, but there is its source: "
            f"allow_source=True (--allow-source) builds a wheel of it, which runs its setup code on this host; {error}"
        ) from error
    # Where a newer version needs what has no wheel, pip takes an older one and says so in its log alone.
    text = log_file.read_text(errors="replace") if log_file.exists() else ""
    for name in sorted(set(re.findall(r"pip is looking at multiple versions of ([\w.-]+) to determine", text))):
        say(f"  {name}: pip passed over newer versions, since a wheel of what they need does not fit or is missing{advice}")


async def _has_source(name: str, scratch: Path) -> bool:
    """Whether the index has source distributions of a package. None of their code is run."""
    try:
        await _run([*_PIP, "index", "versions", "--no-binary=:all:", name], scratch, lambda _: None)
    except DayflyError:
        return False
    return True


async def _build_wheels(requirements: Sequence[str], facts: _Facts, wheels: Path, scratch: Path, say: Progress) -> None:
    """Build wheels of what pip would install from source on this host, dependencies too."""
    report = scratch / "report.json"
    plan = ["install", "--dry-run", "--ignore-installed", "--report", str(report), *requirements]
    say("looking for packages that have no wheel; the setup code of such packages runs on this host")
    await _run([*_PIP, *plan], scratch, lambda _: None)
    try:
        chosen = msgspec.json.decode(report.read_bytes(), type=_Report).install
    except (OSError, ValueError) as error:
        raise DayflyError(f"pip's report could not be read ({error}); pip 22.2 or newer is needed") from None
    for one in chosen:
        if one.download_info.url.partition("#")[0].endswith(".whl"):
            continue
        name = f"{one.metadata.name}=={one.metadata.version}"
        say(f"building a wheel of {name} from source")
        folder = scratch / "built"
        folder.mkdir()
        await _run([*_PIP, "wheel", "--no-deps", "--wheel-dir", str(folder), name], scratch, lambda _: None)
        for wheel in folder.glob("*.whl"):
            if not wheel.name.endswith("-any.whl") and not _runs_in_image(facts):
                raise DayflyError(
                    f"{name} has extension modules, and those built here need this host's C library, which is newer than the "
                    "image's, or another one: build on a host with the image's release, or use a base image that has the package"
                )
            wheel.rename(wheels / wheel.name)
        folder.rmdir()


def _runs_in_image(facts: _Facts) -> bool:
    """Whether what is compiled on this host can be loaded in the image, as far as the C library goes."""
    library, version = platform.libc_ver()
    numbers = [[int(part) for part in text.split(".")] for text in (version, facts.glibc) if re.fullmatch(r"[0-9.]*[0-9]", text)]
    return library == "glibc" and len(numbers) == 2 and numbers[0] <= numbers[1]


# Processes.


async def _run(command: Sequence[str], scratch: Path, say: Progress, *, prefix: Sequence[str] = ()) -> None:
    """Run a program to its end. Its lines go to `say`; if it fails, the last of them are the error.

    Cancelling ends the program, and waits for it to clean up after itself.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "TMPDIR": str(scratch)}
    process = await anyio.open_process(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    tail: deque[str] = deque(maxlen=12)
    try:
        assert process.stderr is not None
        buffer = b""
        async for data in process.stderr:
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                text = shown(line.decode(errors="replace").rstrip())
                tail.append(text)
                if text.startswith("I: ") and "hook" not in text:  # the hook is a script of many lines
                    say(f"  {text.removeprefix('I: ')}")
        tail.append(shown(buffer.decode(errors="replace")))
        if await process.wait() != 0:
            errors = [line for line in tail if re.match(r"(E|ERROR): ?", line, re.IGNORECASE)] or list(tail)
            raise DayflyError(f"{Path(command[0]).name} failed: {'; '.join(line for line in errors if line)[-2_000:]}")
    finally:
        with anyio.CancelScope(shield=True):
            await _stop(process)


async def _stop(process: anyio.abc.Process) -> None:
    for number, patience in ((signal.SIGTERM, 15), (signal.SIGKILL, 5)):  # on SIGTERM, mmdebstrap unmounts and removes what it made
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with anyio.move_on_after(patience):
                await process.wait()
    await process.aclose()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary directory that mmdebstrap's own user can pass through."""
    path = Path(tempfile.mkdtemp(prefix="dayfly-")).resolve()
    try:
        path.chmod(0o711)
        yield path
    finally:
        # Never into a mount: what is behind it is not ours.
        if not any(point.startswith(f"{path}/") for point in _mount_points()):
            shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            log.warning("the temporary directory %s could not be removed", path)


def _mount_points() -> list[str]:
    try:
        return [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return []  # not Linux: mmdebstrap does not run there, and nothing else mounts


def shown(text: object) -> str:
    """What a container, an image or a program of the host said, with control characters as escapes: it may reach a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


async def _quietly(awaitable: Any) -> None:
    """Clean up: to the end though cancelled, and without an error of its own."""
    with anyio.CancelScope(shield=True), contextlib.suppress(EngineError):
        await awaitable
