"""Writing to the store however often it takes, and to the dead letters what it refuses; what all of it is counted by."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.stream.deadletters import letter
from penstock.stream.log import Consumer, FullError, Log, Record, UnavailableError
from penstock.stream.store import BusyError, Document, Kind, Store

__all__ = ["Metrics", "Writer", "looked_after", "watched"]

LOOK = 2.0  # seconds between looks at a lag
OUTCOMES = ("new", "known", "refused")
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """What the indexer counts."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, files, CPU
        self.records = Counter("penstock_indexer_records", "Messages read from the log.", registry=registry)
        self.documents = Counter(
            "penstock_indexer_documents",
            "Documents, by what became of them: new, known (were there), refused.",
            ["outcome"],
            registry=registry,
        )
        self.windows = Counter(
            "penstock_indexer_windows",
            "Windows, by what became of them, as documents.",
            ["outcome"],
            registry=registry,
        )
        self.incomplete = Counter(
            "penstock_indexer_windows_incomplete",
            "Windows with too few readings to tell of.",
            registry=registry,
        )
        self.late = Counter(
            "penstock_indexer_late_readings",
            "Readings that came when all their windows were final.",
            registry=registry,
        )
        self.devices = Gauge(
            "penstock_indexer_window_devices", "Devices with windows that are not final.", registry=registry
        )
        self.newest_window = Gauge(
            "penstock_indexer_newest_window_timestamp_seconds",
            "End of the newest window stored.",
            registry=registry,
        )
        self.windows_lag = Gauge(
            "penstock_indexer_windows_lag_records",
            "Records that windows which are not final may need, or that were not read yet.",
            ["partition"],
            registry=registry,
        )
        self.lake_lag = Gauge(
            "penstock_indexer_lake_lag_records",
            "Records that are not in the lake yet.",
            ["partition"],
            registry=registry,
        )
        self.lake = Counter("penstock_indexer_lake_readings", "Readings in the lake.", registry=registry)
        self.lake_waiting = Gauge(
            "penstock_indexer_lake_waiting_readings", "Read and not in the lake yet.", registry=registry
        )
        self.dead = Counter(
            "penstock_indexer_dead_letters", "Dead letters, by cause.", ["cause"], registry=registry
        )
        self.bulks = Counter(
            "penstock_indexer_bulks", "Bulks, by outcome of the try.", ["outcome"], registry=registry
        )
        self.bulk_seconds = Histogram(
            "penstock_indexer_bulk_seconds", "How long a bulk took.", buckets=SECONDS, registry=registry
        )
        self.stored_seconds = Histogram(
            "penstock_indexer_stored_seconds",
            "From the gateway to the store, of each message.",
            buckets=SECONDS,
            registry=registry,
        )
        self.lag = Gauge(
            "penstock_indexer_lag_records", "Records not committed yet.", ["partition"], registry=registry
        )
        self.newest = Gauge(
            "penstock_indexer_newest_timestamp_seconds",
            "Event time of the newest reading stored.",
            registry=registry,
        )
        self.paused = Gauge("penstock_indexer_paused", "1 while the store holds it up.", registry=registry)
        self.queued = Gauge("penstock_indexer_queued_bytes", "Read and not stored yet.", registry=registry)
        self.store_ready = Gauge(
            "penstock_indexer_store_ready", "1 while the store takes documents.", registry=registry
        )
        # What is counted from nothing on has a rate from its first event on.
        for counter, values in (
            (self.documents, OUTCOMES),
            (self.windows, OUTCOMES),
            (self.bulks, ("written", "busy")),
            (self.dead, ("record", "document")),
        ):
            for value in values:
                counter.labels(value)


class Writer:
    """What members of groups write by.

    Args:
        view: What is declared.
        log: An open log.
        store: An open store.
        metrics: Where to count.
    """

    def __init__(self, view: Stream, log: Log, store: Store, metrics: Metrics) -> None:
        self.view, self.log, self.store, self.metrics = view, log, store, metrics
        self._random = random.Random()

    async def stored(self, kind: Kind, documents: Sequence[Document]) -> None:
        """Write documents, however often it takes. Those that are refused are with the dead letters when it returns."""
        if not documents:
            return
        counts = self.metrics.documents if kind == "readings" else self.metrics.windows
        tries = 0
        while True:
            began = time.monotonic()
            try:
                written = await self.store.write(kind, documents)
            except BusyError as error:
                self.metrics.bulks.labels("busy").inc()
                if tries == 0:
                    say(f"indexer: {error.message}; it is tried again")
                await self._back_off(tries, error.after)
                tries += 1
                continue
            break
        self.metrics.bulks.labels("written").inc()
        self.metrics.bulk_seconds.observe(time.monotonic() - began)
        for outcome, count in (
            ("new", written.new),
            ("known", written.known),
            ("refused", len(written.refused)),
        ):
            counts.labels(outcome).inc(count)
        await self.buried("document", [(entry.document, entry.reason) for entry in written.refused])

    async def buried(self, cause: str, refused: Sequence[tuple[Record | Document, str]]) -> None:
        """Append dead letters, however often it takes."""
        for of, reason in refused:
            value, headers, key = letter(of, reason)
            tries = 0
            while True:
                try:
                    await self.log.append(self.view.log.dead.name, key, value, headers)
                except (UnavailableError, FullError) as error:
                    if tries == 0:
                        say(f"indexer: a dead letter waits: {error.message}")
                    await self._back_off(tries, None)
                    tries += 1
                else:
                    break
        self.metrics.dead.labels(cause).inc(len(refused))

    async def _back_off(self, tries: int, after: float | None) -> None:
        view = self.view.indexer
        wait = min(view.backoff.total_seconds() * 2**tries, view.backoff_most.total_seconds())
        # Members that were refused together are not to come back together.
        await asyncio.sleep((after or 0.0) + wait * self._random.uniform(0.5, 1.0))


async def looked_after(store: Store, metrics: Metrics) -> None:
    """Tell whether the store takes documents, until it is cancelled."""
    while True:
        ready = False
        with suppress(Exception):  # whatever it is, the store is not ready, and the indexer goes on
            ready = await store.ready()
        metrics.store_ready.set(ready)
        await asyncio.sleep(LOOK)


async def watched(consumer: Consumer, gauge: Gauge) -> None:
    """Tell the lag of a member of a group until it is cancelled."""
    while True:
        with suppress(PenstockError):
            lag = await consumer.lag()
            gauge.clear()
            for partition, count in lag.items():
                gauge.labels(str(partition)).set(count)
        await asyncio.sleep(LOOK)
