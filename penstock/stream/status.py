"""How a real-time path is doing, for a person at a terminal and for a script's exit code."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from penstock.config.streaming import Stream

__all__ = ["Status", "asked", "lines", "problems"]

TIMEOUT = 3.0  # seconds
BETWEEN = 1.0  # seconds between two looks, for rates

Samples = dict[str, list[tuple[dict[str, str], float]]]


@dataclass
class Status:
    """What a part says of itself.

    Attributes:
        name: gateway or indexer.
        url: Where it was asked.
        samples: Its metrics now; None if it does not answer.
        rates: By how much counters grew, a second.
    """

    name: str
    url: str
    samples: Samples | None
    rates: dict[str, float] = field(default_factory=dict)

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have the labels."""
        found = (self.samples or {}).get(name, [])
        return sum(value for of, value in found if labels.items() <= of.items())

    def each(self, name: str, label: str) -> dict[str, float]:
        """A metric by one of its labels."""
        return {of[label]: value for of, value in (self.samples or {}).get(name, [])}


def _samples(url: str) -> Samples | None:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=TIMEOUT) as answer:  # noqa: S310  (http or https)
            text = answer.read().decode()
    except (OSError, ValueError):
        return None
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def asked(view: Stream, sleep: Callable[[float], Any] = time.sleep) -> list[Status]:
    """Ask gateways and indexers, twice, so that there are rates."""
    gateway, indexer = view.gateway, view.indexer
    kind = "https" if gateway.certificate else "http"
    gateways = view.page.gateways or (f"{kind}://{gateway.host}:{gateway.port}",)
    indexers = view.page.indexers or (f"http://{indexer.metrics_host}:{indexer.metrics_port}",)
    parts = [("gateway", url) for url in gateways] + [("indexer", url) for url in indexers]
    began = time.monotonic()
    before = [_samples(url) for _, url in parts]
    sleep(BETWEEN)
    found = []
    for (name, url), was in zip(parts, before, strict=True):
        now = _samples(url)
        status = Status(name, url, now)
        took = time.monotonic() - began
        if now is not None and was is not None:
            earlier = Status(name, url, was)
            # A counter that is less than before is of another process.
            status.rates = {
                each: max(0.0, status.total(each) - earlier.total(each)) / took
                for each in now
                if each.endswith("_total")
            }
        found.append(status)
    return found


def problems(found: list[Status], *, lag: float, behind: float, now: float) -> list[str]:
    """What is not as it should be.

    Args:
        found: What parts said.
        lag: Messages that may wait to be stored.
        behind: Seconds that the newest stored reading may be old while messages come.
        now: Seconds since 1970.
    """
    told = [f"{part.name}: nothing answers at {part.url}" for part in found if part.samples is None]
    indexers = [part for part in found if part.name == "indexer" and part.samples is not None]
    waiting = sum(part.total("penstock_indexer_lag_records") for part in indexers)
    if waiting > lag:
        told.append(f"{waiting:.0f} messages are not stored yet, more than {lag:.0f}")
    newest = max((part.total("penstock_indexer_newest_timestamp_seconds") for part in indexers), default=0)
    comes = sum(part.rates.get("penstock_gateway_readings_total", 0) for part in found)
    if comes and indexers and now - newest > behind:
        told.append(
            f"readings come, and the newest stored one is {now - newest:.0f} s old, more than {behind:.0f}"
        )
    told += [
        f"{part.url}: the store holds it up" for part in indexers if part.total("penstock_indexer_paused")
    ]
    return told


def lines(found: list[Status], now: float) -> list[tuple[str, str]]:
    """What there is to say, as label and words."""
    told: list[tuple[str, str]] = []
    for part in found:
        if part.samples is None:
            told.append((part.name, f"{part.url}: no answer"))
            continue
        told.append((part.name, part.url))
        rate = part.rates.get
        if part.name == "gateway":
            taken = part.rates.get("penstock_gateway_bytes_total", 0) / 1e6
            told.append(
                (
                    "",
                    (
                        f"{rate('penstock_gateway_readings_total', 0):,.0f} readings/s, {taken:.2f} MB/s, "
                        f"refused {part.total('penstock_gateway_refusals_total'):,.0f} since it began"
                    ),
                )
            )
            continue
        newest = part.total("penstock_indexer_newest_timestamp_seconds")
        age = f"{max(0.0, now - newest):,.1f} s ago" if newest else "none yet"
        stored = rate("penstock_indexer_documents_total", 0)
        told.append(("", f"{stored:,.0f} readings/s stored, newest {age}"))
        for words, metric in (
            ("waiting", "penstock_indexer_lag_records"),
            ("lake", "penstock_indexer_lake_lag_records"),
        ):
            lag = part.each(metric, "partition")
            if lag:
                by = ", ".join(f"{number}: {count:,.0f}" for number, count in sorted(lag.items()))
                told.append((f"  {words}", f"{sum(lag.values()):,.0f} messages (partition {by})"))
        windows = part.total("penstock_indexer_windows_total")
        if windows:
            told.append(
                (
                    "  windows",
                    (
                        f"{windows:,.0f} written, {part.total('penstock_indexer_late_readings_total'):,.0f} readings too late, "
                        f"{part.total('penstock_indexer_window_devices'):.0f} devices under way"
                    ),
                )
            )
        told.append(
            ("  dead letters", f"{part.total('penstock_indexer_dead_letters_total'):,.0f} since it began")
        )
    return told
