"""Which interactions are learnt from, which tune and which judge: by time, never by chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import InteractionPrepare
from penstock.errors import PenstockError

__all__ = ["PARTS", "Split", "in_order", "split"]

PARTS = ("train", "validation", "holdout")


@dataclass(frozen=True)
class Split:
    """Interactions with the part that each belongs to.

    Attributes:
        frame: As ingested, in the order of users and time, with a column `part`.
        left_out: Interactions that are in no part, by reason.
    """

    frame: pl.DataFrame
    left_out: dict[str, int]

    def summary(self) -> dict[str, Any]:
        """Counts of interactions, users and items in each part."""
        counts = {
            part: {
                "interactions": rows.height,
                "users": rows["user"].n_unique(),
                "items": rows["item"].n_unique(),
            }
            for part in PARTS
            for rows in [self.frame.filter(pl.col("part") == part)]
        }
        return {"parts": counts, "left_out": self.left_out}


def in_order(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Rows sorted by user and time.

    What happened at one moment has no order that is known. It gets one by a hash: by id, or by row, a model
    could learn it, and would be praised for knowing how the data were sorted.
    """
    salt = f"{seed}\x1f"
    text = pl.concat_str(pl.lit(salt), pl.col("user"), pl.lit("\x1f"), pl.col("item").cast(pl.String))
    codes = _hashes(frame.select(text).to_series().to_list())
    return (
        frame.with_columns(pl.Series("_order", codes)).sort("user", "time", "_order", "item").drop("_order")
    )


def _hashes(texts: list[str]) -> NDArray[np.uint64]:
    import hashlib

    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


def split(frame: pl.DataFrame, settings: InteractionPrepare, seed: int) -> Split:
    """Divide interactions.

    An item that a user takes up again counts where it was taken up first: what is set apart is then never in
    the history that it is to be told from.

    Args:
        frame: As ingested.
        settings: How.
        seed: Of the order of what happened at one moment.

    Raises:
        PenstockError: Nothing is left to learn from, to tune by or to judge by.
    """
    ordered = in_order(frame, seed)
    liked = ordered
    if settings.min_rating is not None:
        liked = ordered.filter(pl.col("rating").is_null() | (pl.col("rating") >= settings.min_rating))
    once = liked.unique(("user", "item"), keep="first", maintain_order=True)
    parted = (_last if settings.split == "last" else _time)(once, settings)
    for part in PARTS:
        if not (parted["part"] == part).any():
            raise PenstockError(
                f"prepare: nothing is left for the {part} part of {parted.height} interactions",
                hint="it takes users with several interactions at different times; "
                "lower min_rating or min_interactions, or choose the other split",
            )
    left_out = {"rated_lower": ordered.height - liked.height, "taken_up_again": liked.height - once.height}
    return Split(parted, left_out)


def _last(frame: pl.DataFrame, settings: InteractionPrepare) -> pl.DataFrame:
    """Of each user with enough interactions: the last judges, the one before it tunes."""
    from_end = pl.int_range(pl.len()).reverse().over("user")
    judged = pl.len().over("user") >= settings.min_interactions
    part = (
        pl.when(judged & (from_end == 0))
        .then(pl.lit("holdout"))
        .when(judged & (from_end == 1))
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    return frame.with_columns(part=part)


def _time(frame: pl.DataFrame, settings: InteractionPrepare) -> pl.DataFrame:
    """Two moments for all users: what is later than the second judges, what is between them tunes."""
    times = frame["time"].sort()
    if times.is_empty():
        return frame.with_columns(part=pl.lit("train"))
    last = _moment(times, settings.holdout)
    earlier = times.filter(times < last)
    middle = last if earlier.is_empty() else _moment(earlier, settings.validation)
    part = (
        pl.when(pl.col("time") >= last)
        .then(pl.lit("holdout"))
        .when(pl.col("time") >= middle)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("train"))
    )
    return frame.with_columns(part=part)


def _moment(times: pl.Series, share: float) -> Any:
    """The first moment of the last ``share`` of sorted times; what happened at one moment stays together."""
    at = min(len(times) - 1, max(1, round(len(times) * (1 - share))))
    return times[at]
