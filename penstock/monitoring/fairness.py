"""Whether groups are treated alike: selection rates, and errors where the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import polars as pl

from penstock.config.monitoring import Fairness
from penstock.monitoring.findings import Finding
from penstock.monitoring.judged import LABEL, TRUTH

__all__ = ["Group", "difference", "fairness_findings", "groups", "ratio"]

Z = 2.576  # of an interval of 99 %: several groups are looked at every window
Interval = tuple[float, float, float]  # estimate, low, high


@dataclass(frozen=True)
class Group:
    """Counts of one group.

    Attributes:
        rows: How many.
        selected: Answered as positive.
        positives: With truth: that came true.
        hits: Of those, answered as positive.
        negatives: With truth: that did not come true.
        alarms: Of those, answered as positive.
    """

    rows: int
    selected: int
    positives: int
    hits: int
    negatives: int
    alarms: int


def groups(frame: pl.DataFrame, column: str, positive: str) -> dict[str, Group]:
    """Counts by group, in the order of their names.

    Args:
        frame: With LABEL and, where it is known, TRUTH.
        column: Whose values are the groups.
        positive: The label that counts as selected.
    """
    if TRUTH not in frame.columns:
        frame = frame.with_columns(pl.lit(None, pl.String).alias(TRUTH))
    label, truth = pl.col(LABEL).cast(pl.String) == positive, pl.col(TRUTH).cast(pl.String)
    known = truth.is_not_null()
    counted = (
        frame.filter(pl.col(column).is_not_null())
        .group_by(pl.col(column).cast(pl.String).alias("group"))
        .agg(
            pl.len().alias("rows"),
            label.sum().alias("selected"),
            (truth == positive).sum().alias("positives"),
            ((truth == positive) & label).sum().alias("hits"),
            (known & (truth != positive)).sum().alias("negatives"),
            (known & (truth != positive) & label).sum().alias("alarms"),
        )
        .sort("group")
    )
    return {row.pop("group"): Group(**row) for row in counted.to_dicts()}


def ratio(a: int, of_a: int, b: int, of_b: int) -> Interval:
    """a/of_a ÷ b/of_b with Katz' interval, half a case added to each."""
    estimate = ((a + 0.5) / (of_a + 0.5)) / ((b + 0.5) / (of_b + 0.5))
    error = math.sqrt(max(0.0, 1 / (a + 0.5) - 1 / (of_a + 0.5) + 1 / (b + 0.5) - 1 / (of_b + 0.5)))
    return estimate, estimate * math.exp(-Z * error), estimate * math.exp(Z * error)


def difference(a: int, of_a: int, b: int, of_b: int) -> Interval:
    """a/of_a − b/of_b with Newcombe's interval (method 10: from two of Wilson's)."""
    p, q = a / of_a, b / of_b
    (low_p, high_p), (low_q, high_q) = _wilson(a, of_a), _wilson(b, of_b)
    middle = p - q
    return (
        middle,
        middle - math.sqrt((p - low_p) ** 2 + (high_q - q) ** 2),
        middle + math.sqrt((high_p - p) ** 2 + (q - low_q) ** 2),
    )


def _wilson(count: int, of: int) -> tuple[float, float]:
    share, z2 = count / of, Z * Z
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = Z * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return middle - half, middle + half


def fairness_findings(
    column: str, before: dict[str, Group], now: dict[str, Group], settings: Fairness
) -> list[Finding]:
    """What has become unfair, or has been all along.

    A breach that the reference has too is for the page ("info"): it was known when the model was accepted. One that
    the reference has not, and that the interval holds beyond chance, is a warning.

    Args:
        column: Of the groups.
        before: Of the reference.
        now: Of the window.
        settings: Limits.
    """
    large = {name: group for name, group in now.items() if group.rows >= settings.min_rows and name in before}
    if len(large) < 2:
        return []
    most = max(large, key=lambda name: large[name].selected / large[name].rows)
    found = []
    for name in large:
        if name != most:
            found += _selection(column, (name, most), (before, now), settings)
            found += _errors(column, (name, most), (before, now), settings)
    return found


def _selection(
    column: str, names: tuple[str, str], both: tuple[dict[str, Group], dict[str, Group]], settings: Fairness
) -> list[Finding]:
    (a, b), (old_a, old_b) = ((when[names[0]], when[names[1]]) for when in (both[1], both[0]))
    value, _, high = ratio(a.selected, a.rows, b.selected, b.rows)
    usual, low, _ = ratio(old_a.selected, old_a.rows, old_b.selected, old_b.rows)
    if high >= settings.min_ratio:
        return []
    words = f"`{column}`: {names[0]} is selected {value:.2f} times as often as {names[1]} (at most {high:.2f}), below {settings.min_ratio:g}; {usual:.2f} in the reference"
    new = usual >= settings.min_ratio or high < low
    return [_finding(column, settings.min_ratio / max(high, 1e-3), words, value, usual, new=new)]


def _errors(
    column: str, names: tuple[str, str], both: tuple[dict[str, Group], dict[str, Group]], settings: Fairness
) -> list[Finding]:
    found = []
    (a, b), (old_a, old_b) = ((when[names[0]], when[names[1]]) for when in (both[1], both[0]))
    for what, count, of in (
        ("true-positive rate", "hits", "positives"),
        ("false-positive rate", "alarms", "negatives"),
    ):
        sizes = [getattr(group, of) for group in (a, b, old_a, old_b)]
        if min(sizes) < settings.min_rows // 2:
            continue
        counts = [getattr(group, count) for group in (a, b, old_a, old_b)]
        value, low, high = difference(counts[0], sizes[0], counts[1], sizes[1])
        usual, old_low, old_high = difference(counts[2], sizes[2], counts[3], sizes[3])
        if low > settings.max_difference or high < -settings.max_difference:
            new = low > old_high or high < old_low
            words = f"`{column}`: the {what} of {names[0]} is {value:+.2f} from that of {names[1]} ({low:+.2f} … {high:+.2f}); {usual:+.2f} in the reference"
            found.append(_finding(column, abs(value) / settings.max_difference, words, value, usual, new=new))
    return found


def _finding(column: str, score: float, words: str, value: float, usual: float, *, new: bool) -> Finding:
    return Finding(
        family="fairness",
        subject=column,
        severity="warning" if new else "info",
        score=score,
        words=words,
        value=value,
        expected=usual,
    )
