"""Windows and lake between a real log and where they are kept."""

from __future__ import annotations

import asyncio
import contextlib
import time

import polars as pl
import pytest

from penstock.config.streaming import Stream
from penstock.errors import PenstockError
from penstock.stream.lake import Lake, compact, frame
from penstock.stream.log import Record, open_log
from penstock.stream.messages import identity
from penstock.stream.store import open_store
from penstock.stream.windower import Windower
from penstock.stream.writing import Metrics

SECOND = 1_000_000_000
NOW = 1_795_000_000 * SECOND


def view(tmp_path, **lake) -> Stream:
    return Stream.model_validate(
        {
            "log": {
                "kind": "jetstream",
                "folder": str(tmp_path / "log"),
                "readings": {"name": "readings", "partitions": 2},
            },
            "store": {"kind": "duckdb", "path": str(tmp_path / "r.duckdb"), "retention": None},
            "lake": {"path": str(tmp_path / "lake"), "file_age": "PT0.2S", **lake},
            "indexer": {"backoff": "PT0.02S", "windows": {"idle": "PT0.5S"}},
        }
    )


def message(number: int, device: str = "d", start: int = NOW) -> bytes:
    import orjson

    payload = []
    for at in range(50):
        moment = start + number * SECOND + at * SECOND // 50
        payload.append({"name": "gyroscope", "time": moment, "values": {"x": at, "y": 0.5, "z": -1}})
    payload.append(
        {"name": "battery", "time": moment, "values": {"level": 0.5, "state": "full"}, "accuracy": 3}
    )
    return orjson.dumps({"messageId": number, "sessionId": "s", "deviceId": device, "payload": payload})


async def until(true) -> None:
    ends = time.monotonic() + 20
    while not await true():
        assert time.monotonic() < ends, "it has not come to be"
        await asyncio.sleep(0.02)


async def push(log, values, device="d") -> None:
    for value in values:
        await log.append("readings", device.encode(), value, {"received": b"%d" % NOW})


def run(body) -> None:
    asyncio.run(asyncio.wait_for(body, 60))


@contextlib.asynccontextmanager
async def running(member):
    stop = asyncio.Event()
    task = asyncio.create_task(member.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


def test_windows_are_stored_and_what_is_not_final_is_read_again(tmp_path):
    settings = view(tmp_path)

    async def body() -> None:
        async with open_log(settings.log) as log, open_store(settings.store) as store:
            await push(log, [message(n) for n in range(9)])
            metrics = Metrics()
            async with running(Windower(settings, log, store, metrics)):
                await until(lambda: counts(store, 3))
            # It has ended before the device was quiet for long: another takes its windows up, whole.
            await push(log, [message(n) for n in range(9, 12)])
            async with running(Windower(settings, log, store, metrics)):
                await until(lambda: counts(store, 5))
                await until(lambda: no_lag(metrics))
            found = await store.newest("windows", device="d", since=0, limit=99)
            assert [row["readings"] for row in found] == [200] * 5
            assert [row["start"] for row in found] == [NOW + at * SECOND for at in (8, 6, 4, 2, 0)]

    async def counts(store, windows) -> bool:
        return await store.count("windows") >= windows

    async def no_lag(metrics) -> bool:
        samples = [s for m in metrics.windows_lag.collect() for s in m.samples]
        return bool(samples) and not sum(s.value for s in samples)

    run(body())


def lake_rows(settings: Stream) -> pl.DataFrame:
    return pl.scan_parquet(f"{settings.lake.path}/**/*.parquet").collect()


async def laid(metrics: Metrics, readings: int) -> bool:
    return metrics.lake._value.get() >= readings


def test_the_lake_has_each_reading_once_in_the_folder_of_its_hour(tmp_path):
    settings = view(tmp_path)

    async def body() -> None:
        async with open_log(settings.log) as log:
            metrics = Metrics()
            late = message(0, "e", NOW + 3600 * SECOND)
            await push(log, [message(n) for n in range(4)] + [message(2)])
            await push(log, [late], "e")
            async with running(Lake(settings, log, metrics)):
                await until(lambda: laid(metrics, 5 * 51))
            # The same message long after, in another file.
            await push(log, [message(1), message(9)])
            async with running(Lake(settings, log, metrics)):
                await until(lambda: laid(metrics, 6 * 51))

    run(body())
    rows = lake_rows(settings)
    wanted = {f"{identity('d', 's', n)}-{i}" for n in (0, 1, 2, 3, 9) for i in range(51)}
    wanted |= {f"{identity('e', 's', 0)}-{i}" for i in range(51)}
    assert rows.height == len(wanted)
    assert set(rows["id"]) == wanted
    moments = rows.select(pl.col("time").dt.strftime("%Y-%m-%d/%H").alias("of"), "date", "hour")
    assert (moments["of"] == moments["date"] + "/" + moments["hour"].cast(pl.String).str.zfill(2)).all()
    folders = {path.parent.name for path in (tmp_path / "lake").rglob("*.parquet")}
    assert folders == {f"hour={hour}" for hour in set(rows["hour"])}
    assert len(folders) == 2


def test_files_are_put_together_and_say_the_same(tmp_path):
    settings = view(tmp_path, file_age="PT0.05S")

    async def body() -> None:
        async with open_log(settings.log) as log:
            metrics = Metrics()
            async with running(Lake(settings, log, metrics)):
                for number in range(4):
                    await push(log, [message(number)])
                    await until(lambda number=number: laid(metrics, (number + 1) * 51))
                with pytest.raises(PenstockError, match="there is no lake"):
                    compact(settings.lake.model_copy(update={"path": str(tmp_path / "elsewhere")}))
                assert compact(settings.lake) == {}  # its writer has it
            before = lake_rows(settings).sort("id")
            assert len(list((tmp_path / "lake").rglob("*.parquet"))) == 4
            assert sum(compact(settings.lake).values()) == 3
            assert lake_rows(settings).sort("id").equals(before)
            # And it goes on from there.
            async with running(Lake(settings, log, metrics)):
                await push(log, [message(3), message(7)])
                await until(lambda: laid(metrics, 5 * 51))
            assert lake_rows(settings).height == 5 * 51

    run(body())


def test_a_log_that_begins_anew_is_not_taken_for_what_was_there(tmp_path, capsys):
    settings = view(tmp_path)

    async def body(*values: bytes) -> None:
        async with open_log(settings.log) as log:
            metrics = Metrics()
            await push(log, values)
            async with running(Lake(settings, log, metrics)):
                await until(lambda: laid(metrics, 51))

    run(body(message(0)))
    other = settings.model_copy(
        update={"log": settings.log.model_copy(update={"folder": str(tmp_path / "another")})}
    )
    settings = other
    run(body(message(1)))
    assert lake_rows(settings).height == 2 * 51
    assert "begins anew" in capsys.readouterr().err


def test_a_row_says_what_the_reading_said():
    record = Record(1, 7, b"d", message(3), {"received": b"%d" % NOW}, 5)
    broken = Record(1, 8, b"d", b"{", {}, 5)
    rows = frame([record, broken])
    assert rows.height == 51
    first, last = rows.row(0, named=True), rows.row(50, named=True)
    assert (first["sensor"], first["x"], first["y"], first["z"], first["values"]) == (
        "gyroscope",
        0.0,
        0.5,
        -1.0,
        None,
    )
    assert (last["sensor"], last["x"], last["accuracy"]) == ("battery", None, 3.0)
    assert last["values"] == '{"level":0.5,"state":"full"}'
    assert rows["time"].to_physical().to_list()[1] == NOW + 3 * SECOND + SECOND // 50
