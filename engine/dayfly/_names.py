"""The names by which the parts of dayfly find each other on an engine: images and labels."""

from __future__ import annotations

from ._version import __version__

DEFAULT_IMAGE = f"dayfly/python:{__version__}"
"""The image of a sandbox that names none."""
DEFAULT_IMAGE_PYTHON2 = f"dayfly/python2:{__version__}"
"""The same with Python 2.7 in it."""
DEFAULT_IMAGE_SCIENCE = f"dayfly/science:{__version__}"
"""The same with numpy, pandas, matplotlib and others."""

PROTOCOL_LABEL = "dayfly.protocol"
"""Label of a runner image: the version of the runner protocol that its runner speaks."""
PRELOAD_LABEL = "dayfly.preload"
"""Label of a runner image: the modules that a sandbox preloads unless it says otherwise."""
