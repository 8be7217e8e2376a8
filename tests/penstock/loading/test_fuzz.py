"""Whatever lies in a file, every row is in the table as it was meant, or in quarantine with its true reason."""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from datetime import datetime
from pathlib import Path

import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.config.loading import Load
from penstock.loading.load import Folders, run

CONTRACT = {
    "max_quarantine_share": 1.0,
    "columns": {
        "id": {"type": "integer", "min": 0},
        "n": {"type": "number", "nullable": True},
        "day": {"type": "date", "nullable": True},
        "note": {"type": "text", "nullable": True},
    },
}
IDS = st.one_of(
    st.integers(0, 5).map(str),
    st.sampled_from(["-1", "x", "", "3.0", " 4 ", "9223372036854775808", "1e3", "0x10"]),
)
NUMBERS = st.sampled_from(["1", "-2.5", "", "NaN", "inf", "-inf", "1e400", "1,5", "one", " 7 ", "١"])
DAYS = st.sampled_from(
    [
        "2024-02-29",
        "2023-02-29",
        "29.02.2024",
        "2024-02-29T00:00:00",
        "20240229",
        "",
        "Feb 29 2024",
        "2024-2-9",
    ]
)
NOTES = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=8
)
ROWS = st.lists(st.tuples(IDS, NUMBERS, DAYS, NOTES), max_size=12)


def integer(text):
    """The integer that a text means, by Python's own numbers; None if it means none."""
    try:
        return int(text.strip()) if -(2**63) <= int(text.strip()) < 2**63 else None
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value == int(value) and abs(value) < 2**63 else None


def fits(row):
    """Whether a row keeps the contract, told without any of what is tested."""
    key, number, day, _ = row
    if integer(key) is None or integer(key) < 0:
        return False
    if number.strip() and number.isascii():
        try:
            if not math.isfinite(float(number)):
                return False
        except ValueError:
            return False
    elif number.strip():
        return False
    try:
        return not day or bool(datetime.strptime(day, "%Y-%m-%d"))
    except ValueError:
        return False


def loaded(folder, name, content, **others):
    (folder / name).write_bytes(content)
    load = Load.model_validate(
        {
            "source": {"kind": "files", "path": f"{folder}/{name}"},
            "destination": {"kind": "parquet", "path": f"{folder}/lake"},
            "contract": CONTRACT,
            **others,
        }
    )
    report = run("fuzz", load, Folders.of("fuzz", folder))
    lake = sorted((folder / "lake").glob("**/*.parquet"))
    rows = pl.concat([pl.read_parquet(path) for path in lake]) if lake else pl.DataFrame()
    paths = sorted((folder / "data/quarantine/loads/fuzz").glob("*.parquet"))
    bad = pl.concat([pl.read_parquet(path) for path in paths]) if paths else pl.DataFrame()
    return report, rows, bad


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, size=st.integers(1, 13))
def test_csv(rows, size):
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["id", "n", "day", "note"])
    writer.writerows(rows)
    with tempfile.TemporaryDirectory() as folder:
        report, good, bad = loaded(Path(folder), "in.csv", out.getvalue().encode(), batch_rows=size)
    assert report.read == len(rows)
    assert report.added + report.quarantined == len(rows)
    expected = {number for number, row in enumerate(rows) if fits(row)}
    assert set(good["_position"].to_list() if good.width else []) == expected
    assert set(bad["position"].to_list() if bad.width else []) == set(range(len(rows))) - expected
    for found in good.iter_rows(named=True):
        key, number, day, note = rows[found["_position"]]
        assert found["id"] == integer(key)
        wanted = float(number) if number.strip() else None
        assert found["n"] == wanted
        assert found["day"] == (datetime.strptime(day, "%Y-%m-%d").date() if day else None)
        assert (found["note"] or "") == note
    for found in bad.iter_rows(named=True):
        key, number, day, _ = rows[found["position"]]
        named = {part.split(":")[0] for part in found["reason"].split("; ")}
        assert named <= {"id", "n", "day"}
        # What it says of a column is about the value that is there.
        assert (
            any(value and f"'{value}'" in found["reason"] for value in (key, number, day))
            or "found none" in found["reason"]
        )


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([2**63, 1.5, "3", "x", "", [1], {"a": 1}]),
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    # Objects alone would be another table, one without a column `id`.
    values=st.lists(st.one_of(VALUES, st.just("cut")), max_size=10).filter(
        lambda values: not values or any(value != "cut" and not isinstance(value, dict) for value in values)
    ),
    size=st.integers(1, 11),
)
def test_json_lines(values, size):
    lines = [
        b'{"id": 1, "no'
        if value == "cut"
        else json.dumps({"id": value, "n": None, "day": None, "note": None}).encode()
        for value in values
    ]
    with tempfile.TemporaryDirectory() as folder:
        report, good, bad = loaded(
            Path(folder), "in.jsonl", b"".join(line + b"\n" for line in lines), batch_rows=size
        )
    assert report.read == len(values) == report.added + report.quarantined
    places = sorted(
        [
            *(good["_position"].to_list() if good.width else []),
            *(bad["position"].to_list() if bad.width else []),
        ]
    )
    assert places == list(range(len(values)))
    for found in good.iter_rows(named=True):
        value = values[found["_position"]]
        assert found["id"] == int(value)
    for found in bad.iter_rows(named=True):
        value = values[found["position"]]
        sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
        assert not sound, found


def test_times_with_zones_of_all_kinds():
    texts = [
        "2024-01-01T00:00:00Z",
        "2024-01-01T01:00:00+01:00",
        "2024-01-01 00:00:00",
        "2023-12-31T19:00-05:00",
        "2024-01-01",
    ]
    with tempfile.TemporaryDirectory() as folder:
        content = "\n".join(["at", *texts, "01/02/2024"]).encode() + b"\n"
        contract = {"max_quarantine_share": 1.0, "columns": {"at": {"type": "datetime"}}}
        _, good, bad = loaded(Path(folder), "in.csv", content, contract=contract)
    assert {value.replace(tzinfo=None) for value in good["at"]} == {datetime(2024, 1, 1)}
    assert good.height == len(texts)
    assert bad["reason"].to_list() == ["at: expected datetime, found '01/02/2024'"]
