"""Evidently's page of a window beside the reference, for who knows it. Its verdicts are its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import polars as pl

from penstock.errors import PenstockError
from penstock.storage import replacing

__all__ = ["write_evidently"]


def write_evidently(reference: pl.DataFrame, current: pl.DataFrame, path: Path) -> Path:
    """Write the page.

    Args:
        reference: Columns to compare; polars, which Evidently does not take.
        current: Likewise.
        path: Where to.

    Raises:
        PenstockError: Evidently is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of what it imports
            from evidently import Report
            from evidently.presets import DataDriftPreset, DataSummaryPreset
    except ModuleNotFoundError as error:
        raise PenstockError(
            "evidently is not installed", hint="it is of the optional group `monitor`: `make env`"
        ) from error
    names = [name for name in reference.columns if name in current.columns]
    before, now = (frame.select(names).to_pandas() for frame in (reference, current))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = Report([DataDriftPreset(), DataSummaryPreset()]).run(now, before)
        with replacing(path) as temporary:
            snapshot.save_html(str(temporary))
    return path
