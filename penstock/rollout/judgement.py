"""What the counts say of the arms: guardrails, comparisons, a verdict in words. Pure functions of settings and counters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock.config.rollout import AB, Canary, Guardrails, Kpi, LatencyGuardrail, Plan, Shadow
from penstock.experiments.canary import Health, Judgement, Rules, Step, judge
from penstock.experiments.counts import Moments, Proportion, Sample
from penstock.experiments.estimates import estimate
from penstock.experiments.horizon import compare_arms
from penstock.experiments.mismatch import Mismatch, always_valid_mismatch
from penstock.experiments.planning import Plan as Size
from penstock.experiments.planning import plan_means, plan_proportions
from penstock.experiments.sequential import always_valid_arms
from penstock.experiments.verdict import Guardrail, Verdict, guardrail, verdict
from penstock.rollout.answers import reward_mode
from penstock.rollout.settings import Settings
from penstock.rollout.tally import histogram

__all__ = ["Counters", "Report", "harms", "judged", "kpi_sample", "planned"]

Counters = Mapping[str, Mapping[str, float]]  # arm → name → value
PLANNED = 20_000  # units at which a guardrail's test is sharpest, where nothing else is planned
NEVER = 1e9  # milliseconds
LEVEL = 1.96  # of intervals that are only looked at


@dataclass(frozen=True)
class Report:
    """What is said of a rollout now.

    Attributes:
        stage: That it is about.
        arms: Of each: share, requests, errors, latency, KPI with its interval.
        harms: Arms that break a guardrail, with why.
        canary: What is to be done with a canary; None for other strategies.
        verdict: In words.
        decided: Of an A/B test, as the sequential test sees it.
        horizon: The same at the planned number of units; None before it.
        about: Everything else, as JSON has it.
    """

    stage: str
    arms: dict[str, dict[str, Any]]
    harms: dict[str, str]
    verdict: str
    canary: Judgement | None = None
    decided: Verdict | None = None
    horizon: Verdict | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "stage": self.stage,
            "arms": self.arms,
            "harms": self.harms,
            "verdict": self.verdict,
            "canary": None if self.canary is None else self.canary.dump(),
            "decided": None if self.decided is None else self.decided.dump(),
            "horizon": None if self.horizon is None else self.horizon.dump(),
            **self.about,
        }


def judged(settings: Settings, stages: Sequence[Counters], *, baked: bool = False) -> Report:
    """What the counts say.

    Args:
        settings: In force.
        stages: Counters of the epoch's stages; the present one last.
        baked: Whether a canary's step has lasted as long as declared.
    """
    strategy, plan, now = settings.plan.strategy, settings.plan, stages[-1]
    found = harms(settings, stages)
    canary = None
    if isinstance(strategy, Canary) and strategy.canary not in settings.off:
        rules = _rules(plan, strategy.at_least)
        canary = judge(_steps(settings, strategy, stages), rules, baked=baked)
        if canary.action == "roll back":
            found.setdefault(strategy.canary, canary.reason)
    decided = horizon = None
    about: dict[str, Any] = {}
    if isinstance(strategy, AB) and plan.kpi is not None:
        decided, horizon, about = _tested(settings, strategy, plan.kpi, now)
    words = _words(settings, found, canary, decided, horizon)
    return Report(settings.stage, _arms(settings, now), found, words, canary, decided, horizon, about)


# --- arms -------------------------------------------------------------------------------------------


def kpi_sample(kpi: Kpi, counters: Mapping[str, float]) -> Sample:
    """What is known of an arm's KPI.

    Args:
        kpi: What counts.
        counters: Of the arm.
    """
    count, total = round(counters.get("kpi_n", 0.0)), counters.get("kpi_total", 0.0)
    if kpi.kind == "proportion" and reward_mode(kpi) == "any":
        return Proportion(count, min(count, max(0, round(total))))
    return Moments(count, total, counters.get("kpi_squares", 0.0))


def _errors(counters: Mapping[str, float]) -> Proportion:
    requests = round(counters.get("requests", 0.0))
    return Proportion(requests, min(requests, round(counters.get("errors", 0.0))))


def _arms(settings: Settings, now: Counters) -> dict[str, dict[str, Any]]:
    shares, kpi = settings.shares(), settings.plan.kpi
    return {
        arm: {
            "share": shares.get(arm, 0.0),
            "artifact": settings.plan.arms[arm].artifact,
            "off": settings.off.get(arm),
            **_figures(now.get(arm, {}), kpi),
        }
        for arm in settings.plan.arms
    }


def _figures(counters: Mapping[str, float], kpi: Kpi | None) -> dict[str, Any]:
    latency, errors = histogram(counters), _errors(counters)
    found: dict[str, Any] = {
        "requests": errors.count,
        "errors": errors.successes,
        "stood_in": round(counters.get("stood_in", 0.0)),
        "left_out": round(counters.get("left_out", 0.0)),
        "users": round(counters.get("users", 0.0)),
        "p50_ms": _finite(latency.quantile(0.5)),
        "p99_ms": _finite(latency.quantile(0.99)),
        "kpi": None,
    }
    if kpi is not None:
        known = estimate(kpi_sample(kpi, counters))
        reach = (
            LEVEL * math.sqrt(known.variance) if known.count and not math.isnan(known.variance) else math.nan
        )
        found["kpi"] = {
            "n": known.count,
            "value": _finite(known.value),
            "low": _finite(known.value - reach),
            "high": _finite(known.value + reach),
        }
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- guardrails -------------------------------------------------------------------------------------


def _health(plan: Plan, counters: Mapping[str, float]) -> Health:
    guarded = plan.kpi is not None and plan.guardrails.kpi is not None
    metric = kpi_sample(plan.kpi, counters) if guarded and plan.kpi is not None else None
    errors, latency = _errors(counters), histogram(counters)
    # What failed counts as answered at once: the test asks of every request of an arm whether it was slow, and arms are
    # compared by how many requests they were given.
    if errors.count > latency.count:
        latency.add(0.0, errors.count - latency.count)
    return Health(errors, latency, metric)


def _rules(plan: Plan, least: int) -> Rules:
    rails: Guardrails = plan.guardrails
    latency, kpi = rails.latency, plan.kpi
    return Rules(
        alpha=rails.alpha,
        least=least,
        errors=rails.errors.margin,
        quantile=latency.quantile if latency else 0.95,
        slower=latency.slower if latency else 0.0,
        slow=_slow(latency),
        metric_margin=rails.kpi or 0.0,
        metric_better="higher" if kpi is None or kpi.goal == "up" else "lower",
        metric_planned=PLANNED,
    )


def _slow(latency: LatencyGuardrail | None) -> float | None:
    """Milliseconds; without a guardrail nothing is slow."""
    if latency is None:
        return NEVER
    return None if latency.over is None else 1000 * latency.over.total_seconds()


def _steps(settings: Settings, strategy: Canary, stages: Sequence[Counters]) -> list[Step]:
    """Of a canary. At 100 % the champion answers nobody, so that step is compared with what the champion did before."""
    found = []
    before: dict[str, float] = {}
    for at, counters in enumerate(stages):
        champion = counters.get(strategy.champion, {})
        canary = counters.get(strategy.canary, {})
        if strategy.steps[min(at, len(strategy.steps) - 1)] >= 100.0:
            champion = before
        else:
            before = {name: before.get(name, 0.0) + champion.get(name, 0.0) for name in {*before, *champion}}
        found.append(_step(settings.plan, champion, canary))
    return found


def _step(plan: Plan, champion: Mapping[str, float], other: Mapping[str, float]) -> Step:
    """Two arms side by side, at the share of requests that the other has had.

    Not at the share that was declared: where users are assigned, one who comes often makes the shares of requests differ
    from it, and the exact test would take that for a difference between the arms. With twenty requests a user it took back
    half to nine tenths of arms as good as the champion; at the share that was seen, none in a hundred (at a level of 5 %).
    """
    of_one, of_other = champion.get("requests", 0.0), other.get("requests", 0.0)
    share = of_other / (of_one + of_other) if of_one and of_other else 0.5
    return Step(_health(plan, champion), _health(plan, other), share)


def harms(settings: Settings, stages: Sequence[Counters]) -> dict[str, str]:
    """Arms other than the champion that break a guardrail, with why. A canary's tests are ``judge``'s.

    Args:
        settings: In force.
        stages: Counters of the epoch's stages; the present one last.
    """
    strategy, plan, now = settings.plan.strategy, settings.plan, stages[-1]
    most = plan.guardrails.memory_restarts
    found: dict[str, str] = {}
    for arm in strategy.arms:
        if arm == strategy.champion or arm in settings.off:
            continue
        restarts = now.get(arm, {}).get("memory_restarts", 0.0)
        if most is not None and restarts >= most:
            found[arm] = f"it outgrew its memory {restarts:.0f} times"
            continue
        if isinstance(strategy, Canary):
            continue
        step = _step(plan, now.get(strategy.champion, {}), now.get(arm, {}))
        if not step.champion.errors.count or not step.canary.errors.count:
            continue
        told = judge([step], _rules(plan, 1), baked=False)
        if told.action == "roll back":
            found[arm] = told.reason
    return found


# --- A/B tests --------------------------------------------------------------------------------------


def planned(strategy: AB, kpi: Kpi) -> Size:
    """How many units a test takes.

    Args:
        strategy: The test.
        kpi: What it compares.

    Raises:
        PenstockError: Too many to be found at all.
    """
    shares = [strategy.shares[arm] for arm in strategy.arms]
    if kpi.kind == "proportion":
        return plan_proportions(
            strategy.baseline, strategy.effect, alpha=strategy.alpha, power=strategy.power, shares=shares
        )
    assert strategy.deviation is not None
    return plan_means(
        strategy.deviation, strategy.effect, alpha=strategy.alpha, power=strategy.power, shares=shares
    )


def _tested(
    settings: Settings, strategy: AB, kpi: Kpi, now: Counters
) -> tuple[Verdict, Verdict | None, dict[str, Any]]:
    size = planned(strategy, kpi)
    samples = {arm: kpi_sample(kpi, now.get(arm, {})) for arm in strategy.arms if arm not in settings.off}
    control = samples.pop(strategy.champion)
    mismatch = _mismatch(strategy, now, settings)
    better = "higher" if kpi.goal == "up" else "lower"
    rails = _metric_rails(settings.plan, control, samples)
    common: dict[str, Any] = {
        "mismatch": mismatch,
        "guardrails": rails,
        "better": better,
        "share": kpi.kind == "proportion",
        "unit": "users" if strategy.unit == "user" else "requests",
    }
    always = always_valid_arms(control, samples, planned=size.total, alpha=strategy.alpha)
    decided = verdict(always, planned=size.sequential, always=True, **common)
    units = control.count + sum(sample.count for sample in samples.values())
    horizon = None
    fixed = compare_arms(control, samples, alpha=strategy.alpha) if units >= size.total and samples else {}
    if fixed:
        horizon = verdict(fixed, planned=size.total, always=False, **common)
    return (
        decided,
        horizon,
        {
            "planned": size.dump(),
            "units": units,
            "srm": {
                "p": mismatch.p,
                "off": mismatch.off,
                "expected": mismatch.expected,
                "found": mismatch.found,
            },
            "sequential": {arm: found.dump() for arm, found in always.items()},
            "at_horizon": {arm: found.dump() for arm, found in fixed.items()},
        },
    )


def _mismatch(strategy: AB, now: Counters, settings: Settings) -> Mismatch:
    name = "users" if strategy.unit == "user" else "requests"
    counts = {arm: round(now.get(arm, {}).get(name, 0.0)) for arm in strategy.arms}
    if settings.off:  # what is off gets nobody: shares are no longer those declared
        return Mismatch(1.0, strategy.srm_alpha, {}, counts)
    return always_valid_mismatch([(counts, strategy.shares)], level=strategy.srm_alpha)


def _metric_rails(plan: Plan, control: Sample, samples: Mapping[str, Sample]) -> list[Guardrail]:
    margin = plan.guardrails.kpi
    if margin is None or plan.kpi is None:
        return []
    better = "higher" if plan.kpi.goal == "up" else "lower"
    return [
        guardrail("kpi", control, sample, arm=arm, margin=margin, planned=PLANNED, better=better)  # type: ignore[arg-type]
        for arm, sample in samples.items()
    ]


# --- words ------------------------------------------------------------------------------------------


def _words(
    settings: Settings,
    found: Mapping[str, str],
    canary: Judgement | None,
    decided: Verdict | None,
    horizon: Verdict | None,
) -> str:
    strategy = settings.plan.strategy
    if found:
        return "; ".join(f"{arm} does harm: {why}" for arm, why in found.items())
    off = "; ".join(f"{arm} is off: {why}" for arm, why in settings.off.items())
    words = f"{strategy.champion} answers"
    if isinstance(strategy, Canary) and canary is not None:
        at = f"step {settings.step + 1} of {len(strategy.steps)}, {strategy.steps[settings.step]:g} %"
        words = f"{strategy.canary} at {at}: {canary.reason}"
    elif horizon is not None:
        words = f"at the horizon: {horizon.text}"
    elif decided is not None:
        words = decided.text
    elif isinstance(strategy, Shadow):
        words = f"{strategy.champion} answers; {', '.join(strategy.challengers)} sees what it sees"
    return "; ".join(part for part in (words, off) if part)
