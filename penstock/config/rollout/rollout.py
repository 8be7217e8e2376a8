"""A rollout: arms, a strategy, what it is judged by, and the router in front."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.base import View
from penstock.config.rollout.arms import Arm, Count, Name
from penstock.config.rollout.judging import Duration, Guardrails, Kpi
from penstock.config.rollout.strategies import AB, Bandit, Rolling, Shadow, Strategy
from penstock.config.serving.requests import RequestLog

__all__ = ["Plan", "RedisState", "Rollout", "Router", "SqliteState", "State", "Timeouts"]

Port = Annotated[int, Field(ge=0, le=65535)]


class Timeouts(View):
    """How long anything may take."""

    answer: Duration = timedelta(seconds=5)  # the whole request, retries and fallback included; beyond, 504
    arm: Duration = timedelta(
        milliseconds=500
    )  # an arm that is not the champion; beyond, the champion answers
    shadow: Duration = timedelta(seconds=2)  # a mirrored request
    body: Duration = timedelta(seconds=20)  # until a request has come whole
    idle: Duration = timedelta(seconds=65)  # between two requests of a connection

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.arm >= self.answer:
            raise ValueError("`arm` must be less than `answer`: the champion needs time to step in")
        return self


class Router(View):
    """What clients speak to."""

    host: str = "127.0.0.1"
    port: Port = 8600
    workers: Count = 1  # processes
    keys: str | None = (
        None  # a file of clients' keys, hashed: `penstock rollout keys`; None on 127.0.0.1 only
    )
    operators: str | None = None  # the same, of those who may change the rollout
    predictor_key: str | None = None  # that predictors elsewhere ask for: ${secret:NAME}
    flags: str | None = None  # a file of feature flags, in flagd's format
    body_bytes: Count = 4_194_304
    answer_bytes: Count = 16_777_216
    connections: Count = 1024  # of clients
    pool: Annotated[int, Field(ge=1, le=1024)] = 128  # connections to one replica
    timeouts: Timeouts = Timeouts()
    poll: Duration = timedelta(milliseconds=100)  # between looks at whether the settings have changed
    flush: Duration = timedelta(milliseconds=250)  # between writes of what was counted


class SqliteState(View):
    """State in a file of this machine, for any number of routers on it."""

    kind: Literal["sqlite"]
    path: str = "data/rollout/state.sqlite"


class RedisState(View):
    """State that routers of several machines share."""

    kind: Literal["redis"]
    url: str = "redis://127.0.0.1:6379/0"  # ${secret:NAME} for one with a password


State = Annotated[SqliteState | RedisState, Field(discriminator="kind")]


class Plan(View):
    """What can be changed while it runs. Every change is validated whole, and stands in the audit trail."""

    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    strategy: Strategy
    kpi: Kpi | None = None
    guardrails: Guardrails = Guardrails()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        strategy = self.strategy
        unknown = [arm for arm in strategy.arms if arm not in self.arms]
        if unknown:
            raise ValueError(f"strategy: there is no arm {unknown[0]}; there are: {', '.join(self.arms)}")
        if len(set(strategy.arms)) != len(strategy.arms):
            raise ValueError("strategy: names an arm twice; a version is not compared with itself")
        if isinstance(strategy, Bandit):
            self._bandit_learns()
        if isinstance(strategy, AB):
            self._test_can_be_planned(strategy)
        if isinstance(strategy, Shadow) and self.kpi is not None and self.kpi.source == "reward":
            raise ValueError(
                "kpi: source: reward is of answers that somebody got; a shadow is judged by correct or squared_error"
            )
        if isinstance(strategy, Rolling):
            self._rolls(strategy)
        if self.guardrails.kpi is not None and self.kpi is None:
            raise ValueError("guardrails: kpi: there is no kpi to guard")
        return self

    def _bandit_learns(self) -> None:
        if self.kpi is None:
            raise ValueError("strategy: a bandit learns from a reward; declare `kpi`")
        if self.kpi.source == "squared_error":
            raise ValueError("strategy: a bandit learns from kpi.source: reward or correct")

    def _test_can_be_planned(self, strategy: AB) -> None:
        if self.kpi is None:
            raise ValueError("strategy: an A/B test compares a `kpi`; declare it")
        if self.kpi.kind == "mean" and strategy.deviation is None:
            raise ValueError(
                "strategy: `deviation` is missing: the number of users to a mean follows from it"
            )
        if self.kpi.kind == "proportion":
            if strategy.deviation is not None:
                raise ValueError(
                    "strategy: `deviation` is for kpi.kind: mean; a proportion's follows from it"
                )
            ends = (strategy.baseline, strategy.baseline + strategy.effect)
            if not all(0.0 < end < 1.0 for end in ends):
                raise ValueError(
                    f"strategy: proportions lie between 0 and 1; got {ends[0]:g} and {ends[1]:g}"
                )
        if (strategy.effect > 0) != (self.kpi.goal == "up"):
            raise ValueError(
                f"strategy: `effect` {strategy.effect:g} is no improvement where goal: {self.kpi.goal}"
            )

    def _rolls(self, strategy: Rolling) -> None:
        arm = self.arms[strategy.champion]
        if arm.artifact is None:
            raise ValueError(
                f"strategy: {strategy.champion}'s predictors run elsewhere; they cannot be rolled here"
            )
        if arm.replicas < 2:
            raise ValueError(
                f"strategy: {strategy.champion} has one replica; with less than two nobody answers meanwhile"
            )

    def started(self) -> dict[str, Arm]:
        """Arms that predictors are started for."""
        return {name: arm for name, arm in self.arms.items() if arm.artifact is not None}


class Rollout(View):
    """Everything that is declared for a model's rollout."""

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]  # as clients call it
    salt: Annotated[str, Field(min_length=4)]  # users are assigned by it; another one assigns them anew
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    strategy: Strategy
    kpi: Kpi | None = None
    guardrails: Guardrails = Guardrails()
    router: Router = Router()
    state: State = SqliteState(kind="sqlite")
    ports: Annotated[int, Field(ge=1024, le=60000)] = 8610  # predictors': the first; sixteen for each arm
    outcomes: Duration = timedelta(days=1)  # how long an outcome may come after its request
    attributions: Count = 1_000_000  # requests that wait for an outcome, at most
    users: Count = 1_000_000  # of a test, at most; beyond, it says so and counts no more of them
    tick: Duration = timedelta(milliseconds=500)  # between looks at guardrails and steps
    requests: RequestLog | None = None  # the request log; null: what is asked is not recorded
    truths: str = "data/truths"  # folder of what came true, where there is a request log

    @model_validator(mode="after")
    def _plans(self) -> Self:
        self.plan()
        if isinstance(self.state, RedisState) and "attributions" in self.model_fields_set:
            raise ValueError("attributions: Redis forgets them by time alone; bound its memory where it runs")
        if self.tick + self.router.flush + self.router.poll >= self.guardrails.within:
            raise ValueError(
                "guardrails.within cannot be kept: it is less than tick + router.flush + router.poll"
            )
        return self

    def plan(self) -> Plan:
        """What of it can be changed while it runs, as declared."""
        return Plan(arms=self.arms, strategy=self.strategy, kpi=self.kpi, guardrails=self.guardrails)
