"""Every setting of every candidate, judged on the validation part; the best of each, and the best of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Als, InteractionScoring, InteractionTrain, Popularity, Recommending, View
from penstock.errors import PenstockError
from penstock.recommend.fitting import BASELINES, als, popularity, settings_of, similarities
from penstock.recommend.interactions import Histories
from penstock.recommend.metrics import METRICS, hits, per_user
from penstock.recommend.model import ABSENT
from penstock.recommend.training import (
    Problem,
    as_frame,
    likeness,
    lists_by_factors,
    lists_by_item,
    prune,
    top,
)

__all__ = ["Selection", "Trial", "as_table", "fit_winner", "lists", "lists_of_others", "search", "select"]


class Trial(View):
    """One setting of one candidate.

    Attributes:
        candidate: Its name.
        settings: What was tried.
        metrics: Means over users of the validation part.
    """

    candidate: str
    settings: dict[str, Any]
    metrics: dict[str, float]


class Selection(View):
    """What the search has found.

    Attributes:
        winner: Name of the candidate that becomes the artefact.
        candidates: The best trial of each.
    """

    winner: str
    candidates: dict[str, Trial]

    def metrics(self) -> dict[str, dict[str, float]]:
        """Of the best trial of each candidate."""
        return {name: trial.metrics for name, trial in self.candidates.items()}


def lists(
    candidate: Recommending,
    settings: Sequence[dict[str, Any]],
    posed: Problem,
    *,
    train: InteractionTrain,
    depth: int,
    seed: int,
) -> Iterator[NDArray[np.int64]]:
    """For each of several settings the best unseen items of each user who is judged, ids, shape (n, depth).

    Args:
        candidate: Which model.
        settings: Of it.
        posed: What is learnt from, and who is recommended to.
        train: How an item-item model is cut down.
        depth: Length of a list.
        seed: Of a random start.
    """
    past, users, known = posed.past, posed.cases.users, posed.items.ids
    for places in _places(candidate, settings, past, users, train=train, depth=depth, seed=seed):
        yield np.where(places >= 0, known[places], ABSENT)


def _places(
    candidate: Recommending,
    settings: Sequence[dict[str, Any]],
    past: Histories,
    users: NDArray[np.int64],
    *,
    train: InteractionTrain,
    depth: int,
    seed: int,
) -> Iterator[NDArray[np.int64]]:
    match candidate:
        case Popularity():
            for one in settings:
                scores = popularity(past, half_life=one["half_life"])
                yield top((scores[None] for _ in users), past, users, depth)
        case Als():
            for one in settings:
                yield lists_by_factors(als(past, seed=seed, **one), past, users, depth)
        case _:
            matrix = None
            for fitted in similarities(candidate, settings, past):
                # Settings of recency alone share a matrix.
                if fitted.matrix is not matrix:
                    matrix, pruned = fitted.matrix, prune(fitted.matrix, train.neighbours)
                yield lists_by_item(pruned, fitted.half_life, past, users, train=train, depth=depth)


def search(
    candidates: Mapping[str, Recommending],
    posed: Problem,
    *,
    train: InteractionTrain,
    scoring: InteractionScoring,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> list[Trial]:
    """Try every setting of every candidate.

    Returns:
        Trials, in the order of candidates and of their grids.
    """
    trials = []
    for name, candidate in candidates.items():
        settings = settings_of(candidate)
        found = lists(candidate, settings, posed, train=train, depth=scoring.k, seed=seed)
        for one, items in zip(settings, found, strict=True):
            judged = hits(items, posed.cases.wanted)
            metrics = {metric: float(per_user(metric, judged, scoring.k).mean()) for metric in METRICS}
            trials.append(Trial(candidate=name, settings=one, metrics=metrics))
            advance(1)
    return trials


def as_table(trials: Sequence[Trial]) -> pl.DataFrame:
    """One row for each trial."""
    rows = [
        {
            "candidate": trial.candidate,
            "settings": ", ".join(f"{name} {_written(value)}" for name, value in trial.settings.items()),
            **trial.metrics,
        }
        for trial in trials
    ]
    return pl.DataFrame(rows)


def _written(value: Any) -> str:
    return "none" if value is None else f"{value:g}"


def select(trials: Sequence[Trial], candidates: Mapping[str, Recommending], metric: str) -> Selection:
    """The best trial of each candidate, of equal ones the first; and the best candidate that is no baseline.

    Raises:
        PenstockError: All are baselines.
    """
    found: dict[str, Trial] = {}
    for trial in trials:
        if trial.candidate not in found or trial.metrics[metric] > found[trial.candidate].metrics[metric]:
            found[trial.candidate] = trial
    able = [name for name in found if candidates[name].kind not in BASELINES]
    if not able:
        raise PenstockError(
            "candidates: all are baselines, of which no artefact is made",
            hint="add one of kind item_knn, ease or transitions",
        )
    return Selection(winner=max(able, key=lambda name: found[name].metrics[metric]), candidates=found)


def fit_winner(
    selection: Selection,
    candidates: Mapping[str, Recommending],
    posed: Problem,
    *,
    train: InteractionTrain,
    seed: int,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The artefact's weights, one row for each item, and what is worth telling of them."""
    chosen = selection.candidates[selection.winner].settings
    (fitted,) = similarities(candidates[selection.winner], [chosen], posed.past)
    pruned = prune(fitted.matrix, train.neighbours)
    vectors = likeness(posed.past, posed.genres, train, seed)
    summary = {
        "model": selection.winner,
        "users": len(posed.past.users),
        "interactions": len(posed.past.places),
        "items": len(posed.items.ids),
        "weights": int((pruned.weights != 0).sum()),
        "kept": pruned.kept,
        "half_life": fitted.half_life,
    }
    return as_frame(posed.items, pruned, vectors), summary


def lists_of_others(
    selection: Selection,
    candidates: Mapping[str, Recommending],
    posed: Problem,
    *,
    train: InteractionTrain,
    depth: int,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> pl.DataFrame:
    """What the best setting of each candidate but the winner recommends: model, user, and a list of ids."""
    users = [posed.past.users[user] for user in posed.cases.users]
    frames = [pl.DataFrame(schema={"model": pl.String, "user": pl.String, "items": pl.List(pl.Int64)})]
    for name, trial in selection.candidates.items():
        if name == selection.winner:
            continue
        (items,) = lists(candidates[name], [trial.settings], posed, train=train, depth=depth, seed=seed)
        rows = {"model": [name] * len(users), "user": users, "items": items.tolist()}
        frames.append(pl.DataFrame(rows, schema=frames[0].schema))
        advance(1)
    return pl.concat(frames)
