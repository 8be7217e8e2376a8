"""Reading a run: text stays text, and what is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import PenstockError
from penstock.report.run import Curves, read, read_table


def test_a_category_that_looks_like_a_number_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "slices.csv"
    path.write_text('column,value,roc_auc\n"",all,0.8\nk,"1,5\n""x""",\nk,007,1\n')
    assert read_table(path) == [
        {"column": "", "value": "all", "roc_auc": "0.8"},
        {"column": "k", "value": '1,5\n"x"', "roc_auc": ""},
        {"column": "k", "value": "007", "roc_auc": "1"},
    ]


@pytest.mark.parametrize(("text", "rows"), [("", []), ("a,b\n", [])])
def test_a_table_without_rows(tmp_path: Path, text: str, rows: list[dict[str, str]]) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert read_table(tmp_path / "x.csv") == rows


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(PenstockError, match=r"x\.csv: record 3: expected 2 values, found 1"):
        read_table(tmp_path / "x.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PenstockError, match=r"manifest\.json: there is no such file"):
        read(tmp_path, tmp_path / "manifest.json")


def test_points_skip_what_has_no_value() -> None:
    curves = Curves({"roc": [{"fpr": "", "tpr": "1"}, {"fpr": "0.5", "tpr": "1"}]})
    assert curves.points("roc", "fpr", "tpr") == [(0.5, 1.0)]
    assert curves.points("gain", "share", "gain") == []
    assert curves.classes("roc") == []
