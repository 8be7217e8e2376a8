"""Nested validation: search inside the training part of every split, judge on its test part, once.

No row has a say in how the model that judges it was sampled, encoded, tuned, fitted or cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.config import Candidate, Features, Sampler, Scalar, Scoring, Search, Splitter
from penstock.validation import fitting, metrics, search, thresholds
from penstock.validation.fitting import Floats, Integers, Matrices, Table
from penstock.validation.splitters import Split, inner

__all__ = ["InnerFolds", "Judged", "Plan", "Task", "judge", "measure", "settle"]


@dataclass(frozen=True)
class Plan:
    """What is the same for every split and candidate."""

    splitter: Splitter
    search: Search
    scoring: Scoring


@dataclass(frozen=True)
class Task:
    """One unit of work for a process: one split, and the candidates of one recipe.

    Attributes:
        table: All rows.
        plan: How they are judged.
        split: Training and test rows; no test rows when settling.
        recipe: The features of all these candidates.
        sampler: Applied to whatever is trained on.
        candidates: Name → candidate.
        settings: Name → setting, where it is known already and not searched for.
    """

    table: Table
    plan: Plan
    split: Split
    recipe: Features
    sampler: Sampler
    candidates: Mapping[str, Candidate]
    settings: Mapping[str, search.Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """One candidate on one split.

    Attributes:
        params: Fixed and found parameters.
        setting: The found ones alone.
        threshold: Tuned on the inner folds; None where none is.
        metrics: On the test rows.
        rows: The test rows.
        prediction: Their probabilities, shape (n, K), or values, shape (n,).
    """

    params: dict[str, Scalar | None]
    setting: search.Setting
    threshold: float | None
    metrics: dict[str, float]
    rows: Integers
    prediction: Floats


class InnerFolds:
    """The inner folds of one split and one recipe: encoded once, for every candidate and setting."""

    def __init__(self, task: Task) -> None:
        table, plan = task.table, task.plan
        self._task = task
        self._splits = inner(
            plan.splitter,
            task.split[0],
            table.y,
            kind=table.kind,
            groups=table.groups,
            times=table.times,
            seed=table.seed,
        )
        self._matrices: dict[int, Matrices] = {}
        self.y = np.concatenate([table.y[test] for _, test in self._splits])
        self._ends = np.cumsum([len(test) for _, test in self._splits])[:-1]

    def _encoded(self, at: int) -> Matrices:
        if at not in self._matrices:
            task = self._task
            self._matrices[at] = fitting.prepare(task.table, *self._splits[at], task.recipe, task.sampler)
        return self._matrices[at]

    def predictions(self, candidate: Candidate, settings: Sequence[search.Setting]) -> list[Floats]:
        """Of every setting, the out-of-fold predictions in the order of ``y``."""
        table = self._task.table
        folds = [
            fitting.predictions(candidate, settings, self._encoded(at), table.kind, table.seed)
            for at in range(len(self._splits))
        ]
        return [np.concatenate(parts) for parts in zip(*folds, strict=True)]

    def score(self, prediction: Floats) -> float:
        """Mean of the deciding metric over the folds, turned so that greater is better."""
        plan, table = self._task.plan, self._task.table
        name = plan.scoring.metric
        threshold = _tuned(self.y, prediction, table, plan.scoring) if metrics.uses_threshold(name) else None
        parts = zip(np.split(self.y, self._ends), np.split(prediction, self._ends), strict=True)
        found = [measure(y, part, table, threshold, plan.scoring)[name] for y, part in parts]
        present = [value for value in found if not math.isnan(value)]
        mean = math.fsum(present) / len(present) if present else math.nan
        return mean if metrics.greater_is_better(name) else -mean


def _tuned(y: NDArray[Any], prediction: Floats, table: Table, scoring: Scoring) -> float | None:
    return thresholds.tune(y, prediction[:, 1], scoring) if table.kind == "binary" else None


def measure(
    y: NDArray[Any], prediction: Floats, table: Table, threshold: float | None, scoring: Scoring
) -> dict[str, float]:
    """All metrics of the table's task."""
    if table.kind == "regression":
        return metrics.regression(y, prediction)
    return metrics.classification(y, prediction, threshold=threshold, scoring=scoring)


def _found(
    name: str, candidate: Candidate, task: Task, folds: Callable[[], InnerFolds]
) -> tuple[search.Setting, float | None]:
    """The best setting and its threshold, by the inner folds alone; they are made only if something asks."""
    plan, table = task.plan, task.table
    seen: dict[str, Floats] = {}

    def evaluate(settings: Sequence[search.Setting]) -> list[float]:
        made = folds().predictions(candidate, settings)
        seen.update(zip(map(repr, settings), made, strict=True))
        return [folds().score(prediction) for prediction in made]

    setting = task.settings.get(name)
    if setting is None:
        setting = search.best(candidate, plan.search, evaluate, name=name, seed=table.seed)
    if table.kind != "binary" or plan.scoring.threshold == "default":
        return setting, None
    if repr(setting) not in seen:
        evaluate([setting])
    return setting, _tuned(folds().y, seen[repr(setting)], table, plan.scoring)


def _folds_of(task: Task) -> Callable[[], InnerFolds]:
    made: list[InnerFolds] = []

    def folds() -> InnerFolds:
        if not made:
            made.append(InnerFolds(task))
        return made[0]

    return folds


def judge(task: Task) -> dict[str, Judged]:
    """Search, fit and score every candidate of a task on its split.

    Raises:
        PenstockError: A parameter, the sampler or the rows do not allow it.
    """
    table = task.table
    folds = _folds_of(task)
    matrices = fitting.prepare(table, *task.split, task.recipe, task.sampler)
    rows = task.split[1]
    results = {}
    for name, candidate in task.candidates.items():
        setting, threshold = _found(name, candidate, task, folds)
        prediction = fitting.predictions(candidate, [setting], matrices, table.kind, table.seed)[0]
        results[name] = Judged(
            params={**candidate.params, **setting},
            setting=setting,
            threshold=threshold,
            metrics=measure(table.y[rows], prediction, table, threshold, task.plan.scoring),
            rows=rows,
            prediction=prediction,
        )
    return results


def settle(task: Task) -> dict[str, tuple[search.Setting, float | None]]:
    """The settings and thresholds to go on with, searched on the training rows of the task."""
    folds = _folds_of(task)
    return {name: _found(name, candidate, task, folds) for name, candidate in task.candidates.items()}
