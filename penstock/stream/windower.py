"""A member of the group that writes windows: features of sensors, and what the live model says of them.

The place in the log is held back to the earliest record that a window which is not final needs. After a crash that is read
again, and windows with it; those told of fewer readings than before change nothing in the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from penstock.config.streaming import Stream
from penstock.console import say
from penstock.stream.log import Consumer, Log, UnavailableError
from penstock.stream.messages import decoded
from penstock.stream.store import Document, Store
from penstock.stream.windows import ACTIVITY, Classify, Due, Windowing
from penstock.stream.writing import Metrics, Writer, watched

__all__ = ["Windower", "classifier"]

FETCH = 500  # records at once
WAIT = 0.2  # seconds for the first of them
SILENT = 20  # fetches without a record of a partition, while others have some, until it has none
PACE = 0.25  # seconds from one look for windows to the next
SECOND = 1_000_000_000


def classifier(view: Stream) -> Classify | None:
    """What tells activities, if that is declared."""
    if view.indexer.activity is None:
        return None
    from penstock.stream.activity import Classifier

    found = Classifier(view.indexer.activity)
    found.look()  # loading takes a second: now, and not with the first window
    return found


class Windower:
    """A member of the group that writes windows.

    Args:
        view: What is declared.
        log: An open log.
        store: An open store.
        metrics: Where to count.
        classify: Tells activities.
    """

    def __init__(
        self, view: Stream, log: Log, store: Store, metrics: Metrics, classify: Classify | None = None
    ) -> None:
        assert view.indexer.windows is not None
        self.view, self.log, self.metrics = view, log, metrics
        self.writer = Writer(view, log, store, metrics)
        activity = view.indexer.activity
        sensors = (activity.accelerometer, activity.gyroscope) if activity is not None else ("", "")
        self.windowing = Windowing(view.indexer.windows, classify, *sensors)
        self._reached: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._clocks: dict[int, float] = {}
        self._silent: dict[int, int] = {}
        self._activities: dict[str, dict[str, Any]] = {}
        self._newest = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Write windows until it is told to stop. What is not final is taken up again by whoever reads next.

        Raises:
            PenstockError: What cannot be mended by waiting.
        """
        group = f"{self.view.indexer.group}-windows"
        async with self.log.consume(self.view.log.readings.name, group, self._revoked) as consumer:
            watching = asyncio.create_task(watched(consumer, self.metrics.windows_lag))
            try:
                looked = time.monotonic()
                while not stop.is_set():
                    await self._fetch(consumer)
                    if time.monotonic() - looked >= PACE:
                        looked = time.monotonic()
                        await self._tell(self.windowing.due(self._clocks))
                        await self._commit(consumer)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _fetch(self, consumer: Consumer) -> None:
        try:
            records = await consumer.fetch(FETCH, self.view.indexer.batching.bytes, WAIT)
        except UnavailableError as error:
            say(f"windows: {error.message}")
            await asyncio.sleep(1)
            return
        for record in records:
            self._reached[record.partition] = record.offset + 1
            now = self._clocks[record.partition] = record.time / SECOND
            with suppress(ValueError, RecursionError):  # what is no message, the indexer buries
                self.windowing.take(record.partition, record.offset, decoded(record.value), now)
        self._listen(consumer, {record.partition for record in records})
        await asyncio.sleep(0)  # others share the loop

    def activities(self) -> dict[str, Any]:
        """Of each device that has windows which are not final, the newest: label, probability, start and end (ns)."""
        return {
            device: self._activities[device]
            for device in self.windowing.names()
            if device in self._activities
        }

    def _remember(self, documents: Sequence[Document]) -> None:
        for document in documents:
            body = document.body
            if body["sensor"] == ACTIVITY:
                known = self._activities.get(body["device"])
                if known is None or known["start"] <= body["start"]:
                    self._activities[body["device"]] = {
                        name: body[name] for name in ("label", "probability", "start", "end")
                    }
        there = self.windowing.names()
        for device in [device for device in self._activities if device not in there]:
            del self._activities[device]

    def _listen(self, consumer: Consumer, heard: set[int]) -> None:
        """The clock of a partition is when its records were appended: while we lag, no device has gone quiet by it.

        Where nothing is left to read it is the time of day.
        """
        for partition in consumer.assigned:
            silent = 0 if partition in heard else self._silent.get(partition, 0) + 1
            self._silent[partition] = silent
            if silent and (not heard or silent >= SILENT):
                self._clocks[partition] = max(self._clocks.get(partition, 0.0), time.time())

    async def _tell(self, due: Due) -> None:
        self.metrics.incomplete.inc(due.incomplete)
        self.metrics.late.inc(self.windowing.late)
        self.windowing.late = 0
        self.metrics.devices.set(self.windowing.devices)
        # Within one look a window may have come twice: the later one knows more.
        documents = list({document.id: document for document in due.documents}.values())
        self._remember(documents)
        most = self.view.indexer.batching.count
        for begin in range(0, len(documents), most):
            await self.writer.stored("windows", documents[begin : begin + most])
        if documents:
            self._newest = max(self._newest, *(document.body["end"] for document in documents))
            self.metrics.newest_window.set(self._newest / SECOND)

    async def _commit(self, consumer: Consumer) -> None:
        mine = {part: place for part, place in self._reached.items() if part in consumer.assigned}
        places = self.windowing.needed(mine)
        ahead = {part: place for part, place in places.items() if place > self._committed.get(part, -1)}
        if not ahead:
            return
        try:
            await consumer.commit(ahead)
        except UnavailableError as error:
            say(f"windows: {error.message}")
        else:
            self._committed |= ahead

    async def _revoked(self, partitions: frozenset[int]) -> None:
        self.windowing.drop(partitions)
        for partition in partitions:
            self._reached.pop(partition, None)
            self._committed.pop(partition, None)
            self._clocks.pop(partition, None)
