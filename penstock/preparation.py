"""Cleaning, and a hold-out that nothing is learnt from.

The split is NumPy's own permutation of each stratum rather than scikit-learn's: the same few lines serve all
four kinds of split, and the stage starts in a fifth of the time.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from penstock.config import Prepare, Task
from penstock.errors import PenstockError

__all__ = ["Cleaned", "clean", "is_holdout", "target_summary"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Cleaned:
    """A table to be divided, and what was taken out of it.

    Attributes:
        frame: What is left, in its order.
        duplicates_removed: Rows that were equal to an earlier one in every column.
        missing_target_removed: Rows without a target.
    """

    frame: pl.DataFrame
    duplicates_removed: int
    missing_target_removed: int


def clean(raw: pl.DataFrame, task: Task, prepare: Prepare) -> Cleaned:
    """Take white space from the ends of text, rows without a target, and repeated rows if asked to.

    Raises:
        PenstockError: There is no target column, no row is left, or rows without a target are there and
            are not to be dropped.
    """
    target = _column(raw, task.target, "task.target")
    known = raw.filter(target.is_not_null()).with_columns(cs.string().str.strip_chars())
    missing = raw.height - known.height
    if missing and not prepare.drop_missing_target:
        raise PenstockError(
            f"{missing} of {raw.height} rows have no {task.target!r}",
            hint="set prepare.drop_missing_target: true, or find out why they have none",
        )
    once = known.unique(maintain_order=True, keep="first") if prepare.drop_duplicates else known
    if once.is_empty():
        raise PenstockError(
            f"no row with a {task.target!r} is left", hint="check the source and its contract"
        )
    return Cleaned(once, known.height - once.height, missing)


def is_holdout(frame: pl.DataFrame, task: Task, prepare: Prepare, seed: int) -> Mask:
    """Which rows are set apart, shape (n,).

    stratified keeps the share of each class (regression: of each quantile of the target) in both parts;
    grouped keeps the rows of a group together; time sets the latest rows apart, those of one moment together.

    Raises:
        PenstockError: There is one class only, a class has too few rows to be in both parts, a group or a
            time is missing, or either part would be empty.
    """
    if task.kind != "regression":
        _need_two_classes(frame[task.target], task)
    random = np.random.default_rng(seed)
    match prepare.split:
        case "stratified":
            apart = _of_each(_strata(frame[task.target], task, prepare), prepare.holdout, random)
        case "grouped":
            apart = _of_groups(_whole(frame, task.group, "task.group"), prepare.holdout, random)
        case "time":
            apart = _latest(_whole(frame, task.time, "task.time"), prepare.holdout)
        case "random":
            apart = _of_each(np.zeros(frame.height, dtype=np.int64), prepare.holdout, random)
    if apart.all() or not apart.any():
        raise PenstockError(
            f"{frame.height} rows are too few for a {prepare.split} hold-out of {prepare.holdout:.0%}",
            hint="change prepare.holdout or prepare.split, or gather more",
        )
    return apart


def _column(frame: pl.DataFrame, name: str, key: str) -> pl.Series:
    if name not in frame.columns:
        near = difflib.get_close_matches(name, frame.columns, n=1)
        raise PenstockError(
            f"{key}: there is no column {name!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(frame.columns)}",
        )
    return frame[name]


def _whole(frame: pl.DataFrame, name: str | None, key: str) -> pl.Series:
    """A column by which rows are divided: without it, a row has no side."""
    assert name is not None  # the configuration does not load without it
    column = _column(frame, name, key)
    if column.null_count():
        raise PenstockError(
            f"{key}: {column.null_count()} rows have no {name!r}, so they belong to neither part",
            hint=f"say nullable: false for {name} in the contract, and they go to quarantine",
        )
    return column


def _need_two_classes(target: pl.Series, task: Task) -> None:
    if target.n_unique() < 2:
        raise PenstockError(
            f"the target {task.target!r} has one class only: {target[0]!r}",
            hint="a classifier needs rows of at least two; check the source and the filter that made it",
        )


def _strata(target: pl.Series, task: Task, prepare: Prepare) -> NDArray[np.int64]:
    if task.kind == "regression":
        # Not more strata than rows to set apart: each gives at least one.
        strata = max(1, min(prepare.quantiles, int(len(target) * prepare.holdout)))
        share = (target.rank("ordinal") - 1).to_numpy() / len(target)
        return np.floor(share * strata).astype(np.int64)
    label, count = target.value_counts().sort("count", target.name).row(0)
    if count < 2:
        raise PenstockError(
            f"the class {label!r} of {task.target!r} has one row; it cannot be in training and hold-out both",
            hint="gather more, merge rare classes, or set prepare.split: random",
        )
    return (target.rank("dense") - 1).to_numpy().astype(np.int64)


def _of_each(strata: NDArray[np.int64], share: float, random: np.random.Generator) -> Mask:
    """Draw ``share`` of each stratum, at least one and never all where it has two members or more."""
    drawn = np.zeros(len(strata), dtype=bool)
    for stratum in range(int(strata.max()) + 1):
        members = np.flatnonzero(strata == stratum)
        count = round(len(members) * share)
        if len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        drawn[random.permutation(members)[:count]] = True
    return drawn


def _of_groups(groups: pl.Series, share: float, random: np.random.Generator) -> Mask:
    """Draw whole groups, in random order, until the rows drawn are nearest to ``share`` of all."""
    codes = (groups.rank("dense") - 1).to_numpy().astype(np.int64)
    order = random.permutation(int(codes.max()) + 1)
    rows = np.cumsum(np.bincount(codes)[order])
    # One group alone cannot be divided: nothing is drawn, and the caller says so.
    taken = int(np.argmin(np.abs(rows[:-1] - share * len(codes)))) + 1 if len(order) > 1 else 0
    return np.isin(codes, order[:taken])


def _latest(moments: pl.Series, share: float) -> Mask:
    """The latest ``share`` of the rows. Rows of one moment stay together, on the side that is nearer."""
    order = (moments.rank("dense") - 1).to_numpy().astype(np.int64)
    later = np.cumsum(np.bincount(order)[::-1])[::-1]  # rows from each moment onwards
    if len(later) == 1:
        return np.zeros(len(order), dtype=bool)
    start = 1 + int(np.argmin(np.abs(later[1:] - share * len(order))))
    return order >= start


def target_summary(target: pl.Series, task: Task) -> dict[str, Any]:
    """Shares of the classes, or mean, deviation and range of a number."""
    if task.kind == "regression":
        return {"mean": target.mean(), "std": target.std(), "min": target.min(), "max": target.max()}
    counts = target.value_counts().sort(target.name)
    return {str(label): count / len(target) for label, count in counts.iter_rows()}
