"""A root file system of Debian's own packages, by mmdebstrap: no registry is needed."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import msgspec

from dayfly._engine_api import EngineAPI
from dayfly._errors import DayflyError

from .answers import DEADLINE, last_status
from .processes import Progress, pieces, run, scratch_folder
from .recipe import Recipe, digest

_MIRROR, _SECURITY = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
# What a Python program's standard library is made of beyond the package python3; libstdc++ is what
# wheels expect of any system.
_PACKAGES = ("python3", "libstdc++6", "tzdata")
_PACKAGES_OF = {"bullseye": ("python3-distutils",), "bookworm": ("python3-distutils",)}  # newer suites' Python has none

_UNWANTED = (
    r"apt|bsdutils|debconf|dpkg|e2fsprogs|init-system-helpers|login(\..*)?|logsave|mount|ncurses-bin|passwd|perl.*|lib.*-perl|libperl.*"
    r"|sysvinit-utils|usr-is-merged|usrmerge|util-linux.*"
    r"|lib(apt-pkg|audit|blkid|cap-ng|debconfclient|ext2fs|lastlog|mount|pam|semanage|sepol|smartcols|ss|subid|systemd|udev)[-0-9.t].*"
)
"""Packages of Debian's essential set that are there to install others and to run a machine. Nothing
that `python3` needs."""

# Run outside of the root, which is $1. With packages of the user's own everything stays: they may
# stand on any of it.
_SLIM = f"""set -eu
unwanted=$(dpkg-query --root="$1" -W -f '${{Package}}\\n' | grep -Ex '{_UNWANTED}' || true)
dpkg --root="$1" --force-all --purge $unwanted >"$1/purge.log" 2>&1 || {{ tail -n 20 "$1/purge.log" >&2; exit 1; }}
rm -rf "$1/purge.log" "$1"/var/lib/dpkg/info "$1"/var/lib/dpkg/*-old"""


def root_digest(recipe: Recipe) -> str:
    return digest(_mmdebstrap(recipe, ""))


def _mmdebstrap(recipe: Recipe, tar: str) -> list[str]:
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


async def find_root(engine: EngineAPI, digest: str) -> str | None:
    filters = msgspec.json.encode({"label": [f"dayfly.root={digest}"]}).decode()
    rows = await engine.ask("GET", "/images/json", query={"all": "1", "filters": filters})
    # Children inherit the label; a root itself has no `dayfly.inputs`.
    return next((str(row["Id"]) for row in rows if "dayfly.inputs" not in (row.get("Labels") or {})), None)


async def import_debian(engine: EngineAPI, recipe: Recipe, digest: str, say: Progress) -> str:
    with scratch_folder() as scratch:
        tar = scratch / "root.tar"
        say(f"making a root file system of {recipe.base} with mmdebstrap, half a minute or so")
        await run(_mmdebstrap(recipe, str(tar)), scratch, say, prefix=await _own_mounts())
        say(f"importing it, {tar.stat().st_size / 1e6:.0f} MB")
        # Untagged: it belongs to the images made from it, and the engine removes it with the last
        # of them.
        query = {"fromSrc": "-", "changes": f"LABEL dayfly.root={digest}"}
        headers = {"Content-Type": "application/x-tar"}
        answer = await engine.call("POST", "/images/create", query=query, content=pieces(tar), headers=headers, deadline=DEADLINE)
    return last_status(answer, "importing the root file system")


async def _own_mounts() -> list[str]:
    """A prefix that gives a command mounts of its own.

    Run by root, mmdebstrap mounts /proc, /sys and the host's own /dev/shm into the root, in the
    host's mount namespace. If it were killed, they would stay, and whoever removed the directory
    would empty the host's /dev/shm. Here they end with it.
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
    # Root in a container may mount nothing, with a namespace or without; mmdebstrap does without
    # mounts then.
    return prefix if done.returncode == 0 else []
