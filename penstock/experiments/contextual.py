"""Contextual bandits with linear rewards: which arm is best depends on whom it is for.

Each arm has a ridge regression of its own; what is kept of it are the sums Σxxᵀ and Σxr, which add up over routers and may come late.
As in ``bandits``, probabilities come first and the arm is drawn from them, so logged propensities are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.errors import PenstockError
from penstock.experiments.bandits import Choice, best_of_normals, choose, floored

__all__ = ["Linear", "LinearBandit"]

Array = NDArray[np.float64]


@dataclass
class Linear:
    """What is known of one arm.

    Attributes:
        count: Rewards.
        xx: Σ xxᵀ, shape (features, features).
        xr: Σ x·reward, shape (features,).
    """

    count: int
    xx: Array
    xr: Array

    @classmethod
    def new(cls, features: int) -> Self:
        """Nothing yet."""
        return cls(0, np.zeros((features, features)), np.zeros(features))

    def __add__(self, other: Linear) -> Linear:
        return Linear(self.count + other.count, self.xx + other.xx, self.xr + other.xr)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"count": self.count, "xx": self.xx.tolist(), "xr": self.xr.tolist()}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        return cls(int(state["count"]), np.array(state["xx"], np.float64), np.array(state["xr"], np.float64))


class LinearBandit:
    """LinUCB (Li, Chu, Langford & Schapire, WWW 2010, algorithm 1) and linear Thompson sampling (Agrawal & Goyal, ICML 2013).

    Features want to be of the size of 1, with one that is always 1.

    Args:
        arms: Their names.
        features: Length of a context.
        method: "linucb" takes the arm of the highest θᵀx + scale · √(xᵀA⁻¹x), "thompson" gives each its probability of the
            highest, θᵀx being normal with deviation scale · √(xᵀA⁻¹x).
        scale: How much is explored; for Thompson sampling about the deviation of a reward.
        ridge: Of the regressions, A = ridge · I + Σxxᵀ.
        floor: Least probability of an arm.
    """

    def __init__(
        self,
        arms: Iterable[str],
        features: int,
        *,
        method: Literal["linucb", "thompson"] = "linucb",
        scale: float = 1.0,
        ridge: float = 1.0,
        floor: float = 0.0,
    ) -> None:
        if method not in {"linucb", "thompson"}:
            raise PenstockError(f"method {method!r} is not one of linucb, thompson")
        if not ridge > 0 or not scale > 0 or features < 1:
            raise PenstockError(f"ridge {ridge}, scale {scale}, features {features}: all are above 0")
        self.features, self.method, self.scale, self.ridge, self.floor = features, method, scale, ridge, floor
        self.arms = {arm: Linear.new(features) for arm in arms}
        self._solved: tuple[Array, Array] | None = None
        floored(dict.fromkeys(self.arms, 1.0), floor)  # refuses one that is too high

    def probabilities(self, context: ArrayLike) -> dict[str, float]:
        """Of each arm for this context, shape (features,).

        Raises:
            PenstockError: A context of another length, or with numbers that are none.
        """
        x = self._checked(context)
        inverse, theta = self._regressions()
        mean = theta @ x
        deviation = self.scale * np.sqrt(np.maximum(1e-300, np.einsum("i,kij,j->k", x, inverse, x)))
        if self.method == "thompson":
            found = best_of_normals(mean, deviation)
        else:
            upper = mean + deviation
            found = (upper == upper.max()).astype(np.float64)
        return floored(dict(zip(self.arms, found.tolist(), strict=True)), self.floor)

    def choose(self, context: ArrayLike, position: float) -> Choice:
        """Draw an arm; ``position`` as for ``bandits.choose``."""
        return choose(self.probabilities(context), position)

    def update(self, rewards: Iterable[tuple[str, ArrayLike, float]]) -> None:
        """Take in arm, context and reward of decisions, whenever and in whichever order they come.

        Raises:
            PenstockError: An arm, context or reward that cannot be.
        """
        came: dict[str, list[tuple[Array, float]]] = {}
        for arm, context, reward in rewards:
            if arm not in self.arms:
                raise PenstockError(f"arm {arm!r} is not one of {', '.join(self.arms)}")
            if not math.isfinite(reward):
                raise PenstockError(f"reward {reward} of arm {arm!r} is not finite")
            came.setdefault(arm, []).append((self._checked(context), reward))
        for arm, pairs in came.items():
            x, r = np.stack([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
            self.arms[arm] += Linear(len(pairs), x.T @ x, x.T @ r)
        self._solved = None

    def merge(self, other: Mapping[str, Linear]) -> None:
        """Add what another router has learnt from other decisions."""
        if set(other) != set(self.arms):
            raise PenstockError("bandits of different arms do not add up")
        self.arms = {arm: kept + other[arm] for arm, kept in self.arms.items()}
        self._solved = None

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        settings = {key: getattr(self, key) for key in ("features", "method", "scale", "ridge", "floor")}
        return {**settings, "arms": {arm: kept.dump() for arm, kept in self.arms.items()}}

    @classmethod
    def load(cls, state: Mapping[str, Any]) -> Self:
        """What ``dump`` gave."""
        settings = {key: state[key] for key in ("method", "scale", "ridge", "floor")}
        found = cls(state["arms"], state["features"], **settings)
        found.arms = {arm: Linear.load(kept) for arm, kept in state["arms"].items()}
        return found

    def _checked(self, context: ArrayLike) -> Array:
        x = np.asarray(context, np.float64)
        if x.shape != (self.features,) or not np.isfinite(x).all():
            raise PenstockError(f"context: {self.features} finite numbers are expected, not shape {x.shape}")
        return x

    def _regressions(self) -> tuple[Array, Array]:
        """A⁻¹ and θ = A⁻¹·Σxr of each arm."""
        if self._solved is None:
            kept = list(self.arms.values())
            xx, xr = np.stack([arm.xx for arm in kept]), np.stack([arm.xr for arm in kept])
            inverse: Any = np.linalg.inv(xx + self.ridge * np.eye(self.features))
            theta: Any = np.einsum("kij,kj->ki", inverse, xr)
            self._solved = inverse, theta
        return self._solved
