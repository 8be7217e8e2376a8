"""What a run on pictures left behind, read from its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.report.run import Row, read_table
from penstock.storage import read_json

__all__ = ["PHASES", "ImagesRun", "read"]

PHASES = ("scratch", "head", "finetune")
TABLES = ("phases", "per_class", "confusion", "calibration", "corruption", "wrong", "explained")
SHEETS = ("wrong", "explained")


@dataclass(frozen=True)
class ImagesRun:
    """Everything that the page shows and the configuration does not say.

    Attributes:
        manifest: Of the artefact.
        evaluation: Figures by model: scratch, head, finetune, int8; and their differences.
        ingest, split, parity: The files of these names; empty where there is none.
        tables: Name of a table of the evaluation → rows; absent where there is no such file.
        curves: Phase → one row an epoch; absent where there is no such file.
        sheets: wrong, explained → JPEG; absent where there is no such file.
    """

    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    ingest: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    curves: dict[str, list[Row]] = field(default_factory=dict)
    sheets: dict[str, bytes] = field(default_factory=dict)


def read(reports: Path, manifest: Path) -> ImagesRun:
    """Read the files of one set of pictures.

    Args:
        reports: Its folder of reports.
        manifest: The manifest of its artefact.

    Raises:
        PenstockError: The manifest or the evaluation is missing, or a file cannot be read.
    """
    tables = {name: reports / "evaluation" / f"{name}.csv" for name in TABLES}
    curves = {phase: reports / f"{phase}_curves.csv" for phase in PHASES}
    sheets = {name: reports / f"{name}.jpg" for name in SHEETS}
    optional = {name: reports / f"{name}.json" for name in ("ingest", "split", "parity")}
    return ImagesRun(
        manifest=read_json(manifest),
        evaluation=read_json(reports / "evaluation.json"),
        tables={name: read_table(path) for name, path in tables.items() if path.is_file()},
        curves={name: read_table(path) for name, path in curves.items() if path.is_file()},
        sheets={name: path.read_bytes() for name, path in sheets.items() if path.is_file()},
        **{name: read_json(path) for name, path in optional.items() if path.is_file()},
    )
