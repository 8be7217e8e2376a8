"""What a recommender counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

__all__ = ["Metrics"]

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
RUN_SECONDS = (0.0001, 0.00025, *SECONDS[:10])


class Metrics:
    """Counters of one process; with several, Prometheus' files put them together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(f"penstock_recommend_{name}", words, labels, registry=registry)

        self.requests = counter("requests", "Requests, by route and status.", "route", "status")
        self.interactions = counter(
            "interactions", "Interactions that came, by what became of them.", "outcome"
        )
        self.lists = counter("lists", "Recommendations, by what they are of: history, popular, memory.", "of")
        self.short_lists = counter("short_lists", "Lists with fewer items than were asked for.")
        self.impressions = counter("impressions", "Impressions that were counted.")
        self.explored = counter("explored", "Lists with an item that the model does not know.")
        self.store_failures = counter("store_failures", "Requests for which the store could not be used.")
        self.reloads = counter("reloads", "Changed artefacts, by whether they could be loaded.", "outcome")
        self.records = counter("records", "Records for the request log, by what became of them.", "outcome")
        self.seconds = Histogram(
            "penstock_recommend_seconds",
            "From a request's arrival to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.run_seconds = Histogram(
            "penstock_recommend_run_seconds", "Of a run of the model.", buckets=RUN_SECONDS, registry=registry
        )
        self.in_flight = Gauge(
            "penstock_recommend_in_flight",
            "Requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
