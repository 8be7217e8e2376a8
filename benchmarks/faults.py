"""Faults planted into windows of real rows, and the worlds they are planted in. The benchmark's and the tests'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import Column
from penstock.config.monitoring import Limits, Service, Trends
from penstock.monitoring.findings import Cause, causes
from penstock.monitoring.judge import judge, observed
from penstock.monitoring.judged import GUESS, LABEL, SCORE, TRUTH, Target
from penstock.monitoring.reference import Reference, reference_of
from penstock.monitoring.service import served, service_findings
from penstock.monitoring.skew import skew_findings
from penstock.monitoring.trends import Past, condensed, trend_findings

__all__ = ["FAULTS", "Fault", "Stream", "World", "world"]

ROOT = Path(__file__).resolve().parents[1]
Plant = Callable[[pl.DataFrame, int, np.random.Generator], pl.DataFrame]
SERVICE = Service(truth_after=24, min_truth=0.8)


class Linear:
    """A plain model of one-hot codes and standardised numbers, so that the benchmark needs no artefact."""

    def __init__(self, frame: pl.DataFrame, inputs: Sequence[str], target: Target, truth: pl.Series) -> None:
        from sklearn.linear_model import LogisticRegression, Ridge

        self.target, self.inputs = target, inputs
        self.numbers = [name for name in inputs if frame[name].dtype.is_numeric()]
        self.levels = {
            name: frame[name].drop_nulls().unique().sort().to_list()
            for name in inputs
            if name not in self.numbers
        }
        self.middle = {name: float(frame[name].mean() or 0.0) for name in self.numbers}
        self.spread = {name: float(frame[name].std() or 1.0) or 1.0 for name in self.numbers}
        points = self._points(frame)
        if target.task == "regression":
            self.model = Ridge(alpha=10.0).fit(points, np.log(truth.cast(pl.Float64).to_numpy()))
        else:
            self.model = LogisticRegression(max_iter=300, C=0.3).fit(points, truth.to_numpy())

    def _points(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        parts = []
        for name in self.numbers:
            given = frame[name] if name in frame.columns else pl.Series([None] * frame.height)
            values = given.cast(pl.Float64, strict=False).fill_null(self.middle[name]).to_numpy()
            parts.append(np.clip((values - self.middle[name]) / self.spread[name], -4, 4)[:, None])
        for name, levels in self.levels.items():
            given = frame[name].cast(pl.String) if name in frame.columns else pl.Series([None] * frame.height)
            codes = given.cast(pl.Enum(levels), strict=False).to_physical().fill_null(len(levels)).to_numpy()
            parts.append(np.eye(len(levels) + 1)[codes][:, :-1])
        return np.concatenate(parts, axis=1)

    def answers(self, frame: pl.DataFrame) -> pl.DataFrame:
        """SCORE, LABEL and, with TRUTH of several classes, GUESS."""
        points = self._points(frame)
        if self.target.task == "regression":
            return pl.DataFrame({SCORE: np.exp(self.model.predict(points))})
        chances = self.model.predict_proba(points)
        labels = np.array(self.model.classes_)
        if self.target.task == "binary":
            score = chances[:, list(labels).index(self.target.positive)]
            return pl.DataFrame({SCORE: score, LABEL: np.where(score >= 0.5, labels[1], labels[0])})
        best = chances.argmax(axis=1)
        found = pl.DataFrame({SCORE: chances.max(axis=1), LABEL: labels[best]})
        if TRUTH in frame.columns:
            at = frame[TRUTH].cast(pl.Enum(list(labels))).to_physical().to_numpy()
            found = found.with_columns(pl.Series(GUESS, chances[np.arange(frame.height), at]))
        return found


@dataclass
class World:
    """Real rows, parted three ways: what the model has learnt from, the reference, and the rows to come.

    Attributes:
        reference: With its calibrations.
        pool: Rows that windows are drawn from, with replacement.
        model: What answers.
        columns: The contract.
        rows: Of a window.
    """

    reference: Reference
    pool: pl.DataFrame
    model: Linear
    columns: dict[str, Column]
    rows: int

    def window(self, rng: np.random.Generator, weights: NDArray[np.float64] | None = None) -> pl.DataFrame:
        """Inputs and TRUTH of one window."""
        chances = None if weights is None else weights / weights.sum()
        return self.pool[rng.choice(self.pool.height, self.rows, p=chances)]

    def answered(self, frame: pl.DataFrame) -> pl.DataFrame:
        """With what the model says of them, corrupted as they may be."""
        return pl.concat([frame, self.model.answers(frame)], how="horizontal")


def world(name: str, seed: int, *, limits: Limits | None = None, rows: int | None = None) -> World:
    """A data set, shuffled by ``seed``."""
    from penstock import config, sources
    from penstock import contract as contracts

    view: Any = config.load(ROOT / "params.yaml").datasets[name]
    frame = sources.read(view.source).frame
    every = contracts.complete(view.contract, frame, source=name)
    frame = contracts.check(frame, every, source=name, position=0).good
    target_name = view.task.target
    left_out = {
        target_name,
        *view.task.ids,
        *view.task.exclude,
        *([view.task.group] if view.task.group else []),
    }
    inputs = [column for column in frame.columns if column not in left_out]
    frame = frame.select([*inputs, pl.col(target_name).alias(TRUTH)])
    frame = frame.sample(frame.height, shuffle=True, seed=seed)
    first, second = int(0.4 * frame.height), int(0.7 * frame.height)
    target = Target(view.task.kind, getattr(view.task, "positive", None))
    model = Linear(frame[:first], inputs, target, frame[:first][TRUTH])
    known = frame[first:second]
    known = pl.concat([known, model.answers(known)], how="horizontal")
    reference = reference_of(known, inputs, target, limits or Limits(), source=name)
    columns = {column: every[column] for column in inputs}
    return World(reference, frame[second:], model, columns, rows or min(500, (frame.height - second) // 2))


@dataclass
class Stream:
    """Windows judged one after another, as `penstock monitor` does it: with what came before in mind."""

    world: World
    trends: Trends = field(default_factory=Trends)
    past: list[Past] = field(default_factory=list)

    def judge(self, frame: pl.DataFrame) -> list[Cause]:
        """Causes in a window that has been answered."""
        here = self.world
        window = observed(frame, here.reference, here.columns)
        judged = judge(here.reference, window)
        sketch = window.sketch
        self.past.append(
            Past(
                sketch.rows, judged.means, judged.metrics.get("loss"), condensed(sketch.errors), sketch.truths
            )
        )
        reference = here.reference
        place = reference.coding.slice(0)
        known = reference.sketch
        mean = known.loss[place].sum() / known.truths
        spread = float(np.sqrt(max(0.0, known.squares[0, place].sum() / known.truths - mean**2)))
        scale = reference.target.cap if reference.target.task == "regression" else 7.0
        found = judged.findings + trend_findings(self.past, self.trends, spread=spread, scale=scale)
        found += skew_findings(window.sketch.sample, here.model.answers, 1e-4)
        counts = served(
            Counter({"ok": frame.height}),
            np.full(frame.height, 1.0),
            due=frame.height,
            known=int(frame[TRUTH].is_not_null().sum()),
        )
        return causes(found + service_findings(counts, SERVICE))


@dataclass(frozen=True)
class Fault:
    """One way in which things go wrong.

    Attributes:
        dataset: Where it is planted.
        causes: Which of them is the right one.
        before: What is done to a window's rows before they are answered.
        after: What is done to answers and truth.
        weights: How the rows of the pool are drawn.
    """

    dataset: str
    causes: tuple[str, ...]
    before: Plant | None = None
    after: Plant | None = None
    weights: Callable[[pl.DataFrame, int], NDArray[np.float64]] | None = None

    def window(self, here: World, step: int, rng: np.random.Generator) -> pl.DataFrame:
        """The fault's window number ``step``, from 1; 0 is clean."""
        weights = self.weights(here.pool, step) if self.weights is not None and step else None
        frame = here.window(rng, weights)
        if self.before is not None and step:
            frame = self.before(frame, step, rng)
        frame = here.answered(frame)
        return self.after(frame, step, rng) if self.after is not None and step else frame


