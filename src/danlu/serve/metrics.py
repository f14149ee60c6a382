"""What /metrics shows: counts and latencies of requests, the engine's own counts, and every fallback."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from danlu import events
from danlu.serve.asks import Stats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_FIRST = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_NEXT = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_GAUGES = {
    "running": "sequences that hold KV pages",
    "waiting": "accepted requests without pages yet",
    "pages": "KV pages there are",
    "pages_taken": "KV pages used by running sequences",
    "pages_idle": "KV pages kept for a later request with the same prefix",
    "kv_bytes": "bytes of all KV pages",
    "kv_token_bytes": "bytes that one token takes of them",
}
_COUNTS = {
    "prompt_tokens": "prompt tokens of requests that started",
    "hit_tokens": "prompt tokens found in KV pages and not computed again",
    "answer_tokens": "tokens generated",
    "ended": "answers that ended whole",
    "failed": "accepted requests that got no whole answer",
    "cancelled": "requests whose client left",
    "refused": "requests told to come back later (429)",
    "preempted": "times a sequence gave its pages up and was computed again",
    "mended": "times the processes that share the model were started again",
}


class EngineCollector(Collector):
    """Reads the engine's snapshot whenever somebody looks; nothing is counted twice."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family per count."""
        stats = self._stats()
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"danlu_{name}", text, value=getattr(stats, name))
        for name, text in _COUNTS.items():
            yield CounterMetricFamily(f"danlu_{name}", text, value=getattr(stats, name))
        fallbacks = CounterMetricFamily("danlu_fallbacks", "something slower or smaller used instead", labels=["name"])
        for name, count in events.fallbacks.items():
            fallbacks.add_metric([name], count)
        yield fallbacks


class Metrics:
    """Owns one server's registry; not the process's global one, so that two servers do not mix."""

    def __init__(self, stats: Callable[[], Stats]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineCollector(stats))
        self.requests = Counter("danlu_requests", "HTTP requests answered", ["path", "status"], registry=self._registry)
        self.first_token = Histogram(
            "danlu_first_token_seconds", "from request to first token", buckets=_FIRST, registry=self._registry
        )
        self.next_token = Histogram(
            "danlu_next_token_seconds", "between tokens of one answer", buckets=_NEXT, registry=self._registry
        )

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
