"""How good lists of items are: for who was to be pleased, and beyond."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "Hits", "Known", "beyond_accuracy", "hits", "per_user"]

METRICS = ("hit_rate", "ndcg", "mrr", "recall")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Hits:
    """Where in the lists the wanted items stand.

    Attributes:
        found: Whether each place of each list holds a wanted item, shape (n, depth).
        wanted: How many each user wanted, shape (n,), at least one.
    """

    found: NDArray[np.bool_]
    wanted: NDArray[np.int64]


def hits(lists: NDArray[np.int64], wanted: Sequence[NDArray[np.int64]]) -> Hits:
    """Compare lists with what was wanted.

    Args:
        lists: Ids, the best first, -1 where there is none, shape (n, depth).
        wanted: The ids that each user took up, without repetition.
    """
    found = np.zeros(lists.shape, dtype=np.bool_)
    for row, (items, targets) in enumerate(zip(lists, wanted, strict=True)):
        found[row] = np.isin(items, targets) & (items >= 0)
    return Hits(found, np.array([len(targets) for targets in wanted], dtype=np.int64))


def per_user(name: str, judged: Hits, k: int) -> Values:
    """One metric of each user at a list of ``k``, shape (n,).

    hit_rate: 1 if any of the first k is wanted. recall: share of the wanted ones among the first k. mrr: 1 / place
    of the first that is wanted, 0 if there is none. ndcg: Σ 1 / log₂(1 + place) over the wanted ones among the
    first k, over the largest such sum (Järvelin and Kekäläinen, 2002).
    """
    top = judged.found[:, :k]
    places = np.arange(1, top.shape[1] + 1)
    if name == "hit_rate":
        return np.asarray(top.any(axis=1), dtype=np.float64)
    if name == "recall":
        return np.asarray(top.sum(axis=1) / judged.wanted, dtype=np.float64)
    if name == "mrr":
        return np.asarray(np.where(top, 1 / places, 0).max(axis=1, initial=0.0), dtype=np.float64)
    if name == "ndcg":
        gains = 1 / np.log2(1 + np.arange(1, k + 1))
        ideal = np.cumsum(gains)[np.minimum(judged.wanted, k) - 1]
        return np.asarray((top @ gains[: top.shape[1]]) / ideal, dtype=np.float64)
    raise ValueError(name)


@dataclass(frozen=True)
class Known:
    """What is known of the items that were learnt from.

    Attributes:
        counts: Interactions of each item, by id.
        genres: Of each item, by id; empty if the data have none.
        users: How many there are.
    """

    counts: Mapping[int, int]
    genres: Mapping[int, frozenset[str]]
    users: int


def beyond_accuracy(
    lists: NDArray[np.int64], pasts: Sequence[NDArray[np.int64]], known: Known
) -> dict[str, float | None]:
    """What lists are like, whatever anyone wanted.

    Args:
        lists: Ids, -1 where there is none, shape (n, k).
        pasts: The ids in each user's history.
        known: Of the items.

    Returns:
        coverage: share of all items that are in any list. gini: of how often items of the lists are in them, 0 all
        alike. novelty: mean of −log₂ of the share of users who have an item, in bits. popularity_lift: mean popularity
        of the lists' items over that of the histories', averaged over users; above 1, lists are more popular
        than tastes. diversity: one less the mean Jaccard likeness of the genres of two items of a list; None without
        genres.
    """
    shown, times = np.unique(lists[lists >= 0], return_counts=True)
    counts = np.array([known.counts.get(int(item), 0) for item in shown], dtype=np.float64)
    rarity = dict(zip(shown.tolist(), -np.log2(np.maximum(counts, 1) / known.users), strict=True))
    every = [row[row >= 0] for row in lists]
    novelty = [np.mean([rarity[item] for item in row.tolist()]) for row in every if len(row)]
    lifts = [
        _mean_count(row, known) / _mean_count(past, known)
        for row, past in zip(every, pasts, strict=True)
        if len(row) and len(past)
    ]
    return {
        "coverage": len(shown) / max(1, len(known.counts)),
        "gini": _gini(times),
        "novelty": float(np.mean(novelty)) if novelty else None,
        "popularity_lift": float(np.mean(lifts)) if lifts else None,
        "diversity": _diversity(every, known.genres),
    }


def _mean_count(items: NDArray[np.int64], known: Known) -> float:
    return float(np.mean([max(1, known.counts.get(int(item), 0)) for item in items]))


def _gini(times: NDArray[np.int64]) -> float | None:
    if not len(times):
        return None
    ordered = np.sort(times).astype(np.float64)
    rank = np.arange(1, len(ordered) + 1)
    return float((2 * rank - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum()))


def _diversity(lists: Sequence[NDArray[np.int64]], genres: Mapping[int, frozenset[str]]) -> float | None:
    if not genres:
        return None
    nothing: frozenset[str] = frozenset()
    means = []
    for row in lists:
        sets = [found for found in (genres.get(int(item), nothing) for item in row) if found]
        pairs = [
            1 - len(one & other) / len(one | other) for at, one in enumerate(sets) for other in sets[at + 1 :]
        ]
        if pairs:
            means.append(np.mean(pairs))
    return float(np.mean(means)) if means else None
