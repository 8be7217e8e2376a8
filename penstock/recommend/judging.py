"""The hold-out, judged by lists alone: figures with intervals, differences with tests, and what diversity costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import InteractionScoring
from penstock.errors import PenstockError
from penstock.recommend.metrics import METRICS, Hits, Known, beyond_accuracy, hits, per_user

__all__ = [
    "BEYOND",
    "Asked",
    "Evaluation",
    "Lists",
    "asked",
    "evaluate",
    "in_titles",
    "known",
    "lists_of",
    "titles",
]

BEYOND = ("coverage", "gini", "novelty", "popularity_lift", "diversity")
ACTIVITY = 4  # groups of users by the length of their history
Lists = NDArray[np.int64]


# An artefact as it is asked here: length of a list and diversity → ids for everyone, and the reason for each.
Asks = Callable[[int, float], tuple[Lists, Lists]]


@dataclass(frozen=True)
class Asked:
    """Who is judged.

    Attributes:
        users: Names.
        pasts: Ids of each one's history, oldest first.
        wanted: Ids that each took up afterwards.
    """

    users: list[str]
    pasts: list[NDArray[np.int64]]
    wanted: list[NDArray[np.int64]]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        metrics: For DVC: of each model, by name.
        tables: By the name of their file.
        examples: Users with their list and its reasons.
    """

    metrics: dict[str, Any]
    tables: dict[str, pl.DataFrame]
    examples: list[dict[str, Any]]


def asked(frame: pl.DataFrame) -> Asked:
    """Histories and wanted items of everyone in the hold-out who has a history, users sorted.

    Args:
        frame: Interactions with their part, in the order of users and time.
    """
    before = _by_user(frame.filter(pl.col("part") != "holdout"))
    after = _by_user(frame.filter(pl.col("part") == "holdout"))
    users = sorted(before.keys() & after.keys())
    return Asked(users, [before[user] for user in users], [after[user] for user in users])


def _by_user(frame: pl.DataFrame) -> dict[str, NDArray[np.int64]]:
    grouped = frame.group_by("user", maintain_order=True).agg("item")
    return {user: np.array(items, dtype=np.int64) for user, items in grouped.iter_rows()}


def lists_of(others: pl.DataFrame, people: Asked) -> dict[str, Lists]:
    """What other models recommend, by their name, users as in ``people``.

    Raises:
        PenstockError: They are not for the same users.
    """
    found = {}
    for (name,), rows in others.group_by("model", maintain_order=True):
        by_user = dict(rows.select("user", "items").iter_rows())
        if by_user.keys() != set(people.users):
            raise PenstockError(
                f"{name} recommends to others than the hold-out's users",
                hint="run the stages anew: `dvc repro`",
            )
        found[str(name)] = np.array([by_user[user] for user in people.users], dtype=np.int64)
    return found


def titles(frame: pl.DataFrame) -> dict[int, str]:
    """The first title of each item."""
    first = frame.unique("item", keep="first", maintain_order=True)
    return dict(first.select("item", "title").iter_rows())


def in_titles(examples: Sequence[Mapping[str, Any]], named: Mapping[int, str]) -> list[dict[str, Any]]:
    """Examples with titles in the place of ids."""

    def told(ids: Sequence[int]) -> list[str | None]:
        return [None if id_ < 0 else named.get(id_, str(id_)) for id_ in ids]

    return [{name: told(ids) for name, ids in one.items()} for one in examples]


def known(frame: pl.DataFrame) -> Known:
    """What is known of the items before the hold-out."""
    before = frame.filter(pl.col("part") != "holdout")
    counts = before.group_by("item").len().sort("item")
    first = before.drop_nulls("genres").unique("item", keep="first", maintain_order=True)
    genres = {
        item: frozenset(found) for item, found in first.select("item", "genres").iter_rows() if len(found)
    }
    return Known(dict(counts.iter_rows()), genres, before["user"].n_unique())


def evaluate(
    ask: Asks,
    winner: str,
    others: Mapping[str, Lists],
    people: Asked,
    items: Known,
    *,
    scoring: InteractionScoring,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
) -> Evaluation:
    """Judge the artefact beside what the other candidates recommended to the same users.

    Args:
        ask: The artefact.
        winner: What it is called.
        others: Lists of each other candidate, shape (n, depth), users as in ``people``.
        people: Who is judged.
        items: What novelty, popularity and diversity are measured by.
        scoring: Which metric counts, on how long a list.
        seed: Of resampling.
        advance: Called with 1 after every list that the artefact has given to all.
    """
    own, because = ask(scoring.depth, 0.0)
    advance(1)
    lists = {winner: own, **others}
    judged = {name: hits(found, people.wanted) for name, found in lists.items()}
    k = scoring.k
    values = {
        name: {metric: per_user(metric, found, k) for metric in METRICS} for name, found in judged.items()
    }
    draws = np.random.default_rng(seed).integers(
        0, len(people.users), (scoring.resamples, len(people.users)), dtype=np.int32
    )
    board = _board(values, draws, scoring.confidence)
    beyond = {name: beyond_accuracy(found[:, :k], people.pasts, items) for name, found in lists.items()}
    means = {name: {metric: float(one[metric].mean()) for metric in METRICS} for name, one in values.items()}
    tables = {
        "leaderboard": board,
        "beyond": pl.DataFrame([{"model": name, **found} for name, found in beyond.items()]),
        "tests": _tests(values, winner, draws, scoring, seed),
        "curves": _curves(judged, scoring.depth),
        "hit_rate": _wide(judged, scoring.depth),
        "activity": _activity(values, people),
        "trade": _trade(ask, people, items, scoring, advance),
    }
    examples = _examples(people, own[:, :k], because[:, :k], judged[winner], scoring)
    metrics = {name: {**means[name], **beyond[name]} for name in lists}
    return Evaluation({"users": len(people.users), "k": k, **metrics}, tables, examples)


