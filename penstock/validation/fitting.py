"""Fitting one candidate on one set of rows: sampler, transformer, model, in that order and nowhere else."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from penstock.config import Candidate, Features, Sampler, Scalar
from penstock.config import Task as TaskConfig
from penstock.errors import PenstockError
from penstock.features import recipe as recipes
from penstock.features.columns import Columns, encode_target
from penstock.validation import estimators, samplers

__all__ = ["Matrices", "Table", "fit", "predict", "predictions", "prepare", "tabulate"]

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """All rows that may be learnt from, and what is known about them.

    Attributes:
        frame: Feature columns only, n rows.
        y: Class codes or target values, shape (n,).
        columns: What the columns are.
        groups: Group codes, shape (n,), or None.
        times: Sortable moments, shape (n,), or None.
        seed: Of everything random.
    """

    frame: pl.DataFrame
    y: NDArray[Any]
    columns: Columns
    groups: NDArray[Any] | None
    times: NDArray[Any] | None
    seed: int

    @property
    def kind(self) -> str:
        """binary, multiclass or regression."""
        return self.columns.task

    @property
    def n_classes(self) -> int:
        """Classes, or 0 for regression."""
        return len(self.columns.classes or ())


@dataclass(frozen=True)
class Matrices:
    """One split as every candidate of one recipe sees it.

    Attributes:
        transformer: Fitted on the (row-sampled) training rows.
        train: Encoded and sampled training rows.
        y: Their targets.
        weights: Their weights, or None.
        test: Encoded test rows.
        n_classes: Classes of the task, or 0 for regression.
    """

    transformer: Pipeline
    train: Matrix
    y: NDArray[Any]
    weights: Floats | None
    test: Matrix
    n_classes: int


def tabulate(frame: pl.DataFrame, columns: Columns, task: TaskConfig, seed: int) -> Table:
    """A table from what the features stage writes.

    Raises:
        PenstockError: The target holds a class that is not in ``columns``, or a column is not there.
    """
    for name in (task.group, task.time):
        if name is not None and name not in frame.columns:
            raise PenstockError(
                f"task names the column {name!r}, which is not there", hint="mend task.group or task.time"
            )
    return Table(
        frame=frame.select(columns.features),
        y=encode_target(frame, columns),
        columns=columns,
        groups=None if task.group is None else frame[task.group].rank("dense").fill_null(0).to_numpy(),
        times=None if task.time is None else frame[task.time].rank("dense").fill_null(0).to_numpy(),
        seed=seed,
    )


def prepare(table: Table, train: Integers, test: Integers, recipe: Features, sampler: Sampler) -> Matrices:
    """Sample and encode the training rows; encode the test rows by what was learnt from them alone.

    Raises:
        PenstockError: The training rows hold one class only, or the sampler or recipe cannot work on them.
    """
    frame, y = table.frame[train], table.y[train]
    if table.n_classes and len(np.unique(y)) < 2:
        raise PenstockError(
            f"the training part of a fold ({len(y)} rows) has one class only",
            hint="use splitter stratified, fewer folds, or more rows of the rare class",
        )
    if table.n_classes:
        frame, y = samplers.resample_rows(frame, y, table.columns, sampler, table.seed)
    transformer = recipes.build(recipe, table.columns, table.seed)
    try:
        # Not fit().transform(): a target encoder gives its own training rows cross-fitted values.
        matrix = np.asarray(transformer.fit_transform(frame, y), dtype=np.float32)
    except ValueError as error:
        raise PenstockError(
            f"features: {str(error).splitlines()[0]}", hint="check features.reduce and features.components"
        ) from error
    weights = None
    if table.n_classes:
        matrix, y = samplers.resample_matrix(matrix, y, sampler, table.seed)
        weights = samplers.class_weights(y, sampler)
    encoded = transformer.transform(table.frame[test]) if len(test) else matrix[:0]
    return Matrices(transformer, matrix, y, weights, np.asarray(encoded, dtype=np.float32), table.n_classes)


def fit(
    candidate: Candidate, setting: Mapping[str, Scalar | None], matrices: Matrices, kind: str, seed: int
) -> Any:
    """Fit the candidate's estimator with its fixed parameters and ``setting``.

    Raises:
        PenstockError: The estimator refuses a parameter's value, or knows no weights.
    """
    estimator = estimators.build(
        candidate.model, kind, {**candidate.params, **setting}, seed=seed, log_target=candidate.log_target
    )
    extra: dict[str, Any] = {}
    if matrices.weights is not None:
        if not has_fit_parameter(estimator, "sample_weight"):
            raise PenstockError(
                f"sampler class_weight: {candidate.model} knows no weights", hint="use random_over instead"
            )
        extra["sample_weight"] = matrices.weights
    train = matrices.train
    if estimators.needs_double(candidate.model):
        train = train.astype(np.float64)
    try:
        with warnings.catch_warnings():
            # A search visits corners where a solver gives up early: such a fit is judged by its score like any other.
            warnings.simplefilter("ignore", ConvergenceWarning)
            return estimator.fit(train, matrices.y, **extra)
    except Exception as error:
        # LightGBM's own error type is not worth its import here; it is no ValueError.
        if not isinstance(error, ValueError) and type(error).__name__ != "LightGBMError":
            raise
        raise PenstockError(
            f"the model {candidate.model} cannot be fitted with {dict(candidate.params) | dict(setting)}: "
            f"{str(error).splitlines()[0]}",
            hint="mend `params` or `space` of the candidate",
        ) from error


def predict(estimator: Any, matrix: Matrix | pl.DataFrame, n_classes: int) -> Floats:
    """Probabilities, shape (n, K), or values, shape (n,); a whole pipeline takes a table for a matrix."""
    if not n_classes:
        # A bad linear model of ln(y) can leave the range of floats: an infinite error, not a warning.
        with np.errstate(over="ignore"):
            return np.asarray(estimator.predict(matrix), dtype=np.float64)
    return _all_classes(estimator.predict_proba(matrix), estimator.classes_, n_classes)


def _all_classes(probabilities: Any, classes: Any, n_classes: int) -> Floats:
    """A column for every class, also for those that the training rows of a fold lack."""
    found = np.zeros((len(probabilities), n_classes), dtype=np.float64)
    found[:, np.asarray(classes, dtype=np.int64)] = probabilities
    return found


def predictions(
    candidate: Candidate, settings: Sequence[Mapping[str, Any]], matrices: Matrices, kind: str, seed: int
) -> list[Floats]:
    """Test predictions of every setting, in their order.

    Settings that differ only in the number of boosting rounds share one fit.
    """
    key = estimators.prefix_parameter(candidate.model)
    if candidate.log_target and candidate.model != "lightgbm":
        key = None
    found: list[Floats | None] = [None] * len(settings)
    for positions in _families(settings, key):
        counts = [settings[at][key] for at in positions if key is not None and key in settings[at]]
        largest = positions[int(np.argmax(counts))] if counts else positions[0]
        estimator = fit(candidate, settings[largest], matrices, kind, seed)
        if len(set(counts)) < 2:
            whole = predict(estimator, matrices.test, matrices.n_classes)
            found = [whole if at in positions else item for at, item in enumerate(found)]
            continue
        stages = dict(_at_rounds(candidate.model, estimator, matrices, sorted(set(counts))))
        for at, count in zip(positions, counts, strict=True):
            found[at] = stages[count]
    return [item for item in found if item is not None]


def _families(settings: Sequence[Mapping[str, Any]], key: str | None) -> list[list[int]]:
    """Positions of the settings that are equal but for ``key``."""
    families: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for at, setting in enumerate(settings):
        rest = tuple(sorted((name, repr(value)) for name, value in setting.items() if name != key))
        families.setdefault(rest, []).append(at)
    return list(families.values())


def _at_rounds(
    model: str, estimator: Any, matrices: Matrices, counts: Sequence[int]
) -> Iterator[tuple[int, Floats]]:
    """(k, predictions after k rounds) for ascending ``counts``."""
    n_classes = matrices.n_classes
    if model == "lightgbm":
        for count in counts:
            if n_classes:
                raw = estimator.predict_proba(matrices.test, num_iteration=count)
                yield count, _all_classes(raw, estimator.classes_, n_classes)
            else:
                yield (
                    count,
                    np.asarray(estimator.predict(matrices.test, num_iteration=count), dtype=np.float64),
                )
        return
    staged = estimator.staged_predict_proba if n_classes else estimator.staged_predict
    wanted = frozenset(counts)
    for count, raw in zip(itertools.count(1), staged(matrices.test)):
        if count in wanted:
            yield (
                count,
                _all_classes(raw, estimator.classes_, n_classes) if n_classes else raw.astype(np.float64),
            )
