"""What is known of the items that a model can return, for filters, rules and searches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from penstock.artifact.recommender_model import Item

__all__ = ["Catalogue", "Filters", "title_of"]

UNDATED = -(2**31)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which items may be returned.

    Attributes:
        genres: Any of these; empty: whatever they have.
        not_genres: None of these.
        year_from: An item without a year does not pass.
        year_to: Likewise.
    """

    genres: tuple[str, ...] = ()
    not_genres: tuple[str, ...] = ()
    year_from: int | None = None
    year_to: int | None = None

    def __bool__(self) -> bool:
        return self != Filters()

    def passes(self, genres: Iterable[str], year: int | None) -> bool:
        """Whether one item passes."""
        had = set(genres)
        return (
            (not self.genres or not had.isdisjoint(self.genres))
            and had.isdisjoint(self.not_genres)
            and (self.year_from is None or (year is not None and year >= self.year_from))
            and (self.year_to is None or (year is not None and year <= self.year_to))
        )


class Catalogue:
    """Items as columns, the most popular first.

    Args:
        items: By id.
    """

    def __init__(self, items: Mapping[int, Item]) -> None:
        self.items = items
        self.ids: NDArray[np.int64] = np.fromiter(items, dtype=np.int64, count=len(items))
        self.places = {int(id_): place for place, id_ in enumerate(self.ids)}
        years = (UNDATED if item.year is None else item.year for item in items.values())
        self._years: NDArray[np.int64] = np.fromiter(years, dtype=np.int64, count=len(items))
        names = sorted({genre for item in items.values() for genre in item.genres})
        self._genres = {name: np.zeros(len(items), dtype=np.bool_) for name in names}
        for place, item in enumerate(items.values()):
            for genre in item.genres:
                self._genres[genre][place] = True
        self._searched = [item.title.casefold() for item in items.values()]

    @property
    def genres(self) -> list[str]:
        """Names of all genres, sorted."""
        return list(self._genres)

    def having(self, genres: Iterable[str]) -> NDArray[np.bool_]:
        """Which items have any of some genres, shape (items,)."""
        found = np.zeros(len(self.ids), dtype=np.bool_)
        for name in genres:
            if name in self._genres:
                found |= self._genres[name]
        return found

    def passing(self, filters: Filters) -> NDArray[np.bool_]:
        """Which items pass, shape (items,)."""
        found = np.ones(len(self.ids), dtype=np.bool_)
        if filters.genres:
            found &= self.having(filters.genres)
        if filters.not_genres:
            found &= ~self.having(filters.not_genres)
        if filters.year_from is not None:
            found &= self._years >= filters.year_from
        if filters.year_to is not None:
            found &= (self._years <= filters.year_to) & (self._years != UNDATED)
        return found

    def among(self, ids: Iterable[int]) -> NDArray[np.bool_]:
        """Which items are among some ids, shape (items,). Ids that are not known count for nothing."""
        found = np.zeros(len(self.ids), dtype=np.bool_)
        found[[self.places[id_] for id_ in ids if id_ in self.places]] = True
        return found

    def search(self, words: Sequence[str], filters: Filters, limit: int) -> list[Item]:
        """Items whose titles have all of some words, the most popular first."""
        wanted = [word.casefold() for word in words]
        found = []
        for place in np.flatnonzero(self.passing(filters)):
            title = self._searched[place]
            if all(word in title for word in wanted):
                found.append(self.items[int(self.ids[place])])
                if len(found) == limit:
                    break
        return found


def title_of(title: str, year: int | None) -> str:
    """With the year, if it is known."""
    return title if year is None else f"{title} ({year})"
