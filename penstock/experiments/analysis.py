"""An experiment from a table with one row for each unit: what `penstock experiment analyse` does.

The only module here that reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from penstock.errors import PenstockError
from penstock.experiments.counts import Joint, Moments, Proportion, Sample
from penstock.experiments.estimates import Comparison, Estimate, adjusted, ratio
from penstock.experiments.horizon import compare_arms, compare_estimates
from penstock.experiments.mismatch import Mismatch, always_valid_mismatch, sample_ratio
from penstock.experiments.sequential import always_valid_arms
from penstock.experiments.verdict import Better, Guardrail, Verdict, guardrail, verdict

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Analysis", "Asked", "Limit", "analysed", "read"]

SHOWN = 3  # units that an error names


@dataclass(frozen=True)
class Limit:
    """A guardrail as asked for: the metric's column, the loss that is accepted, and which way is good."""

    column: str
    margin: float
    better: Better = "higher"


@dataclass(frozen=True)
class Asked:
    """What is to be analysed.

    Attributes:
        unit: Column of whom was assigned.
        arm: Column of the arm's name.
        metric: Column of numbers, or of 0 and 1.
        control: Name of that arm.
        planned: Units of all arms at which the experiment ends.
        shares: What each arm should have got; None for equal parts.
        covariate: Column of what was known before, for CUPED.
        denominator: Column of a ratio's denominator: the metric is then Σ metric / Σ denominator.
        guardrails: Metrics that must not suffer.
        better: Which way the metric is good.
        alpha: Level.
        always: Always-valid tests; else those for one look, at the planned number.
    """

    unit: str
    arm: str
    metric: str
    control: str
    planned: int
    shares: Mapping[str, float] | None = None
    covariate: str | None = None
    denominator: str | None = None
    guardrails: Sequence[Limit] = ()
    better: Better = "higher"
    alpha: float = 0.05
    always: bool = True


@dataclass(frozen=True)
class Analysis:
    """What came out.

    Attributes:
        verdict: What to do.
        comparisons: Each treatment with control.
        mismatch: Of the assignment.
        guardrails: Each, for each treatment.
    """

    verdict: Verdict
    comparisons: dict[str, Comparison]
    mismatch: Mismatch
    guardrails: list[Guardrail] = field(default_factory=list)

    def dump(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "verdict": self.verdict.dump(),
            "comparisons": {arm: item.dump() for arm, item in self.comparisons.items()},
            "mismatch": {
                "p": self.mismatch.p,
                "off": self.mismatch.off,
                "expected": self.mismatch.expected,
                "found": self.mismatch.found,
            },
            "guardrails": [item.dump() for item in self.guardrails],
        }


def read(path: Path, asked: Asked) -> pl.DataFrame:
    """The columns that are asked for, of a CSV or Parquet file.

    Raises:
        PenstockError: A file, column or value that is not there, a unit twice, or an arm that was not declared. Names it.
    """
    import polars as pl

    if path.suffix not in {".csv", ".parquet"}:
        raise PenstockError(f"{path}: neither .csv nor .parquet")
    wanted = [asked.metric, *(limit.column for limit in asked.guardrails)]
    wanted += [column for column in (asked.covariate, asked.denominator) if column]
    names = list(dict.fromkeys([asked.unit, asked.arm, *wanted]))
    try:
        scan = (
            pl.scan_parquet(path)
            if path.suffix == ".parquet"
            else pl.scan_csv(path, infer_schema_length=None)
        )
        known = scan.collect_schema().names()
        missing = [name for name in names if name not in known]
        if missing:
            raise PenstockError(
                f"{path}: has no column {', '.join(missing)}", hint=f"there are: {', '.join(known)}"
            )
        frame = scan.select(
            pl.col(asked.unit).cast(pl.String),
            pl.col(asked.arm).cast(pl.String),
            *(pl.col(name).cast(pl.Float64, strict=False) for name in dict.fromkeys(wanted)),
        ).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise PenstockError(f"{path}: {str(error).splitlines()[0]}") from error
    _check(frame, path, asked)
    return frame


