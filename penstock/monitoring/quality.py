"""Whether rows are what a row should be, before any distribution is looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from penstock import contract
from penstock.config import Column
from penstock.monitoring.coding import as_numbers
from penstock.monitoring.findings import Finding, Severity
from penstock.monitoring.reference import Reference
from penstock.monitoring.sketch import Sketch

__all__ = ["Quality", "examined", "quality_findings"]

# Without calibration, hence so improbable that a panel of a thousand columns may be asked every hour.
IMPROBABLE = 1e-5
SURE = 1e-3  # of the bound on what the reference would show if it were larger
KEPT = 12  # frequent values of a batch
MANY = 20  # distinct values from which on one that repeats is told of
REPEATS = 0.02  # share of rows that come again right away
CRITICAL = 0.1  # share of bad rows


@dataclass
class Quality:
    """What is counted of rows besides the sketch; those of two batches add up.

    Attributes:
        rows: How many.
        broken: Rows that break each "column: rule" of the contract.
        absent: Rows of batches that lack a column.
        unknown: Rows of batches with a column that nobody knows.
        frequent: The most frequent values of each column, a lower bound over batches.
        pairs: Hashes of each row with the one before it.
        same: Rows that equal the one before.
        examples: Values that the reference has never seen, by column.
    """

    rows: int = 0
    broken: Counter[str] = field(default_factory=Counter)
    absent: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    frequent: dict[str, Counter[Any]] = field(default_factory=dict)
    pairs: list[NDArray[np.uint64]] = field(default_factory=list)
    same: int = 0
    examples: dict[str, Counter[str]] = field(default_factory=dict)

    def __add__(self, other: Quality) -> Quality:
        def merged(left: dict[str, Counter[Any]], right: dict[str, Counter[Any]]) -> dict[str, Counter[Any]]:
            return {
                name: Counter(
                    dict((left.get(name, Counter()) + right.get(name, Counter())).most_common(4 * KEPT))
                )
                for name in [*left, *(name for name in right if name not in left)]
            }

        return Quality(
            self.rows + other.rows,
            self.broken + other.broken,
            self.absent + other.absent,
            self.unknown + other.unknown,
            merged(self.frequent, other.frequent),
            self.pairs + other.pairs,
            self.same + other.same,
            merged(self.examples, other.examples),
        )


def examined(frame: pl.DataFrame, columns: Mapping[str, Column], reference: Reference) -> Quality:
    """Look at a batch.

    Args:
        frame: As logged; columns that begin with @ are not inputs.
        columns: The contract of the inputs.
        reference: What is known.
    """
    # A column that is sent and empty has no type in a file of JSON lines; it is there all the same.
    frame = frame.with_columns(cs.by_dtype(pl.Null).cast(pl.String))
    given = [name for name in frame.columns if not name.startswith("@")]
    there = [name for name in columns if name in given]
    found = Quality(rows=frame.height)
    found.absent.update({name: frame.height for name in columns if name not in there})
    found.unknown.update({name: frame.height for name in given if name not in columns})
    if there:
        kept = {name: columns[name].model_copy(update={"unique": False}) for name in there}
        checked = contract.check(frame.select(there), kept, source="log", position=0)
        found.broken.update(checked.reasons)
    watched = [name for name in reference.inputs if name in given]
    for name in watched:
        counts = frame[name].drop_nulls().value_counts(sort=True).head(KEPT)
        if counts.height:
            found.frequent[name] = Counter(dict(counts.iter_rows()))
    _unseen(frame, reference, found)
    if watched and frame.height > 1:
        hashes = frame.select(watched).hash_rows().to_numpy()
        found.same = int((hashes[1:] == hashes[:-1]).sum())
        # A plain sum would be the same for (a, b) and (b, a).
        found.pairs = [hashes[1:] * np.uint64(31) + hashes[:-1]]
    return found


def _unseen(frame: pl.DataFrame, reference: Reference, found: Quality) -> None:
    for part in reference.coding.parts:
        if part.kind == "category" and part.column in frame.columns:
            values = frame[part.column].drop_nulls().cast(pl.String)
            new = values.filter(~values.is_in(list(part.categories))).value_counts(sort=True).head(KEPT)
            if new.height:
                found.examples[part.column] = Counter(dict(new.iter_rows()))


def quality_findings(quality: Quality, sketch: Sketch, reference: Reference) -> list[Finding]:
    """What is wrong with the rows themselves."""
    if not quality.rows:
        return []
    found = [*_columns(quality), *_broken(quality), *_repeated(quality, reference)]
    for name in reference.inputs:
        if name not in quality.absent:
            found += _of_column(name, quality, sketch, reference)
    return found


def _columns(quality: Quality) -> list[Finding]:
    gone = [
        _finding(
            name,
            count / quality.rows,
            0.0,
            f"`{name}` is not sent with {_percent(count / quality.rows)} of the rows",
        )
        for name, count in quality.absent.items()
    ]
    new = [
        Finding(
            family="quality",
            subject=name,
            severity="info",
            score=1.0,
            words=f"`{name}` is sent, and the model has no such column",
        )
        for name in quality.unknown
    ]
    return gone + new


def _broken(quality: Quality) -> list[Finding]:
    found = []
    for reason, count in quality.broken.items():
        name, _, rule = reason.partition(": ")
        words = f"`{name}` breaks its contract in {count} of {quality.rows} rows: {rule}"
        found.append(_finding(name, count / quality.rows, 0.0, words))
    return found


def _repeated(quality: Quality, reference: Reference) -> list[Finding]:
    """Rows sent twice in a row, or runs of rows that come again: not rows that merely are alike."""
    from scipy.stats import poisson

    pairs = np.concatenate(quality.pairs) if quality.pairs else np.empty(0, dtype=np.uint64)
    again = len(pairs) - len(np.unique(pairs))
    _, counts = np.unique(reference.frame.select(reference.inputs).hash_rows().to_numpy(), return_counts=True)
    collision = float(((counts / counts.sum()) ** 2).sum())  # that two rows drawn at random are equal
    found = []
    for count, expected, words in (
        (quality.same, len(pairs) * collision, "equal the row before them: retries that are counted twice?"),
        (again, len(pairs) ** 2 / 2 * collision**2, "come again in the same order: a batch sent twice?"),
    ):
        if count > REPEATS * quality.rows and poisson.sf(count - 1, 3 * expected + 1) < IMPROBABLE:
            share = count / quality.rows
            found.append(
                _finding("rows", share, expected / quality.rows, f"{_percent(share)} of the rows {words}")
            )
            break
    return found


def _of_column(name: str, quality: Quality, sketch: Sketch, reference: Reference) -> list[Finding]:
    at = reference.coding.at(name)
    part, place = reference.coding.parts[at], reference.coding.slice(at)
    now, before = sketch.counts[place], reference.sketch.counts[place]
    found: list[Finding] = []
    if now[-1] == quality.rows and before[-1] < reference.sketch.rows:
        return [_finding(name, 1.0, before[-1] / before.sum(), f"`{name}` is missing in every row")]
    share, usual = now[-1] / now.sum(), before[-1] / before.sum()
    if share - usual >= reference.limits.min_missing and _more(now[-1], now.sum(), before[-1], before.sum()):
        words = f"`{name}` is missing in {_percent(share)} of the rows, {_percent(usual)} in the reference"
        found.append(_finding(name, share, usual, words))
    found += _not_known(name, part.kind, now, before, quality, reference)
    if not found:
        found += _common(name, part.values, now, quality, reference)
    return found


def _not_known(
    name: str,
    kind: str,
    now: NDArray[np.float64],
    before: NDArray[np.float64],
    quality: Quality,
    reference: Reference,
) -> list[Finding]:
    from scipy.stats import poisson

    share = float(now[-2] / now.sum())
    if not now[-2]:
        return []
    if kind == "number":
        return [_finding(name, share, 0.0, f"`{name}` is no number in {_percent(share)} of the rows")]
    # Good and Turing: what has been seen once tells how much has not been seen yet.
    unseen = ((before[:-2] == 1).sum() + 3 + before[-2]) / before.sum()
    if poisson.sf(now[-2] - 1, now.sum() * unseen) >= IMPROBABLE:
        return []
    values = list(quality.examples.get(name, {}))
    garbled = any(mark in value for value in values for mark in ("Ã", "Â", "â€", "�"))
    known = {
        value.strip().casefold() for value in reference.coding.parts[reference.coding.at(name)].categories
    }
    alike = bool(values) and all(value.strip().casefold() in known for value in values)
    why = (
        "; text decoded with the wrong encoding"
        if garbled
        else "; known values written another way"
        if alike
        else ""
    )
    listed = ", ".join(repr(value) for value in values[:3])
    return [
        _finding(
            name,
            share,
            0.0,
            f"`{name}` has values that are new ({listed}) in {_percent(share)} of the rows{why}",
        )
    ]


def _common(
    name: str, distinct: int, now: NDArray[np.float64], quality: Quality, reference: Reference
) -> list[Finding]:
    """One value that has become too frequent: a sensor that is stuck, a default that is filled in."""
    frequent = quality.frequent.get(name)
    present = int(now[:-1].sum())
    if not frequent or not present:
        return []
    value, count = frequent.most_common(1)[0]
    rows = reference.frame[name].drop_nulls()
    before = _equal(rows, value)
    share, usual = count / present, before / max(1, len(rows))
    if rows.n_unique() < 2 or not _more(count, present, before, len(rows)):
        return []
    if count == present and distinct > 1:
        return [
            _finding(
                name, 1.0, usual, f"`{name}` is {value!r} in every row ({_percent(usual)} in the reference)"
            )
        ]
    if rows.n_unique() < MANY or share - usual < reference.limits.min_common or share < 1.5 * usual:
        return []
    words = f"`{name}` is {value!r} in {_percent(share)} of the rows, {_percent(usual)} in the reference: stuck, or a default filled in?"
    return [_finding(name, share, usual, words)]


def _equal(rows: pl.Series, value: Any) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool) and rows.dtype.is_numeric():
        return int((as_numbers(rows) == float(value)).sum())
    return int((rows.cast(pl.String) == str(value)).sum())


def _more(count: float, of: float, before: float, rows: float) -> bool:
    """Whether a share is more than the reference's could be, with room for what the reference does not show."""
    from scipy.stats import beta, binom

    bound = 1.0 if before >= rows else float(beta.ppf(1 - SURE, before + 1, rows - before))
    return bool(binom.sf(count - 1, of, bound) < IMPROBABLE)


def _finding(subject: str, share: float, usual: float, words: str) -> Finding:
    severity: Severity = "critical" if share - usual >= CRITICAL else "warning"
    return Finding(
        family="quality",
        subject=subject,
        severity=severity,
        score=1.0 + 10.0 * (share - usual),
        words=words,
        value=share,
        expected=usual,
    )


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %" if share >= 0.001 else "< 0.1 %"
