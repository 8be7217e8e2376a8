"""Tables in an object store: the same acts, with objects for files."""

from __future__ import annotations

from datetime import timedelta

import fsspec
import polars as pl
import pytest

from penstock.config.loading import DeltaDestination, ParquetDestination
from penstock.errors import PenstockError
from penstock.loading.destinations import open_table, places
from tests.penstock.loading.destinations.conftest import (
    MOMENT,
    Oracle,
    plan_of,
    rows_of,
    shown,
    state_of,
)
from tests.servers.s3 import s3

FIRST = [(number, "ab"[number % 2], float(number), 0) for number in range(6)]
SECOND = [(number, "ab"[number % 2], number + 0.5, 1) for number in range(4, 9)]


@pytest.fixture(scope="module")
def server():
    with s3("lake") as options:
        yield options


@pytest.fixture
def store(server, monkeypatch):
    monkeypatch.setenv("STORE_SECRET", server["secret"])
    return {"key": server["key"], "secret": "${secret:STORE_SECRET}", "endpoint_url": server["endpoint_url"]}


def parquet(store, name, **others):
    return ParquetDestination(kind="parquet", path=f"s3://lake/{name}", file_rows=3, options=store, **others)


def delta(store, name):
    options = {
        "AWS_ACCESS_KEY_ID": store["key"],
        "AWS_SECRET_ACCESS_KEY": store["secret"],
        "AWS_ENDPOINT_URL": store["endpoint_url"],
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }
    return DeltaDestination(kind="delta", path=f"s3://lake/{name}", options=options, fsspec=store)


def load(table, rows, number, mode):
    frame = rows_of(rows, number)
    table.stage(frame)
    moment = MOMENT + timedelta(days=number)
    done = table.commit(state_of(number), plan_of(*mode, moment))
    return frame, moment, done


@pytest.mark.parametrize(
    "mode", [("append", ("id",), None), ("merge", ("id",), "at"), ("scd2", ("id",), "at")]
)
@pytest.mark.parametrize("make", [parquet, delta])
def test_loads_give_what_the_oracle_gives(store, make, mode):
    destination = make(store, f"{make.__name__} {mode[0]}")
    oracle = Oracle(*mode)
    for number, rows in enumerate([FIRST, SECOND, FIRST], start=1):
        with open_table(destination) as table:
            assert table.state.load == number - 1
            frame, moment, done = load(table, rows, number, mode)
        assert (done.added, done.updated, done.unchanged) == oracle.load([frame], moment)
    with open_table(destination) as table:
        assert shown(table.scan().collect().to_dicts()) == oracle.shown()
        table.compact()
        assert shown(table.scan().collect().to_dicts()) == oracle.shown()
        some = table.scan().filter(pl.col("id") == 5).select("id", "value").collect()
        assert set(some["id"]) == {5}


class Ended(BaseException):
    """The process is over."""


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_ended_before_any_change_it_is_the_old_table_or_the_new_one(store, monkeypatch, kind):
    mode = ("merge", ("id",), "at")

    def made(name):
        if kind == "s3":
            return parquet(store, name)
        return ParquetDestination(
            kind="parquet", path=f"memory://lake/{name}", file_rows=3, partition_by=("part",)
        )

    def by_glob(destination):
        files, root = places.place(destination.path, dict(destination.options)).files, destination.path
        frames = []
        for path in files.glob(f"{root}/**/*.parquet"):
            with files.open(path) as file:
                frames.append(pl.read_parquet(file, hive_partitioning=False))
        return shown(pl.concat(frames).to_dicts())

    tables = {}
    for loads in (1, 2):
        destination = made(f"of {loads}")
        for number in range(1, loads + 1):
            with open_table(destination) as table:
                load(table, [FIRST, SECOND][number - 1], number, mode)
        tables[loads] = by_glob(destination)
    seen = []
    for act in range(1, 1000):
        destination = made(f"at {act}")
        with open_table(destination) as table:
            load(table, FIRST, 1, mode)
        left = [act]

        def counted(real, left=left):
            def call(*args, **others):
                left[0] -= 1
                if left[0] <= 0:
                    raise Ended
                return real(*args, **others)

            return call

        with monkeypatch.context() as patch:
            table = open_table(destination)
            files = table.place.files
            for name in ("pipe_file", "cp_file", "rm_file", "open"):
                patch.setattr(files, name, counted(getattr(files, name)))
            try:
                load(table, SECOND, 2, mode)
            except Ended:
                pass
            else:
                break
        with open_table(destination) as table:
            found = shown(table.scan().collect().to_dicts())
            assert by_glob(destination) == found == tables[table.state.load]
            seen.append(table.state.load)
    assert len(seen) > 10
    assert seen == sorted(seen)
    assert set(seen) == {1, 2}


def test_a_store_that_cannot_be_reached_is_named_without_the_secret(store):
    with pytest.raises(PenstockError, match="s3://elsewhere/orders") as caught:
        open_table(ParquetDestination(kind="parquet", path="s3://elsewhere/orders", options=store)).commit(
            state_of(1), plan_of("append", (), None, MOMENT)
        )
    assert "open sesame" not in str(caught.value)
    with pytest.raises(PenstockError, match="Protocol not known"):
        open_table(ParquetDestination(kind="parquet", path="nowhere://x/orders"))


def test_what_others_put_there_is_left_alone(store):
    files = fsspec.filesystem("memory")
    files.pipe_file("/others/mine.parquet", b"")
    with pytest.raises(PenstockError, match=r"mine\.parquet, which no load wrote"):
        open_table(ParquetDestination(kind="parquet", path="memory://others"))
