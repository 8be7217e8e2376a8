"""Somebody asks to be forgotten: of them nothing is left, of everybody else everything, and what is out of reach is said."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from penstock.config.rollout import Rollout
from penstock.config.serving.recommender import RedisStore, SqliteStore
from penstock.config.serving.requests import FileLog
from penstock.config.streaming import EmbeddedStore, LakeStore, Stream
from penstock.errors import PenstockError
from penstock.forgetting import FORGOTTEN, Logs, forget
from penstock.request_reading import files, scan, scan_truths
from penstock.requests import RequestsOfOne, Truths, open_requests
from penstock.rollout.desk import Desk
from penstock.rollout.state import Attribution, Exposure, Reward, open_store
from penstock.serving.recommender.store import Interaction
from penstock.serving.recommender.store import open_store as open_recommender_store
from penstock.stream.store import Document
from penstock.stream.store import open_store as open_stream_store
from tests.penstock.serving.recommender.recommenders import redis_server

KEY = "a long random key"
USERS = ("ada", "ben", None)


def unit(user: str) -> str:
    """As routers hash a user."""
    key = hashlib.blake2b(b"salt", digest_size=32).digest()
    return hashlib.blake2b(user.encode(), digest_size=16, key=key).hexdigest()


@pytest.fixture
def logged(tmp_path, monkeypatch) -> Logs:
    """Six requests of two users and of nobody, one of them under a number of a customer; and what came true of them."""
    monkeypatch.setenv("PENSTOCK_HASH_KEY", KEY)
    folder = tmp_path / "data/requests"
    log = open_requests(FileLog(kind="files", folder=str(folder), pii=("customer",)))
    truths = Truths(tmp_path / "data/truths")
    assert log is not None
    for number in range(6):
        row = {"age": number, "customer": "ada" if number == 5 else f"c{number}"}
        one = RequestsOfOne(
            time=int(datetime(2026, 3, 1, number % 2, tzinfo=UTC).timestamp() * 1e9),
            request=f"r{number}",
            model="toy",
            version="v",
            inputs=lambda row=row: [row],
            outputs=lambda: [{"value": 1.0}],
            latency_ms=1.0,
            user=USERS[number % 3],
        )
        assert log.put(1, one)
        assert truths.put("toy", f"r{number}", 0, "yes")
    log.close()
    truths.close()
    return Logs({Path("data/requests"): "PENSTOCK_HASH_KEY"}, (Path("data/truths"),))


def left(root: Path) -> tuple[list[str], list[str]]:
    requests = scan(root / "data/requests", "toy").collect()["request"].sort().to_list()
    return requests, scan_truths(root / "data/truths", "toy").collect()["request"].sort().to_list()


def as_json_lines(folder: Path) -> None:
    """The same log as a machine without polars writes it."""
    for path in files(folder, "toy"):
        lines = pl.read_parquet(path, hive_partitioning=False).write_ndjson()
        path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(lines.encode()))
        path.unlink()


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_their_rows_and_what_came_true_of_them_go_and_all_others_stay(logged, tmp_path, kind):
    if kind == "jsonl":
        as_json_lines(tmp_path / "data/requests")
        as_json_lines(tmp_path / "data/truths")
    before = scan(tmp_path / "data/requests", "toy").collect().sort("request")
    done = forget("ada", tmp_path, logs=logged)
    # r0 and r3 were theirs; r5 is known by the customer's number.
    assert left(tmp_path) == (["r1", "r2", "r4"], ["r1", "r2", "r4"])
    assert done.removed == {"data/requests": 3, "data/truths": 3}
    after = scan(tmp_path / "data/requests", "toy").collect().sort("request")
    assert after.equals(before.filter(pl.col("request").is_in(["r1", "r2", "r4"])))
    assert sum(forget("ada", tmp_path, logs=logged).removed.values()) == 0
    assert "ada" not in (tmp_path / FORGOTTEN).read_text()


def test_without_the_key_nobody_is_found_and_that_is_an_error(logged, tmp_path, monkeypatch):
    monkeypatch.delenv("PENSTOCK_HASH_KEY")
    with pytest.raises(PenstockError, match="PENSTOCK_HASH_KEY is not set"):
        forget("ada", tmp_path, logs=logged)
    assert len(left(tmp_path)[0]) == 6


def test_a_file_that_cannot_be_read_is_not_passed_over(logged, tmp_path):
    path = files(tmp_path / "data/requests", "toy")[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PenstockError, match="cannot be read"):
        forget("ada", tmp_path, logs=logged)


def test_a_rollout_forgets_whose_requests_they_were(logged, tmp_path):
    view = Rollout.model_validate(
        {
            "model": "toy",
            "salt": "salt",
            "arms": {"a": {"urls": ["http://127.0.0.1:1"]}},
            "strategy": {"kind": "single", "champion": "a"},
            "state": {"kind": "sqlite", "path": str(tmp_path / "state.sqlite")},
        }
    )
    units = {user: unit(user) for user in ("ada", "ben")}
    store = open_store(view)
    Desk(view, store).begin()
    store.attribute(
        [
            Attribution("r0", "a", "answer", "1.0"),  # known by the request
            Attribution("x", "a", "answer", "1.0", units["ada"]),  # known by the unit; not logged
            Attribution("r1", "a", "answer", "1.0", units["ben"]),
        ]
    )
    store.expose([Exposure("1.0", "a", unit) for unit in units.values()], enters=False)
    store.settle("r0", 0, [Reward("1.0", "a", units["ada"], 1.0, "any")])
    done = forget("ada", tmp_path, logs=Logs(logged.requests, logged.truths, (), (view,)))
    assert done.removed[str(tmp_path / "state.sqlite")] == 4
    assert [len(store.attributed(request)) for request in ("r0", "x", "r1")] == [0, 0, 1]
    store.close()
    # Nothing of them is left in the file's free pages either.
    assert units["ada"].encode() not in (tmp_path / "state.sqlite").read_bytes()
    assert units["ben"].encode() in (tmp_path / "state.sqlite").read_bytes()


def test_state_in_redis_is_forgotten_too_and_a_server_that_is_away_is_an_error(logged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with redis_server(tmp_path) as (port, process):
        url = f"redis://127.0.0.1:{port}/0"
        view = Rollout.model_validate(
            {
                "model": "toy",
                "salt": "salt",
                "arms": {"a": {"urls": ["http://127.0.0.1:1"]}},
                "strategy": {"kind": "single", "champion": "a"},
                "state": {"kind": "redis", "url": url},
            }
        )
        other = view.model_copy(update={"model": "toys"})
        stores = [open_store(each) for each in (view, other)]
        for store in stores:
            store.attribute(
                [
                    Attribution("r0", "a", "answer", "1.0"),  # known by the request
                    Attribution("x", "a", "answer", "1.0", unit("ada")),  # known by the unit; not logged
                    Attribution("r1", "a", "answer", "1.0", unit("ben")),
                ]
            )
            store.expose([Exposure("1.0", "a", unit(user)) for user in ("ada", "ben")], enters=False)
            store.settle("r0", 0, [Reward("1.0", "a", unit("ada"), 1.0, "any")])
        conf = tmp_path / "conf/recommend"
        conf.mkdir(parents=True)
        (conf / "default.yaml").write_text(f"store: {{kind: redis, url: '{url}'}}\n")

        async def histories(*added: str) -> list[int]:
            state = await open_recommender_store(RedisStore(kind="redis", url=url))
            await state.add([Interaction(user, 1, None) for user in added], 100)
            found = [len(await state.history(user)) for user in ("ada", "ben")]
            await state.close()
            return found

        assert asyncio.run(histories("ada", "ben")) == [1, 1]
        where = Logs(logged.requests, logged.truths, (), (view,))
        away = view.model_copy(
            update={"state": view.state.model_copy(update={"url": "redis://127.0.0.1:1/0"})}
        )
        with pytest.raises(PenstockError, match="rollout toy in Redis"):
            forget("ada", tmp_path, logs=Logs(logged.requests, logged.truths, (), (away,)))
        # Which requests were theirs is still known, so that whoever begins anew finds r0, which has no unit.
        done = forget("ada", tmp_path, logs=where)
        assert done.removed["rollout toy in Redis"] == 4
        assert done.removed["recommender in Redis"] > 0
        assert asyncio.run(histories()) == [0, 1]
        assert [len(stores[0].attributed(request)) for request in ("r0", "x", "r1")] == [0, 0, 1]
        assert [len(stores[1].attributed(request)) for request in ("r0", "x", "r1")] == [1, 1, 1]
        assert sum(forget("ada", tmp_path, logs=where).removed.values()) == 0
        for store in stores:
            store.close()
        process.kill()
        process.wait()
        with pytest.raises(PenstockError, match="rollout toy in Redis"):
            forget("ada", tmp_path, logs=where)


def test_a_recommender_forgets_them(tmp_path):
    path = tmp_path / "data/recommender/state.sqlite"

    async def histories(*added: str) -> list[int]:
        store = await open_recommender_store(SqliteStore(path=str(path)))
        await store.add([Interaction(user, 1, None) for user in added], 100)
        found = [len(await store.history(user)) for user in ("ada", "ben")]
        await store.close()
        return found

    assert asyncio.run(histories("ada", "ben")) == [1, 1]
    done = forget("ada", tmp_path, logs=Logs({}, ()))
    assert done.removed["data/recommender/state.sqlite"] == 1
    assert asyncio.run(histories()) == [0, 1]
    assert b"ada" not in path.read_bytes()


def documents(device: str) -> list[Document]:
    body = {
        "device": device, "session": "s", "message": 1, "sensor": "accelerometer", "values": {"x": 1.0},
        "accuracy": None, "received": 5, "lag_ms": 1.0,
    }  # fmt: skip
    return [
        Document(f"{device}-{at}", 1_772_000_000_000_000_000 + at, {**body, "index": at}, (0, at), device)
        for at in range(3)
    ]


def lay(lake: LakeStore, partition: int, devices: list[str]) -> None:
    """Readings as an indexer lays them down."""
    from penstock.loading.destinations.interface import Plan
    from penstock.stream.lake import _opened

    part = _opened(lake, partition)
    part.table.stage(
        pl.DataFrame({"date": "2026-03-01", "hour": 1, "id": devices, "device": devices, "x": 1.0})
    )
    part.table.commit(part.table.state, Plan("append"))
    part.close()


def test_readings_of_a_device_go_from_store_and_lake(tmp_path):
    stream = Stream.model_validate(
        {
            "log": {"kind": "jetstream"},
            "store": {"kind": "duckdb", "path": "readings.duckdb"},
            "lake": {"path": "lake"},
        }
    )
    absolute = EmbeddedStore(kind="duckdb", path=str(tmp_path / "readings.duckdb"))

    async def count(write: bool) -> int:
        async with open_stream_store(absolute) as store:
            if write:
                await store.write("readings", documents("hers") + documents("his"))
            return await store.count("readings")

    assert asyncio.run(count(write=True)) == 6
    lake = LakeStore(path=str(tmp_path / "lake"))
    lay(lake, 0, ["hers", "his", "hers"])
    lay(lake, 1, ["his"])
    done = forget(None, tmp_path, device="hers", streams=[stream])
    assert done.removed == {"store duckdb": 3, "lake": 2}
    assert asyncio.run(count(write=False)) == 3
    found = pl.read_parquet(f"{tmp_path}/lake/**/*.parquet")
    assert found["device"].to_list() == ["his", "his"]
    # The table is still one that an indexer goes on with.
    lay(lake, 0, ["new"])
    assert pl.read_parquet(f"{tmp_path}/lake/**/*.parquet").height == 3
    assert "each record until 7 days" in done.left["jetstream: readings"]


def test_backups_are_named_with_the_day_until_which_they_are_kept(tmp_path):
    (tmp_path / ".penstock").mkdir()
    line = {"path": "/backups/1", "until": "2026-06-01"}
    (tmp_path / ".penstock/backups.jsonl").write_text(json.dumps(line) + "\n")
    done = forget("ada", tmp_path, logs=Logs({}, ()))
    assert done.left["backup /backups/1"].startswith("until 2026-06-01")
