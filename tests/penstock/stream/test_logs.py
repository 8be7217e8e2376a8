"""What a log promises, of Kafka and of the embedded one alike."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from penstock.config.streaming import EmbeddedLog, KafkaLog
from penstock.config.streaming.log import Topic
from penstock.stream.log import Consumer, Log, Record, UnavailableError, open_log
from penstock.stream.logs.kafka import KafkaTopics
from tests.servers.kafka import kafka

PATIENCE = 30.0  # seconds
PARTITIONS = 4


@pytest.fixture(scope="module")
def broker():
    with kafka() as address:
        yield address


@pytest.fixture(params=["jetstream", "kafka"])
def view(request, tmp_path):
    name = f"readings{time.monotonic_ns()}"
    topics = {
        "readings": Topic(name=name, partitions=PARTITIONS, replicas=1),
        "dead": Topic(name=f"{name}-dead", partitions=1, replicas=1),
    }
    if request.param == "kafka":
        return KafkaLog(kind="kafka", brokers=request.getfixturevalue("broker"), **topics)
    return EmbeddedLog(kind="jetstream", folder=str(tmp_path / "log"), **topics)


def run(body: Callable[[Log], Awaitable[None]], view) -> None:
    async def opened() -> None:
        async with open_log(view) as log:
            await log.create()
            await body(log)

    asyncio.run(asyncio.wait_for(opened(), 60))


async def append(log: Log, view, count: int, devices: int = 7, start: int = 0) -> list[bytes]:
    values = [b"%d" % number for number in range(start, start + count)]
    await asyncio.gather(
        *(
            log.append(view.readings.name, b"device-%d" % (number % devices), value, {"received": b"1"})
            for number, value in enumerate(values, start)
        )
    )
    return values


async def take(member: Consumer, count: int, patience: float = PATIENCE) -> list[Record]:
    found: list[Record] = []
    ends = time.monotonic() + patience
    while len(found) < count and time.monotonic() < ends:
        found += await member.fetch(1000, 1 << 20, 0.5)
    return found


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    ends = time.monotonic() + PATIENCE
    while not await true():
        assert time.monotonic() < ends, "it has not come to be"
        await asyncio.sleep(0.02)


def behind(records: list[Record]) -> dict[int, int]:
    places: dict[int, int] = {}
    for record in records:
        places[record.partition] = max(places.get(record.partition, 0), record.offset + 1)
    return places


def test_what_is_appended_is_read_in_the_order_of_its_key(view):
    async def body(log):
        name, headers = view.readings.name, {"transport": b"http"}
        told = [
            await log.append(name, f"gerät-{number % 5}".encode(), b"%d" % number, headers)
            for number in range(60)
        ]
        before = time.time_ns()
        async with log.consume(view.readings.name, "g") as member:
            found = await take(member, 60)
            assert member.assigned == frozenset(range(PARTITIONS))
        assert {(r.partition, r.offset) for r in found} == {(a.partition, a.offset) for a in told}
        for device in range(5):
            of_one = [r for r in found if r.key == f"gerät-{device}".encode()]
            assert [int(r.value) for r in of_one] == list(range(device, 60, 5))
            assert len({r.partition for r in of_one}) == 1
            assert [r.offset for r in of_one] == sorted(r.offset for r in of_one)
        assert all(r.headers == {"transport": b"http"} for r in found)
        assert all(before - 60e9 < r.time <= time.time_ns() for r in found)

    run(body, view)


def test_a_group_goes_on_where_it_committed_and_another_begins_at_the_beginning(view):
    async def body(log):
        await append(log, view, 40)
        async with log.consume(view.readings.name, "g") as member:
            first = await take(member, 40)
            assert sum((await member.lag()).values()) == 40
            part = [r for r in first if r.partition == first[0].partition]
            await member.commit({part[0].partition: part[0].offset + 1})
            assert sum((await member.lag()).values()) == 39
        async with log.consume(view.readings.name, "g") as member:
            again = await take(member, 39)
            assert {(r.partition, r.offset) for r in again} == {(r.partition, r.offset) for r in first} - {
                (part[0].partition, part[0].offset)
            }
            await member.commit(behind(again))
            assert sum((await member.lag()).values()) == 0
        async with log.consume(view.readings.name, "g") as member:
            new = await append(log, view, 3, start=100)
            assert sorted(r.value for r in await take(member, 3)) == sorted(new)
        async with log.consume(view.readings.name, "another") as member:
            assert len(await take(member, 43)) == 43

    run(body, view)


def test_members_share_and_hand_over_without_losing_any(view):
    async def body(log):
        seen: dict[str, list[Record]] = {"one": [], "two": []}
        handed: list[frozenset[int]] = []
        name = view.readings.name

        async def revoked(partitions):
            handed.append(partitions)
            places = behind([r for r in seen["one"] if r.partition in partitions])
            await one.commit(places)

        one = log.consume(name, "g", revoked)
        async with one:
            await append(log, view, 50, devices=50)
            seen["one"] += await take(one, 50)
            two = log.consume(name, "g")
            async with two:

                async def shared() -> bool:
                    seen["one"] += await one.fetch(1000, 1 << 20, 0.1)
                    seen["two"] += await two.fetch(1000, 1 << 20, 0.1)
                    return len(one.assigned) == len(two.assigned) == PARTITIONS // 2

                await until(shared)
                assert one.assigned | two.assigned == frozenset(range(PARTITIONS))
                assert frozenset().union(*handed) == two.assigned
                await append(log, view, 50, devices=50, start=50)

                async def all_here() -> bool:
                    await shared()
                    return len({int(r.value) for r in seen["one"] + seen["two"]}) == 100

                await until(all_here)
                # What was committed before it was handed over is not read by the other.
                assert {int(r.value) for r in seen["two"]} <= set(range(50, 100))
                await two.commit(behind(seen["two"]))

            async def alone() -> bool:
                seen["one"] += await one.fetch(1000, 1 << 20, 0.1)
                return len(one.assigned) == PARTITIONS

            await until(alone)
            await append(log, view, 10, devices=50, start=100)

            async def rest() -> bool:
                seen["one"] += await one.fetch(1000, 1 << 20, 0.1)
                return set(range(100, 110)) <= {int(r.value) for r in seen["one"]}

            await until(rest)

    run(body, view)


def test_a_member_that_pauses_stays_one_and_reads_nothing(view):
    async def body(log):
        async with log.consume(view.readings.name, "g") as member:
            await append(log, view, 5)
            assert len(await take(member, 5)) == 5
            member.pause()
            await append(log, view, 5, start=5)
            ends = time.monotonic() + 1.5
            while time.monotonic() < ends:
                assert await member.fetch(100, 1 << 20, 0.1) == []
            assert member.assigned == frozenset(range(PARTITIONS))
            member.resume()
            assert sorted(int(r.value) for r in await take(member, 5)) == [5, 6, 7, 8, 9]

    run(body, view)


def test_a_fetch_takes_no_more_than_it_is_asked_for_and_the_rest_stays(view):
    async def body(log):
        await asyncio.gather(
            *(log.append(view.readings.name, b"d", bytes(100_000), {}) for _ in range(20)),
            log.append(view.readings.name, b"d", b"", {}),
            log.append(view.readings.name, b"d", bytes(view.message_bytes), {}),
        )
        async with log.consume(view.readings.name, "g") as member:
            sizes = []
            while sum(map(len, sizes)) < 22:
                found = await member.fetch(3, 1 << 20, 1.0)
                assert len(found) <= 3
                sizes.append([len(r.value) for r in found])
        assert sorted(size for some in sizes for size in some) == [0] + [100_000] * 20 + [view.message_bytes]

    run(body, view)


def test_made_twice_is_made_once_and_partitions_only_grow(view):
    async def body(log):
        told = " ".join(await log.create())
        assert "settings as declared" in told
        more = view.model_copy(update={"readings": view.readings.model_copy(update={"partitions": 6})})
        async with open_log(more) as grown:
            await grown.create()
            async with grown.consume(view.readings.name, "g") as member:
                await append(grown, view, 60, devices=60)
                assert {r.partition for r in await take(member, 60)} == set(range(6))
        assert "none is taken away" in " ".join(await log.create())

    run(body, view)


def test_the_newest_can_be_looked_at(view):
    async def body(log):
        for number in range(30):
            await log.append(view.dead.name, b"d", b"%d" % number, {"reason": b"r"})
        found = await log.tail(view.dead.name, 5)
        assert [int(r.value) for r in found] == [25, 26, 27, 28, 29]
        assert found[0].headers == {"reason": b"r"}
        assert await log.ready()

    run(body, view)


def test_a_topic_that_is_not_there_is_told_of(view):
    async def body(log):
        with pytest.raises(UnavailableError):
            await log.append("nowhere", b"d", b"x", {})

    run(body, view)


class ImpliedDelivery:
    """Stands in for what a broker cannot be made to do on demand: the client's report of a message that it takes for stored by inference."""

    def partition(self) -> int:
        return 0

    def offset(self) -> None:
        return None


