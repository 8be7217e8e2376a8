"""What another policy would have earned, from the log of the one that ran.

Each logged decision has the propensity with which it was made; the target policy would have made it with another. Weighted by the quotient, rewards
of the log are rewards of the target: IPS (Horvitz & Thompson 1952), its self-normalised form SNIPS (Swaminathan & Joachims, NIPS
2015), and doubly robust (Dudík, Langford & Li, ICML 2011), which adds a model of rewards, fitted on other rows than those it judges.

None of it helps where the log never does what the target does: look at ``overlap`` first.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import PenstockError

__all__ = [
    "Interval",
    "Log",
    "Overlap",
    "Value",
    "doubly_robust",
    "fitted_rewards",
    "ips",
    "on_policy",
    "overlap",
    "snips",
]

Array = NDArray[np.float64]
Interval = Literal["normal", "bootstrap", "bernstein"]
FOLDS = 5
BLOCK = 100  # resamples at once


class Log:
    """Decisions, their rewards, and what the target policy would have done.

    Args:
        rewards: Shape (n,).
        propensities: Of the logged actions under the policy that ran, above 0, shape (n,).
        targets: Of the same actions under the target policy, shape (n,).

    Raises:
        PenstockError: Shapes that differ, or probabilities that are none. Names the row.
    """

    def __init__(self, rewards: ArrayLike, propensities: ArrayLike, targets: ArrayLike) -> None:
        self.rewards = np.asarray(rewards, np.float64)
        self.propensities = np.asarray(propensities, np.float64)
        self.targets = np.asarray(targets, np.float64)
        shapes = {self.rewards.shape, self.propensities.shape, self.targets.shape}
        if len(shapes) > 1 or self.rewards.ndim != 1 or not len(self.rewards):
            raise PenstockError(f"rewards, propensities and targets: shapes {sorted(shapes)}, not one (n,)")
        _check(
            "propensities", self.propensities, (self.propensities > 0) & (self.propensities <= 1), "(0, 1]"
        )
        _check("targets", self.targets, (self.targets >= 0) & (self.targets <= 1 + 1e-9), "[0, 1]")
        _check("rewards", self.rewards, np.isfinite(self.rewards), "finite numbers")

    def weights(self, clip: float | None = None) -> Array:
        """Quotients targets / propensities, at most ``clip``."""
        weights: Array = self.targets / self.propensities
        return weights if clip is None else np.minimum(weights, clip)


def _check(name: str, values: Array, fine: NDArray[np.bool_], wanted: str) -> None:
    if not fine.all():
        row = int(np.flatnonzero(~fine)[0])
        raise PenstockError(f"{name}: row {row} has {values[row]:.6g}, which is not among {wanted}")


@dataclass(frozen=True)
class Overlap:
    """How far the log can speak for the target.

    Attributes:
        rows: Of the log.
        effective: Rows of the target that would know as much, (Σw)² / Σw² (Kish).
        largest: Of the weights; all of them together make about ``rows``.
        mean: Of the weights: 1, if propensities are right and the log does all that the target does.
        z: How many standard errors the mean is from 1.
        trusted: Whether there are 100 effective rows or more, no row has a tenth of all weight, and the mean may be 1.
    """

    rows: int
    effective: float
    largest: float
    mean: float
    z: float
    trusted: bool

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def overlap(log: Log) -> Overlap:
    """Diagnostics, before anything is believed."""
    weights = log.weights()
    total = float(weights.sum())
    effective = total**2 / float((weights**2).sum()) if total else 0.0
    error = float(weights.std(ddof=1)) / math.sqrt(len(weights)) if len(weights) > 1 else 0.0
    gap = total / len(weights) - 1
    z = gap / error if error > 1e-12 else (0.0 if abs(gap) < 1e-9 else math.copysign(math.inf, gap))
    largest = float(weights.max())
    trusted = effective >= 100 and largest <= total / 10 and abs(z) < 4
    return Overlap(len(weights), effective, largest, 1 + gap, z, trusted)


@dataclass(frozen=True)
class Value:
    """Mean reward of a policy.

    Attributes:
        method: How it was estimated.
        value: It.
        low: Lower end of its interval.
        high: Upper end.
        clipped: Share of the rows whose weight was cut.
    """

    method: str
    value: float
    low: float
    high: float
    clipped: float = 0.0

    def covers(self, value: float) -> bool:
        """Whether the interval has it."""
        return self.low <= value <= self.high

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def on_policy(rewards: ArrayLike, *, alpha: float = 0.05) -> Value:
    """Of the policy that ran: the mean of its rewards, with its normal interval."""
    values = np.asarray(rewards, np.float64)
    return _told("on-policy", values, np.ones_like(values), values.mean(), alpha, "normal", None, 0.0, 0)


def ips(
    log: Log,
    *,
    alpha: float = 0.05,
    interval: Interval = "bootstrap",
    clip: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    seed: int = 0,
) -> Value:
    """Inverse propensity scores: mean of w·r. Unbiased without clipping; varies with the weights.

    Args:
        log: The log.
        alpha: 1 − confidence of the interval.
        interval: "normal"; "bootstrap" of percentiles, which follows the skew of weights; or "bernstein", the empirical Bernstein
            bound of Maurer & Pontil (COLT 2009), which holds for any n and is wide.
        clip: Greatest weight. Values of positive rewards become too small by what it cuts.
        bounds: Of rewards; for "bernstein" alone.
        seed: Of the bootstrap.
    """
    weights = log.weights(clip)
    terms = weights * log.rewards
    most = float(weights.max()) if clip is None else clip
    limits = (min(0.0, bounds[0] * most), max(0.0, bounds[1] * most))
    cut = float((log.weights() > most).mean())
    return _told("IPS", terms, np.ones_like(terms), terms.mean(), alpha, interval, limits, cut, seed)


def snips(
    log: Log,
    *,
    alpha: float = 0.05,
    interval: Literal["normal", "bootstrap"] = "bootstrap",
    clip: float | None = None,
    seed: int = 0,
) -> Value:
    """Self-normalised: Σw·r / Σw. Never beyond the rewards that there are; slightly biased, less variable.

    Args:
        log: As for ``ips``.
        alpha: As for ``ips``.
        interval: As for ``ips``; the normal one is by the delta method.
        clip: As for ``ips``.
        seed: As for ``ips``.
    """
    weights = log.weights(clip)
    if not weights.any():
        raise PenstockError(
            "targets: all 0 in this log",
            hint="the target does nothing that the log did: no estimate is possible",
        )
    value = float(weights @ log.rewards / weights.sum())
    cut = 0.0 if clip is None else float((log.weights() > clip).mean())
    return _told("SNIPS", weights * log.rewards, weights, value, alpha, interval, None, cut, seed)


def doubly_robust(
    log: Log,
    predicted: ArrayLike,
    expected: ArrayLike,
    *,
    alpha: float = 0.05,
    interval: Literal["normal", "bootstrap"] = "bootstrap",
    clip: float | None = None,
    seed: int = 0,
) -> Value:
    """Doubly robust: mean of Σ_a π(a|x)·q(x, a) + w·(r − q(x, a_logged)). Right if the propensities are, or the model is.

    Args:
        log: As for ``ips``.
        predicted: q(x, a) of the logged actions, shape (n,), from a model that has not seen the row.
        expected: Σ_a π(a|x)·q(x, a) under the target, shape (n,); ``fitted_rewards`` gives both.
        alpha: As for ``ips``.
        interval: As for ``ips``.
        clip: As for ``ips``; what it cuts is left to the model.
        seed: As for ``ips``.
    """
    q, v = np.asarray(predicted, np.float64), np.asarray(expected, np.float64)
    if not q.shape == v.shape == log.rewards.shape:
        raise PenstockError(
            f"predicted and expected: shapes {q.shape} and {v.shape}, not {log.rewards.shape}"
        )
    terms = v + log.weights(clip) * (log.rewards - q)
    cut = 0.0 if clip is None else float((log.weights() > clip).mean())
    return _told("DR", terms, np.ones_like(terms), terms.mean(), alpha, interval, None, cut, seed)


def fitted_rewards(
    log: Log,
    contexts: ArrayLike,
    actions: ArrayLike,
    policy: ArrayLike,
    *,
    model: Literal["ridge", "logistic"] = "ridge",
    penalty: float = 10.0,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[Array, Array]:
    """A model of rewards, q(x, a) = g(β·x + γ_a), fitted on the other folds: what ``doubly_robust`` takes.

    Args:
        log: As for ``ips``.
        contexts: Shape (n, features).
        actions: Numbers of the logged ones, from 0, shape (n,).
        policy: π(a|x) of the target for all actions, shape (n, actions).
        model: "logistic" keeps predictions of rewards in [0, 1] there.
        penalty: Of squares of β and γ, in rows; not of the intercept.
        folds: Each is predicted by a model of the others.
        seed: Of who is in which fold.

    Returns:
        q of the logged actions and its mean under the target, both of shape (n,).
    """
    x, a, pi = np.asarray(contexts, np.float64), np.asarray(actions), np.asarray(policy, np.float64)
    n, kinds = pi.shape
    if x.shape[:1] != (n,) or a.shape != (n,) or len(log.rewards) != n or a.min() < 0 or a.max() >= kinds:
        raise PenstockError(
            f"contexts {x.shape}, actions {a.shape}, policy {pi.shape}: {len(log.rewards)} rows each"
        )
    if abs(pi.sum(axis=1) - 1).max() > 1e-6:
        raise PenstockError("policy: probabilities of a row's actions do not add up to 1")
    fit = _ridge if model == "ridge" else _logistic
    design = np.column_stack([np.ones(n), x, np.eye(kinds)[a]])
    fold = np.random.default_rng(seed).permutation(n) % folds
    predicted, expected = np.empty(n), np.empty(n)
    for number in range(folds):
        mine, others = fold == number, fold != number
        beta = fit(design[others], log.rewards[others], penalty)
        known = design[mine, :-kinds] @ beta[:-kinds]
        every = known[:, None] + beta[-kinds:]
        q = every if model == "ridge" else 1 / (1 + np.exp(-every))
        predicted[mine] = q[np.arange(mine.sum()), a[mine]]
        expected[mine] = (q * pi[mine]).sum(axis=1)
    return predicted, expected


# --- pieces -----------------------------------------------------------------------------------------


def _ridge(design: Array, rewards: Array, penalty: float) -> Array:
    squares: Any = design.T @ design
    squares[np.diag_indices_from(squares)] += penalty * (np.arange(len(squares)) > 0)
    beta: Array = np.linalg.solve(squares, design.T @ rewards)
    return beta


def _logistic(design: Array, rewards: Array, penalty: float) -> Array:
    from scipy.optimize import minimize

    if not ((rewards >= 0) & (rewards <= 1)).all():
        raise PenstockError("model: logistic takes rewards in [0, 1]", hint="use ridge")
    held = penalty * (np.arange(design.shape[1]) > 0)
    start = np.zeros(design.shape[1])
    share = min(1 - 1e-6, max(1e-6, rewards.mean()))
    start[0] = math.log(share / (1 - share))

    def loss(beta: Array) -> tuple[float, Array]:
        z = design @ beta
        value = np.logaddexp(0, z).sum() - rewards @ z + 0.5 * (held * beta**2).sum()
        return float(value), design.T @ (1 / (1 + np.exp(-z)) - rewards) + held * beta

    beta: Array = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 300}).x
    return beta


def _told(
    method: str,
    tops: Array,
    bottoms: Array,
    value: float,
    alpha: float,
    interval: Interval,
    limits: tuple[float, float] | None,
    cut: float,
    seed: int,
) -> Value:
    """An interval for mean(tops) / mean(bottoms)."""
    n = len(tops)
    if interval == "bootstrap":
        low, high = _bootstrap(tops, bottoms, alpha, seed)
        return Value(method, float(value), low, high, cut)
    from scipy.special import ndtri

    error = float((tops - value * bottoms).std(ddof=1)) / float(bottoms.mean()) if n > 1 else math.inf
    if interval == "normal":
        reach = float(ndtri(1 - alpha / 2)) * error / math.sqrt(n)
        return Value(method, float(value), value - reach, value + reach, cut)
    if limits is None or n < 2:
        raise PenstockError(f"interval: bernstein is for IPS of two rows or more, not for {method}")
    # Theorem 4 of Maurer & Pontil, both sides.
    log = math.log(4 / alpha)
    reach = error * math.sqrt(2 * log / n) + 7 * (limits[1] - limits[0]) * log / (3 * (n - 1))
    return Value(method, float(value), max(limits[0], value - reach), min(limits[1], value + reach), cut)


def _bootstrap(
    tops: Array, bottoms: Array, alpha: float, seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Percentiles of resampled rows."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples // BLOCK):
        rows = rng.integers(0, len(tops), (BLOCK, len(tops)))
        found.append(tops[rows].sum(axis=1) / bottoms[rows].sum(axis=1))
    low, high = np.quantile(np.concatenate(found), [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)
