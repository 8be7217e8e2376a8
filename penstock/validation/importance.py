"""Which columns a fitted pipeline leans on, in terms of the columns that a person knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from penstock.config import Scoring
from penstock.validation import fitting, judging, metrics
from penstock.validation.fitting import Floats, Table

__all__ = ["contributions", "permutation", "sample"]

MOST_ROWS = 2000
MOST_PREDICTIONS = 200_000  # rows × columns × repeats: a few seconds of a large model


def sample(table: Table, repeats: int) -> Table:
    """The rows to shuffle, drawn once by the seed: as many as a few seconds allow, at most MOST_ROWS."""
    most = min(MOST_ROWS, max(200, MOST_PREDICTIONS // (repeats * table.frame.width)))
    if table.frame.height <= most:
        return table
    chosen = np.sort(np.random.default_rng(table.seed).choice(table.frame.height, most, replace=False))
    return Table(table.frame[chosen], table.y[chosen], table.columns, None, None, table.seed)


def permutation(
    pipeline: Any, table: Table, scoring: Scoring, *, repeats: int, threshold: float | None
) -> pl.DataFrame:
    """By how much the deciding metric worsens when a feature column is shuffled (Breiman 2001).

    Args:
        pipeline: Takes a frame with the feature columns.
        table: Rows to shuffle.
        scoring: Its metric decides.
        repeats: Shuffles of each column.
        threshold: For metrics of decisions.

    Returns:
        feature, importance (mean loss of the metric, in its units; positive: it is needed) and std over
        the repeats, the most important first.
    """
    draws = np.random.default_rng(table.seed)
    encode, rest = pipeline[:1], pipeline[1:]
    # Encoders work column by column: shuffling a feature column and encoding it is shuffling, together,
    # the columns that it was encoded to. So the table is encoded once.
    matrix = np.asarray(encode.transform(table.frame), dtype=np.float32)
    origin = np.array(_origins(encode.named_steps["encode"]))
    base = _score(table, fitting.predict(rest, matrix, table.n_classes), scoring, threshold)
    rows = []
    for name in table.frame.columns:
        losses = np.zeros(repeats)
        mine = np.flatnonzero(origin == name)
        for repeat in range(repeats):
            shuffled = matrix.copy()
            shuffled[:, mine] = matrix[draws.permutation(len(matrix))][:, mine]
            losses[repeat] = base - _score(
                table, fitting.predict(rest, shuffled, table.n_classes), scoring, threshold
            )
        rows.append((name, float(losses.mean()), float(losses.std(ddof=1)) if repeats > 1 else 0.0))
    return _sorted(pl.DataFrame(rows, schema=["feature", "importance", "std"], orient="row"), "importance")


def _score(table: Table, prediction: Floats, scoring: Scoring, threshold: float | None) -> float:
    value = judging.measure(table.y, prediction, table, threshold, scoring)[scoring.metric]
    return value if metrics.greater_is_better(scoring.metric) else -value


def _sorted(frame: pl.DataFrame, by: str) -> pl.DataFrame:
    # What is written is rounded: a tie there must not be broken by digits that are not written.
    return frame.sort(pl.col(by).round_sig_figs(6), "feature", descending=[True, False])


def contributions(pipeline: Any, table: Table) -> pl.DataFrame | None:
    """Mean |contribution| of each feature column to a LightGBM model's raw score; None for other models.

    LightGBM's own Shapley values of trees (Lundberg et al. 2020), in log-odds or target units; those of
    the encoded columns of one feature column are summed before their size is taken. More classes: averaged.

    Returns:
        feature and contribution, the largest first; None where the model is no LightGBM, or where reduced
        dimensions belong to no column.
    """
    booster = _booster(pipeline.named_steps["model"])
    reduce = pipeline.named_steps["reduce"]
    if booster is None or not (reduce == "passthrough" or hasattr(reduce, "get_support")):
        return None
    origin = _origins(pipeline.named_steps["encode"])
    if reduce != "passthrough":
        origin = [name for name, kept in zip(origin, reduce.get_support(), strict=True) if kept]
    matrix = np.asarray(pipeline[:-1].transform(table.frame), dtype=np.float32)
    raw = np.asarray(booster.predict(matrix, pred_contrib=True), dtype=np.float64)
    values = raw.reshape(len(matrix), -1, matrix.shape[1] + 1)[:, :, :-1]
    names = table.frame.columns
    member = np.zeros((matrix.shape[1], len(names)))
    member[np.arange(matrix.shape[1]), [names.index(name) for name in origin]] = 1.0
    size = np.abs(values @ member).mean(axis=(0, 1))
    return _sorted(pl.DataFrame({"feature": names, "contribution": size}), "contribution")


def _booster(model: Any) -> Any:
    model = getattr(model, "estimator_", model)  # Calibrated
    model = getattr(model, "regressor_", model)  # a log target
    return getattr(model, "booster_", None)


def _origins(encode: Any) -> list[str]:
    """The feature column of every column that the encoder gives."""
    return [
        origin
        for name, transformer, columns in encode.transformers_
        if name != "remainder"
        for origin in _origins_of(transformer, list(columns))
    ]


def _origins_of(transformer: Any, columns: list[str]) -> list[str]:
    # Encoded names are "<column>", "<column>_<category or class>" or "missingindicator_<column>": the
    # longest column that fits is the origin.
    names = [str(name) for name in transformer.get_feature_names_out(columns)]
    return [
        max(
            (column for column in columns if name.removeprefix("missingindicator_").startswith(column)),
            key=len,
        )
        for name in names
    ]
