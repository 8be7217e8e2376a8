"""What the data are like: per column, in pairs, and towards the target; and what in them is worth a warning.

Numbers are binned by quantiles and mutual information is read off the table of counts rather than estimated
by nearest neighbours as in scikit-learn: it is exact for codes, needs no random numbers, takes a fiftieth of
the time, and the stage starts without scikit-learn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Column, Profile, Task
from penstock.contract import require_target

__all__ = ["profile"]

QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
HISTOGRAM_BINS = 20
MUTUAL_BINS = 10  # quantile bins of a number, for mutual information
ALONE_BINS = 100  # finer, for what one column alone can tell
FOLDS = 5
MATRIX_COLUMNS = 40  # a larger correlation matrix is for no reader
MUCH_MISSING = 0.5
RARE_CLASS = 0.1
MANY_ROWS = 20  # fewer are all different by chance
LISTED = 10  # pairs named in warnings

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def profile(
    raw: pl.DataFrame, columns: Mapping[str, Column], task: Task, settings: Profile
) -> dict[str, Any]:
    """Everything that is known about a typed table before anything is learnt from it.

    Args:
        raw: The table, typed as ``columns`` says.
        columns: The resolved contract.
        task: What is to be predicted; columns that are no features are described, but not judged.
        settings: From where on a finding is a warning.

    Returns:
        ``rows``; ``duplicate_rows``; ``target`` (``name``, ``kind``, ``missing``, and for classes
        ``classes``: label → ``count``, ``share``); ``columns``: name → ``type``, ``role``, ``count``,
        ``missing``, ``distinct`` and, by type, ``min`` … ``max``, ``skew``, ``zeros`` and ``histogram`` (equal
        bins between ``low`` and ``high``), or ``top`` (value, count) with ``other`` and ``length``, for
        features also ``mutual_information`` with the target in nats and ``alone``, the AUC or R² that
        the column reaches without any other; ``correlations`` with ``pairs`` over the bound,
        ``names`` and ``matrix`` (both empty for more than 40 numeric columns); ``constant``, ``id_like``,
        ``leak_suspects``: names of features; ``warnings``: sentences.

    Raises:
        PenstockError: There is no target column.
    """
    require_target(task.target, raw)
    found: dict[str, Any] = {name: _column(raw[name], columns[name], settings) for name in raw.columns}
    for name, entry in found.items():
        entry["role"] = _role(name, columns[name], task)
    known = raw.filter(pl.col(task.target).is_not_null())
    target = _Target.of(known[task.target], task)
    for name, entry in found.items():
        if entry["role"] == "feature" and target is not None:
            entry["mutual_information"] = _mutual_information(known[name], target)
            entry["alone"] = _alone(known[name], target)
    features = [name for name, entry in found.items() if entry["role"] == "feature"]
    result = {
        "rows": raw.height,
        "duplicate_rows": raw.height - raw.n_unique(),
        "target": _target_summary(raw[task.target], task),
        "columns": found,
        "correlations": _correlations(raw.select(_numeric(found, task)), settings.correlation),
        "constant": [name for name in features if found[name]["distinct"] + bool(found[name]["missing"]) < 2],
        "id_like": [name for name in features if _is_id_like(found[name])],
        "leak_suspects": [name for name in features if found[name].get("alone", 0) >= settings.leak_score],
    }
    return {**result, "warnings": _warnings(result, task, settings)}


def _role(name: str, column: Column, task: Task) -> str:
    named = {task.target: "target", task.group: "group", task.time: "time"}
    if name in named:
        return named[name]
    if name in task.ids:
        return "id"
    # Free text is no feature of any model here.
    return "excluded" if name in task.exclude else "text" if column.type == "text" else "feature"


def _numeric(found: Mapping[str, Any], task: Task) -> list[str]:
    wanted = {"feature", "target"}
    return [
        name
        for name, entry in found.items()
        if entry["type"] in {"integer", "number"} and entry["role"] in wanted
    ]


# --- one column -------------------------------------------------------------------------------------


def _column(series: pl.Series, column: Column, settings: Profile) -> dict[str, Any]:
    known = series.drop_nulls()
    entry: dict[str, Any] = {
        "type": column.type,
        "count": len(known),
        "missing": series.null_count(),
        "distinct": known.n_unique(),
    }
    if known.is_empty():
        return entry
    if series.dtype.is_numeric():
        return entry | _of_numbers(known.cast(pl.Float64), whole=column.type == "integer")
    if series.dtype.is_temporal():
        first, last = known.min(), known.max()
        assert isinstance(first, date)
        assert isinstance(last, date)
        return entry | {"min": first.isoformat(), "max": last.isoformat()}
    return entry | _of_codes(known.cast(pl.String), settings.max_categories)


def _of_numbers(known: pl.Series, *, whole: bool) -> dict[str, Any]:
    return {
        "min": known.min(),
        "max": known.max(),
        "mean": known.mean(),
        "std": known.std(),
        **{name: known.quantile(share, "linear") for name, share in QUANTILES.items()},
        "skew": known.skew(),
        "zeros": int((known == 0).sum()),
        "histogram": _histogram(known.to_numpy(), whole=whole),
    }


def _histogram(values: Floats, *, whole: bool) -> dict[str, Any]:
    low, high, bins = float(values.min()), float(values.max()), HISTOGRAM_BINS
    if whole and high - low < HISTOGRAM_BINS:
        # One bar for each integer.
        low, high, bins = low - 0.5, high + 0.5, round(high - low) + 1
    counts, _ = np.histogram(values, bins=bins, range=(low, high))
    return {"low": low, "high": high, "counts": counts.tolist()}


def _of_codes(known: pl.Series, listed: int) -> dict[str, Any]:
    value, count = pl.col(known.name), pl.col("count of rows")
    counts = known.value_counts(name="count of rows").sort(count, value, descending=[True, False])
    length = known.str.len_chars()
    return {
        "top": [[text, number] for text, number in counts.head(listed).iter_rows()],
        "other": int(counts["count of rows"][listed:].sum()),
        "length": {"min": length.min(), "mean": length.mean(), "max": length.max()},
    }


def _is_id_like(entry: Mapping[str, Any]) -> bool:
    codes = entry["type"] in {"integer", "category"}
    return bool(codes and entry["count"] >= MANY_ROWS and entry["distinct"] == entry["count"])


# --- towards the target -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """A target as what is measured against it needs it.

    Attributes:
        codes: Classes, or quantile bins of a number; shape (n,).
        indicators: For each class that is scored a 0/1 column, or the number itself; shape (n, k).
        ranks: Ranks of a number; None for classes.
    """

    codes: Codes
    indicators: Floats
    ranks: Floats | None

    @classmethod
    def of(cls, target: pl.Series, task: Task) -> _Target | None:
        """None where there is nothing to tell apart: fewer than two values."""
        if target.n_unique() < 2:
            return None
        if task.kind == "regression":
            if not target.dtype.is_numeric():
                return None
            values = target.cast(pl.Float64).to_numpy()
            return cls(_bins(target, MUTUAL_BINS), values[:, None], target.rank().to_numpy())
        codes = _bins(target, MUTUAL_BINS, as_codes=True)
        classes = np.arange(codes.max() + 1)
        scored = classes[1:] if len(classes) == 2 else classes
        return cls(codes, (codes[:, None] == scored).astype(np.float64), None)


def _bins(series: pl.Series, bins: int, *, as_codes: bool = False) -> Codes:
    """Codes from 0: of each value, or of quantile bins of a number of more values than bins; 0 is missing, if any is."""
    codes = series.to_physical() if series.dtype.is_temporal() else series
    ranks = codes.rank("dense")
    if not as_codes and codes.dtype.is_numeric() and (ranks.max() or 0) > bins:  # type: ignore[operator]
        # Equal values share a bin: their lowest rank decides.
        share = (codes.rank("min") - 1) / max(1, len(codes) - codes.null_count())
        ranks = (share * bins).floor().cast(pl.UInt32).rank("dense")
    shifted = ranks if series.null_count() else ranks - 1
    return shifted.fill_null(0).to_numpy().astype(np.int64)


def _mutual_information(series: pl.Series, target: _Target) -> float:
    """In nats, from the table of counts, less the bias of Miller (1955): (r − 1)(c − 1) / 2n; at least 0."""
    codes = _bins(series, MUTUAL_BINS)
    rows, columns = int(codes.max()) + 1, int(target.codes.max()) + 1
    counts = np.bincount(codes * columns + target.codes, minlength=rows * columns).reshape(rows, columns)
    joint = counts / counts.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    information = float(np.sum(joint[there] * np.log(joint[there] / independent[there])))
    bias = (rows - 1) * (columns - 1) / (2 * len(codes))
    return max(0.0, information - bias)


def _alone(series: pl.Series, target: _Target) -> float:
    """What the column reaches alone: the AUC (mean over classes), or R²; the best of two readings.

    Its order (of a number), and the target's mean by code or bin. The means are those of the other folds:
    a column that has another value in every row would otherwise foretell each row by itself.
    """
    means = _out_of_fold_means(_bins(series, ALONE_BINS), target.indicators)
    ordered = series.dtype.is_numeric() or series.dtype.is_temporal()
    order = series.to_physical().rank().fill_null(0).to_numpy().astype(np.float64) if ordered else None
    if target.ranks is not None:
        truth = target.indicators[:, 0]
        explained = 1 - float(np.sum((truth - means[:, 0]) ** 2) / np.sum((truth - truth.mean()) ** 2))
        # Spearman's: a copy of the target on another scale is no less a copy.
        monotone = (
            0.0 if order is None or np.ptp(order) == 0 else float(np.corrcoef(order, target.ranks)[0, 1] ** 2)
        )
        return max(0.0, explained, monotone)
    by_mean = np.mean([_auc(means[:, k], target.indicators[:, k]) for k in range(means.shape[1])])
    if order is None:
        return float(by_mean)
    ascending = [_auc(order, target.indicators[:, k]) for k in range(means.shape[1])]
    return float(max(by_mean, np.mean([max(score, 1 - score) for score in ascending])))


def _out_of_fold_means(codes: Codes, truth: Floats) -> Floats:
    """For each row the mean of ``truth`` over the rows of its code in the other folds, drawn to the overall mean by one row."""
    folds = np.arange(len(codes)) % FOLDS
    means = np.empty_like(truth)
    size = int(codes.max()) + 1
    for fold in range(min(FOLDS, len(codes))):
        train, test = folds != fold, folds == fold
        count = np.bincount(codes[train], minlength=size)
        for k in range(truth.shape[1]):
            prior = truth[train, k].mean()
            total = np.bincount(codes[train], weights=truth[train, k], minlength=size)
            means[test, k] = ((total + prior) / (count + 1))[codes[test]]
    return means


def _auc(scores: Floats, positive: Floats) -> float:
    """Mann-Whitney's U over the number of pairs; ties count half."""
    ranks = pl.Series(scores).rank("average").to_numpy()
    hits = float(positive.sum())
    misses = len(positive) - hits
    return float((ranks[positive == 1].sum() - hits * (hits + 1) / 2) / (hits * misses))


