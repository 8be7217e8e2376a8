"""The indexer between a real log and a real store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from penstock.config.streaming import Stream
from penstock.stream.deadletters import listed, replayed
from penstock.stream.indexer import Indexer, flattened
from penstock.stream.log import Log, Record, open_log
from penstock.stream.messages import identity
from penstock.stream.store import BusyError, Refused, Store, Written, open_store

NOW = 1_795_000_000_000_000_000
PATIENCE = 20.0


def view(tmp_path, **indexer) -> Stream:
    return Stream.model_validate(
        {
            "log": {"kind": "jetstream", "folder": str(tmp_path / "log")},
            "store": {"kind": "duckdb", "path": str(tmp_path / "r.duckdb"), "retention": None},
            "indexer": {"backoff": "PT0.02S", **indexer},
        }
    )


def message(number: int, device: str = "d", readings: int = 3) -> bytes:
    payload = [
        {"name": "gravity", "time": NOW + number * 10**9 + i, "values": {"x": 0, "y": 0.5, "z": 9.8}}
        for i in range(readings)
    ]
    whole = {"messageId": number, "sessionId": "s", "deviceId": device, "payload": payload}
    return json.dumps(whole).encode()


async def push(log: Log, settings: Stream, *values: bytes, device: str = "d") -> None:
    headers = {"received": b"%d" % (NOW + 5_000_000), "transport": b"http"}
    for value in values:
        await log.append(settings.log.readings.name, device.encode(), value, headers)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    ends = time.monotonic() + PATIENCE
    while not await true():
        assert time.monotonic() < ends, "it has not come to be"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def indexing(settings: Stream, log: Log, store: Store):
    stop = asyncio.Event()
    indexer = Indexer(settings, log, store)
    running = asyncio.create_task(indexer.run(stop))
    try:
        yield indexer
    finally:
        stop.set()
        await running


def run(settings: Stream, body: Callable[[Log, Store], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with open_log(settings.log) as log, open_store(settings.store) as store:
            await body(log, store)

    asyncio.run(asyncio.wait_for(opened(), 60))


def counted(indexer: Indexer, name: str, **labels: str) -> float:
    return indexer.metrics.registry.get_sample_value(name, labels) or 0.0


@dataclass
class FaultyStore:
    """A real store before which faults stand that cannot be caused at will.

    Attributes:
        busy: So many writes are turned away, each after having been made if ``made``.
        refuse: Ids that are refused.
        closed: While it is set, every write is turned away.
    """

    real: Store
    busy: int = 0
    made: bool = False
    refuse: set[str] = field(default_factory=set)
    closed: bool = False

    def __getattr__(self, name):
        return getattr(self.real, name)

    async def write(self, kind, documents):
        if self.closed or self.busy:
            self.busy = max(0, self.busy - 1)
            if self.made:
                await self.real.write(kind, documents)
            raise BusyError("store: as the test has it")
        bad = [d for d in documents if d.id in self.refuse]
        written = await self.real.write(kind, [d for d in documents if d.id not in self.refuse])
        return Written(written.new, written.known, tuple(Refused(d, "as the test has it") for d in bad))


def test_a_message_becomes_its_readings():
    record = Record(2, 17, b"d", message(4), {"received": b"%d" % (NOW + 4 * 10**9 + 5_000_000)}, 0)
    documents = flattened(record)
    assert [d.id for d in documents] == [f"{identity('d', 's', 4)}-{i}" for i in range(3)]
    assert documents[1].body == {
        "device": "d",
        "session": "s",
        "message": 4,
        "index": 1,
        "sensor": "gravity",
        "values": {"x": 0, "y": 0.5, "z": 9.8},
        "accuracy": None,
        "received": NOW + 4 * 10**9 + 5_000_000,
        "lag_ms": pytest.approx(5.0, abs=1e-3),
    }
    assert documents[0].origin == (2, 17)


def test_what_is_pushed_is_stored_once_and_not_read_again(tmp_path):
    settings = view(tmp_path)

    async def body(log, store):
        await push(log, settings, *(message(n) for n in range(40)), message(7), message(7))
        async with indexing(settings, log, store) as indexer:
            await until(lambda: stored(store, 120))
            await push(log, settings, message(100))
            await until(lambda: stored(store, 123))
            assert counted(indexer, "penstock_indexer_documents_total", outcome="new") == 123
        async with indexing(settings, log, store) as indexer:
            await push(log, settings, message(101))
            await until(lambda: stored(store, 126))
            assert counted(indexer, "penstock_indexer_records_total") == 1

    run(settings, body)


async def stored(store: Store, count: int) -> bool:
    return await store.count("readings") == count


def test_what_is_no_message_is_a_dead_letter_and_can_be_replayed(tmp_path):
    settings = view(tmp_path)

    async def body(log, store):
        broken = b'{"messageId": "one"}'
        await push(log, settings, message(1), broken, message(2), b"\xff")
        async with indexing(settings, log, store) as indexer:
            await until(lambda: stored(store, 6))

            async def buried() -> bool:
                return counted(indexer, "penstock_indexer_dead_letters_total", cause="record") == 2

            await until(buried)
        letters = await listed(settings, log, 10)
        assert [letter.value for letter in letters] == [broken, b"\xff"]
        assert all(letter.kind == "record" and letter.reason for letter in letters)
        assert "int" in letters[0].reason
        places = [record.offset for record in await log.tail(settings.log.readings.name, 10)]
        assert [letter.origin[1] for letter in letters] == [places[1], places[3]]
        assert await replayed(settings, log, store) == (2, 0)
        assert [r.value for r in await log.tail(settings.log.readings.name, 2)] == [broken, b"\xff"]
        assert await replayed(settings, log, store) == (0, 0)

    run(settings, body)


def test_one_reading_that_the_store_refuses_keeps_no_other_out(tmp_path):
    settings = view(tmp_path)

    async def body(log, store):
        bad = f"{identity('d', 's', 1)}-1"
        faulty = FaultyStore(store, refuse={bad})
        await push(log, settings, message(0), message(1), message(2))
        async with indexing(settings, log, faulty) as indexer:
            await until(lambda: stored(store, 8))

            async def buried() -> bool:
                return counted(indexer, "penstock_indexer_dead_letters_total", cause="document") == 1

            await until(buried)
        (letter,) = await listed(settings, log, 5)
        assert (letter.kind, letter.reason) == ("document", "as the test has it")
        assert json.loads(letter.value)["id"] == bad
        # Still refused: it lies there anew, and is not tried for ever.
        assert await replayed(settings, log, faulty) == (0, 1)
        assert await replayed(settings, log, store) == (1, 0)
        assert await store.count("readings") == 9

    run(settings, body)


@pytest.mark.parametrize("made", [False, True])
def test_a_store_that_is_busy_is_asked_again_and_nothing_is_committed_before(tmp_path, made):
    settings = view(tmp_path)

    async def body(log, store):
        faulty = FaultyStore(store, closed=True, made=made)
        await push(log, settings, *(message(n) for n in range(10)))
        async with indexing(settings, log, faulty) as indexer:

            async def tried() -> bool:
                return counted(indexer, "penstock_indexer_bulks_total", outcome="busy") >= 3

            await until(tried)
            async with log.consume(settings.log.readings.name, "onlooker"):
                pass
            assert sum((await indexer._consumer.lag()).values()) == 10
            faulty.closed = False
            await until(lambda: stored(store, 30))

            async def committed() -> bool:
                return sum((await indexer._consumer.lag()).values()) == 0

            await until(committed)
            new = counted(indexer, "penstock_indexer_documents_total", outcome="new")
            known = counted(indexer, "penstock_indexer_documents_total", outcome="known")
            assert (new, known) == ((0, 30) if made else (30, 0))

    run(settings, body)


def test_a_store_that_is_slow_holds_reading_up_and_memory_down(tmp_path):
    settings = view(
        tmp_path, queue_bytes=20_000, batching={"bytes": 5_000, "count": 10_000, "time": "PT0.01S"}
    )

    async def body(log, store):
        faulty = FaultyStore(store, closed=True)
        values = [message(n) for n in range(400)]
        await push(log, settings, *values)
        async with indexing(settings, log, faulty) as indexer:

            async def held() -> bool:
                return counted(indexer, "penstock_indexer_paused") == 1

            await until(held)
            read = counted(indexer, "penstock_indexer_records_total")
            # One fetch more than the limit at most.
            assert indexer.queued < 20_000 + 2 * 5_000 + max(map(len, values))
            assert read < 200
            assert indexer._consumer.assigned == frozenset(range(4))
            faulty.closed = False
            await until(lambda: stored(store, 1200))
            assert counted(indexer, "penstock_indexer_paused") == 0

    run(settings, body)


def test_two_indexers_share_and_hand_over_in_the_middle(tmp_path):
    settings = view(tmp_path)

    async def body(log, store):
        enough, pushed = asyncio.Event(), []

        async def pushing() -> None:
            while not enough.is_set():
                device, number = f"d{len(pushed) % 20}", len(pushed)
                await push(log, settings, message(number, device=device), device=device)
                pushed.append(number)

        async with indexing(settings, log, store) as one:
            going = asyncio.create_task(pushing())

            async def begun() -> bool:
                return counted(one, "penstock_indexer_records_total") > 20

            await until(begun)
            async with indexing(settings, log, store) as two:

                async def shared() -> bool:
                    return (
                        len(one._consumer.assigned) == 2
                        and counted(two, "penstock_indexer_records_total") > 5
                    )

                await until(shared)
            enough.set()
            await going
            await until(lambda: stored(store, 3 * len(pushed)))
        ids = await store.newest("readings", device=None, since=0, limit=10**6)
        assert {row["message"] for row in ids} == set(pushed)

    run(settings, body)


def test_told_to_stop_it_finishes_what_it_has_read(tmp_path):
    settings = view(tmp_path, batching={"bytes": 10**9, "count": 10**9, "time": "PT1H"})

    async def body(log, store):
        await push(log, settings, *(message(n) for n in range(5)))
        async with indexing(settings, log, store) as indexer:

            async def read() -> bool:
                return counted(indexer, "penstock_indexer_records_total") == 5

            await until(read)
            assert await store.count("readings") == 0  # no limit of the bulk is reached
        assert await store.count("readings") == 15
        async with log.consume(settings.log.readings.name, "indexer") as member:
            assert await member.fetch(10, 1 << 20, 0.5) == []

    run(settings, body)