def test_what_is_only_inferred_to_be_stored_is_not_acknowledged():
    topic = Topic(name="readings", partitions=1, replicas=1)
    view = KafkaLog(kind="kafka", brokers="127.0.0.1:1", readings=topic, dead=topic)

    async def test():
        log = KafkaTopics(view)
        future = asyncio.get_running_loop().create_future()
        log._done.append((future, None, ImpliedDelivery()))
        log._resolve()
        with pytest.raises(UnavailableError, match="tells no offset"):
            await future

    asyncio.run(test())


def test_every_acknowledged_record_survives_the_killing_of_the_embedded_server(tmp_path):
    view = EmbeddedLog(kind="jetstream", folder=str(tmp_path / "log"))
    acknowledged: list[int] = []
    kills = 3

    async def body(log):
        stop = asyncio.Event()

        async def push(worker: int) -> None:
            number = worker
            while not stop.is_set():
                try:
                    await log.append(view.readings.name, b"d%d" % number, b"%d" % number, {})
                except UnavailableError:
                    await asyncio.sleep(0.02)  # as a phone would, later, with the next
                else:
                    acknowledged.append(number)
                number += 16

        pushing = [asyncio.create_task(push(worker)) for worker in range(16)]
        async with log.consume(view.readings.name, "g") as member:
            found: set[int] = set()
            for _ in range(kills):
                enough = len(acknowledged) + 200

                async def more(enough: int = enough) -> bool:
                    found.update(int(r.value) for r in await member.fetch(1000, 1 << 20, 0.1))
                    return len(acknowledged) > enough

                await until(more)
                about = json.loads((tmp_path / "log/server.json").read_text())
                os.kill(about["pid"], signal.SIGKILL)
            await until(more)
            stop.set()
            await asyncio.gather(*pushing)

            async def complete() -> bool:
                found.update(int(r.value) for r in await member.fetch(1000, 1 << 20, 0.1))
                return found >= set(acknowledged)

            await until(complete)

    run(body, view)
    assert len(acknowledged) > 200 * kills


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def test_the_last_to_leave_ends_the_server_and_its_password_is_for_its_owner_alone(tmp_path):
    view = EmbeddedLog(kind="jetstream", folder=str(tmp_path / "log"))
    path = Path(view.folder) / "server.json"

    async def body() -> int:
        async with open_log(view) as one:
            about = json.loads(path.read_text())
            async with open_log(view) as two:
                assert json.loads(path.read_text()) == about
                await two.append(view.readings.name, b"d", b"x", {})
            await one.append(view.readings.name, b"d", b"y", {})  # the other's going has not ended it
            assert path.stat().st_mode & 0o077 == 0
            assert (path.parent / "server.conf").stat().st_mode & 0o077 == 0
            assert about["password"] not in command_of(about["pid"])
        return int(about["pid"])

    pid = asyncio.run(body())
    assert not Path(f"/proc/{pid}").exists()
