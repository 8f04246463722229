"""`python -m benchmarks`: measure everything, print the table, write JSON, table and plots to a
folder.

    python -m benchmarks [--only SECTION,…] [--smoke] [--no-peers] [--no-newer] [--out FOLDER]
                         [--image NAME] [--science-image NAME]

Peers are installed into an environment of their own, `.venv/peers`, from the package index that pip
is set up for. Nothing is asserted on numbers here: the targets are shown with what was measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import venv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dayfly

from . import contenders, measure, raw, report

PEERS = [
    "docker==7.2.0",
    "epicbox==1.1.0",
    "llm-sandbox[docker]==0.3.46",
    "autogen-ext[docker]==0.7.5",
    "urllib3<2",  # epicbox uses what 2 has taken out
]


def peers_python() -> str:
    """The interpreter of the peers' environment, which is made where it is not there in this
    form."""
    folder = measure.ROOT / ".venv" / "peers"
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != PEERS:
        say(f"installing the peers into {folder}")
        venv.create(folder, clear=True, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS], check=True)
        stamp.write_text(json.dumps(PEERS))
    return str(python)


def build(*options: str) -> str:
    """Build an image by the command; its id. It takes no time where it is there."""
    say(f"image build {' '.join(options)}")
    command = [sys.executable, "-m", "dayfly", "image", "build", *options]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def host_modules(names: tuple[str, ...]) -> str | None:
    """A folder with these modules for the bare host's interpreter; None where it has them."""
    if all(name in sys.stdlib_module_names for name in names):
        return None
    python = contenders.bare_python()
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    folder = measure.ROOT / ".venv" / f"bare-host-{version}"
    if not folder.exists():
        say(f"installing {', '.join(names)} into {folder}")
        options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--python-version", version, "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, *names], check=True)
    return str(folder)


def versions(path: str, image: str, peers: str | None) -> dict[str, str]:
    """What was measured, on what."""
    engine = raw.Engine(path)
    version, info = (json.loads(engine.call("GET", what)[1]) for what in ("/version", "/info"))
    found = {
        "dayfly": dayfly.__version__,
        "Python": platform.python_version(),
        "Docker Engine": version["Version"],
        "runtime": info["DefaultRuntime"],
        "storage": info["Driver"],
        "kernel": info["KernelVersion"].partition("-")[0],
        "processors": str(info["NCPU"]),
        "cgroup": str(info.get("CgroupVersion")),
        "image": image,
    }
    if peers:
        names = "docker", "epicbox", "llm-sandbox", "autogen-ext"
        program = f"import importlib.metadata as m; print(*(n + ' ' + m.version(n) for n in {names}), sep='\\n')"
        said = subprocess.run([peers, "-c", program], check=True, capture_output=True, text=True).stdout
        found |= dict(line.split() for line in said.splitlines())
    return found


def say(text: str) -> None:
    """Tell what is going on."""
    print(f"[bench] {text}", file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"of {', '.join(measure.SECTIONS)}, separated by commas")
    parser.add_argument("--smoke", action="store_true", help="as little as shows that it works; the numbers mean nothing")
    parser.add_argument("--no-peers", action="store_true", help="install and measure no peers")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--image", default=f"dayfly/python:{dayfly.__version__}")
    parser.add_argument("--science-image", help="one that has numpy and pandas; default: it is built")
    parser.add_argument("--no-newer", action="store_true", help="do not measure an image with Python 3.13, which is built otherwise")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(measure.SECTIONS)
    if unknown := set(wanted) - set(measure.SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}")

    path = raw.engine_socket()
    raw.sweep(path)
    image = raw.image_id(path, options.image)
    peers = None if options.no_peers else peers_python()
    sizes = measure.SMOKE if options.smoke else measure.Sizes()
    science = options.science_image or build("--science")
    images = measure.Images(
        default=image,
        peers=raw.peers_image(path, options.image) if peers else "",
        science=raw.image_id(path, science),
        newer=None if options.no_newer else raw.image_id(path, build("--base", "debian:trixie", "--tag", "dayfly/trixie")),
    )
    stage = measure.Stage(images=images, peers_python=peers, host_modules=host_modules(sizes.modules), sizes=sizes)
    found: dict[str, Any] = {
        "versions": versions(path, options.image, peers),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "sizes": asdict(stage.sizes),
        "load_before": os.getloadavg(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    try:
        for name in wanted:
            section = time.monotonic()
            found[name] = measure.SECTIONS[name](stage)
            found |= {"failures": stage.failures, "seconds": round(time.monotonic() - begun)}
            # After each: what was measured is not lost with what comes next.
            (options.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
            say(f"{name}: {time.monotonic() - section:.0f} s")
    finally:
        raw.sweep(path)
    text = report.table(found)
    (options.out / "table.md").write_text(text)
    if importlib.util.find_spec("matplotlib"):
        report.plots(found, options.out)
    else:
        say("no plots: matplotlib is not installed (pip install --group bench)")
    print(text)


if __name__ == "__main__":
    main()
