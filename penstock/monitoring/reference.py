"""What windows are compared with, and from where on a difference is more than chance.

Chance is measured, not assumed: a window's size is drawn many times from the reference itself, the whole panel is
computed on each draw, and limits are set such that of windows in which nothing is wrong no more than ``alpha`` are
called out, all checks together (the greatest statistic of each family, after Westfall and Young, 1993).
A draw has the uncertainty of three samples: the reference is a sample, what comes now is one of a world that the
reference shows only as well as its size allows, and the window is a sample of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config.monitoring import Limits
from penstock.errors import PenstockError
from penstock.monitoring import comparison
from penstock.monitoring.coding import Coding, coding_of
from penstock.monitoring.comparison import Moments, Stack, stacked
from penstock.monitoring.judged import SCORE, TRUTH, WILD, Target, losses
from penstock.monitoring.sketch import GRID, Embedding, Sketch, embedding_of, observe, steps

__all__ = ["Calibration", "Reference", "reference_of"]

Array = NDArray[np.float64]
Families = dict[str, Array]
CHUNK = 50  # resamples in memory at once
COARSE = 12  # columns of more values are no slices
GROWTH = 1.25  # limits are computed for sizes on this ladder
LEAST = 50  # rows of the smallest window that can be calibrated
# Spreads below which a statistic hardly varies: there, one rare row is not to count for a hundred limits.
LEAST_SPREAD = {
    "psi": 5e-3, "wasserstein": 5e-3, "jensen_shannon": 2e-2, "kolmogorov_smirnov": 1e-2, "relations": 5e-3,
}  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """Limits of one family.

    Attributes:
        middle: What each statistic is when nothing is wrong, shape (statistics,).
        spread: From there to its 95th percentile, likewise.
        limit: Of (statistic − middle) / spread, for the greatest of them.
    """

    middle: Array
    spread: Array
    limit: float

    def scores(self, statistics: Array) -> Array:
        """In multiples of the limit: above 1 is more than chance. Of any shape (…, statistics)."""
        return np.asarray((statistics - self.middle) / self.spread / self.limit)


@dataclass
class Reference:
    """A reference and its calibrations.

    Attributes:
        frame: Its rows: inputs, SCORE, LABEL, TRUTH.
        inputs: Names of the input columns.
        target: What is predicted.
        limits: As declared.
        coding: Of inputs and outputs.
        embedding: Of inputs and the score.
        sketch: Of the frame.
        slices: Codes that are judged as slices.
        known: Calibrations by kind and size.
    """

    frame: pl.DataFrame
    inputs: tuple[str, ...]
    target: Target
    limits: Limits
    coding: Coding
    embedding: Embedding
    sketch: Sketch
    slices: NDArray[np.int64]
    known: dict[tuple[str, int], dict[str, Calibration]] = field(default_factory=dict)

    @cached_property
    def stack(self) -> Stack:
        """The sketch, to compare with."""
        return stacked(self.sketch)

    @cached_property
    def moments(self) -> Moments:
        """Of the embedding."""
        return Moments.of(self.embedding.part, self.embedding(self.coding.encode(self.frame)[0]))

    @cached_property
    def spreads(self) -> Array:
        """Standard deviation of each part, 0 where it is no number, shape (parts,)."""
        values = self.coding.encode(self.frame)[1]
        return np.array(
            [
                values[:, at].std() if part.kind == "number" else 0.0
                for at, part in enumerate(self.coding.parts)
            ]
        )

    @cached_property
    def calibrated_probabilities(self) -> Array:
        """Probability of the positive class at each step of the score, by isotonic regression, shape (GRID,)."""
        from scipy.optimize import isotonic_regression

        both = self.sketch.ranking.sum(axis=0)
        steps = (np.arange(GRID) + 0.5) / GRID
        # Half a row of what the score itself says: where the reference has none, it is believed.
        prior = 0.5
        share = (self.sketch.ranking[1] + prior * steps) / (both + prior)
        return np.asarray(isotonic_regression(share, weights=both + prior).x)

    @cached_property
    def _outputs(self) -> NDArray[np.bool_]:
        return np.array([part.column.startswith("@") for part in self.coding.parts])

    def inputs_of(self, reference: Stack, window: Stack) -> Families:
        """Statistics that need no truth, each of shape (samples, statistics)."""
        far = comparison.drift(self.coding, self.spreads, reference, window)
        # A family for each distance: PSI has a heavy tail where values are rare, which is not to widen the others' limits.
        found = {
            f"{family}_{distance}": far[:, chosen, at]
            for family, chosen in (("drift", ~self._outputs), ("prediction", self._outputs))
            for at, distance in enumerate(comparison.DISTANCES)
        }
        found["relations"] = comparison.correlation_shift(self.coding, self.moments, reference, window)
        if self.target.task == "binary":
            expected, now = (
                comparison.estimated_auc(stack.scores, self.calibrated_probabilities)
                for stack in (reference, window)
            )
            found["estimate"] = (expected - now)[:, None]
        return found

    def truths_of(self, reference: Stack, window: Stack) -> Families:
        """Statistics of rows whose truth is known, likewise."""
        ranked = self.target.task == "binary"
        by_slice = comparison.slices(self.coding, self.slices, self.limits.min_slice_rows, reference, window)
        return {
            "performance": comparison.performance(self.coding, reference, window, ranked=ranked),
            "slices": by_slice.reshape(len(window.rows), -1),
        }

    def calibration(self, kind: str, rows: int) -> dict[str, Calibration]:
        """Limits of each family for windows of some size.

        Args:
            kind: "inputs" or "truths".
            rows: Of the window. Limits are those of the next smaller size on a ladder, which are wider.
        """
        size = self.rung(rows)
        if (kind, size) not in self.known:
            self.known[kind, size] = self._calibrate(kind, size)
        return self.known[kind, size]

    @staticmethod
    def rung(rows: int) -> int:
        """The size that a window is calibrated as."""
        if rows < LEAST:
            return LEAST
        return int(LEAST * GROWTH ** int(np.log(rows / LEAST) / np.log(GROWTH) + 1e-9))

    def _calibrate(self, kind: str, size: int) -> dict[str, Calibration]:
        rng = np.random.default_rng(size)
        done: list[Families] = []
        resampler = _Resampler(self, with_truth=kind == "truths")
        while CHUNK * len(done) < self.limits.resamples:
            reference, window = resampler.pair(rng, CHUNK, size)
            done.append((self.truths_of if kind == "truths" else self.inputs_of)(reference, window))
        joined = {name: np.concatenate([each[name] for each in done]) for name in done[0]}
        # A half each for what needs truth and what does not.
        return _jointly(joined, self.limits.alpha / 2)


def _jointly(families: Families, alpha: float) -> dict[str, Calibration]:
    """Limits such that a share ``alpha`` of the resamples breaks any."""
    parts, greatest = {}, {}
    for name, statistics in families.items():
        middle = np.median(statistics, axis=0)
        spread = np.maximum(
            np.quantile(statistics, 0.95, axis=0) - middle,
            LEAST_SPREAD.get(name.partition("_")[2] or name, 1e-3),
        )
        scores = (statistics - middle) / spread
        parts[name] = (middle, spread)
        greatest[name] = scores.max(axis=1) if scores.shape[1] else np.zeros(len(scores))
    # The same level for each family, found by halving.
    low, high = 0.0, alpha
    for _ in range(30):
        level = (low + high) / 2
        broken = np.zeros(len(next(iter(greatest.values()))), dtype=bool)
        for values in greatest.values():
            broken |= values > np.quantile(values, 1 - level)
        low, high = (level, high) if broken.mean() <= alpha else (low, level)
    return {
        name: Calibration(*parts[name], max(1e-6, float(np.quantile(values, 1 - low))))
        for name, values in greatest.items()
    }


class _Resampler:
    """Draws pairs of a reference and a window from the reference's own rows, as weights of rows."""

    def __init__(self, reference: Reference, *, with_truth: bool) -> None:
        from scipy.sparse import csr_array

        self.reference = reference
        frame = reference.frame
        if with_truth:
            frame = frame.filter(pl.col(TRUTH).is_not_null())
        elif frame.height > reference.limits.reference_rows:
            # An odd step, so that rows the components were fitted to and others stay as mixed as they are.
            frame = frame.gather_every((-(-frame.height // reference.limits.reference_rows)) | 1)
        coding = reference.coding
        codes, values = coding.encode(frame)
        places = codes + coding.offsets[:-1]
        rows = np.arange(0, places.size + 1, places.shape[1])
        shape = (frame.height, coding.length)

        def spread(of: Array) -> Any:
            return csr_array((np.broadcast_to(of, places.shape).ravel(), places.ravel(), rows), shape=shape)

        self.rows = frame.height
        self.points = reference.embedding(codes)
        self.matrices = {"counts": spread(np.ones((1, 1))), "sums": spread(values)}
        self.grid = _grid(frame, reference.target)
        self.with_truth = with_truth
        if with_truth:
            found = losses(frame, reference.target)
            for name, what in (
                ("loss", found.loss),
                ("residual", found.residual),
                ("loss2", found.loss**2),
                ("residual2", found.residual**2),
            ):
                self.matrices[name] = spread(what[:, None])
            self.positive = found.positive

    def pair(self, rng: np.random.Generator, samples: int, size: int) -> tuple[Stack, Stack]:
        """So many references and windows of ``size`` rows."""
        even = np.full(self.rows, 1 / self.rows)
        before = rng.multinomial(self.rows, even, size=samples)
        world = rng.multinomial(self.rows, even, size=samples) / self.rows
        now = np.stack([rng.multinomial(size, shares) for shares in world])
        return self._stack(before.astype(float)), replace(
            self._stack(now.astype(float)), leftover=self._leftover(rng, world, size)
        )

    def _leftover(self, rng: np.random.Generator, world: Array, size: int) -> Array | None:
        """Of windows from rows that the components were not fitted to."""
        if self.with_truth:
            return None
        each = self.reference.moments.leftover(self.points[1::2])
        return np.array(
            [rng.multinomial(size, shares / shares.sum()) @ each / size for shares in world[:, 1::2]]
        )

    def _stack(self, weights: Array) -> Stack:
        totals = {name: np.asarray((matrix.T @ weights.T).T) for name, matrix in self.matrices.items()}
        length, p = self.reference.coding.length, self.points.shape[1]
        if self.with_truth:
            known, first, second = (
                totals["counts"],
                np.zeros((len(weights), p)),
                np.zeros((len(weights), 0, 0)),
            )
            sides = [weights * (self.positive == bool(side)) for side in (0, 1)]
            ranking = np.stack([np.asarray((self.grid.T @ side.T).T) for side in sides], axis=1)
            squares = np.stack([totals["loss2"], totals["residual2"]], axis=1)
        else:
            known, first = np.zeros((1, length)), weights @ self.points
            second = self._second(weights.astype(np.float32))
            ranking, squares = np.zeros((1, 2, GRID)), np.zeros((1, 2, length))
        none = np.zeros((1, length))
        return Stack(
            weights.sum(axis=1),
            totals["counts"],
            totals["sums"],
            first,
            second,
            known,
            totals.get("loss", none),
            totals.get("residual", none),
            squares,
            ranking,
            np.asarray((self.grid.T @ weights.T).T),
        )

    def _second(self, weights: NDArray[np.float32]) -> Array:
        """Sums of products by direction, for all samples at once: few large products of matrices, not many small."""
        p = self.points.shape[1]
        second = np.zeros((len(weights), p, p))
        for at in range(p):
            second[:, at, at:] = weights @ (self.points[:, at:] * self.points[:, at : at + 1])
            second[:, at:, at] = second[:, at, at:]
        return second


def _grid(frame: pl.DataFrame, target: Target) -> Any:
    """Rows by steps of the score, shape (rows, GRID), sparse."""
    from scipy.sparse import csr_array

    at = steps(frame[SCORE].cast(pl.Float64).fill_null(float("nan")).to_numpy(), target)
    there = np.flatnonzero(at >= 0)
    return csr_array((np.ones(len(there)), (there, at[there])), shape=(frame.height, GRID))


def reference_of(
    frame: pl.DataFrame,
    inputs: Sequence[str],
    target: Target,
    limits: Limits,
    *,
    slices: Sequence[str] = (),
    source: str = "the reference",
) -> Reference:
    """A reference from rows that are known to be good.

    Args:
        frame: Inputs, SCORE, LABEL and, where it is known, TRUTH; rows that the model has not learnt from.
        inputs: Columns to compare.
        target: What is predicted.
        limits: As declared.
        slices: Columns whose values are judged apart; none: all of few values.
        source: What to call it in an error.

    Raises:
        PenstockError: There are too few rows.
    """
    if frame.height < 200:
        raise PenstockError(
            f"{source}: {frame.height} rows are too few to compare with",
            hint="200 at least; 2,000 are better",
        )
    if target.task == "regression" and TRUTH in frame.columns:
        known = frame.filter(pl.col(TRUTH).is_not_null())
        if known.height:
            cap = WILD * float(np.quantile(losses(known, target).loss, 0.99))
            target = Target(target.task, target.positive, target.threshold, cap)
    coding = coding_of(frame, [*inputs, *target.outputs])
    codes = coding.encode(frame)[0]
    counts = np.bincount((codes + coding.offsets[:-1]).ravel(), minlength=coding.length).astype(float)
    embedding = embedding_of(coding, counts, without=[name for name in target.outputs if name != SCORE])
    sketch = observe(frame, coding, embedding, target)
    chosen = [
        place
        for at, part in enumerate(coding.parts)
        if part.kind != "grain" and not part.column.startswith("@")
        if (part.column in slices if slices else part.values <= COARSE)
        for place in range(*coding.slice(at).indices(coding.length))
    ]
    return Reference(
        frame, tuple(inputs), target, limits, coding, embedding, sketch, np.array(chosen, dtype=np.int64)
    )