def _check(frame: pl.DataFrame, path: Path, asked: Asked) -> None:
    import polars as pl

    for name in frame.columns:
        wrong = frame[name].is_null()
        if frame.schema[name] == pl.Float64:
            wrong = wrong | ~frame[name].fill_null(0.0).is_finite()
        if wrong.any():
            raise PenstockError(
                f"{path}: column {name}: row {int(wrong.arg_true()[0]) + 1} has no value, or one that is no number",
                hint="a unit that did nothing has 0; leave nobody out after the assignment",
            )
    twice = frame.filter(pl.col(asked.unit).is_duplicated())
    if twice.height:
        named = ", ".join(twice[asked.unit].unique(maintain_order=True)[:SHOWN])
        several = twice.group_by(asked.unit).agg(pl.col(asked.arm).n_unique()).filter(pl.col(asked.arm) > 1)
        raise PenstockError(
            f"{path}: column {asked.unit}: {twice[asked.unit].n_unique():,} units have several rows, such as {named}"
            + (f"; {several.height:,} of them are in several arms" if several.height else ""),
            hint="one row a unit: add up what each did; one that is in two arms was not assigned as it should be",
        )
    arms = frame[asked.arm].unique().sort().to_list()
    if asked.control not in arms:
        raise PenstockError(
            f"{path}: column {asked.arm}: there is no {asked.control!r}", hint=f"there are: {', '.join(arms)}"
        )
    if asked.shares is not None:
        stray = sorted(set(arms) - set(asked.shares))
        if stray:
            raise PenstockError(
                f"{path}: column {asked.arm}: {', '.join(stray)} has no share", hint="declare all arms"
            )
    if len(arms) < 2 and len(asked.shares or ()) < 2:
        raise PenstockError(f"{path}: column {asked.arm}: there is {asked.control} alone, nothing to compare")


def analysed(frame: pl.DataFrame, asked: Asked) -> Analysis:
    """Counts of each arm, then tests, guardrails, the check of the assignment, and what to do.

    Args:
        frame: As ``read`` gives it.
        asked: The same.
    """
    import polars as pl

    if asked.covariate and asked.denominator:
        raise PenstockError("covariate and denominator: one of them", hint="a ratio is not adjusted here")
    named = list(asked.shares) if asked.shares is not None else frame[asked.arm].unique().sort().to_list()
    parts = {arm: frame.filter(pl.col(asked.arm) == arm) for arm in named}
    shares = asked.shares or dict.fromkeys(named, 1.0)
    treatments = [arm for arm in named if arm != asked.control]
    counts = {arm: part.height for arm, part in parts.items()}
    planned = round(asked.planned * 2 / len(named))  # of control and one treatment
    yes_or_no = bool(frame[asked.metric].is_in([0.0, 1.0]).all())
    share = yes_or_no and not asked.denominator
    comparisons = _compared(parts, asked, treatments, yes_or_no, planned)
    limits = [
        guardrail(
            limit.column,
            _sample(parts[asked.control], limit.column, frame),
            _sample(parts[arm], limit.column, frame),
            arm=arm,
            margin=limit.margin,
            planned=planned,
            better=limit.better,
            alpha=asked.alpha,
        )
        for limit in asked.guardrails
        for arm in treatments
    ]
    mismatch = always_valid_mismatch([(counts, shares)]) if asked.always else sample_ratio(counts, shares)
    said = verdict(
        comparisons,
        planned=asked.planned,
        mismatch=mismatch,
        guardrails=limits,
        better=asked.better,
        share=share,
        always=asked.always,
    )
    return Analysis(said, comparisons, mismatch, limits)


def _sample(part: pl.DataFrame, column: str, whole: pl.DataFrame) -> Sample:
    values = part[column].to_numpy()
    return Proportion.of(values) if whole[column].is_in([0.0, 1.0]).all() else Moments.of(values)


def _compared(
    parts: Mapping[str, pl.DataFrame], asked: Asked, treatments: Sequence[str], yes_or_no: bool, planned: int
) -> dict[str, Comparison]:
    second = asked.covariate or asked.denominator
    if second:
        joint = {arm: Joint.of(part[asked.metric], part[second]) for arm, part in parts.items()}
        if asked.covariate:
            found = dict(zip(joint, adjusted(*joint.values()), strict=True))
        else:
            found = {arm: ratio(sums) for arm, sums in joint.items()}
        method: Literal["mean adjusted by CUPED", "ratio by delta method"] = (
            "mean adjusted by CUPED" if asked.covariate else "ratio by delta method"
        )
        if not asked.always:
            others: dict[str, Estimate] = {arm: found[arm] for arm in treatments}
            return compare_estimates(found[asked.control], others, alpha=asked.alpha, method=method)
        return always_valid_arms(
            found[asked.control], {arm: found[arm] for arm in treatments}, planned=planned, alpha=asked.alpha
        )
    kind: type[Proportion | Moments] = Proportion if yes_or_no else Moments
    samples = {arm: kind.of(part[asked.metric].to_numpy()) for arm, part in parts.items()}
    rest = {arm: samples[arm] for arm in treatments}
    if asked.always:
        return always_valid_arms(samples[asked.control], rest, planned=planned, alpha=asked.alpha)
    return compare_arms(samples[asked.control], rest, alpha=asked.alpha)
