"""Whether a canary goes on, waits, or goes back: errors, latency and a metric of business against those of the champion.

It may be asked at any time and as often as wanted: errors and slow answers are compared by the exact sequential test, the
metric by the always-valid one. Steps of different shares are kept apart, so that a change of load from hour to hour is not taken for a
difference between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from typing import Any, Literal

from penstock.experiments.counts import Proportion, Sample
from penstock.experiments.estimates import stratified
from penstock.experiments.histogram import Histogram
from penstock.experiments.horizon import two_proportions
from penstock.experiments.sequential import Segment, exact_proportions
from penstock.experiments.verdict import Better, guardrail

__all__ = ["Check", "Health", "Judgement", "Rules", "Step", "judge"]


@dataclass(frozen=True)
class Health:
    """What is known of one arm.

    Attributes:
        errors: Requests, and those that failed.
        latency: Of the others, milliseconds.
        metric: Of business, by unit; None where there is none.
    """

    errors: Proportion = field(default_factory=Proportion)
    latency: Histogram = field(default_factory=Histogram)
    metric: Sample | None = None


@dataclass(frozen=True)
class Step:
    """A time during which the canary's share was the same.

    Attributes:
        champion: What it did in that time.
        canary: The same.
        share: Probability that a request of the two came to the canary.
    """

    champion: Health
    canary: Health
    share: float


@dataclass(frozen=True)
class Rules:
    """What is asked of a canary.

    Attributes:
        alpha: Chance that a good canary is sent back by one of the checks, over all looks.
        least: Requests of the canary in the present step before it may go on.
        errors: Greatest rise of the share of failed requests that need not be ruled out before it goes on.
        quantile: Of latency, where one looks.
        slower: How much slower than the champion there it may be: 0.2 is a fifth.
        slow: Milliseconds beyond which an answer is slow, instead of the champion's quantile; a limit set beforehand makes the
            test exact.
        metric_margin: Loss of the metric that is accepted.
        metric_better: Which way it is good.
        metric_planned: Units at which its test is sharpest.
    """

    alpha: float = 0.01
    least: int = 500
    errors: float = 0.01
    quantile: float = 0.95
    slower: float = 0.2
    slow: float | None = None
    metric_margin: float = 0.0
    metric_better: Better = "higher"
    metric_planned: int = 10_000


@dataclass(frozen=True)
class Check:
    """One of the three.

    Attributes:
        name: errors, latency or metric.
        status: "worse" sends the canary back, "open" makes it wait.
        text: With numbers.
    """

    name: Literal["errors", "latency", "metric"]
    status: Literal["fine", "open", "worse"]
    text: str


@dataclass(frozen=True)
class Judgement:
    """What to do with it.

    Attributes:
        action: The same.
        reason: In a sentence.
        checks: What it rests on.
    """

    action: Literal["promote", "hold", "roll back"]
    reason: str
    checks: tuple[Check, ...]

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"checks": [asdict(check) for check in self.checks]}


def judge(steps: Sequence[Step], rules: Rules, *, baked: bool) -> Judgement:
    """Promote to the next step, hold, or roll back.

    Args:
        steps: All so far, the present one last.
        rules: What is asked.
        baked: Whether the present step has lasted as long as declared; what is bad sends it back before.
    """
    checks = [_errors(steps, rules), _latency(steps, rules)]
    if any(step.canary.metric is not None for step in steps):
        checks.append(_metric(steps, rules))
    requests = steps[-1].canary.errors.count if steps else 0
    worse = [check.text for check in checks if check.status == "worse"]
    if worse:
        return Judgement("roll back", "; ".join(worse), tuple(checks))
    if not baked:
        return Judgement("hold", f"baking, {requests:,} requests so far, nothing bad yet", tuple(checks))
    if requests < rules.least:
        return Judgement("hold", f"{requests:,} of {rules.least:,} requests so far", tuple(checks))
    waiting = [check.text for check in checks if check.status == "open"]
    if waiting:
        return Judgement("hold", "; ".join(waiting), tuple(checks))
    return Judgement("promote", "; ".join(check.text for check in checks), tuple(checks))


def _errors(steps: Sequence[Step], rules: Rules) -> Check:
    segments = [Segment(step.champion.errors, step.canary.errors, step.share) for step in steps]
    found = exact_proportions(segments, alpha=rules.alpha / 3, alternative="greater")
    rates = f"errors {found.treatment:.2%}, champion {found.control:.2%}"
    if found.significant:
        return Check("errors", "worse", f"{rates} (p = {found.p:.2g})")
    last = two_proportions(
        sum((step.champion.errors for step in steps), Proportion()),
        sum((step.canary.errors for step in steps), Proportion()),
        alpha=0.05,
        exact=False,
    )
    if not last.high <= rules.errors:  # or nothing is known
        return Check("errors", "open", f"{rates}: a rise by more than {rules.errors:.2%} is not ruled out")
    return Check("errors", "fine", rates)


def _latency(steps: Sequence[Step], rules: Rules) -> Check:
    """The share of slow answers: slower than the champion's quantile, and the canary's slower by the tolerance beyond."""
    segments = []
    for step in steps:
        champion, canary = step.champion.latency, step.canary.latency
        limit = rules.slow if rules.slow is not None else champion.quantile(rules.quantile)
        if math.isnan(limit):
            continue
        segments.append(
            Segment(
                Proportion(champion.count, champion.above(limit)),
                Proportion(canary.count, canary.above(limit * (1 + rules.slower))),
                step.share,
            )
        )
    if not segments:
        return Check("latency", "open", "no latency of the champion is known")
    champion = reduce(add, (step.champion.latency for step in steps))
    canary = reduce(add, (step.canary.latency for step in steps))
    at = f"p{100 * rules.quantile:g}"
    text = (
        f"{at} {canary.quantile(rules.quantile):.3g} ms, champion {champion.quantile(rules.quantile):.3g} ms"
    )
    found = exact_proportions(segments, alpha=rules.alpha / 3, alternative="greater")
    if found.significant:
        return Check(
            "latency", "worse", f"{text}: slower by more than {rules.slower:.0%} (p = {found.p:.2g})"
        )
    return Check("latency", "fine", text)


def _metric(steps: Sequence[Step], rules: Rules) -> Check:
    pairs = [
        (step.champion.metric, step.canary.metric)
        for step in steps
        if step.champion.metric is not None and step.canary.metric is not None
    ]
    champion, canary = stratified(pairs)
    found = guardrail(
        "metric",
        champion,
        canary,
        arm="canary",
        margin=rules.metric_margin,
        planned=rules.metric_planned,
        better=rules.metric_better,
        alpha=rules.alpha / 3,
    )
    text = f"metric {canary.value:.4g}, champion {champion.value:.4g}"
    if found.status == "harmed":
        return Check("metric", "worse", f"{text}: at least {found.low:.3g} worse")
    return Check("metric", "fine", text)