def _board(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]], draws: NDArray[np.int32], confidence: float
) -> pl.DataFrame:
    """Means with bootstrap intervals over users."""
    rows = []
    for model, metrics in values.items():
        for metric, each in metrics.items():
            low, high = _interval(each, draws, confidence)
            rows.append({"model": model, "metric": metric, "value": each.mean(), "low": low, "high": high})
    return pl.DataFrame(rows)


def _interval(
    values: NDArray[np.float64], draws: NDArray[np.int32], confidence: float
) -> tuple[float, float]:
    means = values[draws].mean(axis=1)
    edge = (1 - confidence) / 2
    low, high = np.quantile(means, [edge, 1 - edge])
    return float(low), float(high)


def _tests(
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
    winner: str,
    draws: NDArray[np.int32],
    scoring: InteractionScoring,
    seed: int,
) -> pl.DataFrame:
    """The winner against each other model, user by user: bootstrap interval, and p of the sign-flip test."""
    rows = []
    schema = dict.fromkeys(("difference", "low", "high", "p"), pl.Float64)
    for other in values:
        for metric in METRICS if other != winner else ():
            gap = values[winner][metric] - values[other][metric]
            low, high = _interval(gap, draws, scoring.confidence)
            p = _sign_flip(gap, scoring.resamples, seed)
            found = {"difference": gap.mean(), "low": low, "high": high, "p": p}
            rows.append({"model": winner, "other": other, "metric": metric, **found})
    return pl.DataFrame(rows, schema={"model": pl.String, "other": pl.String, "metric": pl.String, **schema})


def _sign_flip(gap: NDArray[np.float64], resamples: int, seed: int) -> float:
    """Two-sided p: how often a difference as large comes of exchanging the two models user by user at random."""
    told = gap[gap != 0]
    if not len(told):
        return 1.0
    signs = np.random.default_rng(seed).integers(0, 2, (resamples, len(told)), dtype=np.int8) * 2 - 1
    reached = np.abs(signs @ told) >= abs(told.sum()) - 1e-12
    return float((1 + reached.sum()) / (1 + resamples))


def _curves(judged: Mapping[str, Hits], depth: int) -> pl.DataFrame:
    """Metrics by the length of the list."""
    lengths = sorted({*range(1, min(depth, 10) + 1), *range(15, depth + 1, 5), depth})
    rows = [
        {"model": name, "k": k, **{metric: per_user(metric, found, k).mean() for metric in METRICS}}
        for name, found in judged.items()
        for k in lengths
    ]
    return pl.DataFrame(rows)


def _wide(judged: Mapping[str, Hits], depth: int) -> pl.DataFrame:
    """Hit rate by the length of the list, a column for each model: what `dvc plots` draws."""
    ks = np.arange(1, depth + 1)
    columns = {
        name: np.maximum.accumulate(found.found, axis=1).mean(axis=0) for name, found in judged.items()
    }
    return pl.DataFrame({"k": ks, **columns})


def _activity(values: Mapping[str, Mapping[str, NDArray[np.float64]]], people: Asked) -> pl.DataFrame:
    """Metrics of users by the length of their history, in groups of one size."""
    lengths = np.array([len(past) for past in people.pasts])
    order = np.argsort(lengths, kind="stable")
    rows = []
    for group in np.array_split(order, min(ACTIVITY, len(order))):
        span = {"from": int(lengths[group].min()), "to": int(lengths[group].max()), "users": len(group)}
        for name, metrics in values.items():
            means = {metric: float(each[group].mean()) for metric, each in metrics.items()}
            rows.append({**span, "model": name, **means})
    return pl.DataFrame(rows)


def _trade(
    ask: Asks, people: Asked, items: Known, scoring: InteractionScoring, advance: Callable[[float], None]
) -> pl.DataFrame:
    """What diversity costs and gives."""
    rows = []
    for diversity in scoring.diversities:
        found, _ = ask(scoring.k, diversity)
        advance(1)
        judged = hits(found, people.wanted)
        means = {metric: per_user(metric, judged, scoring.k).mean() for metric in METRICS}
        rows.append({"asked": diversity, **means, **beyond_accuracy(found, people.pasts, items)})
    return pl.DataFrame(rows, schema_overrides={"diversity": pl.Float64})


def _examples(
    people: Asked, lists: Lists, because: Lists, judged: Hits, scoring: InteractionScoring
) -> list[dict[str, Any]]:
    """Users evenly over all, in their order; half of them, where there are any, with a hit in their list.

    Without their names: a page goes further than the data may.
    """
    hit = np.flatnonzero(judged.found[:, : scoring.k].any(axis=1))
    missed = np.setdiff1d(np.arange(len(people.users)), hit)
    half = scoring.examples // 2
    rows = np.sort(np.concatenate([_evenly(hit, half), _evenly(missed, scoring.examples - half)]))
    return [
        {
            "past": people.pasts[row][-5:].tolist(),
            "wanted": people.wanted[row].tolist()[:5],
            "items": lists[row].tolist(),
            "because": because[row].tolist(),
        }
        for row in rows
    ]


def _evenly(rows: Sequence[int] | NDArray[np.int64], count: int) -> NDArray[np.int64]:
    chosen = np.asarray(rows, dtype=np.int64)
    if len(chosen) <= count:
        return chosen
    return chosen[np.linspace(0, len(chosen) - 1, count).round().astype(np.int64)] if count else chosen[:0]
