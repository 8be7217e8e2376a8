"""From a typed table to feature columns: what a model may see, and in which form."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl
import polars.selectors as cs

from penstock.config import Derived, Scalar, Task, View
from penstock.errors import PenstockError
from penstock.features.derive import derive
from penstock.storage import read_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Columns", "as_features", "describe", "encode_target", "read"]

SECONDS_A_DAY = 86_400


class Columns(View):
    """The columns of a feature table.

    Attributes:
        numeric: Float32 features, null where missing.
        categorical: String features, "" where missing.
        cardinality: Distinct values of each categorical feature in the training part.
        target: The target column.
        task: The kind of task.
        classes: The labels in the order of their codes: (negative, positive), or sorted; None for regression.
    """

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    cardinality: dict[str, int]
    target: str
    task: Literal["binary", "multiclass", "regression"]
    classes: tuple[Scalar, ...] | None

    @property
    def features(self) -> tuple[str, ...]:
        """All feature columns, numeric ones first."""
        return self.numeric + self.categorical


def read(path: Path) -> Columns:
    """Read columns.json.

    Raises:
        PenstockError: The file is missing or is not what the features stage writes.
    """
    return Columns.model_validate(read_json(path))


def as_features(raw: pl.DataFrame, derived: Sequence[Derived], task: Task) -> pl.DataFrame:
    """The feature columns of a typed table, and nothing else.

    Integers, numbers, booleans become Float32; categories stay String with "" for a missing one; dates
    and date-times become days since 1970-01-01 (UTC). Columns derived from others follow. Free text, the
    target, and the columns that the task sets aside are no features; a derived column may still use them,
    the target excepted.

    Args:
        raw: Typed as the contract says; with or without the target.
        derived: Columns to add.
        task: Which columns are not features.

    Returns:
        One row per row of ``raw``, in its order.

    Raises:
        PenstockError: A derived column cannot be computed.
    """
    typed = raw.drop(task.target, strict=False).with_columns(
        (cs.numeric() | cs.boolean()).cast(pl.Float32).fill_nan(None),
        cs.categorical().cast(pl.String),
    )
    frame = derive(typed, derived)
    return (
        frame.drop(task.not_features, strict=False)
        .with_columns(
            cs.date().cast(pl.Int32).cast(pl.Float32),
            (cs.datetime().dt.epoch("s").cast(pl.Float64) / SECONDS_A_DAY).cast(pl.Float32),
            cs.string().fill_null(""),
        )
        .with_columns(
            # A ratio may overflow; what is not finite is missing.
            pl.when(cs.float().is_finite()).then(cs.float()).name.keep(),
        )
    )


def describe(train: pl.DataFrame, target: pl.Series, task: Task, *, text: frozenset[str]) -> Columns:
    """Name the feature columns of a training part and the classes of its target.

    Args:
        train: As ``as_features`` returns it.
        target: The raw target of the same rows.
        task: The task.
        text: Columns of free text, which are no features.

    Raises:
        PenstockError: No feature is left, or the target does not fit the task.
    """
    numeric = tuple(name for name, kind in train.schema.items() if kind == pl.Float32)
    categorical = tuple(name for name, kind in train.schema.items() if kind == pl.String and name not in text)
    if not numeric and not categorical:
        raise PenstockError(
            "no feature column is left beside the target",
            hint="check task.ids, task.exclude and the contract's column types",
        )
    return Columns(
        numeric=numeric,
        categorical=categorical,
        cardinality={name: train[name].n_unique() for name in categorical},
        target=task.target,
        task=task.kind,
        classes=_classes(target, task),
    )


def _classes(target: pl.Series, task: Task) -> tuple[Scalar, ...] | None:
    if task.kind == "regression":
        if not target.dtype.is_numeric():
            raise PenstockError(
                f"the target {task.target!r} is {target.dtype}, but regression needs a number",
                hint="set task.kind to binary or multiclass, or the column's type in the contract",
            )
        return None
    found = sorted(target.drop_nulls().unique().to_list())
    if len(found) < 2:
        raise PenstockError(
            f"the target {task.target!r} has one class only: {found}",
            hint="a classifier needs rows of at least two; check the source and the filter that made it",
        )
    if task.kind == "multiclass":
        return tuple(found)
    if len(found) > 2:
        raise PenstockError(
            f"the target {task.target!r} has {len(found)} classes ({', '.join(map(str, found[:8]))}), not two",
            hint="set task.kind to multiclass",
        )
    if task.positive not in found:
        near = difflib.get_close_matches(str(task.positive), [str(value) for value in found], n=1, cutoff=0.4)
        raise PenstockError(
            f"task.positive is {task.positive!r}, but the target {task.target!r} holds {found}",
            hint=f"did you mean {near[0]!r}?" if near else "name one of these, in the same type",
        )
    return tuple(sorted(found, key=lambda label: label == task.positive))


def encode_target(frame: pl.DataFrame, columns: Columns) -> NDArray[np.int64] | NDArray[np.float64]:
    """The target as a model needs it, shape (n,): class codes as int64, or values as float64.

    Raises:
        PenstockError: The target holds a class that the training part does not have.
    """
    import numpy as np

    target = frame[columns.target]
    if columns.classes is None:
        return target.cast(pl.Float64).to_numpy().astype(np.float64)
    codes = dict(zip(columns.classes, range(len(columns.classes)), strict=True))
    unknown = sorted(set(target.unique().to_list()) - codes.keys(), key=str)
    if unknown:
        raise PenstockError(
            f"the target {columns.target!r} holds classes that the training part lacks: {unknown}",
            hint="too few rows of a class for a hold-out; merge rare classes or use prepare.split stratified",
        )
    return np.array([codes[value] for value in target.to_list()], dtype=np.int64)
