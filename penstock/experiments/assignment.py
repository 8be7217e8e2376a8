"""Who gets which arm: a function of salt, unit and weights alone, so that routers agree without asking each other.

Each arm draws an exponential time for the unit, from a hash, at the rate of its weight; the first wins. So P(arm) is its
weight's share exactly, and when one arm's weight changes, users move to or from that arm only, no more of them than the
change of its share: whoever was in a canary at 1 % is in it at 25 %. When weights change in any other way, the share of users that
move is at most 2·d / (1 + d), d being the least possible, and no rule without memory does better for all pairs of weights
(Angel & Spinka, "Pairwise optimal coupling of multiple random variables", 2019). This is weighted rendezvous hashing
(Thaler & Ravishankar 1998; Schindelhauer & Schomaker 2005).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.errors import PenstockError

__all__ = ["Assignment", "Layer", "Slot", "position"]

BITS = 53  # what a float holds


def _prepared(*names: str) -> hashlib.blake2b:
    """A hash that has taken the names in, each with its length: no two lists of names look the same."""
    start = hashlib.blake2b(digest_size=8)
    for name in names:
        content = name.encode()
        start.update(len(content).to_bytes(4, "big") + content)
    return start


def _draw(prepared: hashlib.blake2b, unit: str) -> float:
    """In (0, 1), both ends excluded."""
    hashed = prepared.copy()
    hashed.update(unit.encode())
    return ((int.from_bytes(hashed.digest(), "big") >> (64 - BITS)) + 0.5) * 2.0**-BITS


def position(salt: str, unit: str) -> float:
    """Where a unit lies in (0, 1): uniform over units, independent for different salts.

    Args:
        salt: Of the experiment; another one shuffles all units anew.
        unit: Whom or what is assigned, a user's id as a rule.
    """
    return _draw(_prepared(salt), unit)


class Assignment:
    """Units to arms, always the same as long as salt and weights are.

    Args:
        salt: Of the experiment. Two experiments with one salt would put the same users into the same arms.
        weights: For each arm a number of at least 0, not all 0; only their ratios count.

    Raises:
        PenstockError: Weights that are no weights.
    """

    def __init__(self, salt: str, weights: Mapping[str, float]) -> None:
        wrong = [arm for arm, weight in weights.items() if not (math.isfinite(weight) and weight >= 0)]
        if wrong or not sum(weights.values()):
            which = ", ".join(wrong) or "all of them 0" if weights else "none given"
            raise PenstockError(f"weights: {which}: each is a number of at least 0, and one of them more")
        total = sum(weights.values())
        self.salt = salt
        self.shares = {arm: weight / total for arm, weight in weights.items()}
        # By name: what one arm draws depends neither on how many others there are nor on their order.
        self._arms = [
            (arm, share, _prepared(salt, arm)) for arm, share in sorted(self.shares.items()) if share > 0
        ]

    def __call__(self, unit: str) -> str:
        """The unit's arm."""
        if len(self._arms) == 1:
            return self._arms[0][0]
        # Of log u / weight the greatest: the same as the least of −log u / weight.
        return max(self._arms, key=lambda arm: math.log(_draw(arm[2], unit)) / arm[1])[0]

    def propensity(self, arm: str) -> float:
        """Probability of an arm, exact; 0 for one that is not there."""
        return self.shares.get(arm, 0.0)


@dataclass(frozen=True)
class Slot:
    """A part of a layer's users.

    Attributes:
        experiment: Which has them.
        start: From which position in [0, 1) on.
        stop: Up to which, itself excluded.
    """

    experiment: str
    start: float
    stop: float


@dataclass(frozen=True)
class Layer:
    """Experiments that must not have a user in common. Those of different layers overlap, independently of each other.

    Attributes:
        name: Of the layer; its salt.
        slots: Which experiment has which users; disjoint. Users outside of all are in none.

    Raises:
        PenstockError: Slots that overlap or reach beyond [0, 1].
    """

    name: str
    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        last = Slot("", 0.0, 0.0)
        for slot in sorted(self.slots, key=lambda slot: slot.start):
            if not 0 <= slot.start < slot.stop <= 1:
                raise PenstockError(
                    f"layer {self.name}: {slot.experiment} has users from {slot.start} to {slot.stop}",
                    hint="0 ≤ start < stop ≤ 1",
                )
            if slot.start < last.stop:
                raise PenstockError(
                    f"layer {self.name}: {last.experiment} and {slot.experiment} share users",
                    hint=f"start {slot.experiment} at {last.stop} or later, or put it into another layer",
                )
            last = slot

    def experiment(self, unit: str) -> str | None:
        """The one experiment of this layer that has the unit, if any."""
        # A name of its own: a unit's place in the layer tells nothing of its arm in an experiment of the same name.
        where = position(f"layer {self.name}", unit)
        for slot in self.slots:
            if slot.start <= where < slot.stop:
                return slot.experiment
        return None
