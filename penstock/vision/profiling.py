"""What the pictures are like, class by class, and what in them is worth a warning before anything is learnt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from penstock.config import ImageProfile
from penstock.console import progress
from penstock.pictures import STORED, Pixels, decode
from penstock.reproducible import available_cores
from penstock.storage import read_parquet
from penstock.vision.ingestion import GROUP_ROWS
from penstock.vision.sheets import contact_sheet, thumbnail

__all__ = ["SHEETS", "profile"]

SHEETS = 60  # classes that are shown; a page of more is for no reader
SIZES = 10  # most frequent ones that are listed
FEW = 20  # pictures of a class from which little can be learnt
UNEVEN = 10.0  # times as many in the largest class as in the smallest
TELLING = 0.25  # share of the variance of brightness that the classes explain
GUESSED = 0.2  # more of the pictures whose class their size gives away than a guess gets right
FLAT = 2.0  # standard deviation of grey levels, of 255, below which a picture shows nothing

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Seen:
    brightness: float  # mean of the grey levels, 0 to 255
    contrast: float  # their standard deviation
    small: Pixels | None


def profile(
    raw: Path, ingested: Mapping[str, Any], settings: ImageProfile
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Everything that is known about the pictures, and what to show of them.

    Args:
        raw: The pictures, as ``vision.ingestion`` writes them.
        ingested: ingest.json.
        settings: How many pictures are shown, and how large.

    Returns:
        ``pictures``; ``classes``: label → ``count``, ``share``, ``brightness`` and
        ``contrast`` (means, of 255); ``sizes``: ``distinct``, ``min``, ``median`` and ``max`` of the
        ``shorter`` and ``longer`` side, and ``top`` (width, height, count); ``by_size``: share of pictures
        whose class the others of their size give away; ``brightness_explained`` by the class; ``flat``:
        pictures that show nothing; ``quarantined`` with ``reasons``; ``warnings``: sentences. And a contact
        sheet (JPEG) for each of the first 60 classes.

    Raises:
        PenstockError: ``raw`` is missing or not readable.
    """
    table = read_parquet(raw, columns=["label", "source", "position", "width", "height"])
    labels = table["label"]
    chosen = _chosen(labels, settings.pictures_per_class)
    seen = list(_seen(raw, table.height, chosen, settings.thumbnail))
    brightness = np.array([one.brightness for one in seen])
    contrast = np.array([one.contrast for one in seen])
    shown: dict[str, list[Pixels]] = defaultdict(list)
    for label, one in zip(labels, seen, strict=True):
        if one.small is not None:
            shown[label].append(one.small)
    flat = table.filter(pl.Series(contrast < FLAT))
    result = {
        "pictures": table.height,
        "classes": _classes(labels, brightness, contrast),
        "sizes": _sizes(table),
        "by_size": _by_size(table),
        "brightness_explained": _explained(labels, brightness),
        "flat": [f"{source}, number {at}" for source, at in flat.select("source", "position").iter_rows()],
        "quarantined": ingested["quarantined"],
        "reasons": ingested["reasons"],
        "rescaled": ingested["rescaled"],
    }
    result["warnings"] = _warnings(result)
    return result, {label: contact_sheet(shown[label]) for label in sorted(shown)}


def _chosen(labels: pl.Series, wanted: int) -> set[int]:
    """Rows to show: of each class as many as wanted, evenly over all of its pictures."""
    rows: set[int] = set()
    for label in sorted(labels.unique().to_list())[:SHEETS]:
        members = (labels == label).arg_true().to_numpy()
        rows.update(members[np.linspace(0, len(members) - 1, min(wanted, len(members))).astype(int)].tolist())
    return rows


