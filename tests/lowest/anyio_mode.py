"""What `anyio_mode = "auto"` does in newer versions of anyio: every async test is run by its
plugin."""

from __future__ import annotations

import pytest


def pytest_collectstart(collector: pytest.Collector) -> None:
    if isinstance(collector, pytest.Session):
        collector.add_marker("anyio")
