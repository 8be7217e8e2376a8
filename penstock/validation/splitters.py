"""How rows are divided for judging and for searching. Every split is (training rows, test rows)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.config import Splitter
from penstock.errors import PenstockError

__all__ = ["Split", "inner", "outer"]

Integers = NDArray[np.int64]
Split = tuple[Integers, Integers]

QUANTILES = 10  # strata of a regression target


def outer(
    splitter: Splitter,
    y: NDArray[Any],
    *,
    kind: str,
    groups: NDArray[Any] | None,
    times: NDArray[Any] | None,
    seed: int,
) -> list[Split]:
    """The splits that judge: ``n_splits`` × ``n_repeats``.

    Args:
        splitter: How to split. "stratified" on a regression target is by its deciles.
        y: Class codes or values, shape (n,).
        kind: binary, multiclass or regression.
        groups: Group codes, shape (n,), for the grouped splitters.
        times: Sortable moments, shape (n,), for the time splitter: always trained on what was before.
        seed: Of the shuffle; repeat r uses seed + r.

    Raises:
        PenstockError: Fewer rows, groups or members of a class than folds; or repeats of a time split.
    """
    if splitter.name == "time" and splitter.n_repeats > 1:
        raise PenstockError(
            f"splitter.n_repeats is {splitter.n_repeats}, but a time split has no shuffle to repeat",
            hint="set splitter.n_repeats to 1",
        )
    return [
        split
        for repeat in range(splitter.n_repeats)
        for split in _folds(
            splitter.name, splitter.n_splits, "n_splits", y, kind, groups, times, seed + repeat
        )
    ]


def inner(
    splitter: Splitter,
    rows: Integers,
    y: NDArray[Any],
    *,
    kind: str,
    groups: NDArray[Any] | None,
    times: NDArray[Any] | None,
    seed: int,
) -> list[Split]:
    """The splits that search inside ``rows``: ``inner_splits``, once; rows are numbered as in ``y``."""
    folds = _folds(
        splitter.name,
        splitter.inner_splits,
        "inner_splits",
        y[rows],
        kind,
        None if groups is None else groups[rows],
        None if times is None else times[rows],
        seed,
    )
    return [(rows[train], rows[test]) for train, test in folds]


def _folds(
    name: str,
    count: int,
    key: str,
    y: NDArray[Any],
    kind: str,
    groups: NDArray[Any] | None,
    times: NDArray[Any] | None,
    seed: int,
) -> list[Split]:
    from sklearn import model_selection as ms

    _check_rows(name, count, key, len(y))
    shuffled: dict[str, Any] = {"n_splits": count, "shuffle": True, "random_state": seed}
    strata = _strata(y, kind, count)
    match name:
        case "stratified":
            _check_classes(strata, count, key)
            found = ms.StratifiedKFold(**shuffled).split(strata, strata)
        case "kfold":
            found = ms.KFold(**shuffled).split(strata)
        case "grouped":
            found = ms.GroupKFold(**shuffled).split(strata, strata, _checked(groups, count, key))
        case "stratified_grouped":
            _check_classes(strata, count, key)
            found = ms.StratifiedGroupKFold(**shuffled).split(strata, strata, _checked(groups, count, key))
        case "time":
            order = np.argsort(_present(times), kind="stable")
            parts = ms.TimeSeriesSplit(n_splits=count).split(strata)
            found = ((np.sort(order[train]), np.sort(order[test])) for train, test in parts)
        case _:
            raise PenstockError(
                f"no splitter {name!r}", hint="stratified, kfold, grouped, stratified_grouped or time"
            )
    return [(train.astype(np.int64), test.astype(np.int64)) for train, test in found]


def _strata(y: NDArray[Any], kind: str, count: int) -> Integers:
    """Class codes; for a regression target, ranks cut into equal parts (each of at least ``count`` rows)."""
    if kind != "regression":
        return y.astype(np.int64)
    parts = max(1, min(QUANTILES, len(y) // count))
    ranks = np.empty(len(y), dtype=np.int64)
    ranks[np.argsort(y, kind="stable")] = np.arange(len(y))
    return ranks * parts // len(y)


def _check_rows(name: str, count: int, key: str, rows: int) -> None:
    needed = count + 1 if name == "time" else count
    if rows < needed:
        raise PenstockError(
            f"splitter.{key} is {count}, but there are only {rows} rows to split",
            hint=f"lower splitter.{key} or bring more rows",
        )


def _check_classes(strata: Integers, count: int, key: str) -> None:
    sizes = np.bincount(strata)
    fewest = int(sizes[sizes > 0].min())
    if fewest < count:
        raise PenstockError(
            f"splitter.{key} is {count}, but the smallest class has only {fewest} rows to share between the folds",
            hint=f"lower splitter.{key}, merge the rare classes, or use splitter.name kfold",
        )


def _checked(groups: NDArray[Any] | None, count: int, key: str) -> NDArray[Any]:
    found = _present(groups)
    distinct = len(np.unique(found))
    if distinct < count:
        raise PenstockError(
            f"splitter.{key} is {count}, but there are only {distinct} groups",
            hint=f"lower splitter.{key}: a group is never divided",
        )
    return found


def _present(values: NDArray[Any] | None) -> NDArray[Any]:
    if values is None:
        raise PenstockError(
            "the splitter needs task.group or task.time", hint="name the column, or split by kfold"
        )
    return values
