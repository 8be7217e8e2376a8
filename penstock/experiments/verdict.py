"""What an experiment says, in words that a person can act on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from penstock.experiments.counts import Sample
from penstock.experiments.estimates import Comparison, Estimate
from penstock.experiments.mismatch import Mismatch
from penstock.experiments.sequential import always_valid

__all__ = ["Better", "Decision", "Guardrail", "Verdict", "guardrail", "verdict"]

Decision = Literal["better", "worse", "no difference", "undecided", "harmful", "invalid"]
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Guardrail:
    """A metric that must not suffer.

    Attributes:
        name: What is measured.
        arm: In which treatment.
        loss: How much worse it is than in control, as estimated.
        low: The loss is at least this (always valid).
        high: And at most this.
        margin: The loss that is accepted.
        status: "held" if less than the margin is lost, "harmed" if more, "open" while either may be.
    """

    name: str
    arm: str
    loss: float
    low: float
    high: float
    margin: float
    status: Literal["held", "harmed", "open"]

    def dump(self) -> dict[str, Any]:
        """As JSON has it: what is infinite is null."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def guardrail(
    name: str,
    control: Sample | Estimate,
    treatment: Sample | Estimate,
    *,
    arm: str,
    margin: float,
    planned: int,
    better: Better = "higher",
    alpha: float = 0.05,
) -> Guardrail:
    """Non-inferiority, at any time: whether less is lost than the margin.

    Args:
        name: What is measured.
        control: Counts or an estimate.
        treatment: The same.
        arm: Its name.
        margin: The loss that is accepted, in the metric's units, 0 or more.
        planned: Units of the two arms at which the answer is to be sharpest.
        better: Which way is good.
        alpha: Chance of a wrong "held", and of a wrong "harmed", over all looks.
    """
    sign = -1.0 if better == "higher" else 1.0
    sides = [
        always_valid(control, treatment, planned=planned, alpha=alpha, alternative="greater"),
        always_valid(control, treatment, planned=planned, alpha=alpha, alternative="less"),
    ]
    rise = (sides[0].low, sides[1].high)
    low, high = rise if better == "lower" else (-rise[1], -rise[0])
    status: Literal["held", "harmed", "open"] = (
        "harmed" if low > margin else "held" if high <= margin else "open"
    )
    return Guardrail(name, arm, sign * sides[0].difference, low, high, margin, status)


@dataclass(frozen=True)
class Verdict:
    """What to do.

    Attributes:
        decision: In one word or two.
        arm: Which arm it is about: the best for "better", the harmful one for "harmful"; None for the whole experiment.
        stop: Whether the experiment is over.
        text: The same in a sentence.
    """

    decision: Decision
    arm: str | None
    stop: bool
    text: str

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def verdict(
    comparisons: Mapping[str, Comparison],
    *,
    planned: int,
    mismatch: Mismatch | None = None,
    guardrails: Sequence[Guardrail] = (),
    better: Better = "higher",
    share: bool = True,
    unit: str = "users",
    always: bool = True,
) -> Verdict:
    """From all that was found to what is to be done.

    What makes the numbers worthless comes first, then harm, then the metric itself.

    Args:
        comparisons: Each treatment against control, corrected for their number.
        planned: Units of all arms at which the experiment ends.
        mismatch: Of the assignment.
        guardrails: All of them.
        better: Which way the metric is good.
        share: Whether it is a share, told in points.
        unit: What was assigned, in the plural.
        always: Whether comparisons are always valid; those for one look decide nothing before the planned number.
    """
    units = _units(comparisons)
    if mismatch is not None and mismatch.off:
        found = ", ".join(
            f"{arm} has {n:,} of {mismatch.expected[arm]:,.0f}" for arm, n in mismatch.found.items()
        )
        text = f"do not trust this: assignment is off (SRM p = {mismatch.p:.2g}; {found})"
        return Verdict("invalid", None, True, text)
    for item in guardrails:
        if item.status == "harmed":
            text = (
                f"{item.arm} harms {item.name}: at least {item.low:.3g} worse, of which {item.margin:.3g} was accepted;"
                " stop now"
            )
            return Verdict("harmful", item.arm, True, text)
    sign = 1.0 if better == "higher" else -1.0
    done = units >= planned
    if always or done:
        told = {arm: item for arm, item in comparisons.items() if item.significant}
        ahead = {arm: item for arm, item in told.items() if sign * item.difference > 0}
        if ahead:
            return _won(ahead, guardrails, sign, share, done)
        if told and len(told) == len(comparisons):
            arm = min(told, key=lambda arm: sign * told[arm].difference)
            listed = "; ".join(f"{arm} is worse: {_told(item, share)}" for arm, item in told.items())
            return Verdict(
                "worse", arm if len(told) == 1 else None, True, f"{listed}, stop now: keep control"
            )
    shown = "; ".join(f"{arm}: {_told(item, share)}" for arm, item in comparisons.items())
    if done:
        text = (
            f"no difference was found among {units:,} {unit} ({shown}): keep control, or whichever is cheaper"
        )
        return Verdict("no difference", None, True, text)
    return Verdict("undecided", None, False, f"not decided: {units:,} of {planned:,} {unit} so far ({shown})")


def _won(
    ahead: Mapping[str, Comparison], guardrails: Sequence[Guardrail], sign: float, share: bool, done: bool
) -> Verdict:
    arm = max(ahead, key=lambda arm: sign * ahead[arm].difference)
    text = f"{arm} is better: {_told(ahead[arm], share)}"
    waiting = [item.name for item in guardrails if item.arm == arm and item.status == "open"]
    if waiting and not done:
        return Verdict(
            "better", arm, False, f"{text}; go on until {', '.join(waiting)} is known not to suffer"
        )
    if waiting:
        return Verdict(
            "better", arm, True, f"{text}, but {', '.join(waiting)} may suffer: weigh it, then stop"
        )
    return Verdict("better", arm, True, f"{text}, stop now")


def _units(comparisons: Mapping[str, Comparison]) -> int:
    """Of all arms: control is in each comparison."""
    total = sum(item.units for item in comparisons.values())
    control = {item.control_units for item in comparisons.values()}
    return total - (len(comparisons) - 1) * max(control, default=0)


def _told(item: Comparison, share: bool) -> str:
    if math.isnan(item.difference):
        return "nothing yet"
    scale = 100.0 if share else 1.0
    unit = " points" if share else ""
    width = scale * (item.high - item.low)
    # As many digits as the interval warrants.
    digits = max(0, 1 - math.floor(math.log10(width))) if 0 < width < math.inf else 2
    low, high = (f"{scale * end:.{digits}f}" if math.isfinite(end) else "?" for end in (item.low, item.high))
    return f"{scale * item.difference:+.{digits}f}{unit} ({low} to {high})"
