"""What is wrong, in words, and which of it belongs together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from penstock.config.base import View

__all__ = ["CAUSES", "Cause", "Family", "Finding", "Severity", "causes", "ranked", "worst"]

Severity = Literal["info", "warning", "critical"]
Family = Literal[
    "quality", "drift", "relations", "prediction", "estimate", "performance", "slices", "concept", "fairness", "skew",
    "trend", "service", "truth",
]  # fmt: skip
CauseName = Literal["inputs", "predictions", "performance", "fairness", "skew", "service", "truth"]
ORDER: dict[str, int] = {"critical": 2, "warning": 1, "info": 0}
# Each family's own cause. One alert a cause: forty columns that drift together are one thing to look into.
CAUSES: dict[str, CauseName] = {
    "quality": "inputs",
    "drift": "inputs",
    "relations": "inputs",
    "trend": "inputs",
    "prediction": "predictions",
    "estimate": "predictions",
    "performance": "performance",
    "slices": "performance",
    "concept": "performance",
    "fairness": "fairness",
    "skew": "skew",
    "service": "service",
    "truth": "truth",
}
# What these explain: with another cause at hand, effects are told with it and make no alert of their own.
EFFECTS: dict[CauseName, tuple[CauseName, ...]] = {
    "skew": ("predictions", "performance"),
    "inputs": ("predictions", "performance", "fairness"),
    "performance": ("fairness",),
}
SHOWN = 4  # subjects of a headline


class Finding(View):
    """One thing that is not as it was.

    Attributes:
        family: Which check found it.
        subject: A column, a slice, a metric.
        severity: "info" is for the page alone.
        score: In multiples of the limit; 1 is the limit.
        words: One sentence.
        value: What was measured.
        expected: What the reference has.
    """

    family: Family
    subject: str
    severity: Severity
    score: float
    words: str
    value: float | None = None
    expected: float | None = None


class Cause(View):
    """Findings that are one thing to look into.

    Attributes:
        name: Of what is to be looked into.
        severity: The gravest of its findings', effects included.
        headline: One sentence.
        findings: The gravest first; what the cause explains comes last.
    """

    name: CauseName
    severity: Severity
    headline: str
    findings: tuple[Finding, ...]


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, then the farthest beyond its limit."""
    return sorted(findings, key=lambda one: (-ORDER[one.severity], -one.score, one.family, one.subject))


def worst(severities: Iterable[Severity]) -> Severity:
    """The gravest of some; "info" of none."""
    return max(severities, key=lambda one: ORDER[one], default="info")


def causes(findings: Sequence[Finding]) -> list[Cause]:
    """Findings by cause, the gravest first. What is only worth a line on the page makes no cause."""
    told: dict[CauseName, list[Finding]] = {}
    for finding in ranked(findings):
        if finding.severity != "info":
            told.setdefault(CAUSES[finding.family], []).append(finding)
    for cause, effects in EFFECTS.items():
        if cause in told:
            for effect in effects:
                told[cause] += told.pop(effect, [])
    made = [
        Cause(
            name=name,
            severity=worst(one.severity for one in found),
            headline=_headline(name, found),
            findings=tuple(found),
        )
        for name, found in told.items()
    ]
    return sorted(made, key=lambda one: (-ORDER[one.severity], one.name))


def _headline(name: CauseName, found: Sequence[Finding]) -> str:
    own = [one for one in found if CAUSES[one.family] == name] or list(found)
    effects = sorted({CAUSES[one.family] for one in found} - {name})
    subjects = list(dict.fromkeys(one.subject for one in own))
    more = f" (and {len(subjects) - 1} more: {', '.join(subjects[1:SHOWN])}{' …' if len(subjects) > SHOWN else ''})"
    also = f"; with it: {', '.join(effects)}" if effects else ""
    return f"{own[0].words}{more if len(subjects) > 1 else ''}{also}"
