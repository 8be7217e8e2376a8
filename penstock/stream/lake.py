"""A member of the group that lays readings down as Parquet, a folder for each hour of event time.

Each partition of the log has a table of its own, of the kind that loads write, which its reader alone writes: rows and the
place in the log that they reach are committed to it in one act. What is read again is known by its place and left out, and
a message that was pushed twice, in what came about the same time, by the ids of its readings.
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import orjson

from penstock.config.loading import ParquetDestination
from penstock.config.streaming import LakeStore, Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.loading.destinations.interface import Plan
from penstock.loading.destinations.parquet import ParquetTable
from penstock.stream.log import Consumer, Log, Record, UnavailableError
from penstock.stream.messages import AXES, FIELDS, decoded, identity
from penstock.stream.writing import Metrics, watched

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Lake", "compact", "forget", "frame"]

FETCH = 500  # records at once
WAIT = 0.2  # seconds for the first of them
AGAIN = 5.0  # seconds after a lake that cannot be written
OF_AXES = frozenset(name for name, fields in FIELDS.items() if fields == AXES)
NAME = "stream"  # of the load, in the table's state


def frame(records: list[Record]) -> pl.DataFrame:
    """Readings of records, a row each; records that are no message are left out.

    Returns:
        date (text, UTC), hour (0 to 23), id, time (ns, UTC), device, session, message, index, sensor, x, y, z (of sensors
        of three axes, in their units), accuracy, received (ns, UTC), and values: all others of a reading as JSON, else null.
    """
    import polars as pl

    columns: dict[str, list[Any]] = {name: [] for name in _schema()}
    one = columns
    for record in records:
        try:
            message = decoded(record.value)
        except (ValueError, RecursionError):
            continue  # the indexer buries it
        known = identity(message.device, message.session, message.message)
        received = int(record.headers.get("received") or record.time)
        readings = message.readings
        count = len(readings)
        one["id"] += [f"{known}-{index}" for index in range(count)]
        one["time"] += [reading.time for reading in readings]
        one["device"] += [message.device] * count
        one["session"] += [message.session] * count
        one["message"] += [message.message] * count
        one["index"] += range(count)
        one["sensor"] += [reading.name for reading in readings]
        one["accuracy"] += [reading.accuracy for reading in readings]
        one["received"] += [received] * count
        for reading in readings:
            values = reading.values
            axes = reading.name in OF_AXES
            one["x"].append(values["x"] if axes else None)
            one["y"].append(values["y"] if axes else None)
            one["z"].append(values["z"] if axes else None)
            rest = None
            if not axes:
                rest = orjson.dumps(values).decode()
            elif len(values) > len(AXES):
                rest = orjson.dumps({k: v for k, v in values.items() if k not in AXES}).decode()
            one["values"].append(rest)
    rows = pl.DataFrame(columns, schema=_schema(), strict=False)
    moment = pl.col("time")
    return rows.select(
        moment.dt.strftime("%Y-%m-%d").alias("date"), moment.dt.hour().cast(pl.Int64).alias("hour"), pl.all()
    )


def _schema() -> dict[str, Any]:
    import polars as pl

    moment = pl.Datetime("ns", "UTC")
    return {
        "id": pl.String,
        "time": moment,
        "device": pl.String,
        "session": pl.String,
        "message": pl.Int64,
        "index": pl.Int64,
        "sensor": pl.String,
        "x": pl.Float64,
        "y": pl.Float64,
        "z": pl.Float64,
        "accuracy": pl.Float64,
        "received": moment,
        "values": pl.String,
    }


def _destination(view: LakeStore, partition: int) -> ParquetDestination:
    return ParquetDestination(
        kind="parquet",
        path=f"{view.path.rstrip('/')}/partition={partition}",
        partition_by=("date", "hour"),
        file_rows=view.file_rows,
        options=view.options,
    )


@dataclass
class _Part:
    """A partition's table, and what waits to be in it.

    Attributes:
        lock: Held while the table is open, where the lake is on this machine: two never write one table.
        place: What the table has: records below this offset.
        moment: When the newest of them was appended to the log, ns.
        reached: The offset behind the last record taken.
        newest: When the newest record taken was, ns.
        waiting: Readings not laid down yet.
        rows: How many.
        since: When the first of them came, by a clock that goes on.
    """

    table: ParquetTable
    lock: IO[bytes] | None
    place: int = 0
    moment: int = 0
    reached: int = 0
    newest: int = 0
    waiting: list[pl.DataFrame] = field(default_factory=list)
    rows: int = 0
    since: float = 0.0

    def close(self) -> None:
        self.table.close()
        if self.lock is not None:
            self.lock.close()


def _opened(view: LakeStore, partition: int) -> _Part:
    destination = _destination(view, partition)
    lock = None
    if "://" not in destination.path:
        folder = Path(destination.path)
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "_lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise PenstockError(
                f"{destination.path}: another process writes it", hint="it is waited for, or end that process"
            ) from error
    try:
        table = ParquetTable(destination)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    resume = table.state.resume
    place = int(resume.get("offset", 0))
    moment = int(resume.get("moment", 0))
    return _Part(table, lock, place, moment, place, moment)


class Lake:
    """A member of the group that writes the lake.

    Args:
        view: What is declared, with a lake.
        log: An open log.
        metrics: Where to count.
    """

    def __init__(self, view: Stream, log: Log, metrics: Metrics) -> None:
        assert view.lake is not None
        self.view, self.lake, self.log, self.metrics = view, view.lake, log, metrics
        self._parts: dict[int, _Part] = {}
        self._busy = asyncio.Lock()
        self._leaving: frozenset[int] = frozenset()
        self._told = ""

    async def run(self, stop: asyncio.Event) -> None:
        """Write the lake until it is told to stop; then lay down what waits.

        Raises:
            PenstockError: What cannot be mended by waiting.
        """
        group = f"{self.view.indexer.group}-lake"
        try:
            async with self.log.consume(self.view.log.readings.name, group, self._revoked) as consumer:
                watching = asyncio.create_task(watched(consumer, self.metrics.lake_lag))
                try:
                    while not stop.is_set():
                        await self._step(consumer)
                    async with self._busy:
                        await self._lay(consumer, list(self._parts))
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)
        finally:
            self._let_go(list(self._parts))

    async def _step(self, consumer: Consumer) -> None:
        try:
            records = await consumer.fetch(FETCH, self.view.indexer.batching.bytes, WAIT)
        except UnavailableError as error:
            say(f"lake: {error.message}")
            await asyncio.sleep(1)
            return
        async with self._busy:
            by_partition: dict[int, list[Record]] = {}
            for record in records:
                by_partition.setdefault(record.partition, []).append(record)
            for number, several in by_partition.items():
                part = await self._part(number, consumer)
                if part is not None:
                    await self._take(part, several)
            now = time.monotonic()
            age, most = self.lake.file_age.total_seconds(), self.lake.file_rows
            full = [
                number
                for number, part in self._parts.items()
                if part.waiting and (part.rows >= most or now - part.since >= age)
            ]
            await self._lay(consumer, full)
        self.metrics.lake_waiting.set(sum(part.rows for part in self._parts.values()))

    async def _part(self, number: int, consumer: Consumer) -> _Part | None:
        """A partition's table, once it can be had; None if the partition goes meanwhile."""
        while number in consumer.assigned and number not in self._leaving:
            part = self._parts.get(number)
            if part is not None:
                return part
            try:
                self._parts[number] = await asyncio.to_thread(_opened, self.lake, number)
            except (PenstockError, OSError) as error:
                self._tell(f"{error}; tried again")
                await asyncio.sleep(AGAIN)
        return None

    async def _take(self, part: _Part, records: list[Record]) -> None:
        kept = []
        for record in records:
            if record.offset < part.place:
                if record.time <= part.moment:
                    continue  # it is in the table
                # The same place, but later than all that the table has.
                say(f"lake: {part.table.name}: the log begins anew; what comes is added")
                part.place = 0
            kept.append(record)
        if not kept:
            return
        if not part.waiting:
            part.since = time.monotonic()
        rows = await asyncio.to_thread(frame, kept)
        part.waiting.append(rows)
        part.rows += rows.height
        part.reached = kept[-1].offset + 1
        part.newest = max(part.newest, *(record.time for record in kept))

    async def _lay(self, consumer: Consumer, numbers: list[int]) -> None:
        """Lay down what waits, then commit the places that it reaches."""
        places = {}
        for number in numbers:
            part = self._parts[number]
            if not part.waiting:
                continue
            try:
                added = await asyncio.to_thread(self._written, part)
            except (PenstockError, OSError) as error:
                self._tell(f"{error}; tried again")
                part.since = time.monotonic()  # in a while
                continue
            self.metrics.lake.inc(added)
            places[number] = part.reached
        if places:
            try:
                await consumer.commit(places)
            except UnavailableError as error:
                say(f"lake: {error.message}")

    def _written(self, part: _Part) -> int:
        table, before = part.table, part.table.state
        resume = {"offset": part.reached, "moment": part.newest}
        state = before.model_copy(update={"name": NAME, "load": before.load + 1, "resume": resume})
        try:
            for rows in part.waiting:
                table.stage(rows)
            # Whether it was pushed before is looked for in files of about the same time only.
            done = table.commit(state, Plan("append", keys=("time", "id")))
        except BaseException:
            table.rollback()
            raise
        part.place, part.moment = part.reached, part.newest
        part.waiting, part.rows = [], 0
        return done.added

    def _tell(self, words: str) -> None:
        if words != self._told:
            say(f"lake: {words}")
            self._told = words

    async def _revoked(self, partitions: frozenset[int]) -> None:
        # Another may open the table as soon as this returns. What waits is read again.
        self._leaving = partitions
        async with self._busy:
            self._let_go(partitions)
        self._leaving = frozenset()

    def _let_go(self, partitions: Any) -> None:
        for number in partitions:
            part = self._parts.pop(number, None)
            if part is not None:
                with suppress(OSError, PenstockError):
                    part.close()


