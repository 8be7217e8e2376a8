"""ingest: what fits becomes typed Parquet, what does not is kept with its reason, and both are counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from penstock.console import USER_ERROR, run_stage
from penstock.contract import QUARANTINE_SCHEMA
from penstock.errors import PenstockError
from stages import ingest

Project = Callable[..., Path]
CSV = """id,a,c,t
1,0.5,x,yes
2,abc,x,no
3,1.5,z,no
4,2.5,,yes
5,3.5,x
3,4.5,x,no
"""
CONTRACT = {
    "max_quarantine_share": 0.7,
    "columns": {
        "t": {"type": "category", "values": ["yes", "no"]},
        "a": {"type": "number", "min": 0},
        "c": {"type": "category", "values": ["x", "y"], "nullable": True},
        "id": {"type": "integer", "unique": True},
    },
}
OUTPUTS = ("data/raw/toy.parquet", "data/quarantine/toy.parquet", "reports/toy/ingest.json", "reports/toy/contract.json")  # fmt: skip


def test_every_row_is_either_good_or_in_quarantine(project: Project) -> None:
    folder = project(contract=CONTRACT)
    (folder / "toy.csv").write_text(CSV)
    ingest.main("toy")
    raw = pl.read_parquet(folder / "data/raw/toy.parquet")
    # The second row 3 is no repetition: the first one is not good.
    assert raw.select("id", "a", "c", "t").rows() == [
        (1, 0.5, "x", "yes"),
        (4, 2.5, None, "yes"),
        (3, 4.5, "x", "no"),
    ]
    assert dict(raw.schema) == {"t": pl.String, "a": pl.Float64, "c": pl.String, "id": pl.Int64}
    quarantine = pl.read_parquet(folder / "data/quarantine/toy.parquet")
    assert quarantine.schema == QUARANTINE_SCHEMA
    assert quarantine.select("source", "position", "reason").rows() == [
        ("toy.csv", 1, "a: expected number, found 'abc'"),
        ("toy.csv", 2, "c: expected one of x, y, found 'z'"),
        ("toy.csv", 4, "line: expected 4 fields, found 3"),
    ]
    assert json.loads((folder / "reports/toy/ingest.json").read_text()) == {
        "rows": 3,
        "quarantined": 3,
        "quarantined_share": 0.5,
        "reasons": {"a: number": 1, "c: values": 1, "line: fields": 1},
    }
    resolved = json.loads((folder / "reports/toy/contract.json").read_text())
    assert list(resolved) == raw.columns
    assert resolved["a"] == {
        "type": "number",
        "nullable": False,
        "min": 0.0,
        "max": None,
        "values": None,
        "unique": False,
    }


def test_too_many_bad_rows_fail_the_stage_and_are_there_to_look_at(project: Project) -> None:
    folder = project(contract=CONTRACT | {"max_quarantine_share": 0.4})
    (folder / "toy.csv").write_text(CSV)
    with pytest.raises(PenstockError, match=r"3 of 6 rows \(50\.00%\)(?s:.*)data/quarantine/toy\.parquet"):
        ingest.main("toy")
    assert pl.read_parquet(folder / "data/quarantine/toy.parquet").height == 3
    assert not (folder / "data/raw").exists()


def test_the_stage_ends_with_exit_code_2_and_names_the_worst_reasons(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(contract=CONTRACT | {"max_quarantine_share": 0.4})
    (folder / "toy.csv").write_text(CSV)
    monkeypatch.setattr("sys.argv", ["ingest", "toy"])
    with pytest.raises(SystemExit) as ended:
        run_stage("ingest", ingest.main)
    assert (ended.value.code, USER_ERROR) == (2, 2)
    said = capsys.readouterr().err
    for rule in ("1 × a: number", "1 × c: values", "1 × line: fields", "data/quarantine/toy.parquet"):
        assert rule in said


def test_without_a_contract_the_types_are_those_found(project: Project) -> None:
    folder = project()
    (folder / "toy.csv").write_text("a,c,day,t\n1,x,2024-01-01,0.5\n2,,2024-01-02,1\n")
    ingest.main("toy")
    schema = pl.read_parquet_schema(folder / "data/raw/toy.parquet")
    assert schema == {"a": pl.Int64, "c": pl.String, "day": pl.Date, "t": pl.Float64}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,target\n1,yes\n", r"task\.target: there is no column 't'"),
        ("a,t\n,yes\n", r"toy\.csv: the column 'a' has no value at all"),
        ("", r"toy\.csv: the file is empty"),
    ],
)
def test_what_cannot_be_used_is_refused(project: Project, content: str, says: str) -> None:
    (project() / "toy.csv").write_text(content)
    with pytest.raises(PenstockError, match=says):
        ingest.main("toy")


def test_the_same_file_gives_the_same_bytes(project: Project) -> None:
    folder = project(contract=CONTRACT)
    (folder / "toy.csv").write_text(CSV)
    ingest.main("toy")
    first = {name: (folder / name).read_bytes() for name in OUTPUTS}
    ingest.main("toy")
    assert {name: (folder / name).read_bytes() for name in OUTPUTS} == first
