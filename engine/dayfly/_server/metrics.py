"""What is counted, for Prometheus. Names say their units; labels have few values: outcomes, errors,
routes, names of keys, never anything of a client's.

Gauges are asked of the sandbox when somebody reads them, so that they cannot drift from it.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dayfly import Stats

OF_KEYS = {"dayfly_runs": ("outcome", "key"), "dayfly_sessions_opened": ("key",), "dayfly_judgings": ("verdict", "key")}
"""The metrics that name keys, with all of their labels."""
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """One server's metrics. `stats` returns the sandbox's, or None while there is none."""

    def __init__(
        self,
        stats: Callable[[], Stats | None],
        ready: Callable[[], bool],
        waiting: Callable[[], int],
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nobody asked for
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector):
            collector(registry=self.registry)
        self.registry.register(_Pool(stats, ready, waiting))
        made: dict[str, Any] = {"registry": self.registry}
        self.runs = Counter("dayfly_runs", "Runs that gave a result.", OF_KEYS["dayfly_runs"], **made)
        self.errors = Counter("dayfly_run_errors", "Runs that gave none, by what was in the way.", ["error"], **made)
        self.gone = Counter("dayfly_clients_gone", "Runs cancelled because their client went away.", **made)
        self.refused = Counter("dayfly_refused", "Requests refused before a run was tried, by problem.", ["problem"], **made)
        self.sessions = Counter("dayfly_sessions_opened", "Sessions that were opened.", OF_KEYS["dayfly_sessions_opened"], **made)
        self.judgings = Counter("dayfly_judgings", "Judgings that gave a verdict.", OF_KEYS["dayfly_judgings"], **made)
        self.starts = Counter("dayfly_sandbox_starts", "Tries to start the sandbox.", ["result"], **made)
        self.engine_errors = Counter("dayfly_engine_errors", "Failed looks at the engine, and starts and runs that failed for it.", **made)
        self.queue = Histogram("dayfly_queue_seconds", "Time in the queue.", buckets=SECONDS, **made)
        self.run_seconds = Histogram("dayfly_run_seconds", "Wall time of programs.", buckets=SECONDS, **made)
        self.requests = Histogram("dayfly_request_seconds", "Time to answer.", ["route", "status"], buckets=SECONDS, **made)

    def text(self, key: str) -> bytes:
        """Return the exposition, in Prometheus's text format. Other keys' runs are one series."""
        return generate_latest(_SeenBy(key, self.registry))


class _SeenBy:
    """A registry as one key may see it: other keys are `others`, whatever their names."""

    def __init__(self, key: str, registry: CollectorRegistry) -> None:
        self._key = key
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """See CollectorRegistry."""
        for metric in self._registry.collect():
            if metric.name not in OF_KEYS:
                yield metric
                continue
            names = OF_KEYS[metric.name]
            sums: Counts[tuple[str, ...]] = Counts()
            for sample in metric.samples:
                labels = {**sample.labels, "key": self._key if sample.labels["key"] == self._key else "others"}
                sums[tuple(labels[name] for name in names)] += sample.value  # type: ignore[assignment]  # a float
            family = CounterMetricFamily(metric.name, metric.documentation, labels=names)
            for values, value in sums.items():
                family.add_metric(values, value)
            yield family


class _Pool(Collector):
    def __init__(
        self,
        stats: Callable[[], Stats | None],
        ready: Callable[[], bool],
        waiting: Callable[[], int],
    ) -> None:
        self._stats = stats
        self._ready = ready
        self._waiting = waiting

    def collect(self) -> Iterator[Metric]:
        """See Collector."""
        yield GaugeMetricFamily("dayfly_ready", "1 if runs are taken, as /readyz says.", value=float(self._ready()))
        stats = self._stats()
        containers = GaugeMetricFamily("dayfly_containers", "Containers by what they are doing.", labels=["state"])
        ends = CounterMetricFamily(
            "dayfly_containers_made", "Containers that became ready, never did, or were removed by force.", labels=["how"]
        )
        for state in ("warm", "making", "running", "ending"):
            containers.add_metric([state], float(getattr(stats, state)) if stats else 0.0)
        for how in ("made", "failed", "forced"):
            ends.add_metric([how], float(getattr(stats, how)) if stats else 0.0)
        yield containers
        yield GaugeMetricFamily("dayfly_sessions", "Sessions that are open.", value=float(stats.sessions) if stats else 0.0)
        yield ends
        waiting = self._waiting() + (stats.waiting if stats else 0)
        yield GaugeMetricFamily("dayfly_queue_length", "Runs that wait for a container.", value=float(waiting))
