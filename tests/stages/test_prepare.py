"""prepare: every row with a target is in exactly one part, and what is taken out is counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from penstock.errors import PenstockError
from stages import prepare

Project = Callable[..., Path]
RAW = pl.DataFrame({"row": range(100), "t": ["yes"] * 30 + ["no"] * 68 + [None] * 2})


def prepared(folder: Path) -> dict[str, pl.DataFrame]:
    prepare.main("toy")
    return {
        part: pl.read_parquet(folder / f"data/prepared/toy/{part}.parquet") for part in ("train", "holdout")
    }


def with_raw(folder: Path, raw: pl.DataFrame) -> Path:
    (folder / "data/raw").mkdir(parents=True)
    raw.write_parquet(folder / "data/raw/toy.parquet")
    return folder


def test_rows_are_divided_and_counted(project: Project) -> None:
    folder = with_raw(project(prepare={"drop_duplicates": True}), pl.concat([RAW, RAW.head(3)]))
    parts = prepared(folder)
    assert sorted(row for part in parts.values() for row in part["row"]) == list(range(98))
    assert all(part["row"].is_sorted() for part in parts.values())
    assert json.loads((folder / "reports/toy/prepare.json").read_text()) == {
        "rows": 98,
        "duplicates_removed": 3,
        "missing_target_removed": 2,
        "train": 78,
        "holdout": 20,
        "target": {
            "train": {"no": pytest.approx(54 / 78, abs=1e-5), "yes": pytest.approx(24 / 78, abs=1e-5)},
            "holdout": {"no": 0.7, "yes": 0.3},
        },
    }


def test_the_same_table_is_divided_the_same_way(project: Project) -> None:
    folder = with_raw(project(), RAW)
    prepared(folder)
    files = sorted((folder / "data/prepared/toy").iterdir())
    first = [file.read_bytes() for file in files]
    prepared(folder)
    assert [file.read_bytes() for file in files] == first


def test_one_class_is_refused_before_anything_is_written(project: Project) -> None:
    folder = with_raw(project(), RAW.filter(pl.col("t") == "yes"))
    with pytest.raises(PenstockError, match="one class only"):
        prepare.main("toy")
    assert not (folder / "data/prepared").exists()
