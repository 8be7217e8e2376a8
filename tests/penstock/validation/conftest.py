"""A small made-up table with numbers, gaps and categories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from penstock.features.columns import Columns
from penstock.validation.fitting import Table


@pytest.fixture
def make_table() -> Callable[..., Table]:
    """Make a table of ``n`` rows whose target depends on the features by ``strength``."""

    def make(kind: str = "binary", *, n: int = 240, strength: float = 2.0, seed: int = 0) -> Table:
        draws = np.random.default_rng(seed)
        a, b = draws.normal(size=(2, n))
        c = draws.choice(["", "x", "y"], n)
        signal = strength * (a + 0.5 * (c == "x")) + draws.normal(size=n)
        y: np.ndarray[Any, Any]
        match kind:
            case "binary":
                y, classes = (signal > 1).astype(np.int64), ("no", "yes")
            case "multiclass":
                y, classes = np.digitize(signal, [-1, 1]).astype(np.int64), ("p", "q", "r")
            case _:
                y, classes = np.exp(signal / 3), None
        frame = pl.DataFrame(
            {"a": a.astype(np.float32), "b": b.astype(np.float32), "c": c},
        ).with_columns(pl.when(pl.col("b") > -1).then("b"))
        columns = Columns(
            numeric=("a", "b"),
            categorical=("c",),
            cardinality={"c": 3},
            target="t",
            task=kind,
            classes=classes,
        )
        return Table(frame, y, columns, None, None, seed=0)

    return make
