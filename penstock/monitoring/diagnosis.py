"""What a drift looks like: a unit, a sign, two columns swapped. Guesses, and said as such; no alarm depends on them."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.monitoring.coding import as_numbers
from penstock.monitoring.distances import jensen_shannon
from penstock.monitoring.reference import Reference

__all__ = ["looks_like", "swapped"]

UNITS = {
    1000.0: "thousandths for ones",
    100.0: "hundredths for ones, such as cents",
    10.0: "a decimal place",
    60.0: "seconds for minutes, or minutes for hours",
    3600.0: "seconds for hours",
    24.0: "hours for days",
    12.0: "months for years",
    7.0: "days for weeks",
    2.54: "centimetres for inches",
    3.28084: "feet for metres",
    1.609344: "kilometres for miles",
    2.20462: "pounds for kilograms",
    10.7639: "square feet for square metres",
}
LEVELS = np.linspace(0.05, 0.95, 19)
CLOSE = 0.05


def looks_like(before: pl.Series, now: pl.Series) -> str:
    """What may have been done to the numbers of a column; empty where nothing comes to mind."""
    x, y = as_numbers(before), as_numbers(now)
    x, y = x[np.isfinite(x)], y[np.isfinite(y)]
    if len(x) < 20 or len(y) < 20 or len(np.unique(x)) < 3:
        return ""
    # As close as quantiles of so few rows can be expected to be.
    spread = float(x.std()) * max(1.0, 30 / math.sqrt(len(y)))
    p, q = np.quantile(x, LEVELS), np.quantile(y, LEVELS)
    if _near(p, np.quantile(-y, LEVELS), spread) and not _near(p, q, spread):
        return "the sign is turned"
    if len(np.unique(y)) > 3 and y.std() > 0:
        factor = float((q[-1] - q[0]) / max(p[-1] - p[0], 1e-12))
        for ratio, words in UNITS.items():
            for one, told in ((ratio, words), (1 / ratio, f"the other way round: {words}")):
                # A unit that is known is believed sooner than a factor that is not.
                if abs(factor / one - 1) < 0.15 and _near(p * one, q, 2 * spread * one):
                    return f"about {one:.4g} times as large ({told})"
        if _near(p * 1.8 + 32, q, spread * 1.8):
            return "Fahrenheit for Celsius"
        if abs(factor - 1) > 0.1 and _near(p * factor, q, spread * factor):
            return f"about {factor:.3g} times as large"
        moved = float(np.median(q - p))
        if abs(moved) > CLOSE * spread and _near(p + moved, q, spread):
            return f"moved by about {moved:.3g}"
    low, high = float(x.min()), float(x.max())
    beyond = float(((y < low) | (y > high)).mean())
    if beyond > 0.01:
        return f"{beyond * 100:.0f} % beyond the reference's range, {low:.4g} … {high:.4g}"
    return f"mean {x.mean():.4g} → {y.mean():.4g}"


def _near(left: NDArray[np.float64], right: NDArray[np.float64], spread: float) -> bool:
    return bool(np.median(np.abs(left - right)) < CLOSE * max(spread, 1e-12))


def swapped(reference: Reference, sample: pl.DataFrame, drifted: list[str]) -> list[tuple[str, str]]:
    """Pairs of columns each of which looks like what the other was."""
    coding = reference.coding
    names = [name for name in drifted if name in sample.columns and not name.startswith("@")][:12]

    def apart(column: str, like: str) -> float:
        at = coding.at(like)
        part, place = coding.parts[at], coding.slice(at)
        codes = part.encode(sample[column])[0]
        return float(
            jensen_shannon(
                reference.sketch.counts[place], np.bincount(codes, minlength=part.codes).astype(float)
            )
        )

    own = {name: apart(name, name) for name in names}
    return [
        (a, b)
        for a, b in combinations(names, 2)
        if apart(a, b) < min(0.15, own[a] / 2) and apart(b, a) < min(0.15, own[b] / 2)
    ]
