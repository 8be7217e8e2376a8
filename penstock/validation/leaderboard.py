"""Every candidate on the same folds, in order; the winner settled on all rows; samplers side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from penstock.config import Candidate, Features, Sampler, Scoring
from penstock.storage import rounded
from penstock.validation import judging, metrics, splitters
from penstock.validation.fitting import Floats, Integers, Table
from penstock.validation.judging import Judged, Plan, Task
from penstock.validation.metrics import Summary
from penstock.validation.parallel import Map
from penstock.validation.search import Setting
from penstock.validation.significance import Comparison, compare

__all__ = ["Entry", "Leaderboard", "OutOfFold", "build", "count_tasks"]


@dataclass(frozen=True)
class Entry:
    """What one candidate (or sampler) reached.

    Attributes:
        name: As in the configuration.
        model: Its estimator.
        folds: One judgement per outer split, in the order of the splits.
        summaries: Metric → mean, spread and interval.
    """

    name: str
    model: str
    folds: tuple[Judged, ...]
    summaries: dict[str, Summary]

    def dump(self) -> dict[str, Any]:
        """As leaderboard.json has it."""
        return {
            "name": self.name,
            "model": self.model,
            "params_per_fold": [fold.params for fold in self.folds],
            "thresholds": [fold.threshold for fold in self.folds],
            "folds": [fold.metrics for fold in self.folds],
            "metrics": {name: asdict(summary) for name, summary in self.summaries.items()},
        }

    def row(self) -> dict[str, Any]:
        """One line of a CSV: means of all metrics."""
        return {"candidate": self.name} | {name: summary.mean for name, summary in self.summaries.items()}


@dataclass(frozen=True)
class OutOfFold:
    """The winner's predictions of rows it had not seen, fold after fold.

    Attributes:
        y: Class codes or values, shape (n,).
        prediction: Probabilities, shape (n, K), or values, shape (n,).
        threshold: Of every row's fold, shape (n,), or None.
    """

    y: np.ndarray[Any, Any]
    prediction: Floats
    threshold: Floats | None


@dataclass(frozen=True)
class Leaderboard:
    """The outcome of validation.

    Attributes:
        entries: Candidates, the best first.
        samplers: The samplers compared, the best first.
        comparison: The best two; None where there is one candidate.
        candidate: The winner's configuration.
        recipe: The winner's features.
        setting: Searched once more, on all rows: what is to be trained.
        threshold: Tuned with it.
        metric: The deciding metric.
        out_of_fold: Of the winner.
    """

    entries: tuple[Entry, ...]
    samplers: tuple[Entry, ...]
    comparison: Comparison | None
    candidate: Candidate
    recipe: Features
    setting: Setting
    threshold: float | None
    metric: str
    out_of_fold: OutOfFold

    @property
    def winner(self) -> Entry:
        """The first."""
        return self.entries[0]

    @property
    def headline(self) -> str:
        """The outcome in one line."""
        summary = self.winner.summaries[self.metric]
        line = f"{self.winner.name} wins with {self.metric} {summary.mean:.4g} ± {summary.std:.2g}"
        return f"{line}; {self.comparison.verdict}" if self.comparison else line

    def validation(self) -> dict[str, Any]:
        """The small metric file: the winner's means, and the interval of the deciding one.

        The winner is the best of several on these very folds, so its mean flatters it a little; the
        hold-out, which chose nothing, does not.
        """
        summary = self.winner.summaries[self.metric]
        found: dict[str, Any] = {"winner": self.winner.name}
        found |= {name: item.mean for name, item in self.winner.summaries.items()}
        found |= {f"{self.metric}_{part}": getattr(summary, part) for part in ("std", "low", "high")}
        return found | ({"threshold": self.threshold} if self.threshold is not None else {})

    def selection(self) -> dict[str, Any]:
        """What is to be trained."""
        return {
            "candidate": self.winner.name,
            "model": self.candidate.model,
            "params": {**self.candidate.params, **self.setting},
            "recipe": self.recipe.model_dump(),
            "log_target": self.candidate.log_target,
            "threshold": self.threshold,
            "metric": self.metric,
            "mean": rounded(self.winner.summaries[self.metric].mean),
        }

    def dump(self) -> dict[str, Any]:
        """Everything, as leaderboard.json has it."""
        return {
            "metric": self.metric,
            "candidates": [entry.dump() for entry in self.entries],
            "best_params": {**self.candidate.params, **self.setting},
            "significance": self.comparison.dump() if self.comparison else None,
            "samplers": [entry.dump() for entry in self.samplers],
        }

    def table(self, entries: Sequence[Entry]) -> pl.DataFrame:
        """candidate, the deciding metric, its std, low and high, then the means of all other metrics."""
        rows = []
        for entry in entries:
            summary = entry.summaries[self.metric]
            spread = {part: getattr(summary, part) for part in ("std", "low", "high")}
            others = {name: item.mean for name, item in entry.summaries.items() if name != self.metric}
            rows.append({"candidate": entry.name, self.metric: summary.mean} | spread | others)
        return pl.DataFrame(rows, infer_schema_length=None).fill_nan(None)


def _by_recipe(
    candidates: Mapping[str, Candidate], features: Features
) -> list[tuple[Features, dict[str, Candidate]]]:
    """Candidates that see the same matrices, together."""
    groups: list[tuple[Features, dict[str, Candidate]]] = []
    for name, candidate in candidates.items():
        recipe = candidate.recipe(features)
        for known, members in groups:
            if known == recipe:
                members[name] = candidate
                break
        else:
            groups.append((recipe, {name: candidate}))
    return groups


def build(
    table: Table,
    plan: Plan,
    candidates: Mapping[str, Candidate],
    *,
    features: Features,
    sampler: Sampler,
    compare_samplers: Sequence[Sampler],
    spread: Map,  # type: ignore[type-arg]
    advance: Callable[[float], None],
) -> Leaderboard:
    """Judge all candidates, settle the winner, compare the samplers.

    Args:
        table: All rows that may be learnt from.
        plan: Splitter, search, scoring.
        candidates: Name → candidate.
        features: The recipe from which candidates may deviate.
        sampler: Applied inside every training part.
        compare_samplers: To be judged side by side with the winner's model.
        spread: Runs tasks, on as many processes as there are.
        advance: Told of every task done.

    Raises:
        PenstockError: The rows, a parameter or a sampler do not allow it.
    """
    splits = splitters.outer(
        plan.splitter, table.y, kind=table.kind, groups=table.groups, times=table.times, seed=table.seed
    )
    tasks = [
        Task(table, plan, split, recipe, sampler, members)
        for split in splits
        for recipe, members in _by_recipe(candidates, features)
    ]
    judged: dict[str, list[Judged]] = {name: [] for name in candidates}
    for found in spread(judging.judge, tasks, advance):
        for name, fold in found.items():
            judged[name].append(fold)
    ratio = float(np.mean([len(test) / len(train) for train, test in splits]))
    entries = _ranked(
        [
            _entry(name, candidates[name].model, folds, ratio, table, plan.scoring)
            for name, folds in judged.items()
        ],
        plan.scoring,
    )
    winner = entries[0]
    chosen = candidates[winner.name]
    recipe = chosen.recipe(features)
    every = np.arange(table.frame.height, dtype=np.int64)
    last = Task(table, plan, (every, every[:0]), recipe, sampler, {winner.name: chosen})
    others = _sampler_tasks(table, plan, splits, recipe, compare_samplers, winner, chosen)
    settled, *side_by_side = spread(_work, [("settle", last), *(("judge", task) for task in others)], advance)
    setting, threshold = settled[winner.name]
    return Leaderboard(
        entries=entries,
        samplers=_sampler_entries(side_by_side, compare_samplers, winner, chosen, ratio, table, plan.scoring),
        comparison=_best_two(entries, ratio, plan.scoring),
        candidate=chosen,
        recipe=recipe,
        setting=setting,
        threshold=threshold,
        metric=plan.scoring.metric,
        out_of_fold=_out_of_fold(table, winner.folds),
    )


def count_tasks(plan: Plan, candidates: Mapping[str, Candidate], features: Features, samplers: int) -> int:
    """How often ``advance`` will be told."""
    splits = plan.splitter.n_splits * plan.splitter.n_repeats
    return splits * len(_by_recipe(candidates, features)) + 1 + splits * samplers


def _work(task: tuple[str, Task]) -> Any:
    return (judging.settle if task[0] == "settle" else judging.judge)(task[1])


def _entry(
    name: str, model: str, folds: Sequence[Judged], ratio: float, table: Table, scoring: Scoring
) -> Entry:
    tuned = any(fold.threshold is not None for fold in folds)
    summaries = {
        metric: metrics.summarise(
            [fold.metrics.get(metric, math.nan) for fold in folds],
            test_to_train=ratio,
            confidence=scoring.confidence,
        )
        for metric in metrics.names(table.kind, tuned=tuned)
    }
    return Entry(name, model, tuple(folds), summaries)


def _ranked(entries: Sequence[Entry], scoring: Scoring) -> tuple[Entry, ...]:
    """The best first; equal ones in the order of the configuration; those without a value last."""
    sign = -1.0 if metrics.greater_is_better(scoring.metric) else 1.0

    def key(entry: Entry) -> float:
        mean = entry.summaries[scoring.metric].mean
        return math.inf if math.isnan(mean) else sign * mean

    return tuple(sorted(entries, key=key))


def _best_two(entries: Sequence[Entry], ratio: float, scoring: Scoring) -> Comparison | None:
    if len(entries) < 2:
        return None
    first, second = (
        (entry.name, [fold.metrics[scoring.metric] for fold in entry.folds]) for entry in entries[:2]
    )
    return compare(first, second, test_to_train=ratio, confidence=scoring.confidence)


def _sampler_tasks(
    table: Table,
    plan: Plan,
    splits: Sequence[tuple[Integers, Integers]],
    recipe: Features,
    samplers: Sequence[Sampler],
    winner: Entry,
    chosen: Candidate,
) -> list[Task]:
    """The winner on the same splits with the parameters it found there, sampler by sampler."""
    return [
        Task(table, plan, split, recipe, sampler, {winner.name: chosen}, {winner.name: fold.setting})
        for sampler in samplers
        for split, fold in zip(splits, winner.folds, strict=True)
    ]


def _sampler_entries(
    judged: Sequence[Mapping[str, Judged]],
    samplers: Sequence[Sampler],
    winner: Entry,
    chosen: Candidate,
    ratio: float,
    table: Table,
    scoring: Scoring,
) -> tuple[Entry, ...]:
    if not samplers:
        return ()
    folds = len(winner.folds)
    names = [sampler.name for sampler in samplers]
    labels = [
        sampler.name if names.count(sampler.name) == 1 else f"{sampler.name}_{sampler.ratio:g}"
        for sampler in samplers
    ]
    return _ranked(
        [
            _entry(
                label,
                chosen.model,
                [fold[winner.name] for fold in judged[at * folds : (at + 1) * folds]],
                ratio,
                table,
                scoring,
            )
            for at, label in enumerate(labels)
        ],
        scoring,
    )


def _out_of_fold(table: Table, folds: Sequence[Judged]) -> OutOfFold:
    rows = np.concatenate([fold.rows for fold in folds])
    threshold = None
    if any(fold.threshold is not None for fold in folds):
        cuts = [metrics.DEFAULT_THRESHOLD if fold.threshold is None else fold.threshold for fold in folds]
        threshold = np.repeat(np.array(cuts), [len(fold.rows) for fold in folds])
    return OutOfFold(table.y[rows], np.concatenate([fold.prediction for fold in folds]), threshold)
