"""All or nothing, and the same bytes for the same content."""

from __future__ import annotations

import json
import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import storage
from penstock.errors import PenstockError


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_rounding_keeps_six_significant_digits(value):
    got = storage.rounded(value)
    if not math.isfinite(value):
        assert got is None
    else:
        # Half a unit of the sixth digit; subnormals have fewer digits to keep.
        assert math.isclose(got, value, rel_tol=5.1e-6, abs_tol=1e-300)
        assert storage.rounded(got) == got
        assert math.copysign(1, got) == 1 or got < 0


def test_rounding_reaches_into_everything():
    value = {
        "b": [np.float32(0.1), (1.23456789, True)],
        "a": {"n": np.int64(3), "none": None, "text": "1.23456789"},
    }
    assert storage.rounded(value) == {
        "b": [0.1, [1.23457, True]],
        "a": {"n": 3, "none": None, "text": "1.23456789"},
    }


def test_json_is_sorted_and_ends_with_a_new_line(tmp_path):
    path = tmp_path / "deep" / "x.json"
    storage.write_json(path, {"b": 1, "a": float("nan")})
    assert path.read_text() == '{\n  "a": null,\n  "b": 1\n}\n'
    assert storage.read_json(path) == {"a": None, "b": 1}


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.txt"
    storage.write_text(path, "old")

    def write_half() -> None:
        with storage.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_can_be_read_by_others(tmp_path):
    storage.write_text(tmp_path / "x", "")
    assert (tmp_path / "x").stat().st_mode & 0o444 == 0o444


def test_csv_rounds_and_parquet_does_not(tmp_path):
    frame = pl.DataFrame({"x": [1 / 3], "name": ["a"]})
    storage.write_csv(tmp_path / "x.csv", frame)
    storage.write_parquet(tmp_path / "x.parquet", frame)
    assert (tmp_path / "x.csv").read_text() == "x,name\n0.333333,a\n"
    assert storage.read_parquet(tmp_path / "x.parquet").equals(frame)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all"])
def test_a_broken_parquet_file_is_named(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(PenstockError, match=r"x\.parquet: not a readable Parquet file"):
        storage.read_parquet(path)


def test_a_truncated_parquet_file_is_named(tmp_path):
    path = tmp_path / "x.parquet"
    storage.write_parquet(path, pl.DataFrame({"x": range(1000)}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(PenstockError, match="truncated"):
        storage.read_parquet(path)


@pytest.mark.parametrize("read", [storage.read_json, storage.read_parquet])
def test_a_missing_file_is_named(tmp_path, read):
    with pytest.raises(PenstockError, match=r"gone: there is no such file\n.*dvc repro"):
        read(tmp_path / "gone")


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": 1})[:-1])
    with pytest.raises(PenstockError, match=r"x\.json: not a JSON file"):
        storage.read_json(tmp_path / "x.json")
