"""What the phases leave behind: answers, curves, features. Written all or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.errors import PenstockError
from penstock.storage import read_parquet, replacing, write_csv, write_parquet
from penstock.vision.data import Split

__all__ = ["read_answers", "read_features", "write_answers", "write_curves", "write_features"]

JUDGED = ("validation", "holdout")


def write_answers(path: Path, split: Split, logits: dict[str, NDArray[np.float32]]) -> None:
    """Write the logits of a phase: row, part, label, logits.

    Args:
        path: A Parquet file.
        split: Rows and classes.
        logits: validation and holdout → shape (n_rows, n_classes), in the order of the split's rows.
    """
    classes = np.array(split.classes, dtype=object)
    frames = [
        pl.DataFrame(
            {
                "row": pl.Series(split.parts[part], dtype=pl.UInt32),
                "part": pl.Series([part] * len(split.parts[part]), dtype=pl.String),
                "label": pl.Series(classes[split.codes[split.parts[part]]].tolist(), dtype=pl.String),
                "logits": pl.Series(logits[part], dtype=pl.Array(pl.Float32, len(classes))),
            }
        )
        for part in JUDGED
    ]
    write_parquet(path, pl.concat(frames))


def read_answers(
    path: Path, part: str, classes: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What ``write_answers`` wrote of one part.

    Returns:
        The logits, shape (n_rows, n_classes), and the right classes as their places in ``classes``.
    """
    found = read_parquet(path).filter(pl.col("part") == part)
    codes = found["label"].cast(pl.Enum(classes)).to_physical().cast(pl.Int64)
    return found["logits"].to_numpy().reshape(-1, len(classes)), codes.to_numpy()


def write_curves(path: Path, epochs: Sequence[dict[str, float]]) -> None:
    """Write one line an epoch."""
    write_csv(path, pl.DataFrame(list(epochs)).with_columns(pl.col("epoch").cast(pl.Int64)))


def write_features(path: Path, features: NDArray[np.float32]) -> None:
    """Write features, shape (n_rows, n_features), as NumPy's own format."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, features, allow_pickle=False)


def read_features(path: Path) -> NDArray[np.float32]:
    """Read features as a memory map.

    Raises:
        PenstockError: The file is missing or truncated.
    """
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it")
    try:
        found: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise PenstockError(
            f"{path}: not a readable array ({error})", hint="remove it and run `dvc repro`"
        ) from error
    return found
