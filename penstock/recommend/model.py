"""An item-item recommender as arrays, and what it answers: the reference that its ONNX file must agree with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["ABSENT", "BECAUSE_UNIT", "Recommendations", "Recommender"]

ABSENT = -1  # no item: padding on the way in, nothing left on the way out
# Contributions are told apart in steps of this, so that contribution and place fit into one integer of the graph.
BECAUSE_UNIT = 2.0**-22
UNAVAILABLE = np.float32(-1e9)


@dataclass(frozen=True)
class Recommendations:
    """The best items of each request, the best first.

    Attributes:
        items: Ids, shape (n, k); -1 where nothing is left.
        scores: The sum that each was chosen by, shape (n, k); 0 where there is no item.
        because: The item of the history that adds most to the score, shape (n, k); -1 if none does.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    because: NDArray[np.int64]


@dataclass(frozen=True)
class Recommender:
    """Scores are sums over the history: of what each of its items says of every other, the recent ones louder.

    score(j) = Σ_r decay(r) · B[item r places before the last, j], with decay(r) = 2^(−r / half_life) + floor.
    Of the columns of B each row keeps its strongest: ``neighbours`` and ``weights``. Scores of items in whose
    favour nothing speaks are equal (0); they stand in the order of ``ids``.

    Attributes:
        ids: Every item that can be returned, the most popular first, shape (N,).
        popularity: What answers an empty history, shape (N,), falling.
        neighbours: Places in ``ids``, shape (N, M); N where a row has fewer than M.
        weights: Of the neighbours, shape (N, M), float32 of which each is exact in float16; 0 where there is none.
        vectors: Unit rows by whose inner products two items are alike, shape (N, D), float32, exact in float16.
        half_life: Places in the history after which a vote has half its weight; None: all weigh the same.
        floor: What even the oldest vote has.
        max_history: Known items of a history that vote, the last ones. All are masked.
        pool: Best items among which diversity may choose; a larger k makes it larger.
    """

    ids: NDArray[np.int64]
    popularity: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    weights: NDArray[np.float32]
    vectors: NDArray[np.float32]
    half_life: float | None
    floor: float
    max_history: int
    pool: int

    def decay(self, count: int) -> NDArray[np.float32]:
        """Weight of each place before the last one, shape (count,)."""
        if self.half_life is None:
            return np.ones(count, dtype=np.float32)
        rank = np.arange(count, dtype=np.float32)
        decay: NDArray[np.float32] = np.exp2(-rank / np.float32(self.half_life)) + np.float32(self.floor)
        return decay

    def places(self, items: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Places in ``ids`` of the known ones among ``items``, in their order."""
        order = np.argsort(self.ids, kind="stable")
        wanted = np.asarray(items, dtype=np.int64)
        at = np.searchsorted(self.ids, wanted, sorter=order).clip(max=len(self.ids) - 1)
        found: NDArray[np.int64] = order[at]
        known: NDArray[np.int64] = found[self.ids[found] == wanted]
        return known

    def recommend(
        self,
        history: Sequence[int] | NDArray[np.int64],
        *,
        k: int,
        exclude: Sequence[int] | NDArray[np.int64] = (),
        diversity: float = 0.0,
    ) -> Recommendations:
        """Answer one request.

        Args:
            history: Ids, the last one the most recent. Unknown ones count for nothing; of a repeated one the last.
            k: How many are wanted.
            exclude: Ids that are never returned.
            diversity: 0: the best scores. Up to 1: the more, the less alike (maximal marginal relevance).
        """
        known = _distinct(self.places(history))
        voters = known[::-1][: self.max_history]
        scores, slots = self._votes(voters)
        if not len(voters):
            scores = self.popularity.copy()
        scores[known] = -np.inf
        scores[self.places(exclude)] = -np.inf
        wanted = min(k, len(self.ids))
        count = wanted if diversity <= 0 else min(max(k, self.pool), len(self.ids))
        best = np.argsort(-scores, kind="stable")[:count]
        chosen = best if diversity <= 0 else best[self._diverse(best, scores[best], wanted, diversity)]
        there = np.isfinite(scores[chosen])
        items = np.full(k, ABSENT, dtype=np.int64)
        items[:wanted] = np.where(there, self.ids[chosen], ABSENT)
        given = np.zeros(k, dtype=np.float32)
        given[:wanted] = np.where(there, scores[chosen], 0)
        because = np.full(k, ABSENT, dtype=np.int64)
        if len(voters):
            slot = slots[chosen]
            because[:wanted] = np.where(there & (slot >= 0), self.ids[voters[slot]], ABSENT)
        return Recommendations(items[None], given[None], because[None])

    def _votes(self, voters: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Sum of the votes for each item, and which voter gives it most (-1: none), both of shape (N,)."""
        count = len(self.ids)
        sums = np.zeros(count + 1, dtype=np.float32)
        top, slots = np.zeros(count + 1, dtype=np.int64), np.full(count + 1, -1, dtype=np.int64)
        for slot, (voter, weight) in enumerate(zip(voters, self.decay(len(voters)), strict=True)):
            votes = self.weights[voter] * weight
            at = self.neighbours[voter]
            sums[at] += votes
            size = np.floor(votes / np.float32(BECAUSE_UNIT)).astype(np.int64)
            more = size > top[at]
            top[at[more]], slots[at[more]] = size[more], slot
        return sums[:count], slots[:count]

    def _diverse(
        self, places: NDArray[np.int64], scores: NDArray[np.float32], k: int, diversity: float
    ) -> NDArray[np.int64]:
        """Greedy choice of ``k`` by maximal marginal relevance (Carbonell and Goldstein, 1998)."""
        trade = np.float32(diversity)
        there = np.isfinite(scores)
        low = scores[there].min() if there.any() else np.float32(0)
        spread = scores[there].max() - low if there.any() else np.float32(0)
        relevance = np.where(there, (scores - low) / np.maximum(spread, np.float32(1e-12)), np.float32(0))
        blocked = np.where(there, np.float32(0), UNAVAILABLE)
        alike = self.vectors[places] @ self.vectors[places].T
        nearest = np.zeros(len(places), dtype=np.float32)
        chosen = []
        for _ in range(k):
            value = (np.float32(1) - trade) * relevance - trade * nearest + blocked
            chosen.append(int(value.argmax()))
            nearest = np.maximum(nearest, alike[chosen[-1]])
            blocked[chosen[-1]] = -np.inf
        return np.array(chosen, dtype=np.int64)


def _distinct(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each place once, where it occurs last."""
    _, first = np.unique(places[::-1], return_index=True)
    return places[np.sort(len(places) - 1 - first)]
