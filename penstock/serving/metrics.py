"""What a predictor counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RUN_SECONDS = (0.00005, 0.0001, 0.00025, *SECONDS[:10])
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """Counters of one process; with several, Prometheus' files put them together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "penstock_serving_requests",
            "Requests for predictions, by model, protocol and status.",
            ["model", "protocol", "status"],
            registry=registry,
        )
        self.rows = Counter(
            "penstock_serving_rows", "Rows that were answered.", ["model", "version"], registry=registry
        )
        self.refusals = Counter(
            "penstock_serving_refusals",
            "Requests that were not answered, by reason.",
            ["model", "reason"],
            registry=registry,
        )
        self.seconds = Histogram(
            "penstock_serving_seconds",
            "From a request's arrival to its answer.",
            ["model"],
            buckets=SECONDS,
            registry=registry,
        )
        self.run_seconds = Histogram(
            "penstock_serving_run_seconds",
            "Of a run of the model.",
            ["model"],
            buckets=RUN_SECONDS,
            registry=registry,
        )
        self.batch_rows = Histogram(
            "penstock_serving_batch_rows", "Rows of a run.", ["model"], buckets=ROWS, registry=registry
        )
        self.queued = Gauge(
            "penstock_serving_queued_rows",
            "Rows that wait for a model.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.serving = Gauge(
            "penstock_serving_workers",
            "Processes that answer by this version unless another is asked for.",
            ["model", "version"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter(
            "penstock_serving_reloads",
            "Changed artefacts, by whether they could be loaded.",
            ["model", "outcome"],
            registry=registry,
        )
        self.records = Counter(
            "penstock_serving_records",
            "Records for the request log, by what became of them.",
            ["outcome"],
            registry=registry,
        )
