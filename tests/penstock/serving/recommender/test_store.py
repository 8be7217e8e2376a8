"""The store's promises, kept by SQLite and by a real Redis alike."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from penstock.config.serving.recommender import RedisStore, SqliteStore
from penstock.errors import PenstockError
from penstock.serving.recommender.store import (
    Impression,
    Interaction,
    NewItem,
    Store,
    StoreDownError,
    open_store,
)
from tests.penstock.serving.recommender.recommenders import redis_server
from tests.servers.programs import free_port

KEEP = 1000
DAY = 86_400_000


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as (port, _):
        yield port


@pytest.fixture(params=["sqlite", "redis"])
def view(request, tmp_path):
    if request.param == "sqlite":
        return SqliteStore(kind="sqlite", path=f"{tmp_path}/state.sqlite")
    port = request.getfixturevalue("redis_port")
    return RedisStore(kind="redis", url=f"redis://127.0.0.1:{port}/0", prefix=f"{tmp_path.name}:")


@contextlib.asynccontextmanager
async def stores(view, count: int = 1) -> AsyncIterator[list[Store]]:
    found = [await open_store(view) for _ in range(count)]
    try:
        yield found
    finally:
        for store in found:
            await store.close()


def with_store(view, work: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        async with stores(view) as [store]:
            await work(store)

    asyncio.run(run())


def did(item: int, time: int | None = None, user: str = "a", **more) -> Interaction:
    return Interaction(user, item, time, **more)


async def items_of(store: Store, user: str = "a") -> list[int]:
    return [one.item for one in await store.history(user)]


def test_what_one_process_has_written_another_reads_at_once(view):
    async def run() -> None:
        async with stores(view, 2) as [one, other]:
            for item in range(20):
                await one.add([did(item)], KEEP)
                assert await items_of(other) == list(range(item + 1))

    asyncio.run(run())


def test_all_that_was_told_comes_back(view):
    async def work(store: Store) -> None:
        one = did(7, 5000, rating=4.5, event="play|x", id="é|1")
        await store.add([one, did(8, 5000)], KEEP)
        assert await store.history("a") == [one, did(8, 5000)]
        assert await store.history("b") == []

    with_store(view, work)


def test_the_same_counts_once(view):
    async def work(store: Store) -> None:
        first = await store.add([did(1, 100), did(1, 100, rating=2.0), did(1, 101), did(2, id="x")], KEEP)
        assert (first.stored, first.duplicates) == (3, 1)
        again = await store.add([did(1, 100), did(3, 999, id="x"), did(1, 100, id="y")], KEEP)
        assert (again.stored, again.duplicates) == (1, 2)  # an id of its own is a thing of its own
        assert sorted(await items_of(store)) == [1, 1, 1, 2]
        assert (await store.add([did(1, 100, user="b")], KEEP)).stored == 1

    with_store(view, work)


def test_without_an_id_or_a_time_nothing_is_the_same(view):
    async def work(store: Store) -> None:
        added = await store.add([did(1), did(1)], KEEP)
        assert (added.stored, added.duplicates) == (2, 0)

    with_store(view, work)


def test_the_order_is_that_of_time_and_then_of_arrival(view):
    async def work(store: Store) -> None:
        await store.add([did(5, 300), did(3, 100), did(4, 200), did(9, 200), did(1, 200)], KEEP)
        assert await items_of(store) == [3, 4, 9, 1, 5]

    with_store(view, work)


def test_what_comes_last_is_the_last_whatever_the_clock_says(view):
    async def work(store: Store) -> None:
        ahead = 4_000_000_000_000  # the clock was ahead, and was set back
        await store.add([did(1, ahead), did(2), did(3)], KEEP)
        await store.add([did(4)], KEEP)
        assert await items_of(store) == [1, 2, 3, 4]

    with_store(view, work)


def test_only_the_newest_are_kept(view):
    async def work(store: Store) -> None:
        await store.add([did(item, 100 + item) for item in range(12)], 10)
        assert await items_of(store) == list(range(2, 12))
        await store.add([did(50, 1), did(51, 999)], 10)
        assert await items_of(store) == [*range(3, 12), 51]

    with_store(view, work)


def test_what_is_taken_back_is_gone(view):
    async def work(store: Store) -> None:
        await store.add([did(1, 100), did(1, 200), did(2, 300), did(11, 400)], KEEP)
        assert await store.remove("a", 1, 200) == 1
        assert await items_of(store) == [1, 2, 11]
        assert await store.remove("a", 1, None) == 1
        assert await store.remove("a", 1, None) == 0
        assert await items_of(store) == [2, 11]
        assert (await store.add([did(1, 100)], KEEP)).stored == 1  # it may be done again

    with_store(view, work)


def test_who_is_forgotten_is_forgotten_alone(view):
    async def work(store: Store) -> None:
        await store.add([did(1, 100), did(2, 200, id="x"), did(1, 100, user="b")], KEEP)
        await store.show([Impression("r", "a", 1, 100), Impression("r", "b", 1, 100)], DAY * 40_000)
        assert await store.forget("a") == 2
        assert await store.forget("a") == 0
        assert await store.history("a") == []
        assert await store.shown("a", 0) == {}
        assert await items_of(store, "b") == [1]
        assert await store.shown("b", 0) == {1: 1}

    with_store(view, work)


def test_nothing_of_who_is_forgotten_is_left_in_the_files(tmp_path):
    view = SqliteStore(kind="sqlite", path=f"{tmp_path}/state.sqlite")
    name = "somebody-with-a-name"

    async def work(store: Store) -> None:
        await store.add([did(item, 100 + item, user=name) for item in range(300)], KEEP)
        assert any(name.encode() in path.read_bytes() for path in tmp_path.iterdir())
        await store.forget(name)
        assert not any(name.encode() in path.read_bytes() for path in tmp_path.iterdir())

    with_store(view, work)


def test_nothing_of_who_is_forgotten_is_left_in_redis(redis_port):
    view = RedisStore(kind="redis", url=f"redis://127.0.0.1:{redis_port}/0", prefix="forgotten:")

    async def work(store: Store) -> None:
        await store.add([did(1, 100)], KEEP)
        await store.show([Impression("r:1", "a", 1, 100)], DAY * 40_000)
        await store.forget("a")
        assert await store._redis.keys("forgotten:*") == []  # type: ignore[attr-defined]

    with_store(view, work)


def test_items_are_registered_up_to_a_bound_and_withdrawn(view):
    async def work(store: Store) -> None:
        one, two = NewItem(1, "One", ("Drama", "War"), 2001), NewItem(2, "Two", (), None)
        assert await store.register([two, one], 2)
        assert await store.items() == [one, two]
        assert not await store.register([NewItem(3, "Three", (), None)], 2)
        assert await store.register([NewItem(1, "Uno", (), 2002)], 2)  # a change is no new one
        assert (await store.items())[0] == NewItem(1, "Uno", (), 2002)
        assert await store.withdraw(1)
        assert not await store.withdraw(1)
        assert await store.items() == [two]

    with_store(view, work)


def test_impressions_and_clicks_count_once_and_clicks_only_on_what_was_shown(view):
    async def work(store: Store) -> None:
        await store.register([NewItem(1, "One", (), None)], 10)
        keep = DAY * 40_000
        assert await store.show([Impression("r", "a", 1, 100), Impression("r", "a", 5, 100)], keep) == 2
        assert await store.show([Impression("r", "a", 1, 300), Impression("s", "a", 1, 300)], keep) == 1
        await store.add([did(1, 400, request="r"), did(1, 500, request="r")], KEEP)  # the same click
        await store.add([did(1, 600, request="never"), did(1, 600, user="b", request="s")], KEEP)
        assert await store.items() == [NewItem(1, "One", (), None, shown=2, clicked=1)]
        assert await store.shown("a", 0) == {1: 2, 5: 1}
        assert await store.shown("a", 200) == {1: 1}

    with_store(view, work)


def test_old_impressions_go(view):
    async def work(store: Store) -> None:
        await store.show([Impression("r", "a", 1, 100)], DAY * 40_000)
        await store.show([Impression("s", "a", 2, 4_000_000_000_000)], DAY)
        assert await store.shown("a", 0) == {2: 1}

    with_store(view, work)


def test_writes_at_the_same_time_are_all_kept(view):
    async def run() -> None:
        async with stores(view, 3) as found:
            added = await asyncio.gather(
                *(found[item % 3].add([did(item, 1000 + item)], KEEP) for item in range(150)),
                *(found[item % 3].add([did(item, 1000 + item)], KEEP) for item in range(150)),
            )
            assert sum(one.stored for one in added) == 150
            assert await items_of(found[0]) == list(range(150))

    asyncio.run(run())


def test_one_write_that_cannot_be_does_not_take_others_with_it(tmp_path):
    async def work(store: Store) -> None:
        too_large = Interaction("a", 2**70, 100)  # what a check further out is to refuse
        outcomes = await asyncio.gather(
            store.add([did(1, 100)], KEEP),
            store.add([did(2, 200), too_large], KEEP),
            store.add([did(3, 300)], KEEP),
            return_exceptions=True,
        )
        assert isinstance(outcomes[1], OverflowError)
        assert await items_of(store) == [1, 3]  # all of the second or nothing

    with_store(SqliteStore(kind="sqlite", path=f"{tmp_path}/state.sqlite"), work)


def test_a_file_that_somebody_else_holds_is_waited_for_and_then_given_up(tmp_path):
    view = SqliteStore(kind="sqlite", path=f"{tmp_path}/state.sqlite", patience="1s")

    async def work(store: Store) -> None:
        await store.add([did(1, 100)], KEEP)
        other = sqlite3.connect(view.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreDownError):
            await store.add([did(2, 200)], KEEP)
        assert await items_of(store) == [1]  # reads go on
        other.execute("ROLLBACK")
        other.close()
        await store.add([did(3, 300)], KEEP)
        assert (await items_of(store))[-1] == 3

    with_store(view, work)


def test_a_file_that_is_no_store_is_refused(tmp_path):
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"not a database, " * 100)
    with pytest.raises(PenstockError, match="cannot be used"):
        with_store(SqliteStore(kind="sqlite", path=str(path)), lambda _: asyncio.sleep(0))


def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "state.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(PenstockError, match="version 99"):
        with_store(SqliteStore(kind="sqlite", path=str(path)), lambda _: asyncio.sleep(0))


def test_a_redis_that_does_not_answer_is_refused_at_the_start(tmp_path):
    view = RedisStore(kind="redis", url=f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(PenstockError, match=r"store\.url"):
        with_store(view, lambda _: asyncio.sleep(0))


def test_a_redis_that_goes_and_comes_back_has_kept_what_it_acknowledged(tmp_path):
    async def run() -> None:
        with redis_server(tmp_path) as (port, process):
            view = RedisStore(kind="redis", url=f"redis://127.0.0.1:{port}/0", patience="2s")
            store = await open_store(view)
            await store.add([did(1, 100)], KEEP)
            process.kill()
            process.wait()
            with pytest.raises(StoreDownError):
                await store.history("a")
            with pytest.raises(StoreDownError):
                await store.add([did(2, 200)], KEEP)
            with redis_server(tmp_path, port):
                assert await items_of(store) == [1]
                await store.add([did(3, 300)], KEEP)
                assert await items_of(store) == [1, 3]
                await store.close()

    asyncio.run(run())