def _target_summary(target: pl.Series, task: Task) -> dict[str, Any]:
    summary: dict[str, Any] = {"name": task.target, "kind": task.kind, "missing": target.null_count()}
    if task.kind == "regression":
        return summary
    known = target.drop_nulls()
    counts = dict(known.value_counts(name="count of rows").sort(target.name).iter_rows())
    return summary | {
        "classes": {
            _label(label): {"count": count, "share": count / len(known)} for label, count in counts.items()
        }
    }


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- in pairs ---------------------------------------------------------------------------------------


def _correlations(numbers: pl.DataFrame, bound: float) -> dict[str, Any]:
    names = numbers.columns
    matrix = _pearson(numbers)
    left, right = np.triu_indices(len(names), 1)
    pairs: list[dict[str, Any]] = [
        {"left": names[i], "right": names[j], "pearson": float(matrix[i, j])}
        for i, j in zip(left, right, strict=True)
        if abs(matrix[i, j]) >= bound
    ]
    pairs.sort(key=lambda pair: (-round(abs(pair["pearson"]), 6), pair["left"], pair["right"]))
    if len(names) > MATRIX_COLUMNS:
        return {"pairs": pairs, "names": [], "matrix": []}
    return {"pairs": pairs, "names": names, "matrix": matrix.tolist()}