def compact(view: LakeStore) -> dict[str, int]:
    """Put small files together; how many are fewer, by table. Tables that an indexer has open are left out, and said so.

    Raises:
        PenstockError: There is no lake.
    """
    if "://" in view.path:
        raise PenstockError(
            f"lake.path: {view.path}: only a lake on this machine can be locked against its writer",
            hint="stop the indexer, and compact the tables from where they are mounted",
        )
    folders = sorted(Path(view.path).glob("partition=*"))
    if not folders:
        raise PenstockError(f"{view.path}: there is no lake", hint="an indexer writes it: lake.path")
    done = {}
    for folder in folders:
        try:
            part = _opened(view, int(folder.name.partition("=")[2]))
        except PenstockError as error:
            say(f"lake: {error.message}: left as it is")
            continue
        try:
            done[str(folder)] = part.table.compact()
        finally:
            part.close()
    return done


def forget(view: LakeStore, device: str) -> int:
    """Remove all readings of a device; how many.

    Raises:
        PenstockError: A table is held by its writer: end the indexer first.
    """
    gone = 0
    for folder in sorted(Path(view.path).glob("partition=*")):
        part = _opened(view, int(folder.name.partition("=")[2]))
        try:
            gone += part.table.erase("device", device)
        finally:
            part.close()
    return gone
