"""Who answers a request: a pure function of the settings and the request, so that any two routers agree.

Users and requests are assigned as ``penstock.experiments.assignment`` says: who is in a canary of 1 % is in it at 25 %. The salt is
the rollout's with the epoch, so that the next experiment shuffles users anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from penstock.config.rollout import AB, Bandit, Canary, Shadow
from penstock.experiments.assignment import Assignment, position
from penstock.experiments.bandits import choose
from penstock.experiments.contextual import LinearBandit
from penstock.rollout.settings import Settings

__all__ = ["Decision", "Policy", "RefusedError", "as_policy", "decide"]


class RefusedError(Exception):
    """The request says not whose it is, and the strategy wants to know."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a bandit has learned, for routers to decide by.

    Attributes:
        stage: Of the settings that it was learned under.
        shares: Of each arm; they add up to 1.
        linear: A contextual bandit's regressions; None for others.
    """

    stage: str
    shares: Mapping[str, float]
    linear: LinearBandit | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Who answers.

    Attributes:
        arm: It.
        propensity: The chance that it had; None where nothing was drawn.
        unit: What sticks to the arm, hashed already if it is a user; None where each request is by itself.
        mirrors: Arms that see the request besides.
        stage: What it counts for.
    """

    arm: str
    propensity: float | None
    unit: str | None
    mirrors: tuple[str, ...]
    stage: str


def decide(
    settings: Settings,
    salt: str,
    request: str,
    user: str | None,
    policy: Policy | None = None,
    context: Sequence[float] | None = None,
) -> Decision:
    """Who answers a request.

    Args:
        settings: In force.
        salt: The rollout's.
        request: Its id.
        user: Whose it is, hashed or not, but always the same way; None if it does not say.
        policy: A bandit's; one of another stage is not used.
        context: The numbers that a contextual bandit decides by.

    Raises:
        RefusedError: There is no user, and the strategy is declared to refuse that.
    """
    strategy = settings.plan.strategy
    stage = settings.stage
    seed = f"{salt}/{settings.epoch}"
    if isinstance(strategy, Shadow):
        mirrors = tuple(arm for arm in strategy.challengers if arm not in settings.off)
        if strategy.sample < 1.0 and position(f"{seed}/mirror", request) >= strategy.sample:
            mirrors = ()
        return Decision(strategy.champion, None, None, mirrors, stage)
    if isinstance(strategy, AB | Canary):
        unit, is_user = request, False
        if strategy.unit == "user":
            if user is not None:
                unit, is_user = user, True
            elif strategy.without_user == "refuse":
                raise RefusedError
            elif strategy.without_user == "champion":
                # Not in the test: who cannot be assigned would bias the champion's figures.
                return Decision(strategy.champion, None, None, (), f"{stage}-unassigned")
        assign = _assignment(seed, tuple(settings.shares().items()))
        arm = assign(unit)
        return Decision(arm, assign.propensity(arm), unit if is_user else None, (), stage)
    if isinstance(strategy, Bandit):
        return _drawn(settings, strategy, policy, context, position(seed, request))
    return Decision(strategy.champion, None, None, (), stage)


@lru_cache(16)
def _assignment(salt: str, shares: tuple[tuple[str, float], ...]) -> Assignment:
    return Assignment(salt, dict(shares))


def _drawn(
    settings: Settings, strategy: Bandit, policy: Policy | None, context: Sequence[float] | None, at: float
) -> Decision:
    shares: Mapping[str, float] = settings.shares()
    if policy is not None and policy.stage == settings.stage:
        shares = policy.shares
        if policy.linear is not None and context is not None:
            shares = policy.linear.probabilities(context)
        gone = [arm for arm in settings.off if arm in shares]
        if gone:
            left = dict(shares)
            left[strategy.champion] = left.get(strategy.champion, 0.0) + sum(left.pop(arm) for arm in gone)
            shares = left
    choice = choose(shares, at)
    return Decision(choice.arm, choice.propensity, None, (), settings.stage)


def as_policy(told: Mapping[str, Any]) -> Policy:
    """A policy out of what the state keeps."""
    linear = told.get("linear")
    return Policy(told["stage"], told["shares"], None if linear is None else LinearBandit.load(linear))
