"""How far two distributions are apart, from counts in bins. All of them take many at once: shape (samples, bins)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["benjamini_hochberg", "chi_squared", "jensen_shannon", "kolmogorov_smirnov", "psi", "wasserstein"]

Array = NDArray[np.float64]
# What an empty bin is given, in rows: Jeffreys' prior. Without it one new value makes the index infinite.
PRIOR = 0.5


def _shares(counts: Array, prior: float = 0.0) -> Array:
    held = counts + prior
    return np.asarray(held / np.maximum(held.sum(axis=-1, keepdims=True), 1e-300))


def psi(expected: Array, found: Array) -> Array:
    """Population stability index, Σ (q − p) ln(q / p): Kullback and Leibler's divergence both ways.

    Args:
        expected: Counts, shape (samples, bins) or (bins,).
        found: Counts, likewise.
    """
    p, q = _shares(expected, PRIOR), _shares(found, PRIOR)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))


def jensen_shannon(expected: Array, found: Array) -> Array:
    """Jensen and Shannon's distance, base 2: the root of the divergence, 0 … 1."""
    p, q = _shares(expected), _shares(found)
    middle = (p + q) / 2

    def divergence(share: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(share > 0, share * np.log2(share / middle), 0.0).sum(axis=-1))

    return np.asarray(np.sqrt(np.maximum((divergence(p) + divergence(q)) / 2, 0.0)))


def kolmogorov_smirnov(expected: Array, found: Array, *, ordered: bool) -> Array:
    """Greatest difference of the cumulative shares; of categories, which have no order, total variation."""
    gap = _shares(found) - _shares(expected)
    if ordered:
        return np.asarray(np.abs(np.cumsum(gap, axis=-1)).max(axis=-1))
    return np.asarray(np.abs(gap).sum(axis=-1) / 2)


def wasserstein(expected: Array, expected_sums: Array, found: Array, found_sums: Array) -> Array:
    """Wasserstein's distance of order 1, every bin's rows taken to lie at their mean; in the column's unit.

    Args:
        expected: Counts of values, shape (samples, bins).
        expected_sums: Sums of the values in each bin, likewise.
        found: Counts, likewise.
        found_sums: Sums, likewise.
    """
    at = np.concatenate(
        [
            np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
            for sums, counts in ((expected_sums, expected), (found_sums, found))
        ],
        axis=-1,
    )
    mass = np.concatenate([-_shares(expected), _shares(found)], axis=-1)
    order = np.argsort(at, axis=-1, kind="stable")
    at, mass = np.take_along_axis(at, order, axis=-1), np.take_along_axis(mass, order, axis=-1)
    # A bin without rows has no place: its mass is nothing, and what lies between is counted all the same.
    gaps = np.diff(at, axis=-1)
    return np.asarray((np.abs(np.cumsum(mass, axis=-1)[..., :-1]) * gaps).sum(axis=-1))


def chi_squared(expected: Array, found: Array) -> float:
    """The p value of the χ² test that two samples are of one distribution; bins that neither has are left out.

    Args:
        expected: Counts, shape (bins,).
        found: Counts, likewise.
    """
    from scipy.stats import chi2

    both = expected + found
    kept = both > 0
    total = both.sum()
    if kept.sum() < 2 or not expected.sum() or not found.sum():
        return 1.0
    statistic = 0.0
    for counts in (expected, found):
        wanted = both[kept] * counts.sum() / total
        statistic += float(((counts[kept] - wanted) ** 2 / wanted).sum())
    return float(chi2.sf(statistic, int(kept.sum()) - 1))


def benjamini_hochberg(p_values: Array) -> Array:
    """The q values: the least rate of false discoveries at which each is one (Benjamini and Hochberg, 1995)."""
    if not len(p_values):
        return p_values
    order = np.argsort(p_values)
    scaled = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    least = np.minimum.accumulate(scaled[::-1])[::-1]
    q = np.empty(len(p_values))
    q[order] = np.minimum(least, 1.0)
    return q
