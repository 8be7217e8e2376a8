"""Business rules: what may be in a list, and in which order; from ids that a model has put in order to what is shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from penstock.config.serving.recommender import Rules
from penstock.serving.recommender.catalogue import Catalogue, Filters
from penstock.serving.recommender.store import NewItem

__all__ = ["Policy", "Slot", "arranged"]


@dataclass(frozen=True)
class Policy:
    """Declared rules, on what a model knows.

    Attributes:
        rules: As declared.
        catalogue: Of the model that is asked.
    """

    rules: Rules
    catalogue: Catalogue

    @property
    def filters(self) -> Filters:
        """Those that are declared for every list."""
        rules = self.rules
        return Filters(rules.genres or (), rules.not_genres, rules.year_from, rules.year_to)

    @cached_property
    def allowed(self) -> NDArray[np.bool_]:
        """Which of the model's items may be in a list at all, shape (items,)."""
        found = self.catalogue.passing(self.filters)
        if self.rules.genres is not None and not self.rules.genres:
            found[:] = False
        if self.rules.allow is not None:
            found &= self.catalogue.among(self.rules.allow)
        found &= ~self.catalogue.among(self.rules.deny)
        return found

    def allows(self, item: NewItem) -> bool:
        """Whether an item that the model does not know may be in a list."""
        rules = self.rules
        return (
            (rules.allow is None or item.id in rules.allow)
            and item.id not in rules.deny
            and (rules.genres is None or bool(rules.genres))
            and self.filters.passes(item.genres, item.year)
        )

    def unknown(self) -> list[str]:
        """Names in the rules that the model does not know, as people would look for them."""
        rules, known = self.rules, self.catalogue
        genres = {
            "genres": rules.genres or (),
            "not_genres": rules.not_genres,
            "boost_genres": tuple(rules.boost_genres),
        }
        ids = {
            "allow": rules.allow or (),
            "deny": rules.deny,
            "boost": tuple(rules.boost),
            "pin": tuple(pin.item for pin in rules.pin),
        }
        return [
            *(
                f"{key}: {name!r}"
                for key, names in genres.items()
                for name in names
                if name not in known.genres
            ),
            *(f"{key}: {id_}" for key, found in ids.items() for id_ in found if id_ not in known.places),
        ]

    @cached_property
    def _factors(self) -> dict[int, float]:
        factors: dict[int, float] = {}
        for genre, factor in self.rules.boost_genres.items():
            for id_ in self.catalogue.ids[self.catalogue.having([genre])].tolist():
                factors[id_] = factors.get(id_, 1.0) * factor
        for id_, factor in self.rules.boost.items():
            factors[id_] = factors.get(id_, 1.0) * factor
        return factors

    @property
    def reorders(self) -> bool:
        """Whether the first k of a list depend on what comes after them."""
        return bool(self.rules.boost or self.rules.boost_genres or self.rules.max_per_genre)

    @cached_property
    def reach(self) -> float:
        """The largest boost of an item: from so many times the length of a list it can come into it."""
        return max(self._factors.values(), default=1.0)

    def boosted(self, ids: Sequence[int], preferred: Collection[int], by: float) -> list[int]:
        """Ids in the order of place / factor: 2 moves from place 10 to 5, whatever the scores mean.

        Args:
            ids: The best first.
            preferred: Which are preferred for this one list.
            by: And how much.
        """
        factors = self._factors
        if not factors and not preferred:
            return list(ids)

        def place(at: int) -> float:
            factor = factors.get(ids[at], 1.0) * (by if ids[at] in preferred else 1.0)
            return (at + 1) / factor

        return [ids[at] for at in sorted(range(len(ids)), key=place)]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place of a list.

    Attributes:
        item: That has it.
        why: "model", "pinned" or "new".
    """

    item: int
    why: str


def arranged(
    ids: Sequence[int],
    k: int,
    fixed: Mapping[int, Slot],
    genres: Mapping[int, Sequence[str]],
    max_per_genre: int | None,
) -> list[Slot]:
    """A list of at most ``k``: what has a place of its own, and the others in order around it.

    Args:
        ids: The best first.
        k: How many are wanted.
        fixed: By place, from 0. Where the list ends before a place, its item comes at the end.
        genres: Of all items.
        max_per_genre: Items of one genre in the list. What has a place of its own counts, and is never left out.
    """
    fixed = {place: slot for place, slot in fixed.items() if place < k}
    taken = {slot.item for slot in fixed.values()}
    counts: dict[str, int] = {}

    def count(item: int) -> None:
        for genre in genres.get(item, ()):
            counts[genre] = counts.get(genre, 0) + 1

    for slot in fixed.values():
        count(slot.item)
    chosen: list[int] = []
    for item in ids:
        if len(chosen) == k - len(fixed):
            break
        full = max_per_genre is not None and any(
            counts.get(genre, 0) >= max_per_genre for genre in genres.get(item, ())
        )
        if item in taken or full:
            continue
        count(item)
        chosen.append(item)
    slots: list[Slot] = []
    rest = iter(chosen)
    for place in range(k):
        if place in fixed:
            slots.append(fixed[place])
        elif (item_or_none := next(rest, None)) is not None:
            slots.append(Slot(item_or_none, "model"))
    return slots
