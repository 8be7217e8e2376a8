"""report: one page out of the files of the other stages, the same bytes each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.config import Scoring
from penstock.errors import PenstockError
from penstock.storage import write_json, write_text
from penstock.validation import curves
from stages import report

Project = Callable[..., Path]
SUMMARY = {"mean": 0.75, "std": 0.01, "low": 0.7, "high": 0.8}
REPORTS: dict[str, Any] = {
    "validation": {"winner": "logistic", "roc_auc": 0.75, "roc_auc_low": 0.7, "roc_auc_high": 0.8, "threshold": 0.3},
    "evaluation": {"roc_auc": 0.7654, "f1": 0.5, "f1_default": 0.4},
    "selection": {"candidate": "logistic", "model": "logistic", "params": {"C": 0.1}, "log_target": False},
    "parity": {"rows": 40, "max_difference": 1e-7, "max_difference_single": 1e-7, "label_disagreement": 0.0, "metric_difference": 0.0},
    "ingest": {"rows": 200, "quarantined": 0, "quarantined_share": 0.0, "reasons": {}},
    "prepare": {"train": 160, "holdout": 40},
    "profile": {"rows": 200, "columns": {"a": {}, "t": {}}, "warnings": []},
    "validation/leaderboard": {
        "candidates": [{"name": "logistic", "model": "logistic", "folds": [{}] * 4, "metrics": {"roc_auc": SUMMARY}}],
        "significance": None,
    },
}  # fmt: skip
MANIFEST = {
    "sha256": "0" * 64,
    "opset": {"ai.onnx": 20},
    "inputs": [],
    "outputs": [],
    "classes": ["no", "yes"],
    "positive": "yes",
    "threshold": 0.3,
    "versions": {},
}


def write_run() -> Path:
    """What the stages before would have left in the folder of the project."""
    folder = Path("reports/toy")
    for name, content in REPORTS.items():
        write_json(folder / f"{name}.json", content)
    write_json(Path("models/toy/manifest.json"), MANIFEST)
    write_text(folder / "importance.csv", "feature,importance,std\na,0.2,0.01\n")
    score = np.linspace(0.01, 0.99, 40)
    for part in ("validation", "evaluation"):
        curves.write_all(
            folder / part,
            (score > 0.4).astype(np.int64),
            np.stack([1 - score, score], axis=1),
            classes=("no", "yes"),
            threshold=0.3,
            scoring=Scoring(metric="roc_auc"),
        )
    return folder


def test_page_is_written_and_repeats(project: Project) -> None:
    project()
    folder = write_run()
    before = {path for path in Path().rglob("*") if path.is_file()}
    report.main("toy")
    page = folder / "report.html"
    first = page.read_bytes()
    assert b"0.7654" in first
    assert b"<title>toy: the model</title>" in first
    assert {path for path in Path().rglob("*") if path.is_file()} - before == {page}
    report.main("toy")
    assert page.read_bytes() == first
    assert str(Path.cwd()).encode() not in first


def test_missing_file_is_named(project: Project) -> None:
    project()
    (write_run() / "parity.json").unlink()
    with pytest.raises(PenstockError, match=r"reports/toy/parity\.json: there is no such file"):
        report.main("toy")
    assert not Path("reports/toy/report.html").exists()
