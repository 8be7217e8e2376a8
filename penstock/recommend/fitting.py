"""Models of interactions, each in closed form or with its one random start fixed."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

from penstock.config import Als, Ease, ItemKnn, Popularity, Recommending, Transitions
from penstock.errors import PenstockError
from penstock.recommend.interactions import Histories

__all__ = [
    "BASELINES",
    "Similarities",
    "als",
    "ease",
    "item_knn",
    "popularity",
    "settings_of",
    "similarities",
    "transitions",
]

BASELINES = (
    "popularity",
    "als",
)  # scores that are no sums over a history of items: no artefact is made of them
FAINT = 0.01  # a weight by recency below this is taken for none
DAY = 86_400e6  # microseconds

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class Similarities:
    """What each item of a history says of every other.

    Attributes:
        matrix: From the item in the history (row) to the one that is scored (column), shape (N, N), its diagonal 0.
        half_life: Of a vote, in places before the last; None: all weigh the same.
    """

    matrix: Matrix
    half_life: float | None


def settings_of(candidate: Recommending) -> list[dict[str, Any]]:
    """Every combination of a candidate's values: the grid that is searched.

    Those that share a fit stand together.
    """
    names = {
        "popularity": ("half_lives",),
        "item_knn": ("shrinkage", "neighbours", "half_lives"),
        "ease": ("ridge", "half_lives"),
        "transitions": ("past", "future", "ridge"),
        "als": ("factors", "regularisation", "alpha"),
    }[candidate.kind]
    values = [getattr(candidate, name) for name in names]
    single = ["half_life" if name == "half_lives" else name for name in names]
    fixed = {"iterations": candidate.iterations} if isinstance(candidate, Als) else {}
    return [dict(zip(single, chosen, strict=True)) | fixed for chosen in itertools.product(*values)]


# --- models that become an artefact -----------------------------------------------------------------


def similarities(
    candidate: Recommending, chosen: Sequence[Mapping[str, Any]], past: Histories
) -> Iterator[Similarities]:
    """Fit an item-item model with each of several settings, sharing between them what can be shared.

    Args:
        candidate: Which model.
        chosen: As `settings_of` gives them.
        past: What is learnt from.
    """
    match candidate:
        case ItemKnn():
            gram = co_occurrences(past)
            for (shrinkage, neighbours), group in itertools.groupby(
                chosen, key=lambda one: (one["shrinkage"], one["neighbours"])
            ):
                matrix = item_knn(gram, shrinkage=shrinkage, neighbours=neighbours)
                yield from (Similarities(matrix, one["half_life"]) for one in group)
        case Ease():
            gram = co_occurrences(past)
            for ridge, group in itertools.groupby(chosen, key=lambda one: one["ridge"]):
                matrix = ease(gram, ridge=ridge)
                yield from (Similarities(matrix, one["half_life"]) for one in group)
        case Transitions():
            for (before, after), group in itertools.groupby(
                chosen, key=lambda one: (one["past"], one["future"])
            ):
                sums = successions(past, past=before, future=after)
                for one in group:
                    yield Similarities(transitions(*sums, ridge=one["ridge"]), before)
        case Popularity() | Als():
            raise AssertionError(candidate.kind)


def co_occurrences(past: Histories) -> Matrix:
    """How many users have taken up both of two items, shape (N, N)."""
    taken = past.matrix().astype(np.float32)
    return np.asarray((taken.T @ taken).todense(), dtype=np.float32)


def item_knn(gram: Matrix, *, shrinkage: float, neighbours: int) -> Matrix:
    """Shrunk cosine of the columns of a matrix of interactions; of each column's the largest.

    s(i, j) = g(i, j) / (√(g(i, i) · g(j, j)) + shrinkage); M. Deshpande and G. Karypis, Item-based top-N
    recommendation algorithms, 2004.
    """
    norms = np.sqrt(gram.diagonal())
    matrix: Matrix = (gram / (np.outer(norms, norms) + shrinkage)).astype(np.float32)
    np.fill_diagonal(matrix, 0)
    return _strongest(matrix, neighbours)


def _strongest(matrix: Matrix, count: int) -> Matrix:
    """Zero all but the ``count`` largest of each column, and what equals the last of these."""
    if count >= len(matrix):
        return matrix
    weakest = np.partition(matrix, len(matrix) - count, axis=0)[len(matrix) - count]
    return np.where(matrix >= weakest, matrix, np.float32(0))


def ease(gram: Matrix, *, ridge: float) -> Matrix:
    """Weights that rebuild each column from all others: B = −P / diag(P) by columns, P = (G + λI)⁻¹.

    H. Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019, equation 8.
    """
    inverse = gram.copy()
    inverse[np.diag_indices_from(inverse)] += ridge
    inverse = linalg.inv(inverse, overwrite_a=True, check_finite=False, assume_a="pos")
    weights: Matrix = inverse / -inverse.diagonal()
    np.fill_diagonal(weights, 0)
    return weights


def successions(seen: Histories, *, past: float, future: float) -> tuple[Matrix, Matrix]:
    """Sums over all places t of all histories of x xᵀ and of x yᵀ, each of shape (N, N).

    x weighs what stands before t by 2^(−steps / past), y what stands from t on by 2^(−steps / future).
    """
    before = _window(seen, past, first=1)
    after = _window(seen, future, first=0)
    gram = np.asarray((before.T @ before).todense(), dtype=np.float32)
    return gram, np.asarray((before.T @ after).todense(), dtype=np.float32)


def _window(seen: Histories, half_life: float, *, first: int) -> sparse.csr_array:
    """For each place of each history its surroundings, shape (n, N): backwards from one before it, or onwards."""
    at = np.arange(len(seen.places))
    begins, ends = np.repeat(seen.starts[:-1], seen.lengths), np.repeat(seen.starts[1:], seen.lengths)
    rows, columns, values = [], [], []
    for step in range(1 + int(-np.log2(FAINT) * half_life)):
        other = at - first - step if first else at + step
        inside = (other >= begins) & (other < ends)
        if not inside.any():
            break
        rows.append(at[inside])
        columns.append(seen.places[other[inside]])
        values.append(np.full(int(inside.sum()), 2.0 ** (-step / half_life)))
    shape = (len(at), seen.items)
    if not rows:
        return sparse.csr_array(shape)
    joined = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(sparse.coo_array(joined, shape=shape))


def transitions(gram: Matrix, onwards: Matrix, *, ridge: float) -> Matrix:
    """Weights that tell what comes next from what came before: B = (Σ x xᵀ + λI)⁻¹ Σ x yᵀ.

    M. Choi et al., Session-aware linear item-item models for session-based recommendation, WWW 2021: SLIT,
    without its bound on the diagonal, since what was seen is never returned.
    """
    regular = gram.copy()
    regular[np.diag_indices_from(regular)] += ridge
    solved = linalg.solve(regular, onwards, assume_a="pos", overwrite_a=True, check_finite=False)
    weights: Matrix = np.ascontiguousarray(solved, dtype=np.float32)
    np.fill_diagonal(weights, 0)
    return weights


# --- baselines --------------------------------------------------------------------------------------


def popularity(past: Histories, *, half_life: float | None) -> NDArray[np.float64]:
    """Interactions of each item, those long before the last one of all worth less, shape (N,).

    Args:
        past: What is learnt from.
        half_life: Days; None: all count the same.
    """
    weight = np.ones(len(past.places))
    if half_life is not None and len(past.times):
        weight = np.exp2((past.times - past.times.max()) / (DAY * half_life))
    counted = np.bincount(past.places, weights=weight, minlength=past.items)
    return np.asarray(counted, dtype=np.float64)


def als(
    past: Histories, *, factors: int, regularisation: float, alpha: float, iterations: int, seed: int
) -> tuple[Matrix, Matrix]:
    """Factors of users and of items, whose inner products are scores.

    Raises:
        PenstockError: The package implicit is not installed.
    """
    try:
        from implicit.cpu.als import AlternatingLeastSquares
    except ImportError as error:
        raise PenstockError(
            "candidates: als needs the package implicit",
            hint="it is the optional group `recommend`: `make env`, or pip install 'penstock[recommend]'; "
            "or leave the candidate out: `als: null`",
        ) from error
    from threadpoolctl import threadpool_limits

    model = AlternatingLeastSquares(
        factors=factors,
        regularization=regularisation,
        alpha=alpha,
        iterations=iterations,
        random_state=seed % 2**31,
        num_threads=1,
    )
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        model.fit(sparse.csr_matrix(past.matrix().astype(np.float32)), show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)
