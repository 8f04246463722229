"""Makes the images that `compose.yaml` runs, from Debian's packages, and puts them into the local
engine.

    python -m conformance.engines.images            those that are missing

A root file system from mmdebstrap is imported as it is: no registry is needed, and what is in an
image is the list below.
"""

from __future__ import annotations

import subprocess
import sys

from conformance.oracle import Oracle, address

REPOSITORY = "dayfly-conformance"
ENGINE = "ca-certificates,iptables,procps"
IMAGES = {
    # A bare host: Python, and nothing of ours.
    "host:bookworm": ("bookworm", "python3"),
    "docker:trixie": ("trixie", f"docker.io,crun,{ENGINE}"),
    "docker:forky": ("forky", f"docker.io,crun,{ENGINE}"),
    "podman:trixie": ("trixie", f"podman,crun,{ENGINE}"),
    "podman:forky": ("forky", f"podman,crun,{ENGINE}"),
}
MIRROR = "http://deb.debian.org/debian"


def make(oracle: Oracle, name: str) -> None:
    """Make one image, if the engine has none of that name."""
    found = oracle.call("GET", f"/images/{REPOSITORY}/{name}/json", ok=False)
    if isinstance(found, dict) and "Id" in found:
        return
    suite, packages = IMAGES[name]
    print(f"[conformance] making {REPOSITORY}/{name} from Debian {suite}: {packages}", flush=True)  # noqa: T201
    # A mirror that is not fresh will do: the signature is checked, only its date of expiry is not.
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        f"--include={packages}",
        suite,
        "-",
        MIRROR,
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"mmdebstrap failed for {suite}; it must run as root, and reach {MIRROR}")
    repository, _, tag = f"{REPOSITORY}/{name}".partition(":")
    oracle.call("POST", "/images/create", data=done.stdout, fromSrc="-", repo=repository, tag=tag)


def main() -> None:
    """Make those that are named, or all."""
    oracle = Oracle(address())
    for name in sys.argv[1:] or IMAGES:
        make(oracle, name)


if __name__ == "__main__":
    main()
