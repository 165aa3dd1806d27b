"""The figures that Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from ..base.version import __version__

__all__ = ["Metrics"]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_TEXTS = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The counters of one service; another service in the same process has its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info("funnelformer", "The software.", registry=self.registry).info({"version": __version__})
        self._requests = Counter(
            "funnelformer_requests", "Requests answered.", ["route", "status"], registry=self.registry
        )
        self._request_seconds = Histogram(
            "funnelformer_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._gone = Counter(
            "funnelformer_clients_gone",
            "Requests whose client left before the answer.",
            registry=self.registry,
        )
        self._batch_texts = Histogram(
            "funnelformer_batch_texts", "Texts of a batch.", buckets=_TEXTS, registry=self.registry
        )
        self._batch_seconds = Histogram(
            "funnelformer_batch_seconds",
            "Computation of a batch.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter("funnelformer_tokens", "Tokens computed.", registry=self.registry)
        self._padding = Counter(
            "funnelformer_padding_tokens", "Padding tokens computed in batches.", registry=self.registry
        )
        self._model_tokens = Counter(
            "funnelformer_model_tokens", "Tokens computed, by model.", ["model"], registry=self.registry
        )
        self._model_seconds = Counter(
            "funnelformer_model_seconds", "Computation, by model.", ["model"], registry=self.registry
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Add a gauge that calls `value` whenever it is read."""
        Gauge(f"funnelformer_{name}", meaning, registry=self.registry).set_function(value)

    def batch_ended(
        self, model: str, num_texts: int, num_tokens: int, num_padded: int, seconds: float
    ) -> None:
        """Count a batch. num_tokens: without padding; num_padded: with padding. seconds: of computation."""
        self._model_tokens.labels(model).inc(num_tokens)
        self._model_seconds.labels(model).inc(seconds)
        self._batch_texts.observe(num_texts)
        self._batch_seconds.observe(seconds)
        self._tokens.inc(num_tokens)
        self._padding.inc(num_padded - num_tokens)

    def request_ended(self, route: str, status: int | None, seconds: float) -> None:
        """Count a request. status: None if the client left. seconds: from its head to the end of the answer."""
        if status is None:
            self._gone.inc()
            return
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
