"""Interactions as arrays: a catalogue of items, histories of users, and what is wanted of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from penstock.config import ItemCatalogue
from penstock.errors import PenstockError

__all__ = ["Cases", "Catalogue", "Histories", "cases", "catalogue", "histories"]


@dataclass(frozen=True)
class Catalogue:
    """The items that can be recommended, the most popular first, of equal ones that of the lower id.

    Attributes:
        ids: Shape (N,).
        counts: Interactions of each, shape (N,).
    """

    ids: NDArray[np.int64]
    counts: NDArray[np.int64]

    def places(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Place of each item, N for one that is not in the catalogue."""
        order = np.argsort(self.ids, kind="stable")
        at = np.searchsorted(self.ids, items, sorter=order).clip(max=len(self.ids) - 1)
        found = order[at]
        return np.where(self.ids[found] == items, found, len(self.ids))


@dataclass(frozen=True)
class Histories:
    """What each user has taken up, oldest first, as places in a catalogue; users one behind the other.

    Attributes:
        users: Names, sorted.
        places: Shape (n,).
        times: Microseconds since 1970, shape (n,).
        starts: Where each user's begin, and the end of the last, shape (users + 1,).
        items: How many the catalogue has.
    """

    users: Sequence[str]
    places: NDArray[np.int64]
    times: NDArray[np.int64]
    starts: NDArray[np.int64]
    items: int

    def of(self, user: int) -> NDArray[np.int64]:
        """One user's."""
        return self.places[self.starts[user] : self.starts[user + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def from_end(self) -> NDArray[np.int64]:
        """How many of the same user come after each, shape (n,)."""
        ends = np.repeat(self.starts[1:], self.lengths)
        return ends - 1 - np.arange(len(self.places))

    def matrix(self, values: NDArray[np.float64] | None = None) -> sparse.csr_array:
        """Users by items, shape (users, N); 1 or ``values`` where there is an interaction."""
        data = np.ones(len(self.places)) if values is None else values
        return sparse.csr_array(
            (data, self.places, self.starts), shape=(len(self.users), self.items)
        ).sorted_indices()


@dataclass(frozen=True)
class Cases:
    """Who is judged, and by what.

    Attributes:
        users: Positions in the histories, shape (n,).
        wanted: For each, the ids of the items that were taken up later, in or out of the catalogue.
    """

    users: NDArray[np.int64]
    wanted: Sequence[NDArray[np.int64]]


def catalogue(train: pl.DataFrame, settings: ItemCatalogue) -> Catalogue:
    """The items of the training part that enough users have taken up.

    Raises:
        PenstockError: There are fewer than two.
    """
    counted = (
        train.group_by("item")
        .len()
        .filter(pl.col("len") >= settings.min_support)
        .sort(["len", "item"], descending=[True, False])
        .head(settings.max_items)
    )
    if counted.height < 2:
        raise PenstockError(
            f"catalogue: {counted.height} items have {settings.min_support} interactions or more",
            hint="lower catalogue.min_support",
        )
    return Catalogue(counted["item"].to_numpy(), counted["len"].to_numpy().astype(np.int64))


def histories(frame: pl.DataFrame, items: Catalogue) -> Histories:
    """The interactions of items in the catalogue, as arrays. Users without any keep an empty history.

    Args:
        frame: Of the parts that are history, in the order of users and time.
        items: The catalogue.
    """
    users = frame["user"].unique().sort()
    places = items.places(frame["item"].to_numpy())
    codes = frame["user"].replace_strict(users, np.arange(len(users)), return_dtype=pl.Int64).to_numpy()
    kept = places < len(items.ids)
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes[kept], minlength=len(users)))])
    times = frame["time"].dt.epoch("us").to_numpy()
    return Histories(users.to_list(), places[kept], times[kept], starts, len(items.ids))


def cases(frame: pl.DataFrame, past: Histories) -> Cases:
    """What users with a past took up afterwards. A user without one is no case: nobody could have known.

    Args:
        frame: Of the part that judges.
        past: Histories before it.
    """
    codes = {user: code for code, user in enumerate(past.users)}
    grouped = frame.filter(pl.col("user").is_in(list(codes))).group_by("user", maintain_order=True)
    found = sorted((codes[str(user)], rows["item"].to_numpy()) for (user,), rows in grouped)
    return Cases(np.array([code for code, _ in found], dtype=np.int64), [wanted for _, wanted in found])