def _with(expression: Callable[[], pl.Expr]) -> Plant:
    return lambda frame, _step, _rng: frame.with_columns(expression())


def _some(share: float, column: str, value: Any) -> Plant:
    """A share of the rows gets another value."""

    def plant(frame: pl.DataFrame, _step: int, rng: np.random.Generator) -> pl.DataFrame:
        hit = pl.Series(rng.random(frame.height) < share)
        return frame.with_columns(pl.when(hit).then(value).otherwise(pl.col(column)).alias(column))

    return plant


def _swap(a: str, b: str) -> Plant:
    return lambda frame, _step, _rng: frame.rename({a: b, b: a})


def _shuffled(column: str) -> Plant:
    return lambda frame, _step, rng: frame.with_columns(
        frame[column][rng.permutation(frame.height)].alias(column)
    )


def _noise(column: str, spread: float) -> Plant:
    return lambda frame, _step, rng: frame.with_columns(
        pl.col(column) + pl.Series(rng.normal(0, spread, frame.height))
    )


def _flip(share: float, where: Callable[[], pl.Expr]) -> Plant:
    """Yes becomes No and No Yes, for a share of the rows that fit."""

    def plant(frame: pl.DataFrame, _step: int, rng: np.random.Generator) -> pl.DataFrame:
        hit = where() & pl.Series(rng.random(frame.height) < share)
        other = pl.when(pl.col(TRUTH) == "Yes").then(pl.lit("No")).otherwise(pl.lit("Yes"))
        return frame.with_columns(pl.when(hit).then(other).otherwise(pl.col(TRUTH)).alias(TRUTH))

    return plant


