"""Ways to bring a version to users. What contradicts itself is refused here; what contradicts the arms, in ``Plan``."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.base import View
from penstock.config.rollout.arms import Name
from penstock.config.rollout.judging import Duration, OpenProbability

__all__ = ["AB", "Bandit", "BlueGreen", "Canary", "Feature", "Rolling", "Shadow", "Single", "Strategy"]

Percent = Annotated[float, Field(gt=0.0, le=100.0)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
MissingUser = Literal["champion", "request", "refuse"]


class Single(View):
    """One version answers everything."""

    kind: Literal["single"]
    champion: Name

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.champion,)


class Shadow(View):
    """Challengers see what the champion sees; what they say is kept and compared, and reaches nobody."""

    kind: Literal["shadow"]
    champion: Name
    challengers: Annotated[tuple[Name, ...], Field(min_length=1)]
    sample: Share = 1.0  # of requests that are mirrored
    queue: Annotated[int, Field(ge=1, le=100_000)] = (
        1000  # mirrored requests that may wait; beyond, they are left out
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8  # on their way to challengers

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.champion, *self.challengers)


class AB(View):
    """Shares of users, each sticking to an arm, until a planned number has come."""

    kind: Literal["ab"]
    champion: Name  # the control, and who answers when another fails
    shares: dict[Name, Share]
    unit: Literal["user", "request"] = "user"
    without_user: MissingUser | None = (
        None  # a request that says not whose it is; must be said where unit: user
    )
    baseline: float  # expected of the champion: a proportion, or a mean
    effect: float  # absolute, the smallest that is worth finding
    deviation: Annotated[float, Field(gt=0.0)] | None = None  # standard, of a mean
    alpha: OpenProbability = 0.05
    power: OpenProbability = 0.8
    srm_alpha: OpenProbability = 0.001  # sample-ratio mismatch: shares that came out unlike those declared
    conclude: Literal["never", "horizon", "sequential"] = (
        "never"  # promote a winner without a person, and when
    )

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.champion, *(arm for arm in self.shares if arm != self.champion))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        total = math.fsum(self.shares.values())
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"`shares` add up to {total:g}, not to 1")
        if self.champion not in self.shares:
            raise ValueError(f"`shares` leave out the champion, {self.champion}")
        if len(self.shares) < 2:
            raise ValueError("`shares` name one arm: an A/B test compares two or more")
        if self.effect == 0:
            raise ValueError("`effect` is 0: no number of users would find it")
        if self.unit == "user" and self.without_user is None:
            raise ValueError(
                "`without_user` says nothing of requests without X-User-Id: champion, request (not sticky) or refuse"
            )
        if self.unit == "request" and self.without_user is not None:
            raise ValueError("`without_user` is for unit: user")
        return self


class Feature(View):
    """A column as a contextual bandit sees it: (value − centre) / scale."""

    centre: float = 0.0
    scale: Annotated[float, Field(gt=0.0)] = 1.0


class Bandit(View):
    """Requests go where rewards have been, and every arm keeps a share to be learned from."""

    kind: Literal["bandit"]
    champion: Name  # answers when another fails
    candidates: Annotated[tuple[Name, ...], Field(min_length=2)]
    policy: Literal["thompson", "ucb", "epsilon_greedy", "linucb"] = "thompson"
    floor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.02  # least share of every arm
    epsilon: OpenProbability = 0.1  # epsilon_greedy
    exploration: Annotated[float, Field(gt=0.0)] = 1.0  # ucb, linucb: width of the bonus
    context: dict[str, Feature] = {}  # linucb: columns of the request's first row
    refresh: Duration = timedelta(seconds=5)  # between two looks at the rewards

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.champion, *(arm for arm in self.candidates if arm != self.champion))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.candidates)) != len(self.candidates):
            raise ValueError("`candidates` name an arm twice")
        if self.champion not in self.candidates:
            raise ValueError(f"`candidates` leave out the champion, {self.champion}")
        if self.floor * len(self.candidates) >= 1.0:
            raise ValueError(
                f"`floor` {self.floor:g} for {len(self.candidates)} arms leaves nothing to decide"
            )
        if (self.policy == "linucb") != bool(self.context):
            raise ValueError("`context` is what policy: linucb decides by, and for it alone")
        if len(self.context) > 16:
            raise ValueError("`context` has more than 16 columns: each arm keeps their square in numbers")
        if self.refresh <= timedelta():
            raise ValueError("`refresh` must be more than 0")
        return self


class BlueGreen(View):
    """Two whole environments: one answers, the other stands ready. A switch is instant, and so is the way back."""

    kind: Literal["blue_green"]
    live: Name
    idle: Name
    warmup: Annotated[int, Field(ge=1, le=10_000)] = 20  # requests that the idle one answers before a switch

    @property
    def champion(self) -> str:
        """Who answers."""
        return self.live

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.live, self.idle)


class Canary(View):
    """A growing share for a new version, as long as it does no harm."""

    kind: Literal["canary"]
    champion: Name
    canary: Name
    steps: Annotated[
        tuple[Percent, ...], Field(min_length=1)
    ]  # percent, ending with what it is promoted from
    bake: Duration  # of each step, while it gets requests
    unit: Literal["user", "request"] = "request"
    without_user: MissingUser | None = None
    at_least: Annotated[int, Field(ge=1)] = 200  # requests that the canary must have answered in a step

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.champion, self.canary)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if any(after <= before for before, after in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"`steps` must grow: {', '.join(f'{step:g}' for step in self.steps)}")
        if self.bake <= timedelta():
            raise ValueError("`bake` must be more than 0")
        if self.unit == "user" and self.without_user is None:
            raise ValueError(
                "`without_user` says nothing of requests without X-User-Id: champion, request (not sticky) or refuse"
            )
        if self.unit == "request" and self.without_user is not None:
            raise ValueError("`without_user` is for unit: user")
        return self


class Rolling(View):
    """An arm's replicas take another artefact one after the other; all the others answer meanwhile."""

    kind: Literal["rolling"]
    champion: Name
    artifact: str  # the folder that its replicas go over to
    ready: Duration = timedelta(seconds=60)  # until a replica must be ready with it; beyond, all go back

    @property
    def arms(self) -> tuple[str, ...]:
        """Every arm that it speaks of, the champion first."""
        return (self.champion,)


Strategy = Annotated[
    Single | Shadow | AB | Bandit | BlueGreen | Canary | Rolling, Field(discriminator="kind")
]
