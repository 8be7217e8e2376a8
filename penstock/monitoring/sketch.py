"""What is kept of a window: counts and sums, which add up. Rows are looked at once, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.monitoring.coding import Coding
from penstock.monitoring.judged import SCORE, TRUTH, Target, losses

__all__ = ["GRID", "Embedding", "Sketch", "embedding_of", "observe", "steps"]

Array = NDArray[np.float64]
GRID = 400  # steps of the score, 0 … 1, in which the ranking is counted
COMMON = (0.05, 0.95)  # shares between which a category has a direction of its own
DIRECTIONS = 4  # of one column of categories, at most
ERRORS = 10  # rows to one mean of the error stream
SAMPLE = 4000  # rows kept for a closer look


@dataclass(frozen=True)
class Embedding:
    """Codes as points of a space in which correlation means something: ranks of numbers, indicators of categories.

    Every direction has mean 0 and standard deviation 1 over the reference.

    Attributes:
        tables: For each part, shape (codes, directions), maybe of no direction.
        part: Which part each direction belongs to, shape (directions,).
    """

    tables: tuple[Array, ...]
    part: NDArray[np.int64]

    def __call__(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Points of shape (rows, directions) for codes of shape (rows, parts)."""
        points = np.empty((len(codes), len(self.part)), dtype=np.float32)
        done = 0
        for at, table in enumerate(self.tables):
            if table.shape[1]:
                points[:, done : done + table.shape[1]] = table.astype(np.float32)[codes[:, at]]
                done += table.shape[1]
        return points


def embedding_of(coding: Coding, counts: Array, *, without: Sequence[str] = ()) -> Embedding:
    """The embedding that a reference sets.

    Args:
        coding: Of its columns.
        counts: Of its codes, shape (coding.length,).
        without: Columns that get no direction.
    """
    tables = []
    for at, part in enumerate(coding.parts):
        shares = counts[coding.slice(at)] / max(1.0, counts[coding.slice(at)].sum())
        skip = part.kind == "grain" or part.column in without
        tables.append(np.zeros((part.codes, 0)) if skip else _directions(part.kind == "number", shares))
    owners = [at for at, table in enumerate(tables) for _ in range(table.shape[1])]
    return Embedding(tuple(tables), np.array(owners, dtype=np.int64))


def _directions(is_number: bool, shares: Array) -> Array:
    if is_number:
        ranks = np.cumsum(shares) - shares / 2
        ranks[-2:] = (ranks[:-2] * shares[:-2]).sum() / max(shares[:-2].sum(), 1e-12)  # the mean
        raw = ranks[:, None]
    else:
        levels = [
            at for at in np.argsort(-shares[:-2], kind="stable") if COMMON[0] <= shares[at] <= COMMON[1]
        ]
        # Of two that are complements one says all.
        wanted = levels[:1] if len(shares) - 2 <= 2 else levels[:DIRECTIONS]
        raw = np.eye(len(shares))[:, wanted]
    mean = shares @ raw
    spread = np.sqrt(np.maximum(shares @ (raw - mean) ** 2, 0.0))
    kept = spread > 1e-6
    return np.asarray((raw[:, kept] - mean[kept]) / spread[kept])


@dataclass
class Sketch:
    """Counts and sums of some rows. Those of two batches added are those of both.

    Attributes:
        rows: How many.
        counts: Of every code, shape (codes,).
        sums: Of the values that have the code, likewise.
        first: Sums of the embedding's directions, shape (directions,).
        second: Sums of their products, shape (directions, directions).
        truths: Rows whose truth is known.
        known: Their counts of every code, shape (codes,).
        loss: Sums of their losses by code, likewise.
        residual: Sums of their residuals by code, likewise.
        squares: Sums of squares of loss and of residual, by code, shape (2, codes).
        ranking: Counts by score, of the negative and of the positive ones, shape (2, GRID).
        scores: Counts by score of all rows, shape (GRID,).
        errors: Means of the loss over ``ERRORS`` rows, in the order of time.
        sample: Some of the rows.
    """

    rows: int
    counts: Array
    sums: Array
    first: Array
    second: Array
    truths: int
    known: Array
    loss: Array
    residual: Array
    squares: Array
    ranking: Array
    scores: Array
    errors: list[float] = field(default_factory=list)
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)

    def __add__(self, other: Sketch) -> Sketch:
        rows = self.rows + other.rows
        sample = pl.concat([self.sample, other.sample], how="diagonal_relaxed")
        if sample.height > SAMPLE:
            sample = _thinned(self, other, rows)
        return Sketch(
            rows,
            self.counts + other.counts,
            self.sums + other.sums,
            self.first + other.first,
            self.second + other.second,
            self.truths + other.truths,
            self.known + other.known,
            self.loss + other.loss,
            self.residual + other.residual,
            self.squares + other.squares,
            self.ranking + other.ranking,
            self.scores + other.scores,
            self.errors + other.errors,
            sample,
        )


