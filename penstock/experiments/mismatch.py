"""Sample-ratio mismatch: whether as many units came to each arm as should have.

Where they did not, something loses users of one arm (a crash, a redirect, a bot filter), those that are left are not
comparable, and no other number of the experiment is to be trusted. Counts are of units, not of requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.errors import PenstockError

__all__ = ["LEVEL", "Mismatch", "always_valid_mismatch", "sample_ratio"]

LEVEL = 0.001  # an alarm says that weeks of data are worthless; it should rarely be wrong


@dataclass(frozen=True)
class Mismatch:
    """Whether assignment is off.

    Attributes:
        p: p-value of the shares being as declared.
        level: Below which it counts.
        expected: Units that each arm should have.
        found: Units that it has.
    """

    p: float
    level: float
    expected: dict[str, float]
    found: dict[str, int]

    @property
    def off(self) -> bool:
        """Whether the counts are not to be explained by chance."""
        return self.p < self.level


def sample_ratio(counts: Mapping[str, int], shares: Mapping[str, float], *, level: float = LEVEL) -> Mismatch:
    """Pearson's χ² test, for one look at the end.

    Args:
        counts: Units of each arm.
        shares: What each arm should have, of any sum.
        level: Below which p-value assignment is off.

    Raises:
        PenstockError: Arms differ between the two, or there are counts where the share is 0.
    """
    found, expected = _both(counts, shares)
    if not found.sum() or len(found) < 2:
        return _result(1.0, level, counts, shares)
    from scipy.special import chdtrc

    wanted = expected * found.sum()
    statistic = float(((found - wanted) ** 2 / wanted).sum())
    return _result(float(chdtrc(len(found) - 1, statistic)), level, counts, shares)


def always_valid_mismatch(
    segments: Sequence[tuple[Mapping[str, int], Mapping[str, float]]],
    *,
    level: float = LEVEL,
    concentration: float = 100.0,
) -> Mismatch:
    """A test that may be looked at after each unit: P(p < level, ever) ≤ level, exactly.

    Dirichlet-multinomial mixture against the declared shares (Lindon & Malek, "Anytime-valid inference for multinomial
    count data", 2022): E = Γ(A) / Γ(A + n) · Π Γ(aᵢ + nᵢ) / (Γ(aᵢ)·sᵢ^nᵢ), a = concentration · s; p = min(1, 1 / E).

    Args:
        segments: Counts and shares; one pair for each time during which the shares were the same.
        level: Below which p-value assignment is off.
        concentration: How near to the declared shares one looks for others: at about this many units.

    Raises:
        PenstockError: As ``sample_ratio``.
    """
    from scipy.special import gammaln

    evidence = 0.0
    for counts, shares in segments:
        found, expected = _both(counts, shares)
        prior = concentration * expected
        evidence += float(
            gammaln(concentration)
            - gammaln(concentration + found.sum())
            + (gammaln(prior + found) - gammaln(prior) - found * np.log(expected)).sum()
        )
    total: dict[str, int] = {}
    wanted: dict[str, float] = {}
    for counts, shares in segments:
        for arm, share in shares.items():
            units = sum(counts.values())
            total[arm] = total.get(arm, 0) + counts.get(arm, 0)
            wanted[arm] = wanted.get(arm, 0.0) + units * share / sum(shares.values())
    return Mismatch(math.exp(min(0.0, -evidence)), level, wanted, total)


def _both(counts: Mapping[str, int], shares: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    stray = sorted(arm for arm, count in counts.items() if count and not shares.get(arm))
    if stray:
        raise PenstockError(
            f"counts: {', '.join(stray)} has units, though no share of them",
            hint="a share that was changed begins a new segment",
        )
    arms = sorted(arm for arm, share in shares.items() if share > 0)
    weights = np.array([shares[arm] for arm in arms], dtype=np.float64)
    return np.array([counts.get(arm, 0) for arm in arms], dtype=np.float64), weights / weights.sum()


def _result(p: float, level: float, counts: Mapping[str, int], shares: Mapping[str, float]) -> Mismatch:
    units, total = sum(counts.values()), sum(shares.values())
    return Mismatch(
        p,
        level,
        {arm: units * share / total for arm, share in shares.items()},
        {arm: counts.get(arm, 0) for arm in shares},
    )
