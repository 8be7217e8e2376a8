"""A window against the reference: every check that one window by itself allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Column
from penstock.monitoring.comparison import DISTANCES, Stack, performance, stacked, weighted_auc
from penstock.monitoring.diagnosis import looks_like, swapped
from penstock.monitoring.distances import benjamini_hochberg, chi_squared
from penstock.monitoring.findings import Finding, Severity
from penstock.monitoring.judged import LABEL, SCORE
from penstock.monitoring.quality import Quality, examined, quality_findings
from penstock.monitoring.reference import Reference
from penstock.monitoring.sketch import Sketch, observe

__all__ = ["Judged", "Observed", "judge", "observed"]

GRAVE_PSI = 0.5
GRAIN_PSI = 0.1
GRAVE_LOSS = 0.25
GRAVE_AUC = 0.05
NAMES = {SCORE: "score", LABEL: "label"}


@dataclass
class Observed:
    """A window as it was seen.

    Attributes:
        sketch: Distributions, relations, losses.
        quality: Of the rows themselves.
    """

    sketch: Sketch
    quality: Quality

    def __add__(self, other: Observed) -> Observed:
        return Observed(self.sketch + other.sketch, self.quality + other.quality)


def observed(frame: pl.DataFrame, reference: Reference, columns: Mapping[str, Column]) -> Observed:
    """Look at a batch: inputs as logged, with SCORE, LABEL and, where it is known, TRUTH."""
    sketch = observe(frame, reference.coding, reference.embedding, reference.target)
    return Observed(sketch, examined(frame, columns, reference))


@dataclass
class Judged:
    """What a window comes to.

    Attributes:
        findings: In no order.
        psi: Of every column.
        means: Of every part's embedding direction, in standard deviations of the reference: for trends.
        metrics: Of the window, by name.
    """

    findings: list[Finding]
    psi: dict[str, float] = field(default_factory=dict)
    means: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def judge(reference: Reference, window: Observed) -> Judged:
    """Every check of one window.

    Args:
        reference: To compare with.
        window: Of rows that the reference's coding has seen.
    """
    sketch = window.sketch
    judged = Judged(quality_findings(window.quality, sketch, reference))
    if not sketch.rows:
        return judged
    now = stacked(sketch)
    calibration = reference.calibration("inputs", sketch.rows)
    statistics = reference.inputs_of(reference.stack, now)
    scores = {name: calibration[name].scores(found[0]) for name, found in statistics.items()}
    judged.findings += _drift(reference, sketch, statistics, scores, judged)
    judged.findings += _relations(reference, statistics["relations"][0], scores["relations"], judged)
    if "estimate" in scores:
        judged.findings += _estimate(reference, now, float(scores["estimate"][0]), judged)
    if sketch.truths:
        judged.metrics |= _metrics(reference, now)
    if sketch.truths >= reference.limits.min_slice_rows and reference.sketch.truths:
        judged.findings += _truths(reference, now, sketch.truths)
    return judged


# --- distributions ----------------------------------------------------------------------------------


def _drift(
    reference: Reference,
    sketch: Sketch,
    statistics: Mapping[str, NDArray[np.float64]],
    scores: Mapping[str, NDArray[np.float64]],
    judged: Judged,
) -> list[Finding]:
    coding, limits = reference.coding, reference.limits
    outputs = np.array([part.column.startswith("@") for part in coding.parts])
    values, beyond = np.zeros((len(coding.parts), 4)), np.zeros((len(coding.parts), 4))
    for family, chosen in (("drift", ~outputs), ("prediction", outputs)):
        for at, distance in enumerate(DISTANCES):
            values[chosen, at] = statistics[f"{family}_{distance}"][0]
            beyond[chosen, at] = scores[f"{family}_{distance}"]
    q = benjamini_hochberg(
        np.array(
            [
                chi_squared(reference.sketch.counts[coding.slice(at)], sketch.counts[coding.slice(at)])
                for at in range(len(coding.parts))
            ]
        )
    )
    _remember(reference, sketch, values, judged)
    large = (values[:, 0] >= limits.min_psi) | (values[:, 1] >= limits.min_distance)
    # A number that by chance needs fewer decimals than its like is nothing.
    large &= np.array([part.kind != "grain" for part in coding.parts]) | (values[:, 0] >= GRAIN_PSI)
    told = [
        at
        for at in range(len(coding.parts))
        if beyond[at].max() > 1 and large[at] and q[at] <= limits.q_value
    ]
    # Where the numbers themselves are others, how they are written is no news.
    others = {
        coding.parts[at].column
        for at in told
        if coding.parts[at].kind == "number" and values[at, 0] >= GRAVE_PSI
    }
    told = [at for at in told if coding.parts[at].kind != "grain" or coding.parts[at].column not in others]
    pairs = swapped(reference, sketch.sample, [coding.parts[at].column for at in told])
    partners = {name: other for a, b in pairs for name, other in ((a, b), (b, a))}
    return [_drifted(reference, sketch, at, values[at], beyond[at], partners) for at in told]


def _drifted(
    reference: Reference,
    sketch: Sketch,
    at: int,
    values: NDArray[np.float64],
    beyond: NDArray[np.float64],
    partners: Mapping[str, str],
) -> Finding:
    part = reference.coding.parts[at]
    name = NAMES.get(part.column, part.column)
    output = part.column.startswith("@")
    if part.kind == "grain":
        how = "its numbers are written to other decimals than before: rounded, or cut off?"
    elif part.column in partners:
        how = f"it looks like `{partners[part.column]}`, and that like it: swapped?"
    elif part.kind == "number" and part.column in sketch.sample.columns:
        how = looks_like(reference.frame[part.column], sketch.sample[part.column])
    else:
        how = _moved_most(reference, sketch, at)
    measured = f"PSI {values[0]:.2f}" + (f", {values[1]:.2f} σ apart" if values[1] else "")
    what = "answers drift: the" if output else "drift:"
    return Finding(
        family="prediction" if output else "drift",
        subject=name,
        severity="critical" if values[0] >= GRAVE_PSI else "warning",
        score=float(beyond.max()),
        words=f"{what} `{name}` ({measured}, {beyond.max():.1f} times the limit of {DISTANCES[int(beyond.argmax())]}){'; ' + how if how else ''}",
        value=float(values[0]),
    )


def _moved_most(reference: Reference, sketch: Sketch, at: int) -> str:
    place = reference.coding.slice(at)
    before, now = reference.sketch.counts[place], sketch.counts[place]
    change = now / max(1.0, now.sum()) - before / max(1.0, before.sum())
    code = int(np.abs(change).argmax())
    was, has = before[code] / before.sum(), now[code] / now.sum()
    return f"{reference.coding.label(at, code, NAMES)}: {was * 100:.1f} % → {has * 100:.1f} %"


def _remember(reference: Reference, sketch: Sketch, values: NDArray[np.float64], judged: Judged) -> None:
    for at, part in enumerate(reference.coding.parts):
        if part.kind != "grain":
            judged.psi[NAMES.get(part.column, part.column)] = float(values[at, 0])
    mean = sketch.first / sketch.rows
    for direction, at in enumerate(reference.embedding.part):
        name = NAMES.get(reference.coding.parts[at].column, reference.coding.parts[at].column)
        key = name if name not in judged.means else f"{name}#{direction}"
        judged.means[key] = float(mean[direction])


def _relations(
    reference: Reference, values: NDArray[np.float64], scores: NDArray[np.float64], judged: Judged
) -> list[Finding]:
    judged.metrics["reconstruction_error"] = float(values[-1])
    found = []
    coding = reference.coding
    columns = scores[:-1]
    if len(columns) and columns.max() > 1:
        order = [int(at) for at in np.argsort(-columns) if columns[at] > 1]
        names = list(
            dict.fromkeys(NAMES.get(coding.parts[at].column, coding.parts[at].column) for at in order)
        )
        words = f"`{names[0]}` no longer goes with the other columns as it did (its correlations changed by {values[order[0]]:.2f} on average)"
        if len(names) > 1:
            words += f"; so do {', '.join(f'`{name}`' for name in names[1:4])}"
        found.append(_related(names[0], float(columns.max()), words, float(values[order[0]])))
    elif scores[-1] > 1:
        words = f"rows are combinations that the reference hardly has: what its main components leave over is {values[-1]:.2f} of what it was"
        found.append(_related("combinations", float(scores[-1]), words, float(values[-1])))
    return found


def _related(subject: str, score: float, words: str, value: float) -> Finding:
    return Finding(
        family="relations", subject=subject, severity="warning", score=score, words=words, value=value
    )


def _estimate(reference: Reference, now: Stack, score: float, judged: Judged) -> list[Finding]:
    from penstock.monitoring.comparison import estimated_auc

    calibrated = reference.calibrated_probabilities
    expected = float(estimated_auc(reference.stack.scores, calibrated)[0])
    found = float(estimated_auc(now.scores, calibrated)[0])
    judged.metrics["estimated_roc_auc"] = found
    if score <= 1 or expected - found < reference.limits.min_auc:
        return []
    words = f"the answers are less sure: an AUC of {found:.3f} is to be expected, {expected:.3f} before"
    return [
        Finding(
            family="estimate",
            subject="roc_auc",
            severity="warning",
            score=score,
            words=words,
            value=found,
            expected=expected,
        )
    ]


# --- truth ------------------------------------------------------------------------------------------


def _metrics(reference: Reference, stack: Stack) -> dict[str, float]:
    first = reference.coding.slice(0)
    known = stack.known[0, first].sum()
    found = {
        "loss": float(stack.loss[0, first].sum() / known),
        "residual": float(stack.residual[0, first].sum() / known),
        "truths": float(known),
    }
    if reference.target.task == "binary":
        found["roc_auc"] = float(weighted_auc(stack.ranking)[0])
        found["positives"] = float(stack.ranking[0, 1].sum() / max(1.0, stack.ranking[0].sum()))
    elif reference.target.task == "multiclass":
        found["accuracy"] = float(stack.ranking[0, 1].sum() / max(1.0, stack.ranking[0].sum()))
    return found


def _truths(reference: Reference, now: Stack, truths: int) -> list[Finding]:
    calibration = reference.calibration("truths", truths)
    statistics = reference.truths_of(reference.stack, now)
    scores = {name: calibration[name].scores(found[0]) for name, found in statistics.items()}
    found = _performance(reference, now, scores["performance"])
    return found + _slices(
        reference, now, statistics["slices"][0].reshape(-1, 2), scores["slices"].reshape(-1, 2)
    )


def _performance(reference: Reference, now: Stack, scores: NDArray[np.float64]) -> list[Finding]:
    limits = reference.limits
    before, after = _metrics(reference, reference.stack), _metrics(reference, now)
    rise, fall, moved = performance(
        reference.coding, reference.stack, now, ranked=reference.target.task == "binary"
    )[0]
    relative = rise / max(before["loss"], 1e-12)
    found = []
    if scores[0] > 1 and relative >= limits.min_loss:
        words = f"the {reference.target.loss} is {after['loss']:.4g}, {before['loss']:.4g} before (+{relative * 100:.0f} %)"
        found.append(_worse("loss", relative >= GRAVE_LOSS, scores[0], words, after["loss"], before["loss"]))
    if scores[1] > 1 and fall >= limits.min_auc:
        words = f"the AUC is {after['roc_auc']:.3f}, {before['roc_auc']:.3f} before"
        found.append(
            _worse("roc_auc", fall >= GRAVE_AUC, scores[1], words, after["roc_auc"], before["roc_auc"])
        )
    if scores[2] > 1:
        way = "more" if after["residual"] > before["residual"] else "less"
        words = f"calibration: what comes true is {way} than was predicted, by {moved:.3g} on average, beyond the reference"
        grave = reference.target.task != "regression" and moved > 0.1
        found.append(_worse("calibration", grave, scores[2], words, after["residual"], before["residual"]))
    return found


def _worse(subject: str, grave: bool, score: float, words: str, value: float, expected: float) -> Finding:
    severity: Severity = "critical" if grave else "warning"
    return Finding(
        family="performance",
        subject=subject,
        severity=severity,
        score=float(score),
        words=words,
        value=value,
        expected=expected,
    )


def _slices(
    reference: Reference, now: Stack, values: NDArray[np.float64], scores: NDArray[np.float64]
) -> list[Finding]:
    found = []
    for at in np.flatnonzero(scores.max(axis=1) > 1) if len(scores) else ():
        place = int(reference.slices[at])
        part = int(np.searchsorted(reference.coding.offsets, place, side="right") - 1)
        name = reference.coding.label(part, place - int(reference.coding.offsets[part]))
        n, m = now.known[0, place], reference.stack.known[0, place]
        loss, usual = now.loss[0, place] / n, reference.stack.loss[0, place] / m
        drifted = now.residual[0, place] / n - reference.stack.residual[0, place] / m
        words = f"where {name} ({n:.0f} rows), the {reference.target.loss} is {loss:.3g} ({usual:.3g} before), and truth lies {drifted:+.3g} from where it was expected"
        found.append(
            Finding(
                family="slices",
                subject=name,
                severity="warning",
                score=float(scores[at].max()),
                words=words,
                value=float(loss),
                expected=float(usual),
            )
        )
    return found