def _thinned(left: Sketch, right: Sketch, rows: int) -> pl.DataFrame:
    """Each part by its share of the rows, evenly spaced: the same rows give the same sample."""
    kept = []
    for part in (left, right):
        wanted = max(1, round(SAMPLE * part.rows / rows))
        kept.append(part.sample.gather_every(max(1, -(-part.sample.height // wanted))))
    return pl.concat(kept, how="diagonal_relaxed")


def observe(frame: pl.DataFrame, coding: Coding, embedding: Embedding, target: Target) -> Sketch:
    """Look at a batch.

    Args:
        frame: Inputs, SCORE, LABEL and, where it is known, TRUTH.
        coding: The reference's.
        embedding: The reference's.
        target: What is predicted.
    """
    codes, values = coding.encode(frame)
    places = codes + coding.offsets[:-1]
    points = embedding(codes)
    at = steps(frame[SCORE].cast(pl.Float64).fill_null(float("nan")).to_numpy(), target)
    sketch = Sketch(
        rows=frame.height,
        counts=_tally(places, coding.length),
        sums=_tally(places, coding.length, values),
        first=points.sum(axis=0, dtype=np.float64),
        second=(points.T @ points).astype(np.float64),
        truths=0,
        known=np.zeros(coding.length),
        loss=np.zeros(coding.length),
        residual=np.zeros(coding.length),
        squares=np.zeros((2, coding.length)),
        ranking=np.zeros((2, GRID)),
        scores=np.bincount(at[at >= 0], minlength=GRID).astype(float),
        sample=frame if frame.height <= SAMPLE else frame.gather_every(-(-frame.height // SAMPLE)),
    )
    if TRUTH in frame.columns:
        there = (frame[TRUTH].is_not_null() & frame[SCORE].is_not_null()).to_numpy()
        if there.any():
            _add_losses(sketch, frame.filter(pl.Series(there)), places[there], coding.length, target)
    return sketch


def _add_losses(
    sketch: Sketch, frame: pl.DataFrame, places: NDArray[np.int64], length: int, target: Target
) -> None:
    found = losses(frame, target)
    sketch.truths = frame.height
    sketch.known = _tally(places, length)
    sketch.loss = _tally(places, length, found.loss)
    sketch.residual = _tally(places, length, found.residual)
    sketch.squares = np.stack(
        [_tally(places, length, found.loss**2), _tally(places, length, found.residual**2)]
    )
    at = steps(found.score, target)
    for side in (0, 1):
        chosen = at[(found.positive == bool(side)) & (at >= 0)]
        sketch.ranking[side] = np.bincount(chosen, minlength=GRID)
    whole = found.loss[: len(found.loss) // ERRORS * ERRORS].reshape(-1, ERRORS).mean(axis=1)
    sketch.errors = [float(value) for value in whole]


def steps(score: Array, target: Target) -> NDArray[np.int64]:
    """Which step of the grid a score lies in; −1 where there is none, or it is no probability."""
    if target.task == "regression":
        return np.full(len(score), -1)
    fits = (score >= 0) & (score <= 1)
    return np.where(fits, np.minimum(np.where(fits, score, 0.0) * GRID, GRID - 1).astype(np.int64), -1)


def _tally(places: NDArray[np.int64], length: int, values: Array | None = None) -> Array:
    """Sums by place over all parts; ``values`` are of shape (rows,) or (rows, parts)."""
    if values is None:
        return np.bincount(places.ravel(), minlength=length).astype(np.float64)
    spread = np.broadcast_to(values if values.ndim == 2 else values[:, None], places.shape)
    return np.asarray(np.bincount(places.ravel(), weights=spread.ravel(), minlength=length), dtype=np.float64)
