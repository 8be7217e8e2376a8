"""From a typed table to what an ONNX session takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.artifact.manifest import Input

__all__ = ["feeds"]


def feeds(frame: pl.DataFrame, inputs: Sequence[Input]) -> dict[str, NDArray[Any]]:
    """One array of shape (rows, 1) for each input, missing values as NaN or "".

    Args:
        frame: Typed as ``penstock.contract.check`` gives it; columns that are no input are left out.
        inputs: The manifest's.
    """
    return {item.name: _array(frame[item.name], item).reshape(-1, 1) for item in inputs}


def _array(series: pl.Series, item: Input) -> NDArray[Any]:
    if item.element == "string":
        return _strings(series)
    if item.column.type == "date":
        series = series.dt.epoch("d")
    elif item.column.type == "datetime":
        series = series.dt.epoch("s")
    kind, dtype = (pl.Float32, np.float32) if item.element == "float" else (pl.Float64, np.float64)
    return series.cast(kind).fill_null(float("nan")).to_numpy().astype(dtype, copy=False)


def _strings(series: pl.Series) -> NDArray[Any]:
    """Strings as Python objects, each distinct one made once: what ORT reads is the object's pointer."""
    filled = series.cast(pl.String).fill_null("")
    distinct = filled.unique(maintain_order=True)
    if 4 * len(distinct) > len(filled):
        return np.array(filled.to_list(), dtype=object)
    codes = filled.cast(pl.Enum(distinct)).to_physical().to_numpy()
    return np.asarray(np.array(distinct.to_list(), dtype=object)[codes])
