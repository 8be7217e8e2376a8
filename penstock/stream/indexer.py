"""The indexer: from the log to the store, each reading once.

Records are read in order, flattened into bulks and written, several bulks at once. A place in the log is committed when
everything before it is in the store or with the dead letters, never sooner; what is read again after a crash is written
again under the same id.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.stream.log import Consumer, Log, Record, UnavailableError
from penstock.stream.messages import decoded, identity
from penstock.stream.store import Document, Store
from penstock.stream.writing import Metrics, Writer, watched

__all__ = ["Indexer", "flattened"]

FETCH = 500  # records at once
WAIT = 0.1  # seconds for the first of them
LEAVE = 8.0  # seconds for what is under way when it is told to stop
HAND_OVER = 20.0  # seconds for it before a partition goes
EXPIRE = 3600.0  # seconds between looks for what is too old
SECOND = 1_000_000_000


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
        self.writer = Writer(view, log, store, self.metrics)
        self.clock = clock
        self._open = _Bulk()
        self._under_way: deque[tuple[_Bulk, asyncio.Task[None]]] = deque()
        self._places = asyncio.Semaphore(view.indexer.in_flight)
        self._committing = asyncio.Lock()
        self._consumer: Consumer | None = None
        self._paused = False
        self._newest = 0

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
            beside = [
                asyncio.create_task(watched(consumer, self.metrics.lag)),
                asyncio.create_task(self._expire()),
            ]
            try:
                while not stop.is_set():
                    await self._step(consumer)
                self._send()
                await self._finish(LEAVE)
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
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
            await self.writer.stored("readings", documents)
            await self.writer.buried("record", bulk.broken)
        now = self.clock()
        for received in bulk.received:
            self.metrics.stored_seconds.observe(max(0, now - received) / SECOND)
        if documents:
            self._newest = max(self._newest, *(document.time for document in documents))
            self.metrics.newest.set(self._newest / SECOND)

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

    async def _expire(self) -> None:
        while True:
            with suppress(PenstockError):
                for done in await self.store.expire():
                    say(f"indexer: beyond the retention, deleted: {done}")
            await asyncio.sleep(EXPIRE)
