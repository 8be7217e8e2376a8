"""A toy project in a temporary folder: params.yaml and what the features stage would have written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from penstock.features.columns import Columns
from penstock.storage import write_json, write_parquet

ROWS = 200


def _frame(kind: str) -> pl.DataFrame:
    draws = np.random.default_rng(0)
    a, b = draws.normal(size=(2, ROWS))
    c = draws.choice(["", "x", "y"], ROWS)
    signal = 3 * a + (c == "x") + draws.normal(size=ROWS)
    target = (
        pl.Series("t", np.exp(signal / 4))
        if kind == "regression"
        else pl.Series("t", np.where(signal > 1, "yes", "no"))
    )
    return pl.DataFrame({"a": a.astype(np.float32), "b": b.astype(np.float32), "c": c}).with_columns(target)


def _parameters(kind: str) -> dict[str, Any]:
    words = dict.fromkeys(("title", "description", "source", "licence", "intended_use", "caveats"), "toy")
    return {
        "card": words,
        "task": {"kind": kind, "target": "t"} | ({"positive": "yes"} if kind == "binary" else {}),
        "source": {"kind": "file", "path": "toy.csv", "watch": "toy.csv"},
        "contract": {},
        "profile": {},
        "prepare": {},
        "features": {},
        "sampler": {},
        "splitter": {"n_splits": 4},
        "candidates": {
            "dummy": {"model": "dummy"},
            "logistic": {"model": "logistic", "space": {"C": {"kind": "choice", "values": [0.1, 1.0]}}},
        },
        "search": {},
        "scoring": {"metric": "roc_auc"},
        "train": {"importance_repeats": 2},
        "export": {},
        "predict": {},
    }


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the project, with any group of its parameters replaced, and go into its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_CORES", "1")

    def make(kind: str = "binary", **changes: Any) -> Path:
        classes = ("no", "yes") if kind == "binary" else None
        columns = Columns(
            numeric=("a", "b"),
            categorical=("c",),
            cardinality={"c": 3},
            target="t",
            task=kind,
            classes=classes,
        )
        write_parquet(Path("data/features/toy/train.parquet"), _frame(kind))
        write_json(Path("data/features/toy/columns.json"), columns.model_dump())
        params = {"seed": 1, "names": ["toy"], "datasets": {"toy": _parameters(kind) | changes}}
        Path("params.yaml").write_text(yaml.safe_dump(params))
        return tmp_path

    return make
