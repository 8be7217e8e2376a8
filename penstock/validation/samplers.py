"""Evening out the classes of the training part of a fold, and of nothing else.

Row samplers work on the feature table, before encoding: what is repeated, left out or (SMOTE-NC) made up
are rows with their categories. Matrix samplers interpolate between encoded rows, and come after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Sampler
from penstock.errors import PenstockError
from penstock.features.columns import Columns

__all__ = ["class_weights", "is_row_sampler", "resample_matrix", "resample_rows"]

Integers = NDArray[np.int64]

ROW_SAMPLERS = frozenset({"random_over", "random_under", "smote_nc"})


def is_row_sampler(sampler: Sampler) -> bool:
    """Whether the sampler works on the table, before the encoder is fitted."""
    return sampler.name in ROW_SAMPLERS


def class_weights(y: Integers, sampler: Sampler) -> NDArray[np.float64] | None:
    """A weight for every row, shape (n,), mean 1; None unless the sampler is class_weight.

    The classes weigh the same, or two classes as ``ratio`` says: minority / majority.
    """
    if sampler.name != "class_weight":
        return None
    counts = np.bincount(y).astype(np.float64)
    share = np.where(counts == counts.max(), 1.0, sampler.ratio if len(counts) == 2 else 1.0)
    each = share / np.maximum(counts, 1)
    weights: NDArray[np.float64] = each[y] * len(y) / each[y].sum()
    return weights


def resample_rows(
    frame: pl.DataFrame, y: Integers, columns: Columns, sampler: Sampler, seed: int
) -> tuple[pl.DataFrame, Integers]:
    """Resample a feature table; unchanged unless the sampler is one of rows.

    Raises:
        PenstockError: Too few rows of a class, or SMOTE-NC without both kinds of columns.
    """
    strategy = _strategy(y, sampler)
    if not is_row_sampler(sampler) or strategy is None:
        return frame, y
    if sampler.name == "smote_nc":
        return _smote_nc(frame, y, columns, sampler, strategy, seed)
    from imblearn.over_sampling import RandomOverSampler
    from imblearn.under_sampling import RandomUnderSampler

    constructor = RandomOverSampler if sampler.name == "random_over" else RandomUnderSampler
    made = constructor(sampling_strategy=strategy, random_state=seed)
    made.fit_resample(np.zeros((len(y), 1)), y)
    chosen = made.sample_indices_
    return frame[chosen], y[chosen]


def resample_matrix(
    matrix: NDArray[np.floating], y: Integers, sampler: Sampler, seed: int
) -> tuple[NDArray[np.floating], Integers]:
    """Resample an encoded matrix, shape (n, d); unchanged unless the sampler is one of matrices.

    Raises:
        PenstockError: Too few rows of a class for the neighbours it needs.
    """
    make = _MATRIX.get(sampler.name)
    strategy = _strategy(y, sampler)
    if make is None or strategy is None:
        return matrix, y
    made = _guarded(lambda: make(strategy, seed, _neighbours(y, sampler)).fit_resample(matrix, y), sampler)
    return made[0].astype(matrix.dtype, copy=False), made[1].astype(np.int64)


def _strategy(y: Integers, sampler: Sampler) -> float | str | None:
    """What imblearn calls sampling_strategy; None where the classes are as even as asked for already."""
    counts = np.bincount(y)
    counts = counts[counts > 0]
    if len(counts) < 2 or counts.min() / counts.max() >= (sampler.ratio if len(counts) == 2 else 1.0):
        return None
    return sampler.ratio if len(counts) == 2 else "auto"


def _neighbours(y: Integers, sampler: Sampler) -> int:
    """The neighbours asked for, or as many as the smallest class has."""
    counts = np.bincount(y)
    fewest = int(counts[counts > 0].min())
    if fewest < 2:
        raise PenstockError(
            f"sampler {sampler.name}: a class has {fewest} row in the training part of a fold, and no neighbour",
            hint="use random_over or class_weight, fewer folds, or merge the rare classes",
        )
    return min(sampler.neighbours, fewest - 1)


def _guarded(work: Callable[[], Any], sampler: Sampler) -> Any:
    try:
        return work()
    except (ValueError, RuntimeError) as error:
        raise PenstockError(
            f"sampler {sampler.name}: {str(error).splitlines()[0]}",
            hint="too few rows of a class for it: lower sampler.neighbours or choose another sampler",
        ) from error


def _smote(strategy: float | str, seed: int, neighbours: int) -> Any:
    from imblearn.over_sampling import SMOTE

    return SMOTE(sampling_strategy=strategy, random_state=seed, k_neighbors=neighbours)


def _borderline(strategy: float | str, seed: int, neighbours: int) -> Any:
    from imblearn.over_sampling import BorderlineSMOTE

    return BorderlineSMOTE(sampling_strategy=strategy, random_state=seed, k_neighbors=neighbours)


def _svm(strategy: float | str, seed: int, neighbours: int) -> Any:
    from imblearn.over_sampling import SVMSMOTE

    return SVMSMOTE(sampling_strategy=strategy, random_state=seed, k_neighbors=neighbours)


def _adasyn(strategy: float | str, seed: int, neighbours: int) -> Any:
    from imblearn.over_sampling import ADASYN

    return ADASYN(sampling_strategy=strategy, random_state=seed, n_neighbors=neighbours)


def _tomek(strategy: float | str, seed: int, neighbours: int) -> Any:
    from imblearn.combine import SMOTETomek

    return SMOTETomek(sampling_strategy=strategy, random_state=seed, smote=_smote(strategy, seed, neighbours))


def _enn(strategy: float | str, seed: int, neighbours: int) -> Any:
    from imblearn.combine import SMOTEENN

    return SMOTEENN(sampling_strategy=strategy, random_state=seed, smote=_smote(strategy, seed, neighbours))


_MATRIX: dict[str, Callable[[float | str, int, int], Any]] = {
    "smote": _smote,
    "borderline_smote": _borderline,
    "svm_smote": _svm,
    "adasyn": _adasyn,
    "smote_tomek": _tomek,
    "smote_enn": _enn,
}


def _smote_nc(
    frame: pl.DataFrame, y: Integers, columns: Columns, sampler: Sampler, strategy: float | str, seed: int
) -> tuple[pl.DataFrame, Integers]:
    """SMOTE for numbers and categories (Chawla et al. 2002, section 6.1).

    Distances need numbers: a missing one counts as its column's median here. The rows that were there keep
    their gaps; only the rows made up have none.
    """
    if not columns.numeric or not columns.categorical:
        raise PenstockError(
            "sampler smote_nc needs numeric and categorical features; one kind is missing",
            hint="use smote for numbers alone, random_over for categories alone",
        )
    from imblearn.over_sampling import SMOTENC

    numeric = frame.select(pl.col(columns.numeric).fill_null(pl.col(columns.numeric).median()).fill_null(0.0))
    categories = frame.select(columns.categorical)
    codes = categories.select(pl.all().rank("dense").cast(pl.Float64) - 1)
    table = np.hstack([numeric.to_numpy().astype(np.float64), codes.to_numpy()])
    first = len(columns.numeric)
    made = SMOTENC(
        categorical_features=list(range(first, table.shape[1])),
        sampling_strategy=strategy,
        random_state=seed,
        k_neighbors=_neighbours(y, sampler),
    )
    rows, classes = _guarded(lambda: made.fit_resample(table, y), sampler)
    new = rows[len(y) :]
    synthetic = pl.DataFrame(
        {name: new[:, at].astype(np.float32) for at, name in enumerate(columns.numeric)}
        | {
            name: categories[name].unique().sort().gather(new[:, first + at].astype(np.int64))
            for at, name in enumerate(columns.categorical)
        }
    )
    whole = pl.concat([frame.select(columns.features), synthetic.select(columns.features)])
    return whole, classes.astype(np.int64)
