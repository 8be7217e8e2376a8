"""Bandits: give each arm the share that what is known of it warrants, while more is learnt.

A policy turns counts into probabilities of the arms, and the arm is drawn from those. So the propensity that is logged with a
decision is the probability with which it was made, exactly, for Thompson sampling too, where it is usually unknown: the posterior
probability of being the best is computed once for each update and not estimated from draws. Off-policy estimates rest on that.

Counts are those of ``counts``: they add up over routers, and rewards may come late, in batches, in any order. A decision whose
reward is not known yet counts for nothing; see ``Pending``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import PenstockError
from penstock.experiments.counts import Moments

__all__ = [
    "Bandit",
    "Choice",
    "Decision",
    "EpsilonGreedy",
    "GaussianThompson",
    "Pending",
    "Policy",
    "Thompson",
    "Ucb",
    "best_of_betas",
    "best_of_normals",
    "choose",
    "floored",
]

Array = NDArray[np.float64]
NODES, WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(128))
QUANTILES = NODES + 0.5  # in (0, 1), dense at both ends
ROUNDING = 1e-24  # of a variance, beside that which is imagined beforehand
STEPS = np.linspace(-9.0, 9.0, 145)  # standard deviations


@dataclass(frozen=True)
class Choice:
    """An arm, and the probability with which it was chosen."""

    arm: str
    propensity: float


class Policy(Protocol):
    """What gives arms their probabilities.

    Attributes:
        name: Under which its state is kept.
        floor: Least probability of an arm.
    """

    name: ClassVar[str]
    floor: float

    def probabilities(self, arms: Mapping[str, Moments]) -> dict[str, float]:
        """Of each arm, at least ``floor`` each, 1 together."""
        ...


def choose(probabilities: Mapping[str, float], position: float) -> Choice:
    """Draw an arm.

    Args:
        probabilities: Of the arms, 1 together.
        position: Uniform in (0, 1): ``assignment.position(salt, decision)`` makes the same draw again when it is asked again.
    """
    left = position
    arms = [(arm, share) for arm, share in probabilities.items() if share > 0]
    for arm, share in arms:
        left -= share
        if left < 0:
            return Choice(arm, share)
    return Choice(*arms[-1])  # rounding


def floored(shares: Mapping[str, float], floor: float) -> dict[str, float]:
    """Mix with the uniform distribution, so that no arm has less than ``floor``."""
    if not 0 <= floor * len(shares) <= 1:
        raise PenstockError(
            f"floor: {floor} for each of {len(shares)} arms is more than there is",
            hint=f"at most {1 / len(shares):.3g}",
        )
    total = sum(shares.values())
    left = 1 - floor * len(shares)
    return {arm: floor + left * share / total for arm, share in shares.items()}


# --- policies ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Thompson:
    """Thompson sampling for rewards in [0, 1]: each arm's probability of having the highest mean (Beta posteriors).

    Attributes:
        floor: Least probability of an arm.
        successes: Imagined beforehand, for each arm.
        failures: The same.
    """

    name: ClassVar[str] = "thompson"
    floor: float = 0.0
    successes: float = 1.0
    failures: float = 1.0

    def probabilities(self, arms: Mapping[str, Moments]) -> dict[str, float]:
        """By quadrature, to about 1e-4; what is drawn from is what was computed, hence exact."""
        found = best_of_betas(
            [self.successes + arm.total for arm in arms.values()],
            [self.failures + arm.count - arm.total for arm in arms.values()],
        )
        return floored(dict(zip(arms, found.tolist(), strict=True)), self.floor)


@dataclass(frozen=True)
class GaussianThompson:
    """Thompson sampling for rewards of any size: normal posteriors of the means, variance pooled from what came.

    Attributes:
        floor: Least probability of an arm.
        mean: Imagined beforehand, of each arm.
        deviation: How far off that may be. Also the deviation of a reward until two of them differ.
    """

    name: ClassVar[str] = "gaussian-thompson"
    floor: float = 0.0
    mean: float = 0.0
    deviation: float = 1.0

    def probabilities(self, arms: Mapping[str, Moments]) -> dict[str, float]:
        """By quadrature, as those of ``Thompson``."""
        kept = [arm for arm in arms.values() if arm.count > 1]
        freedom = sum(arm.count - 1 for arm in kept)
        spread = sum((arm.count - 1) * arm.variance for arm in kept) / freedom if freedom else 0.0
        prior = self.deviation**2
        variance = (
            spread if spread > ROUNDING * prior else prior
        )  # of rewards that hardly differ nothing is known
        precision = np.array([arm.count / variance + self.deviation**-2 for arm in arms.values()])
        total = np.array([arm.total / variance + self.mean * self.deviation**-2 for arm in arms.values()])
        found = best_of_normals(total / precision, precision**-0.5)
        return floored(dict(zip(arms, found.tolist(), strict=True)), self.floor)


@dataclass(frozen=True)
class Ucb:
    """UCB1 for rewards in [0, 1]: the arm of the highest mean + √(scale · ln t / n) (Auer, Cesa-Bianchi & Fischer, 2002).

    It draws nothing: without a floor the propensities of the others are 0, and nothing can be said of them off-policy.

    Attributes:
        floor: Least probability of an arm.
        scale: 2 in the paper; less explores less.
    """

    name: ClassVar[str] = "ucb"
    floor: float = 0.0
    scale: float = 2.0

    def probabilities(self, arms: Mapping[str, Moments]) -> dict[str, float]:
        """Of equal arms each gets as much; those that were never tried come first."""
        known = max(1.0, math.log(max(1, sum(arm.count for arm in arms.values()))))
        index = {
            arm: kept.mean + math.sqrt(self.scale * known / kept.count) if kept.count else math.inf
            for arm, kept in arms.items()
        }
        return floored(_highest(index), self.floor)


@dataclass(frozen=True)
class EpsilonGreedy:
    """The arm of the highest mean, and any of them with probability epsilon.

    Attributes:
        epsilon: The same.
        floor: Least probability of an arm; epsilon / number of arms is one already.
    """

    name: ClassVar[str] = "epsilon-greedy"
    epsilon: float = 0.1
    floor: float = 0.0

    def probabilities(self, arms: Mapping[str, Moments]) -> dict[str, float]:
        """Of equal arms each gets as much; those that were never tried come first."""
        means = {arm: kept.mean if kept.count else math.inf for arm, kept in arms.items()}
        return floored(_highest(means), max(self.floor, self.epsilon / len(arms)))


def _highest(index: Mapping[str, float]) -> dict[str, float]:
    top = max(index.values())
    return {arm: float(value == top) for arm, value in index.items()}


def best_of_betas(alpha: Sequence[float], beta: Sequence[float]) -> Array:
    """P(an independent Beta(alpha, beta) is the greatest), for each: ∫ f_i · Π_{j≠i} F_j, by the trapezoidal rule.

    The integral is over log-odds, where every Beta density is smooth and has one hump, at points laid about each arm's: SciPy's
    incomplete beta function, which would give F_j, takes fifty times as long.

    Args:
        alpha: Shape (arms,).
        beta: Shape (arms,).
    """
    from scipy.special import digamma, polygamma

    a, b = np.asarray(alpha, np.float64)[:, None], np.asarray(beta, np.float64)[:, None]
    width = np.sqrt(polygamma(1, a) + polygamma(1, b))
    at = np.unique(digamma(a) - digamma(b) + width * STEPS)
    logs = -a * np.logaddexp(0, -at) - b * np.logaddexp(0, at)
    density = np.exp(logs - logs.max(axis=1, keepdims=True))
    pieces = (density[:, 1:] + density[:, :-1]) * np.diff(at)
    pieces /= pieces.sum(axis=1, keepdims=True)
    below = np.maximum(pieces.cumsum(axis=1) - pieces / 2, 1e-300)  # F_j in the middle of each piece
    logs = np.log(below)
    found: Array = (pieces * np.exp(logs.sum(axis=0) - logs)).sum(axis=1)
    found /= found.sum()
    return found


def best_of_normals(means: ArrayLike, deviations: ArrayLike) -> Array:
    """The same for normal distributions; shapes (arms,)."""
    from scipy.special import ndtr, ndtri

    m, s = np.asarray(means, np.float64), np.asarray(deviations, np.float64)
    at = m[:, None] + s[:, None] * ndtri(QUANTILES)
    return _best(ndtr((at[None] - m[:, None, None]) / s[:, None, None]))


def _best(below: Array) -> Array:
    """From F_j at the nodes of arm i, shape (arms, arms, nodes)."""
    arms = len(below)
    below[np.arange(arms), np.arange(arms)] = 1.0
    found = below.prod(axis=0) @ WEIGHTS
    shares: Array = found / found.sum()
    return shares


POLICIES: dict[str, type[Any]] = {
    policy.name: policy for policy in (Thompson, GaussianThompson, Ucb, EpsilonGreedy)
}


# --- state ------------------------------------------------------------------------------------------


@dataclass
class Bandit:
    """A policy and what it has learnt.

    Attributes:
        policy: How arms get their probabilities.
        arms: Rewards of each so far.
    """

    policy: Policy
    arms: dict[str, Moments]
    _now: dict[str, float] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def new(cls, policy: Policy, arms: Iterable[str]) -> Self:
        """One that knows nothing yet."""
        return cls(policy, {arm: Moments() for arm in arms})

    def probabilities(self) -> dict[str, float]:
        """Computed once for each update."""
        if self._now is None:
            self._now = self.policy.probabilities(self.arms)
        return self._now

    def choose(self, position: float) -> Choice:
        """Draw an arm; ``position`` as for the function."""
        return choose(self.probabilities(), position)

    def update(self, rewards: Iterable[tuple[str, float]]) -> None:
        """Take in rewards, of the arms that were chosen, whenever and in whichever order they come.

        Raises:
            PenstockError: An arm that is not there, or a reward that the policy cannot take.
        """
        came: dict[str, list[float]] = {}
        unit = self.policy.name in {"thompson", "ucb"}
        for arm, reward in rewards:
            if arm not in self.arms:
                raise PenstockError(f"arm {arm!r} is not one of {', '.join(self.arms)}")
            if not math.isfinite(reward) or (unit and not 0 <= reward <= 1):
                raise PenstockError(
                    f"reward {reward} of arm {arm!r}: {self.policy.name} takes "
                    f"{'those in [0, 1]' if unit else 'finite ones'}",
                    hint="scale it, or use gaussian-thompson" if unit else None,
                )
            came.setdefault(arm, []).append(reward)
        for arm, values in came.items():
            self.arms[arm] += Moments.of(values)
        self._now = None

    def __add__(self, other: Bandit) -> Bandit:
        """What two routers have learnt from different decisions."""
        if (self.policy, set(self.arms)) != (other.policy, set(other.arms)):
            raise PenstockError("bandits of different policies or arms do not add up")
        return Bandit(self.policy, {arm: kept + other.arms[arm] for arm, kept in self.arms.items()})

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "policy": {"name": self.policy.name, **asdict(self.policy)},  # type: ignore[call-overload]
            "arms": {arm: kept.dump() for arm, kept in self.arms.items()},
        }

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave.

        Raises:
            PenstockError: A policy that does not exist.
        """
        declared = dict(state["policy"])
        name = declared.pop("name")
        if name not in POLICIES:
            raise PenstockError(f"policy {name!r} is not one of {', '.join(POLICIES)}")
        return cls(
            POLICIES[name](**declared), {arm: Moments.load(kept) for arm, kept in state["arms"].items()}
        )


