"""OpenTelemetry spans for who asked for them (`traces`, the extra `otel`): one for each request,
and one for each run within it.

Without `traces` nothing of OpenTelemetry is imported and a span costs an `if`. Spans carry names,
numbers and outcomes, never a program or its output. Where to export to is for OpenTelemetry's own
variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME) to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .config import ConfigError


class Tracing:
    """Makes spans, or nothing. ConfigError if spans are wanted and OpenTelemetry is not
    installed."""

    def __init__(self, *, wanted: bool) -> None:
        self._tracer: Any = None
        if not wanted:
            return
        try:
            from opentelemetry import propagate, trace  # noqa: PLC0415 - an extra of its own
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
            from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ModuleNotFoundError as missing:
            raise ConfigError(f"traces: {missing.name} is not installed: pip install 'dayfly[otel]'") from None
        self._provider = TracerProvider()
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("dayfly.server")
        self._kind = trace.SpanKind
        self._extract = propagate.extract

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """A server span, a child of the caller's where its headers say so. What is put into the
        dict becomes its attributes."""
        attributes: dict[str, Any] = {}
        if self._tracer is None:
            yield attributes
            return
        with self._tracer.start_as_current_span(name, context=self._extract(headers), kind=self._kind.SERVER) as span:
            try:
                yield attributes
            finally:
                span.set_attributes(attributes)

    @contextmanager
    def run(self) -> Iterator[dict[str, Any]]:
        """The span of one run, the wait for a container included."""
        attributes: dict[str, Any] = {}
        if self._tracer is None:
            yield attributes
            return
        with self._tracer.start_as_current_span("run") as span:
            try:
                yield attributes
            finally:
                span.set_attributes(attributes)

    def close(self) -> None:
        """Export what is left. Bounded in time by the exporter's own time-out."""
        if self._tracer is not None:
            self._provider.shutdown()
