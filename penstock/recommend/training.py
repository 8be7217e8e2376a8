"""From fitted weights to the recommender that an artefact holds, and the lists that models give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import svds

from penstock.config import InteractionTrain, ItemCatalogue
from penstock.errors import PenstockError
from penstock.recommend.fitting import Matrix
from penstock.recommend.interactions import Cases, Catalogue, Histories, cases, catalogue, histories
from penstock.recommend.model import ABSENT, Recommender
from penstock.recommend.splitting import PARTS

__all__ = [
    "Problem",
    "Pruned",
    "as_frame",
    "from_frame",
    "likeness",
    "lists_by_factors",
    "lists_by_item",
    "problem",
    "prune",
    "top",
]

BATCH = 256  # users whose scores are in memory at a time


@dataclass(frozen=True)
class Pruned:
    """The strongest weights of each row, in the order of their places.

    Attributes:
        neighbours: Places, N where there is none, shape (N, M).
        weights: Rounded to float16, shape (N, M), float32.
        kept: Share of the sum of absolute weights that is kept.
    """

    neighbours: NDArray[np.int32]
    weights: Matrix
    kept: float


@dataclass(frozen=True)
class Problem:
    """What is learnt from and what is to be told from it.

    Attributes:
        items: That can be recommended.
        past: Histories, in places of ``items``.
        cases: Who is judged, by what.
        genres: Of each item; empty where there are none.
    """

    items: Catalogue
    past: Histories
    cases: Cases
    genres: list[list[str]]


def problem(frame: pl.DataFrame, settings: ItemCatalogue, *, judged_by: str) -> Problem:
    """Take the parts before ``judged_by`` (validation or holdout) as history, and that one as what comes next.

    Args:
        frame: Interactions with their part, in the order of users and time.
        settings: Which items can be recommended.
        judged_by: A part.

    Raises:
        PenstockError: Too few items, or nobody of whom there is a history.
    """
    before = frame.filter(pl.col("part").is_in(PARTS[: PARTS.index(judged_by)]))
    items = catalogue(before, settings)
    past = histories(before, items)
    judged = cases(frame.filter(pl.col("part") == judged_by), past)
    if not len(judged.users):
        raise PenstockError(
            f"prepare: nobody in the {judged_by} part has a history before it",
            hint="choose split: last, or other shares",
        )
    first = frame.drop_nulls("genres").unique("item", keep="first", maintain_order=True)
    genres = dict(zip(first["item"].to_list(), first["genres"].to_list(), strict=True))
    return Problem(items, past, judged, [genres.get(item, []) for item in items.ids.tolist()])


def prune(matrix: Matrix, count: int) -> Pruned:
    """Keep the ``count`` weights of each row that are the largest without their sign."""
    items = len(matrix)
    size = np.abs(matrix)
    if count < items:
        chosen = np.sort(np.argpartition(-size, count - 1, axis=1)[:, :count], axis=1)
    else:
        chosen = np.tile(np.arange(items), (items, 1))
    weights = np.take_along_axis(matrix, chosen, axis=1).astype(np.float16).astype(np.float32)
    neighbours = np.where(weights == 0, items, chosen).astype(np.int32)
    total = float(size.sum(dtype=np.float64))
    return Pruned(neighbours, weights, float(np.abs(weights).sum(dtype=np.float64)) / total if total else 1.0)


def _decay(ranks: NDArray[np.int64], half_life: float | None, floor: float) -> NDArray[np.float32]:
    """Weight of a vote that stands so many places before the last."""
    if half_life is None:
        return np.ones(len(ranks), dtype=np.float32)
    weights: Matrix = np.exp2(-ranks.astype(np.float32) / np.float32(half_life)) + np.float32(floor)
    return weights


def _votes(past: Histories, half_life: float | None, train: InteractionTrain) -> sparse.csr_array:
    """What weight each item of a history has, shape (users, N), float32."""
    ranks = past.from_end
    weights = _decay(ranks, half_life, train.floor) * (ranks < train.max_history)
    return past.matrix(weights.astype(np.float32))


def lists_by_item(
    pruned: Pruned,
    half_life: float | None,
    past: Histories,
    users: NDArray[np.int64],
    *,
    train: InteractionTrain,
    depth: int,
) -> NDArray[np.int64]:
    """Places of the best items of each user by an item-item model cut down as an artefact is, shape (n, depth)."""
    there = pruned.neighbours < past.items
    rows = np.repeat(np.arange(past.items), there.sum(axis=1))
    weights = sparse.csr_array(
        sparse.coo_array((pruned.weights[there], (rows, pruned.neighbours[there])), shape=(past.items,) * 2)
    )
    given = _votes(past, half_life, train)[users]
    popular = -np.arange(past.items, dtype=np.float32)

    def scores() -> Iterator[Matrix]:
        for start in range(0, len(users), BATCH):
            part = given[start : start + BATCH]
            dense = np.asarray((part @ weights).todense(), dtype=np.float32)
            dense[np.diff(part.indptr) == 0] = popular
            yield dense

    return top(scores(), past, users, depth)


def lists_by_factors(
    factors: tuple[Matrix, Matrix], past: Histories, users: NDArray[np.int64], depth: int
) -> NDArray[np.int64]:
    """Places of the best items of each user by inner products, shape (n, depth)."""
    of_users, of_items = factors
    batches = (of_users[users[start : start + BATCH]] @ of_items.T for start in range(0, len(users), BATCH))
    return top(batches, past, users, depth)


def top(
    scores: Iterator[NDArray[np.floating]], past: Histories, users: NDArray[np.int64], depth: int
) -> NDArray[np.int64]:
    """The best unseen items, -1 where there are no more; of equal ones the more popular first.

    Args:
        scores: Of batches of users, one behind the other, each of shape (b, N).
        past: What has been seen.
        users: Who the scores are of.
        depth: Length of a list.
    """
    lists = np.full((len(users), depth), ABSENT, dtype=np.int64)
    start = 0
    for batch in scores:
        for row in np.array(batch, dtype=np.float64):
            row[past.of(int(users[start]))] = -np.inf
            best = np.argsort(-row, kind="stable")[:depth]
            best = best[np.isfinite(row[best])]
            lists[start, : len(best)] = best
            start += 1
    return lists


def likeness(past: Histories, genres: Sequence[Sequence[str]], train: InteractionTrain, seed: int) -> Matrix:
    """Unit vectors of items, alike by who took both and by genres, shape (N, D), rounded to float16.

    Args:
        past: What is learnt from.
        genres: Of each item; all empty where the data have none.
        train: Number of factors, and the weight of genres.
        seed: Of the vector that the singular value decomposition starts from.
    """
    taken = past.matrix()
    rank = min(train.factors, min(taken.shape) - 1)
    together = np.zeros((past.items, 1))
    if rank > 0:
        start = np.random.default_rng(seed).standard_normal(min(taken.shape))
        _, strength, right = svds(taken, k=rank, v0=start, which="LM")
        together = _unit(right.T * strength)
    named = sorted({genre for of_item in genres for genre in of_item})
    if not named or train.genre_weight == 0:
        return together.astype(np.float16).astype(np.float32)
    at = {genre: place for place, genre in enumerate(named)}
    shown = np.zeros((past.items, len(named)))
    for row, of_item in enumerate(genres):
        shown[row, [at[genre] for genre in of_item]] = 1.0
    share = train.genre_weight
    joined = np.hstack([np.sqrt(1 - share) * together, np.sqrt(share) * _unit(shown)])
    return joined.astype(np.float16).astype(np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit


def as_frame(items: Catalogue, pruned: Pruned, vectors: Matrix) -> pl.DataFrame:
    """One row for each item: what `from_frame` makes a recommender of."""
    return pl.DataFrame(
        {
            "id": items.ids,
            "count": items.counts,
            "neighbours": pruned.neighbours,
            "weights": pruned.weights,
            "vector": vectors,
        }
    )


def from_frame(
    frame: pl.DataFrame, *, half_life: float | None, train: InteractionTrain, pool: int
) -> Recommender:
    """The model whose rows `as_frame` gave. Popularity is the share of the most popular item's interactions."""
    counts = frame["count"].to_numpy()
    return Recommender(
        ids=frame["id"].to_numpy(),
        popularity=(counts / counts.max()).astype(np.float32),
        neighbours=frame["neighbours"].to_numpy().astype(np.int32),
        weights=frame["weights"].to_numpy().astype(np.float32),
        vectors=frame["vector"].to_numpy().astype(np.float32),
        half_life=half_life,
        floor=train.floor,
        max_history=train.max_history,
        pool=pool,
    )
