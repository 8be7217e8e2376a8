"""What a rollout is judged by."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from penstock.config.base import View
from penstock.config.loading.spans import duration

__all__ = ["Duration", "Guardrails", "Kpi", "LatencyGuardrail", "OpenProbability", "RateGuardrail"]

Duration = Annotated[timedelta, BeforeValidator(duration)]
OpenProbability = Annotated[float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Kpi(View):
    """What the arms compete in.

    A reward comes with an outcome (a click, a sum of money). What is compared with the truth needs no reward, and is the only
    thing by which a version can be judged that answers nobody (shadow).
    """

    source: Literal["reward", "correct", "squared_error"] = "reward"
    kind: Literal["proportion", "mean"] = "proportion"
    goal: Literal["up", "down"] = "up"
    positive: str | None = None  # the label whose probability is compared with the truth (squared_error)
    low: float = 0.0  # of a mean: rewards are cut to [low, high], so that one outlier decides nothing
    high: float = 1.0
    absent: Literal["zero", "unknown"] = "unknown"  # a request of which no outcome has come

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.low >= self.high:
            raise ValueError("`low` must be below `high`")
        if self.kind == "proportion" and (self.low, self.high) != (0.0, 1.0):
            raise ValueError("`low` and `high` are for kind: mean; a proportion is of 0 and 1")
        if self.source == "correct" and self.kind != "proportion":
            raise ValueError("source: correct is a proportion")
        if self.source == "squared_error" and (self.kind != "mean" or self.goal != "down"):
            raise ValueError("source: squared_error is a mean that should go down")
        if self.source != "reward" and self.absent == "zero":
            raise ValueError("absent: zero is for rewards; a truth that has not come is not known")
        return self


class RateGuardrail(View):
    """Errors: what an arm had more of than the champion, with a test that allows for any number of looks, takes it back."""

    margin: Annotated[float, Field(gt=0.0, lt=1.0)] = (
        0.01  # a canary goes on only once a greater rise is ruled out
    )


class LatencyGuardrail(View):
    """How much slower than the champion an arm may be, at a quantile."""

    quantile: OpenProbability = 0.95
    slower: Annotated[float, Field(ge=0.0)] = 0.2  # 0.2: by a fifth
    over: Duration | None = None  # instead of the champion's quantile: what is slow, said beforehand

    @model_validator(mode="after")
    def _is_a_time(self) -> Self:
        if self.over is not None and self.over <= timedelta():
            raise ValueError("`over` must be more than 0")
        return self


class Guardrails(View):
    """What no version may do, however well it does otherwise. Looked at all the time, with tests that allow it."""

    errors: RateGuardrail = RateGuardrail()
    latency: LatencyGuardrail | None = None
    kpi: Annotated[float, Field(ge=0.0)] | None = None  # how much worse than the champion's it may be
    memory_restarts: Annotated[int, Field(ge=1)] | None = (
        2  # replicas that had to be started again, in a stage
    )
    alpha: OpenProbability = 0.01  # chance that an arm as good as the champion is taken back, over all looks
    within: Duration = timedelta(seconds=10)  # from the request that shows the harm to the roll-back
