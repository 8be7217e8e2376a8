"""The winner on the whole training part: sampler, transformer, model, and calibration where asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.pipeline import Pipeline

from penstock.config import Candidate, Features, Sampler, Scalar, Scoring, Search, Splitter, View
from penstock.validation import fitting, judging, thresholds
from penstock.validation.calibration import Calibrated
from penstock.validation.fitting import Floats, Table

__all__ = ["Selection", "Trained", "predict", "train"]


class Selection(View):
    """What validate has chosen: selection.json."""

    candidate: str
    model: str
    params: dict[str, Scalar | None]
    recipe: Features
    log_target: bool
    threshold: float | None
    metric: str
    mean: float | None

    def as_candidate(self) -> Candidate:
        """The candidate with everything fixed."""
        return Candidate.model_validate(
            {"model": self.model, "params": self.params, "log_target": self.log_target}
        )


@dataclass(frozen=True)
class Trained:
    """A fitted pipeline and where to cut its probability.

    Attributes:
        pipeline: Steps "encode", "reduce", "model"; takes a polars frame with the feature columns.
        threshold: The selection's, or, since calibration moves scores, tuned anew on calibrated ones.
    """

    pipeline: Pipeline
    threshold: float | None


def train(
    table: Table,
    selection: Selection,
    *,
    sampler: Sampler,
    splitter: Splitter,
    scoring: Scoring,
    calibration: Literal["none", "sigmoid", "isotonic"],
) -> Trained:
    """Fit the selection on all rows of the table.

    Raises:
        PenstockError: The sampler, a parameter or the rows do not allow it; calibration of more than two
            classes.
    """
    candidate = selection.as_candidate()
    every = np.arange(table.frame.height, dtype=np.int64)
    matrices = fitting.prepare(table, every, every[:0], selection.recipe, sampler)
    model = fitting.fit(candidate, {}, matrices, table.kind, table.seed)
    threshold = selection.threshold
    if calibration != "none" and table.n_classes:
        plan = judging.Plan(splitter, Search(name="none"), scoring)
        folds = judging.InnerFolds(
            judging.Task(
                table, plan, (every, every[:0]), selection.recipe, sampler, {selection.candidate: candidate}
            )
        )
        scores = folds.predictions(candidate, [{}])[0][:, 1]
        model = Calibrated(method=calibration).fit_scores(model, scores, folds.y)
        threshold = (
            thresholds.tune(folds.y, model.calibrated(scores), scoring) if threshold is not None else None
        )
    return Trained(Pipeline([*matrices.transformer.steps, ("model", model)]), threshold)


def predict(pipeline: Any, table: Table) -> Floats:
    """Probabilities, shape (n, K), or values, shape (n,), of a table's rows."""
    return fitting.predict(pipeline, table.frame, table.n_classes)
