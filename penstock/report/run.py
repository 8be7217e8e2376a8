"""What a run of the pipeline left behind about one data set, read from its files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError
from penstock.storage import read_json

__all__ = ["Curves", "Row", "Run", "read", "read_table"]

Row = dict[str, str]


@dataclass(frozen=True)
class Curves:
    """The tables of one folder, validation/ or evaluation/: name → rows, absent where there is no such file."""

    tables: dict[str, list[Row]]

    def points(self, name: str, x: str, y: str, label: str | None = None) -> list[tuple[float, float]]:
        """(x, y) of the rows that have both; of one class where ``label`` is given."""
        return [
            (float(row[x]), float(row[y]))
            for row in self.tables.get(name, [])
            if row[x] and row[y] and (label is None or row["class"] == label)
        ]

    def classes(self, name: str) -> list[str]:
        """The classes of a table that has a curve for each; empty where it has a single one."""
        return list(dict.fromkeys(row["class"] for row in self.tables.get(name, []) if "class" in row))


@dataclass(frozen=True)
class Run:
    """Everything that the page shows and the configuration does not say.

    The attributes are the files of these names; optional ones are empty where there is no such file.
    """

    manifest: dict[str, Any]
    leaderboard: dict[str, Any]
    validation: dict[str, Any]
    evaluation: dict[str, Any]
    selection: dict[str, Any]
    parity: dict[str, Any]
    ingest: dict[str, Any]
    prepare: dict[str, Any]
    profile: dict[str, Any]
    training: dict[str, Any]
    prediction: dict[str, Any]
    importance: list[Row]
    out_of_fold: Curves
    holdout: Curves


CURVES = (
    "roc",
    "precision_recall",
    "calibration",
    "gain",
    "confusion",
    "residuals",
    "predicted_actual",
    "slices",
)


def read(reports: Path, manifest: Path) -> Run:
    """Read the files of one data set.

    Args:
        reports: Its folder of reports.
        manifest: The manifest of its artefact.

    Raises:
        PenstockError: A file that every run writes is missing or cannot be read.
    """
    needed = ("validation", "evaluation", "selection", "parity", "ingest", "prepare", "profile")
    return Run(
        manifest=read_json(manifest),
        leaderboard=read_json(reports / "validation" / "leaderboard.json"),
        **{name: read_json(reports / f"{name}.json") for name in needed},
        **{name: _if_there(reports / f"{name}.json") for name in ("training", "prediction")},
        importance=read_table(reports / "importance.csv"),
        out_of_fold=_curves(reports / "validation", CURVES[:-1]),
        holdout=_curves(reports / "evaluation", CURVES),
    )


def _if_there(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(path) if path.is_file() else {}
    return found


def _curves(folder: Path, names: Sequence[str]) -> Curves:
    paths = {name: folder / f"{name}.csv" for name in names}
    return Curves({name: read_table(path) for name, path in paths.items() if path.is_file()})


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV file, every value as text: a category "1" is no number.

    Raises:
        PenstockError: The file is missing, or a row is longer or shorter than the header.
    """
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it")
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    for line, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise PenstockError(
                f"{path}: record {line}: expected {len(header)} values, found {len(row)}",
                hint="remove it and run `dvc repro`",
            )
    return [dict(zip(header, row, strict=True)) for row in rows]