@dataclass(frozen=True)
class Decision:
    """What is kept of a decision until its reward is known, and logged for off-policy estimates.

    Attributes:
        decision: Its id.
        arm: Which was chosen.
        propensity: With which probability.
        time: When, in any unit.
        context: Features, where the policy has any.
    """

    decision: str
    arm: str
    propensity: float
    time: float = 0.0
    context: tuple[float, ...] = ()

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "context": list(self.context)}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        return cls(**{**state, "context": tuple(state["context"])})


class Pending:
    """Decisions whose rewards have not come.

    No reward is an answer too, but only in time: whoever updates with the rewards that have come and never with those that have
    not learns that everything succeeds.

    Args:
        wait: After how long a decision without a reward counts as ``missing``; in the unit of ``Decision.time``.
        most: Decisions kept; beyond that the oldest are given up as if their time were over.
        missing: The reward that is taken for them.
    """

    def __init__(self, wait: float, *, most: int = 1_000_000, missing: float = 0.0) -> None:
        self.wait, self.most, self.missing = wait, most, missing
        self._kept: dict[str, Decision] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def decided(self, decision: Decision) -> None:
        """Keep it; the same one again changes nothing."""
        self._kept.setdefault(decision.decision, decision)

    def rewarded(self, decision: str) -> Decision | None:
        """The decision that a reward is for; None where it has had one, or its time is over."""
        return self._kept.pop(decision, None)

    def over(self, now: float) -> list[tuple[Decision, float]]:
        """Give up what has waited long enough, with the reward that it counts as."""
        late = [item for item in self._kept.values() if now - item.time >= self.wait]
        beyond = len(self._kept) - len(late) - self.most
        if beyond > 0:
            rest = [item for item in self._kept.values() if now - item.time < self.wait]
            late += sorted(rest, key=lambda item: item.time)[:beyond]
        for item in late:
            del self._kept[item.decision]
        return [(item, self.missing) for item in late]

    def dump(self) -> list[dict[str, Any]]:
        """As JSON has it."""
        return [item.dump() for item in self._kept.values()]

    def restore(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take in what ``dump`` gave."""
        for item in state:
            self.decided(Decision.load(item))