def _seen(raw: Path, total: int, chosen: set[int], side: int) -> Iterator[_Seen]:
    import pyarrow.parquet as pq

    def see(job: tuple[int, bytes]) -> _Seen:
        row, content = job
        pixels = decode(content, STORED)
        grey = np.asarray(Image.fromarray(pixels).convert("L"))
        small = thumbnail(pixels, side) if row in chosen else None
        return _Seen(float(grey.mean()), float(grey.std()), small)

    with (
        pq.ParquetFile(raw) as file,
        ThreadPoolExecutor(available_cores()) as pool,
        progress("looking at pictures", total) as advance,
    ):
        at = 0
        for batch in file.iter_batches(GROUP_ROWS, columns=["picture"]):
            contents = batch.column(0).to_pylist()
            for one in pool.map(see, enumerate(contents, at)):
                yield one
                advance(1)
            at += len(contents)


# --- what is known ----------------------------------------------------------------------------------


def _classes(labels: pl.Series, brightness: Floats, contrast: Floats) -> dict[str, Any]:
    table = pl.DataFrame({"label": labels, "brightness": brightness, "contrast": contrast})
    means = table.group_by("label").agg(
        pl.len().alias("count"), pl.col("brightness").mean(), pl.col("contrast").mean()
    )
    return {
        row["label"]: {
            "count": row["count"],
            "share": row["count"] / len(labels),
            "brightness": row["brightness"],
            "contrast": row["contrast"],
        }
        for row in means.sort("label").iter_rows(named=True)
    }


def _sizes(table: pl.DataFrame) -> dict[str, Any]:
    sides = table.select(
        shorter=pl.min_horizontal("width", "height"), longer=pl.max_horizontal("width", "height")
    )
    counts = (
        table.group_by("width", "height")
        .len()
        .sort("len", "width", "height", descending=[True, False, False])
    )
    spread = {
        name: {"min": sides[name].min(), "median": sides[name].median(), "max": sides[name].max()}
        for name in sides.columns
    }
    return {"distinct": counts.height, **spread, "top": [list(row) for row in counts.head(SIZES).iter_rows()]}


def _by_size(table: pl.DataFrame) -> float:
    """Share of pictures of which the most frequent class among those of the same size is the class.

    The picture itself does not vote: a size that occurs once gives nothing away.
    """
    counts = table.group_by("width", "height", "label").len().group_by("width", "height").agg(pl.max("len"))
    return float((counts["len"] - 1).sum()) / table.height


def _explained(labels: pl.Series, values: Floats) -> float:
    """Share of the variance that lies between the classes (η²)."""
    if not values.var():
        return 0.0
    between = (
        pl.DataFrame({"label": labels, "x": values}).select(pl.col("x").mean().over("label")).to_series()
    )
    return float(np.var(between.to_numpy()) / values.var())


def _warnings(found: Mapping[str, Any]) -> list[str]:
    counts = {label: one["count"] for label, one in found["classes"].items()}
    largest, smallest = max(counts, key=lambda x: counts[x]), min(counts, key=lambda x: counts[x])
    guess = counts[largest] / found["pictures"]
    sentences = []
    small = [f"{label} ({count})" for label, count in counts.items() if count < FEW]
    if small:
        sentences.append(
            f"Classes of fewer than {FEW} pictures, of which little can be learnt: {', '.join(small)}."
        )
    if counts[largest] >= UNEVEN * counts[smallest]:
        sentences.append(
            f"{largest} has {counts[largest]} pictures, {smallest} {counts[smallest]}: "
            "consider imbalance: class_weight or balanced_sampler."
        )
    if found["by_size"] > guess + GUESSED:
        sentences.append(
            f"The size of a picture gives its class away in {found['by_size']:.0%} of them, where a guess gets "
            f"{guess:.0%}: were the classes gathered from different places?"
        )
    if found["brightness_explained"] > TELLING:
        sentences.append(
            f"The class explains {found['brightness_explained']:.0%} of the differences in brightness: "
            "were the classes photographed in different light?"
        )
    if flat := found["flat"]:
        listed = "; ".join(flat[:3]) + (" …" if len(flat) > 3 else "")
        sentences.append(
            f"Of one colour, showing nothing: {len(flat)} of {found['pictures']} pictures ({listed})."
        )
    if found["quarantined"]:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in found["reasons"].items())
        sentences.append(f"{found['quarantined']} pictures are in quarantine: {reasons}.")
    return sentences
