"""Columns as small integers: everything that is compared is counted in bins that the reference has set.

A value becomes a code once; every distance, slice and correlation is computed from counts of codes, which can be
added up batch by batch. A million rows need no more memory than a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["Coded", "Coding", "coding_of", "granularity"]

BINS = 20
CATEGORIES = 60  # of one column; the rarest ones beyond count as unseen
GRAINS = ("0", "1", "2", "3 or more")
Kind = Literal["number", "category", "grain"]


@dataclass(frozen=True)
class Coded:
    """How one column becomes codes.

    Bins of a number are ``(edge[i-1], edge[i]]``, the first and the last of them beyond what the reference has.
    The last two codes are "unseen" (of a category, or what cannot be read as a number) and "missing".

    Attributes:
        column: Its name in the table.
        kind: number, category, or grain: how finely the numbers are written.
        edges: Of a number, ascending.
        categories: Of a category, the most frequent first; of a number of few values, these, from the second code on.
    """

    column: str
    kind: Kind
    edges: NDArray[np.float64]
    categories: tuple[str, ...] = ()

    @property
    def values(self) -> int:
        """Codes that stand for values the reference knows or lie beside them."""
        return len(self.edges) + 1 if self.kind == "number" else len(self.categories)

    @property
    def codes(self) -> int:
        """Number of codes."""
        return self.values + 2

    def encode(self, series: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes, and the values as numbers (0 where there is none).

        Args:
            series: Of any type; what is no number where one is expected is "unseen".

        Returns:
            Codes of shape (rows,) and values of shape (rows,).
        """
        absent = series.is_null().to_numpy()
        if self.kind == "category":
            text = series.cast(pl.String).cast(pl.Enum(list(self.categories)), strict=False)
            codes = text.to_physical().cast(pl.Int64).fill_null(self.values).to_numpy().copy()
            codes[absent] = self.values + 1
            return codes, np.zeros(len(codes))
        values = as_numbers(series)
        known = np.isfinite(values)
        held = np.where(known, values, 0.0)
        if self.kind == "grain":
            codes = granularity(held)
        else:
            codes = np.searchsorted(self.edges, held, side="left")
        absent |= np.isnan(values) & (series.dtype.is_numeric())
        return np.where(absent, self.values + 1, np.where(known, codes, self.values)), held


def as_numbers(series: pl.Series) -> NDArray[np.float64]:
    """Values as numbers, NaN where there is none; dates as days, moments as seconds since 1970."""
    if series.dtype == pl.Date:
        series = series.dt.epoch("d")
    elif isinstance(series.dtype, pl.Datetime):
        series = series.dt.epoch("s")
    return np.asarray(series.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy())


def granularity(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many decimals a number needs: 0, 1, 2, or 3 for all that need more."""
    found = np.full(len(values), 3)
    for decimals in (2, 1, 0):
        shifted = values * 10**decimals
        found[np.abs(shifted - np.round(shifted)) < 1e-6 + 1e-9 * np.abs(shifted)] = decimals
    return found


def _edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    distinct = np.unique(values)
    below = np.nextafter(distinct[0], -np.inf)
    if len(distinct) <= BINS:
        middles = (distinct[:-1] + distinct[1:]) / 2
        return np.concatenate([[below], middles, distinct[-1:]])
    quantiles = np.unique(np.quantile(values, np.linspace(0, 1, BINS + 1)[1:], method="inverted_cdf"))
    # A value that fills a bin of its own keeps to itself: its lower edge is the largest value below it.
    heavy = quantiles[np.isin(quantiles, _frequent(values))]
    before = [distinct[at - 1] for at in np.searchsorted(distinct, heavy) if at > 0]
    return np.unique(np.concatenate([[below], quantiles, before]))


def _frequent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    distinct, counts = np.unique(values, return_counts=True)
    return np.asarray(distinct[counts >= len(values) / BINS])


def _coded(series: pl.Series) -> list[Coded]:
    none = np.empty(0)
    if series.dtype == pl.Boolean or not (series.dtype.is_numeric() or series.dtype.is_temporal()):
        counts = series.cast(pl.String).drop_nulls().value_counts(sort=True)
        # Ties in alphabetical order: the same reference gives the same codes.
        ordered = counts.sort(["count", series.name], descending=[True, False])[series.name].to_list()
        return [Coded(series.name, "category", none, tuple(ordered[:CATEGORIES]))]
    values = as_numbers(series)
    values = values[np.isfinite(values)]
    if not len(values):
        return [Coded(series.name, "category", none, ())]
    few = tuple(f"{value:.6g}" for value in np.unique(values)) if len(np.unique(values)) <= BINS else ()
    found = [Coded(series.name, "number", _edges(values), few)]
    grains = np.bincount(granularity(values), minlength=4)
    # What a model gives is written as it comes; how finely says nothing.
    if grains[0] < len(values) and len(np.unique(values)) > BINS and not series.name.startswith("@"):
        found.append(Coded(series.name, "grain", none, GRAINS))
    return found


@dataclass(frozen=True)
class Coding:
    """All columns, with their codes side by side in one long vector.

    Attributes:
        parts: One or two for each column.
        offsets: Where the codes of each part begin, shape (parts + 1,).
    """

    parts: tuple[Coded, ...]
    offsets: NDArray[np.int64]

    @property
    def length(self) -> int:
        """Codes of all parts."""
        return int(self.offsets[-1])

    def encode(self, frame: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Codes and values of a batch.

        Args:
            frame: Rows; a column that is not there is missing in every row.

        Returns:
            Both of shape (rows, parts); codes count from the beginning of their part.
        """
        codes = np.empty((frame.height, len(self.parts)), dtype=np.int64)
        values = np.zeros((frame.height, len(self.parts)))
        for at, part in enumerate(self.parts):
            if part.column in frame.columns:
                codes[:, at], values[:, at] = part.encode(frame[part.column])
            else:
                codes[:, at] = part.codes - 1
        return codes, values

    def slice(self, at: int) -> slice:
        """Where the codes of a part are."""
        return slice(int(self.offsets[at]), int(self.offsets[at + 1]))

    def at(self, column: str, *, kinds: Sequence[Kind] = ("number", "category")) -> int:
        """Number of the part of a column."""
        return next(at for at, part in enumerate(self.parts) if part.column == column and part.kind in kinds)

    def label(self, at: int, code: int, names: Mapping[str, str] | None = None) -> str:
        """A code in words, such as "contract = One year" or "tenure in 3 … 9"."""
        part = self.parts[at]
        name = (names or {}).get(part.column, part.column)
        if code == part.codes - 1:
            return f"{name} missing"
        if code == part.codes - 2:
            return f"{name} not known to the reference"
        if part.kind != "number":
            return f"{name} = {part.categories[code]}"
        if part.categories and 0 < code <= len(part.categories):
            return f"{name} = {part.categories[code - 1]}"
        low = f"{part.edges[code - 1]:.6g}" if code else "…"
        high = f"{part.edges[code]:.6g}" if code < len(part.edges) else "…"
        return f"{name} in {low} … {high}"


def coding_of(frame: pl.DataFrame, columns: Sequence[str]) -> Coding:
    """The coding that a reference sets.

    Args:
        frame: The reference.
        columns: Those to compare.
    """
    parts = tuple(part for name in columns for part in _coded(frame[name]))
    return Coding(parts, np.concatenate([[0], np.cumsum([part.codes for part in parts])]).astype(np.int64))
