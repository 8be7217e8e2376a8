"""The indexer: from the log to the store, each reading once.

Records are read in order, flattened into bulks and written, several bulks at once. A place in the log is committed when
everything before it is in the store or with the dead letters, never sooner; what is read again after a crash is written
again under the same id.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.stream.deadletters import letter
from penstock.stream.log import Consumer, FullError, Log, Record, UnavailableError
from penstock.stream.messages import decoded, identity
from penstock.stream.store import BusyError, Document, Store

__all__ = ["Indexer", "Metrics", "flattened"]

FETCH = 500  # records at once
WAIT = 0.1  # seconds for the first of them
LEAVE = 8.0  # seconds for what is under way when it is told to stop
HAND_OVER = 20.0  # seconds for it before a partition goes
LOOK = 2.0  # seconds between looks at the lag
EXPIRE = 3600.0  # seconds between looks for what is too old
SECOND = 1_000_000_000
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """What the indexer counts."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.records = Counter("penstock_indexer_records", "Messages read from the log.", registry=registry)
        self.documents = Counter(
            "penstock_indexer_documents",
            "Documents, by what became of them: new, known (were there), refused.",
            ["outcome"],
            registry=registry,
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


def flattened(record: Record) -> list[Document]:
    """The readings of a message.

    Raises:
        ValueError: It is no message.
    """
    message = decoded(record.value)
    known = identity(message.device, message.session, message.message)
    received = int(record.headers.get("received") or record.time)
    device, session, number = message.device, message.session, message.message
    origin = (record.partition, record.offset)
    return [
        Document(
            f"{known}-{index}",
            reading.time,
            {
                "device": device,
                "session": session,
                "message": number,
                "index": index,
                "sensor": reading.name,
                "values": reading.values,
                "accuracy": reading.accuracy,
                "received": received,
                "lag_ms": (received - reading.time) / 1e6,
            },
            origin,
            known,
        )
        for index, reading in enumerate(message.readings)
    ]


@dataclass
class _Bulk:
    """Records on their way together.

    Attributes:
        documents: By id: the same message twice is one.
        broken: Records that are no message, and why.
        places: For each partition, the offset behind its last record.
        bytes: Of the records.
        received: Of each record, nanoseconds.
    """

    documents: dict[str, Document] = field(default_factory=dict)
    broken: list[tuple[Record, str]] = field(default_factory=list)
    places: dict[int, int] = field(default_factory=dict)
    bytes: int = 0
    records: int = 0
    received: list[int] = field(default_factory=list)
    began: float = 0.0

    def add(self, record: Record) -> None:
        """Take a record."""
        if not self.records:
            self.began = time.monotonic()
        self.records += 1
        self.bytes += len(record.value)
        self.places[record.partition] = record.offset + 1
        try:
            documents = flattened(record)
        except (ValueError, RecursionError) as error:  # msgspec's are among them
            self.broken.append((record, str(error)))
            return
        for document in documents:
            self.documents[document.id] = document
        if documents:
            self.received.append(int(documents[0].body["received"]))


class Indexer:
    """A member of the group that writes readings.

    Args:
        view: What is declared.
        log: An open log.
        store: An open store.
        metrics: Where to count.
        clock: Nanoseconds since 1970.
    """

    def __init__(
        self,
        view: Stream,
        log: Log,
        store: Store,
        metrics: Metrics | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.view, self.log, self.store = view, log, store
        self.metrics = metrics or Metrics()
        self.clock = clock
        self._open = _Bulk()
        self._under_way: deque[tuple[_Bulk, asyncio.Task[None]]] = deque()
        self._places = asyncio.Semaphore(view.indexer.in_flight)
        self._committing = asyncio.Lock()
        self._consumer: Consumer | None = None
        self._paused = False
        self._newest = 0
        self._random = random.Random()

    @property
    def queued(self) -> int:
        """Bytes that were read and are not stored."""
        return self._open.bytes + sum(bulk.bytes for bulk, _ in self._under_way)

    async def run(self, stop: asyncio.Event) -> None:
        """Index until it is told to stop; then finish what is under way, and commit it.

        Raises:
            PenstockError: What cannot be mended by waiting.
        """
        view = self.view
        async with self.log.consume(view.log.readings.name, view.indexer.group, self._revoked) as consumer:
            self._consumer = consumer
            looking = asyncio.create_task(self._look())
            try:
                while not stop.is_set():
                    await self._step(consumer)
                self._send()
                await self._finish(LEAVE)
            finally:
                looking.cancel()
                with suppress(asyncio.CancelledError):
                    await looking
                for _, task in self._under_way:
                    task.cancel()

    async def _step(self, consumer: Consumer) -> None:
        batching = self.view.indexer.batching
        self._hold(consumer)
        try:
            records = await consumer.fetch(FETCH, batching.bytes, WAIT if not self._open.records else 0.02)
        except UnavailableError as error:
            say(f"indexer: {error.message}")
            await asyncio.sleep(1)
            return
        for record in records:
            self._open.add(record)
            if self._open.bytes >= batching.bytes or len(self._open.documents) >= batching.count:
                self._send()
        self.metrics.records.inc(len(records))
        self.metrics.queued.set(self.queued)
        if self._open.records and time.monotonic() - self._open.began >= batching.time.total_seconds():
            self._send()
        await self._commit()

    def _hold(self, consumer: Consumer) -> None:
        """Read on only while the store keeps up."""
        most = self.view.indexer.queue_bytes
        if not self._paused and self.queued >= most:
            consumer.pause()
            self._paused = True
        elif self._paused and self.queued <= most // 2:
            consumer.resume()
            self._paused = False
        self.metrics.paused.set(self._paused)

    # --- writing ------------------------------------------------------------------------------------

    def _send(self) -> None:
        bulk, self._open = self._open, _Bulk()
        if bulk.records:
            self._under_way.append((bulk, asyncio.create_task(self._written(bulk))))

    async def _written(self, bulk: _Bulk) -> None:
        """Write a bulk, however often it takes."""
        async with self._places:
            documents = list(bulk.documents.values())
            refused = await self._stored(documents) if documents else ()
            letters = [letter(record, reason) for record, reason in bulk.broken]
            letters += [letter(document, reason) for document, reason in refused]
            for value, headers, key in letters:
                await self._buried(value, headers, key)
        self.metrics.dead.labels("record").inc(len(bulk.broken))
        self.metrics.dead.labels("document").inc(len(refused))
        now = self.clock()
        for received in bulk.received:
            self.metrics.stored_seconds.observe(max(0, now - received) / SECOND)
        if documents:
            self._newest = max(self._newest, *(document.time for document in documents))
            self.metrics.newest.set(self._newest / SECOND)

    async def _stored(self, documents: Sequence[Document]) -> list[tuple[Document, str]]:
        tries = 0
        while True:
            began = time.monotonic()
            try:
                written = await self.store.write("readings", documents)
            except BusyError as error:
                self.metrics.bulks.labels("busy").inc()
                if tries == 0:
                    say(f"indexer: {error.message}; it is tried again")
                await self._back_off(tries, error.after)
                tries += 1
                continue
            self.metrics.bulks.labels("written").inc()
            self.metrics.bulk_seconds.observe(time.monotonic() - began)
            for outcome, count in (
                ("new", written.new),
                ("known", written.known),
                ("refused", len(written.refused)),
            ):
                self.metrics.documents.labels(outcome).inc(count)
            return [(entry.document, entry.reason) for entry in written.refused]

    async def _buried(self, value: bytes, headers: dict[str, bytes], key: bytes) -> None:
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
                return

    async def _back_off(self, tries: int, after: float | None) -> None:
        view = self.view.indexer
        wait = min(view.backoff.total_seconds() * 2**tries, view.backoff_most.total_seconds())
        # Members that were refused together are not to come back together.
        await asyncio.sleep((after or 0.0) + wait * self._random.uniform(0.5, 1.0))

    # --- committing ---------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Commit what is done, from the front: nothing that is not done lies before it."""
        async with self._committing:
            places: dict[int, int] = {}
            while self._under_way and self._under_way[0][1].done():
                bulk, task = self._under_way[0]
                task.result()
                places |= bulk.places
                self._under_way.popleft()
            if places and self._consumer is not None:
                await self._settled(self._consumer, places)

    async def _settled(self, consumer: Consumer, places: dict[int, int]) -> None:
        try:
            await consumer.commit(places)
        except UnavailableError as error:
            # The next commit says as much and more; until then it would be read again, and counted once.
            say(f"indexer: {error.message}")

    async def _finish(self, patience: float) -> None:
        """Wait for what is under way, but not for ever: whoever reads it next writes it again."""
        tasks = [task for _, task in self._under_way]
        if tasks:
            await asyncio.wait(tasks, timeout=patience)
        await self._commit()

    async def _revoked(self, partitions: frozenset[int]) -> None:
        self._send()
        await self._finish(HAND_OVER)
        # What is left is of partitions that are another's from now on, or will be read again with those that stay.
        for bulk, _ in self._under_way:
            for number in partitions:
                bulk.places.pop(number, None)

    # --- meanwhile ----------------------------------------------------------------------------------

    async def _look(self) -> None:
        expired = 0.0
        while True:
            with suppress(PenstockError):
                if self._consumer is not None:
                    lag = await self._consumer.lag()
                    self.metrics.lag.clear()
                    for partition, count in lag.items():
                        self.metrics.lag.labels(str(partition)).set(count)
                if time.monotonic() - expired > EXPIRE:
                    expired = time.monotonic()
                    for done in await self.store.expire():
                        say(f"indexer: beyond the retention, deleted: {done}")
            await asyncio.sleep(LOOK)
