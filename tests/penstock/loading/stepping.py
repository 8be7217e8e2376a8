"""Steps as conf/ has them, applied to frames as the engine does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import TypeAdapter

from penstock.config.loading import Input, Step
from penstock.loading.steps import Stepped, Transformation

STEPS = TypeAdapter(tuple[Step, ...])


def transformation(steps: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any] = {}) -> Transformation:
    declared = {
        name: Input.model_validate({"path": str(given)} if isinstance(given, str | Path) else given)
        for name, given in inputs.items()
    }
    return Transformation(STEPS.validate_python(list(steps)), declared)


def stepped(frame: pl.DataFrame, *steps: Mapping[str, Any], inputs: Mapping[str, Any] = {}) -> Stepped:
    return transformation(steps, inputs).apply(frame)


def traced(frame: pl.DataFrame) -> pl.DataFrame:
    """With columns of lineage."""
    return frame.with_columns(
        pl.lit("here").alias("_source"),
        pl.int_range(pl.len(), dtype=pl.Int64).alias("_position"),
        pl.lit(1, dtype=pl.Int64).alias("_load"),
    )


def transformed(
    frame: pl.DataFrame,
    folder: Path,
    *steps: Mapping[str, Any],
    inputs: Mapping[str, Any] = {},
    rows: int = 2,
) -> pl.DataFrame:
    """All rows through all steps, ``rows`` to a chunk."""
    return of_chunks(
        [frame.slice(at, rows) for at in range(0, frame.height, rows)], folder, *steps, inputs=inputs
    )


def of_chunks(
    chunks: Sequence[pl.DataFrame], folder: Path, *steps: Mapping[str, Any], inputs: Mapping[str, Any] = {}
) -> pl.DataFrame:
    made: list[pl.DataFrame] = []
    whole = transformation(steps, inputs)
    spill = folder / "spill"
    spill.mkdir(parents=True)
    for number, chunk in enumerate(chunks):
        frame = whole.apply(chunk).frame
        if whole.rowwise:
            made.append(frame)
        else:
            frame.write_parquet(spill / f"{number:08d}.parquet")
    if not whole.rowwise:
        assert whole.apply_whole(spill, made.append) == sum(frame.height for frame in made)
    return pl.concat(made) if made else pl.DataFrame()