def _stuck(column: str, share: float) -> Plant:
    def plant(frame: pl.DataFrame, _step: int, _rng: np.random.Generator) -> pl.DataFrame:
        first = round(frame.height * (1 - share))
        held = (
            pl.when(pl.int_range(frame.height) >= first).then(frame[column][first]).otherwise(pl.col(column))
        )
        return frame.with_columns(held.alias(column))

    return plant


def _replayed(frame: pl.DataFrame, _step: int, _rng: np.random.Generator) -> pl.DataFrame:
    cut = round(frame.height * 0.8)
    return pl.concat([frame[:cut], frame[cut // 2 : cut // 2 + frame.height - cut]])


def _retried(frame: pl.DataFrame, _step: int, _rng: np.random.Generator) -> pl.DataFrame:
    return frame[np.sort(np.arange(frame.height) % (frame.height * 9 // 10))]


FAULTS: dict[str, Fault] = {
    # --- what comes in ---
    "unit change: charges in cents": Fault(
        "churn", ("inputs",), _with(lambda: pl.col("monthly_charges") * 100)
    ),
    "unit change: area in square metres": Fault(
        "housing", ("inputs",), _with(lambda: (pl.col("Gr_Liv_Area") * 0.0929).round())
    ),
    "unit change: gain of one axis × 1.25": Fault(
        "watch",
        ("inputs",),
        _with(lambda: pl.col("ax_mean", "ax_spread", "ax_low", "ax_high", "ax_change") * 1.25),
    ),
    "swapped columns: charges": Fault("churn", ("inputs",), _swap("monthly_charges", "total_charges")),
    "swapped columns: partner and dependents": Fault("churn", ("inputs",), _swap("partner", "dependents")),
    "swapped columns: two axes": Fault("watch", ("inputs",), _swap("ax_mean", "ay_mean")),
    "new category in 5 % of the rows": Fault(
        "churn", ("inputs",), _some(0.05, "payment_method", pl.lit("Wallet"))
    ),
    "mojibake": Fault(
        "churn", ("inputs",), _with(lambda: pl.col("payment_method").str.replace("automatic", "automÃ¡tico"))
    ),
    "categories in capitals": Fault(
        "churn", ("inputs",), _with(lambda: pl.col("contract").str.to_uppercase())
    ),
    "nulls in 5 % of the rows": Fault("churn", ("inputs",), _some(0.05, "total_charges", None)),
    "a column is no longer sent": Fault(
        "churn", ("inputs",), lambda frame, _step, _rng: frame.drop("tech_support")
    ),
    "numbers with a decimal comma": Fault(
        "churn", ("inputs",), _with(lambda: pl.col("monthly_charges").cast(pl.String).str.replace(r"\.", ","))
    ),
    "truncated digits": Fault("churn", ("inputs",), _with(lambda: pl.col("monthly_charges").floor())),
    "sign flip of one axis": Fault(
        "watch", ("inputs",), lambda frame, _step, _rng: frame.with_columns(-pl.col("ay_mean"))
    ),
    "stuck sensor for a fifth of the window": Fault("churn", ("inputs",), _stuck("monthly_charges", 0.2)),
    "default value in 10 % of the rows": Fault("churn", ("inputs",), _some(0.1, "monthly_charges", 70.0)),
    "constant column": Fault("churn", ("inputs",), _with(lambda: pl.lit(0).alias("senior_citizen"))),
    "a batch sent twice (20 %)": Fault("churn", ("inputs",), _replayed),
    "retries counted twice (10 %)": Fault("churn", ("inputs",), _retried),
    "noise on a sensor (0.5 σ)": Fault("watch", ("inputs",), _noise("ax_mean", 3.0)),
    "time shift: tenure six months too long": Fault(
        "churn", ("inputs",), _with(lambda: pl.col("tenure") + 6)
    ),
    "time shift: month of sale one late": Fault(
        "housing", ("inputs",), _with(lambda: pl.col("Mo_Sold") % 12 + 1)
    ),
    "slice-only shift: fibre 10 dearer": Fault(
        "churn",
        ("inputs",),
        _with(
            lambda: (
                pl.when(pl.col("internet_service") == "Fiber optic")
                .then(pl.col("monthly_charges") + 10)
                .otherwise(pl.col("monthly_charges"))
                .alias("monthly_charges")
            )
        ),
    ),
    "correlation break: charges shuffled": Fault("churn", ("inputs",), _shuffled("monthly_charges")),
    # --- the world ---
    "covariate shift: fibre twice as often": Fault(
        "churn",
        ("inputs",),
        weights=lambda pool, _step: 1.0 + (pool["internet_service"] == "Fiber optic").to_numpy(),
    ),
    "covariate shift: large houses": Fault(
        "housing", ("inputs",), weights=lambda pool, _step: pool["Gr_Liv_Area"].to_numpy().astype(float) ** 2
    ),
    "slow ramp: fibre 5 % more often each window": Fault(
        "churn",
        ("inputs",),
        weights=lambda pool, step: 1.0 + 0.05 * step * (pool["internet_service"] == "Fiber optic").to_numpy(),
    ),
    "slow ramp: charges + 0.02 σ a window": Fault(
        "churn",
        ("inputs",),
        lambda frame, step, _rng: frame.with_columns(pl.col("monthly_charges") + 0.6 * step),
    ),
    "label shift: churners twice as often": Fault(
        "churn",
        ("inputs", "performance"),
        weights=lambda pool, _step: 1.0 + (pool[TRUTH] == "Yes").to_numpy(),
    ),
    "concept flip: every outcome": Fault(
        "churn", ("performance",), after=_flip(1.0, lambda: pl.lit(value=True))
    ),
    "concept drift: 15 % of the outcomes": Fault(
        "churn", ("performance",), after=_flip(0.15, lambda: pl.lit(value=True))
    ),
    "subgroup concept drift: fibre, 30 %": Fault(
        "churn", ("performance",), after=_flip(0.3, lambda: pl.col("internet_service") == "Fiber optic")
    ),
    "concept drift: prices + 10 %": Fault(
        "housing", ("performance",), after=_with(lambda: (pl.col(TRUTH) * 1.1).cast(pl.Int64))
    ),
    "slow concept drift: + 0.5 % a window": Fault(
        "churn",
        ("performance",),
        after=lambda frame, step, rng: _flip(0.005 * step, lambda: pl.lit(value=True))(frame, step, rng),
    ),
    # --- the service ---
    "prediction bug: answers to other rows": Fault("churn", ("skew",), after=_shuffled(SCORE)),
    "prediction bug: a constant": Fault("churn", ("skew",), after=_with(lambda: pl.lit(0.27).alias(SCORE))),
    "delayed labels: half of them": Fault("churn", ("truth",), after=_some(0.5, TRUTH, None)),
}
