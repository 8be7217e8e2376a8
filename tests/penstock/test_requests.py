"""The request log: what is put in comes back, whatever the format, and never at the cost of whoever puts it in."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from penstock import requests
from penstock.config.serving import FileLog, KafkaLog
from penstock.errors import PenstockError
from penstock.request_reading import files, scan, scan_truths
from penstock.requests import REQUEST_ID, RequestsOfOne, Truths, new_request_id, open_requests
from tests.servers.programs import until

NOON = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)


def nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**9


def one(number: int = 0, moment: datetime = NOON, **changes) -> RequestsOfOne:
    inputs = [
        {"age": number, "town": "Ulm", "income": None},
        {"age": number + 1, "town": None, "income": 1.5},
    ]
    outputs = [{"label": "a", "probability": 0.25}, {"label": "b", "probability": 0.75}]
    return RequestsOfOne(
        **{
            "time": nanoseconds(moment),
            "request": f"r{number}",
            "model": "toy",
            "version": "0" * 12,
            "inputs": lambda: inputs,
            "outputs": lambda: outputs,
            "latency_ms": 1.5,
        }
        | changes
    )


class Counts(dict):
    def __call__(self, outcome: str, count: int) -> None:
        self[outcome] = self.get(outcome, 0) + count


def log(folder, counts=None, **settings):
    view = FileLog.model_validate({"kind": "files", "folder": str(folder)} | settings)
    found = open_requests(view, counts if counts is not None else Counts())
    assert found is not None
    return found


@pytest.fixture(params=["parquet", "jsonl.gz"])
def suffix(request, monkeypatch) -> str:
    if request.param == "jsonl.gz":
        monkeypatch.setattr(requests, "find_spec", lambda _: None)  # as where polars is not installed
    return request.param


def test_what_is_logged_is_read_back(tmp_path, suffix):
    counts = Counts()
    found = log(tmp_path, counts)
    for number in range(10):
        found.put(2, one(number, NOON + timedelta(minutes=10 * number)))
    found.put(2, one(99, outputs=None, status="late", arm="b", role="shadow", propensity=0.5))
    found.close()
    assert counts == {"written": 22}
    assert all(path.name.endswith(suffix) for path in tmp_path.rglob("*.*") if path.is_file())
    assert {path.name for path in (tmp_path / "toy").iterdir()} == {
        "hour=2026-03-04T12",
        "hour=2026-03-04T13",
        "hour=2026-03-04T14",
    }
    table = scan(tmp_path, "toy").collect().sort("time", "request", "row")
    assert table.height == 22
    late = table.filter(pl.col("request") == "r99").row(0, named=True)
    assert (late["outputs"] or {}).get("label") is None
    assert (late["status"], late["arm"], late["role"], late["propensity"]) == ("late", "b", "shadow", 0.5)
    second = table.filter(pl.col("request") == "r3").row(1, named=True)
    assert second["inputs"] == {"age": 4, "town": None, "income": 1.5}
    assert second["outputs"] == {"label": "b", "probability": 0.75}
    assert second["user"] is None
    part = scan(tmp_path, "toy", since=NOON + timedelta(minutes=20), until=NOON + timedelta(minutes=50))
    assert sorted(part.collect()["request"].unique()) == ["r2", "r3", "r4"]


def test_files_of_both_formats_are_one_table(tmp_path, monkeypatch):
    first = log(tmp_path)
    first.put(2, one(1))
    first.close()
    monkeypatch.setattr(requests, "find_spec", lambda _: None)
    second = log(tmp_path)
    second.put(2, one(2, inputs=lambda: [{"age": 1.5, "new": "x"}] * 2))
    second.close()
    assert len(files(tmp_path, "toy")) == 2
    table = scan(tmp_path, "toy").collect().sort("request", "row")
    assert table["inputs"].struct.field("age").to_list() == [1.0, 2.0, 1.5, 1.5]
    assert table["inputs"].struct.field("new").to_list() == [None, None, "x", "x"]


def test_nobody_waits_for_a_log_that_does_not_get_on(tmp_path):
    """As a cause: a record that is not given until it is let go."""
    counts, go = Counts(), threading.Event()
    found = log(tmp_path, counts, pending=1000)
    found.put(1, one(inputs=lambda: go.wait() and [{}], outputs=None))
    began = time.perf_counter()
    put = [found.put(2, one(number)) for number in range(5000)]
    assert time.perf_counter() - began < 5
    assert 400 <= sum(put) < 600
    assert counts["dropped"] == 2 * put.count(False)
    go.set()
    found.close()
    assert counts["written"] == 1 + 2 * sum(put)


def test_a_folder_that_cannot_be_written_is_tried_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(requests, "AGAIN", 0.1)
    (tmp_path / "toy").write_text("in the way")
    counts = Counts()
    found = log(tmp_path, counts, every="0s")
    found.put(2, one())
    until(lambda: "it is tried again" in capsys.readouterr().err, "a failure that is told")
    assert not counts
    (tmp_path / "toy").unlink()
    until(lambda: counts == {"written": 2}, "another try")
    found.close()


def test_a_file_has_no_more_rows_than_declared_and_waits_no_longer(tmp_path):
    found = log(tmp_path, rows=10)
    for number in range(50):
        found.put(2, one(number))
    until(lambda: len(files(tmp_path, "toy")) >= 5, "full files")
    found.close()
    assert scan(tmp_path, "toy").collect().height == 100


def test_personal_data_are_hashed_by_a_key(tmp_path, monkeypatch):
    monkeypatch.setenv("PEPPER", "secret")
    found = log(tmp_path, pii=["town"], hash_key="PEPPER")
    found.put(2, one(user="ann"))
    found.close()

    def hashed(text: str) -> str:
        return hmac.new(b"secret", text.encode(), hashlib.sha256).hexdigest()

    table = scan(tmp_path, "toy").collect().sort("row")
    assert table["user"].to_list() == [hashed("ann")] * 2
    assert table["inputs"].struct.field("town").to_list() == [hashed("Ulm"), None]


def test_without_a_key_users_are_left_out_and_columns_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("PENSTOCK_HASH_KEY", raising=False)
    found = log(tmp_path)
    found.put(2, one(user="ann"))
    found.close()
    assert scan(tmp_path, "toy").collect()["user"].null_count() == 2
    with pytest.raises(PenstockError, match="PENSTOCK_HASH_KEY is not set"):
        log(tmp_path, pii=["town"])


def test_the_same_requests_are_in_everyones_sample(tmp_path):
    first, second = log(tmp_path / "a", sample=0.3), log(tmp_path / "b", sample=0.3)
    chosen = [number for number in range(2000) if first.sampled(f"r{number}")]
    assert chosen == [number for number in range(2000) if second.sampled(f"r{number}")]
    assert 500 < len(chosen) < 700
    first.close()
    second.close()


def test_ids_are_unlike_each_other_and_may_be_sent():
    ids = {new_request_id() for _ in range(10_000)}
    assert len(ids) == 10_000
    assert all(REQUEST_ID.fullmatch(each) for each in ids)


def test_truths_are_read_back(tmp_path):
    counts = Counts()
    found = Truths(tmp_path, counts)
    found.put("toy", "r1", 0, "yes", reward=1.0)
    found.put("toy", "r2", 1, "no")
    found.close()
    table = scan_truths(tmp_path, "toy").collect().sort("request")
    assert table.select("request", "row", "truth", "reward").rows() == [
        ("r1", 0, "yes", 1.0),
        ("r2", 1, "no", None),
    ]
    assert counts == {"written": 2}


def test_no_records_are_told_in_words(tmp_path):
    with pytest.raises(PenstockError, match="there are no records"):
        scan(tmp_path, "toy")


def test_records_go_to_a_topic():
    """librdkafka's own cluster of stand-ins, which is enough to take messages and give them back."""
    settings = {"test.mock.num.brokers": "1"}
    counts = Counts()
    view = KafkaLog.model_validate({"kind": "kafka", "bootstrap": "x:1", "settings": settings})
    found = open_requests(view, counts)
    assert found is not None
    found.put(2, one(1))
    found.close()
    assert counts == {"written": 2}
