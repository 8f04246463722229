"""Building the image that every container runs: a root file system, the runner, and what programs
may import.

Two steps, since they change at different rates. The root: Debian's own packages by mmdebstrap
(`debian:SUITE`, no registry needed), imported without a tag, or any image that has Python 3.8 or
newer. On it the workbench: one container without a network that is handed the runner and the wheels
over its stdin, installs them, byte-compiles the standard library, takes set-user-id bits off, and
is committed. The wheels were fetched here, on the host.

What must never happen here: a network in a build container; a half-made image (an import or a
commit is one call, and the tag goes on with the commit); a container left behind by a host process
that dies (StdinOnce and AutoRemove, as everywhere in dayfly).
"""

from .build import Image, build, ls

__all__ = ["Image", "build", "ls"]