def _pearson(numbers: pl.DataFrame) -> Floats:
    """Pearson's r of each pair of columns over the rows that have both, shape (k, k); NaN for a constant."""
    values = numbers.cast(pl.Float64).to_numpy().astype(np.float64)
    if not values.size:
        return np.empty((values.shape[1], values.shape[1]))
    there = (~np.isnan(values)).astype(np.float64)
    means = np.nansum(values, axis=0) / np.maximum(there.sum(axis=0), 1)
    # Centred first: the sums of squares of years or coordinates would leave no digits for their differences.
    centred = np.nan_to_num(values - means)
    count = np.maximum(there.T @ there, 1)
    total = centred.T @ there  # [i, j]: sum of column i over the rows that have j
    products = centred.T @ centred - total * total.T / count
    squares = (centred**2).T @ there - total**2 / count
    scale = np.where(squares > 1e-12 * (1 + means[:, None] ** 2), squares, np.nan)
    coefficients: Floats = np.clip(products / np.sqrt(scale * scale.T), -1.0, 1.0)
    return coefficients


# --- in words ---------------------------------------------------------------------------------------


def _warnings(found: Mapping[str, Any], task: Task, settings: Profile) -> list[str]:
    columns = found["columns"]
    said = _about_target(found["target"], found["rows"])
    if found["duplicate_rows"]:
        said.append(
            f"Rows that repeat an earlier one in every column: {found['duplicate_rows']} (prepare.drop_duplicates takes them out)."
        )
    measure = "R²" if task.kind == "regression" else "AUC"
    said += [
        f"{name} alone foretells {task.target} with {measure} {columns[name]['alone']:.3f}: is it known before the target is? If not, name it in task.exclude."
        for name in found["leak_suspects"]
    ]
    said += [f"{name} has the same value in every row." for name in found["constant"]]
    said += [
        f"{name} has another value in every row, as an id has: name it in task.ids."
        for name in found["id_like"]
    ]
    for name, entry in columns.items():
        share = entry["missing"] / max(1, found["rows"])
        if share > MUCH_MISSING and entry["role"] == "feature":
            said.append(f"{name} is missing in {share:.0%} of the rows.")
        if (
            entry["type"] == "category"
            and entry["role"] == "feature"
            and entry["distinct"] > settings.max_categories
        ):
            said.append(
                f"{name} has {entry['distinct']} categories: features.target_above would encode it in one column."
            )
    pairs = found["correlations"]["pairs"]
    said += [
        f"{pair['left']} and {pair['right']} say nearly the same: r = {pair['pearson']:.3f}."
        for pair in pairs[:LISTED]
    ]
    if len(pairs) > LISTED:
        said.append(
            f"{len(pairs) - LISTED} more pairs of columns are correlated at {settings.correlation:g} or more."
        )
    return said


def _about_target(target: Mapping[str, Any], rows: int) -> list[str]:
    said = []
    if target["missing"]:
        said.append(f"{target['missing']} of {rows} rows have no {target['name']}; they can teach nothing.")
    classes = target.get("classes", {})
    if classes and len(classes) < 2:
        said.append(f"{target['name']} has one class only: {next(iter(classes))}.")
    rare = [
        f"{label} ({entry['share']:.1%})" for label, entry in classes.items() if entry["share"] < RARE_CLASS
    ]
    if rare and len(classes) > 1:
        said.append(
            f"Rare classes of {target['name']}: {', '.join(rare)}. Accuracy says little here; compare_samplers may help."
        )
    return said
