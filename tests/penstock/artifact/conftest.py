"""Small artefacts, made from nothing but the library."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.pipeline import Pipeline

from penstock.artifact import export
from penstock.artifact.graph import ML, ML_OPSET, OPSET
from penstock.artifact.manifest import MANIFEST, MODEL, Manifest
from penstock.artifact.model import Model, load
from penstock.config import Column, Derived, Features, Task
from penstock.features.columns import Columns, as_features, describe, encode_target
from penstock.features.recipe import build
from penstock.storage import write_bytes, write_json
from penstock.validation import estimators

CONTRACT = {
    "age": Column(type="integer", nullable=True, min=0, max=120),
    "income": Column(type="number", nullable=True),
    "vip": Column(type="boolean"),
    "plan": Column(type="category", nullable=True, values=("a", "b", "c", "rare")),
    "town": Column(type="category"),
    "since": Column(type="date", nullable=True),
    "note": Column(type="text"),
    "answer": Column(type="category"),
}


def table(rows: int = 300, seed: int = 0, kind: str = "binary") -> pl.DataFrame:
    """Typed raw rows with missing values, a rare category, and something to learn."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 90, rows)
    income = random.lognormal(8, 1, rows).round(1)
    plan = random.choice(["a", "b", "c", "rare"], rows, p=[0.5, 0.3, 0.19, 0.01])
    score = age / 40 + (plan == "a") + random.normal(0, 0.5, rows)
    answers = {
        "binary": pl.Series(np.where(score > np.median(score), "yes", "no")),
        "multiclass": pl.Series(
            np.array(["low", "mid", "top"])[np.digitize(score, np.quantile(score, [0.33, 0.66]))]
        ),
        "regression": pl.Series(np.exp(score) * 1000),
    }
    days = pl.Series(random.integers(-4000, 20000, rows)).cast(pl.Int32).cast(pl.Date)
    gone = random.random((3, rows)) < 0.1
    return pl.DataFrame(
        {
            "age": pl.Series(age, dtype=pl.Int64).set(pl.Series(gone[0]), None),
            "income": pl.Series(income).set(pl.Series(gone[1]), None),
            "vip": random.random(rows) < 0.3,
            "plan": pl.Series(plan).set(pl.Series(gone[2]), None),
            "town": [f"town {number}" for number in random.integers(0, 12, rows)],
            "since": days.set(pl.Series(gone[0]), None),
            "note": ["words of any kind"] * rows,
            "answer": answers[kind],
        }
    )


class Made:
    """A fitted pipeline and its ONNX form in a folder."""

    def __init__(
        self, folder: Path, pipeline: Pipeline, columns: Columns, task: Task, derived: list[Derived]
    ) -> None:
        self.folder, self.pipeline, self.columns, self.task, self.derived = (
            folder,
            pipeline,
            columns,
            task,
            derived,
        )

    def reference(self, raw: pl.DataFrame) -> np.ndarray:
        features = as_features(raw, self.derived, self.task).select(self.columns.features)
        ask = self.pipeline.predict_proba if self.columns.classes else self.pipeline.predict
        return np.asarray(ask(features), dtype=np.float64)

    def load(self) -> Model:
        return load(self.folder)


def write_artefact(folder: Path, made: Made, threshold: float | None = None) -> bytes:
    takes = export.inputs(made.columns, made.derived, CONTRACT)
    model = export.to_onnx(made.pipeline, made.columns, made.derived, takes, threshold=threshold, name="made")
    content = model.SerializeToString(deterministic=True)
    write_bytes(folder / MODEL, content)
    classes = None if made.columns.classes is None else tuple(map(str, made.columns.classes))
    manifest = Manifest(
        format=1,
        name="made",
        title="made",
        task=made.task.kind,
        target=made.task.target,
        sha256=hashlib.sha256(content).hexdigest(),
        opset={"ai.onnx": OPSET, ML: ML_OPSET},
        inputs=takes,
        outputs=export.outputs(made.columns),
        classes=classes,
        positive=None if made.task.positive is None else str(made.task.positive),
        threshold=threshold,
        metrics={},
        parameters={},
        data_sha256="",
        code_sha256="",
        versions={},
    )
    write_json(folder / MANIFEST, manifest.model_dump(), sort_keys=False)
    return content


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Fits a pipeline and writes its artefact."""

    def made(
        *,
        kind: str = "binary",
        model: str = "logistic",
        params: Mapping[str, Any] | None = None,
        features: Features | None = None,
        derived: list[Derived] | None = None,
        log_target: bool = False,
        threshold: float | None = None,
        wrap: Callable[[Any, np.ndarray, np.ndarray], Any] | None = None,
        rows: int = 300,
    ) -> Made:
        task = Task(
            kind=kind, target="answer", positive="yes" if kind == "binary" else None, slices=("plan",)
        )
        raw = table(rows, kind=kind)
        frame = as_features(raw, derived or [], task)
        columns = describe(frame, raw["answer"], task, text=frozenset({"note"}))
        y = encode_target(raw, columns)
        transformer = build(features or Features(), columns, seed=1)
        matrix = transformer.fit_transform(frame.select(columns.features), y)
        estimator = estimators.build(model, kind, params or {}, seed=1, log_target=log_target)
        # As penstock.validation.fitting does: linear models in double precision.
        estimator.fit(matrix.astype(np.float64) if estimators.needs_double(model) else matrix, y)
        if wrap is not None:
            estimator = wrap(estimator, matrix, y)
        pipeline = Pipeline([*transformer.steps, ("model", estimator)])
        result = Made(tmp_path, pipeline, columns, task, derived or [])
        write_artefact(tmp_path, result, threshold)
        return result

    return made


@pytest.fixture(scope="session")
def raw_table() -> Callable[..., pl.DataFrame]:
    """Makes typed raw rows."""
    return table


@pytest.fixture(scope="session")
def contract() -> dict[str, Column]:
    """The contract of those rows."""
    return CONTRACT
