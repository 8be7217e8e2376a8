"""From what a user did to a list: the model is asked, rules hold, new items get their chance, and reasons are told."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.artifact.recommender_model import Item
from penstock.config.serving.recommender import Recommend
from penstock.serving.recommender.catalogue import Filters, title_of
from penstock.serving.recommender.exploration import chosen, explores
from penstock.serving.recommender.loaded import Loaded, Model
from penstock.serving.recommender.rules import Slot, arranged
from penstock.serving.recommender.store import Interaction, NewItem, Store, StoreDownError, now_ms

__all__ = ["Answer", "Asked", "Recommender", "told_interaction"]

REMEMBERED = 200_000  # interactions of the users last asked for, whose lists go on while the store is down …
MINUTES = 10  # … for so long: whoever is forgotten is to be forgotten by every process
FRESH = 2.0  # seconds for which registered items are not read again: all of them are, and there may be many
PREFERRED = 3.0  # how much sooner a list for a new user has what they prefer
SPARE = 4.0  # times k that are looked at where rules reorder, at least


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for recommendations.

    Attributes:
        user: For whom.
        request: Its id.
        k: How many.
        diversity: 0 to 1.
        filters: Which items.
        exclude: Ids that are not wanted.
        prefer: Genres that come sooner, as long as nothing is known of the user.
        explain: Whether reasons are wanted.
    """

    user: str
    request: str
    k: int = 10
    diversity: float = 0.0
    filters: Filters = field(default_factory=Filters)
    exclude: frozenset[int] = frozenset()
    prefer: tuple[str, ...] = ()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What is recommended.

    Attributes:
        version: Of the model.
        items: As they are sent.
        cold: Whether the model knows nothing that the user has done.
        known: Interactions with items that the model knows.
        notes: What is to be said of the list, in words.
        degraded: "store" if the store is down, and this is from memory or for everyone.
        explored: The new item in it.
        share: The probability with which there is one, or is not, as it came out.
    """

    version: str
    items: list[dict[str, Any]]
    cold: bool
    known: int
    notes: list[str]
    degraded: str | None
    explored: int | None
    share: float

    def content(self, asked: Asked) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "user": asked.user,
            "request": asked.request,
            "version": self.version,
            "cold": self.cold,
            "degraded": self.degraded,
            "items": self.items,
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class _Past:
    """What a list starts from."""

    interactions: Sequence[Interaction]
    resting: Collection[int] = ()
    new: Sequence[NewItem] = ()
    degraded: str | None = None


class Recommender:
    """One process' recommender.

    Args:
        view: What is declared.
        model: What is asked.
        store: What people did.
        ran: Told the seconds of each run of the model.
    """

    def __init__(
        self, view: Recommend, model: Model, store: Store, ran: Callable[[float], None] = lambda _: None
    ) -> None:
        self.view, self.model, self.store, self._ran = view, model, store, ran
        self._remembered: OrderedDict[str, tuple[float, list[Interaction]]] = OrderedDict()  # with its end
        self._held = 0  # interactions that are remembered
        self._items: tuple[float, list[NewItem]] = (float("-inf"), [])

    async def recommend(self, asked: Asked) -> Answer:
        """A list for a user. It is of what the store has now; where that is down, of what was known last."""
        loaded = self.model.now
        past = await self._past(asked, loaded)
        return _Listing(self.view, loaded, asked, past, self._ran).answer()

    async def _past(self, asked: Asked, loaded: Loaded) -> _Past:
        try:
            interactions = await self.store.history(asked.user)
            resting: Collection[int] = ()
            rest = self.view.rules.rest
            if rest is not None:
                since = now_ms() - int(rest.span.total_seconds() * 1000)
                counts = await self.store.shown(asked.user, since)
                resting = {item for item, count in counts.items() if count >= rest.after}
            cold = not any(one.item in loaded.catalogue.places for one in interactions)
            unknown = any(pin.item not in loaded.catalogue.places for pin in self.view.rules.pin)
            new: Sequence[NewItem] = ()
            if unknown or explores(self.view.exploration, asked.request, cold=cold):
                new = [item for item in await self.items() if item.id not in loaded.catalogue.places]
        except StoreDownError:
            self._tidy()
            return _Past(self._remembered.get(asked.user, (0.0, ()))[1], degraded="store")
        self._remember(asked.user, interactions)
        return _Past(interactions, resting, new)

    def _remember(self, user: str, interactions: list[Interaction]) -> None:
        self.forget(user)
        self._remembered[user] = (time.monotonic() + MINUTES * 60, interactions)
        self._held += len(interactions) + 1
        self._tidy()

    def _tidy(self) -> None:
        now = time.monotonic()
        while self._remembered:
            user, (end, _) = next(iter(self._remembered.items()))
            if end > now and self._held <= REMEMBERED:
                break
            self.forget(user)

    def forget(self, user: str) -> None:
        """Remember nothing of a user in this process."""
        found = self._remembered.pop(user, None)
        if found is not None:
            self._held -= len(found[1]) + 1

    async def items(self) -> list[NewItem]:
        """Registered items, as they were a moment ago."""
        read, items = self._items
        if time.monotonic() - read >= FRESH:
            items = await self.store.items()
            self._items = (time.monotonic(), items)
        return items

    def refresh(self) -> None:
        """Read registered items anew when they are next needed."""
        self._items = (float("-inf"), [])


class _Listing:
    """One list in the making."""

    def __init__(
        self, view: Recommend, loaded: Loaded, asked: Asked, past: _Past, ran: Callable[[float], None]
    ) -> None:
        self.view, self.loaded, self.asked, self.past, self.ran = view, loaded, asked, past, ran
        self.places = loaded.catalogue.places
        self.seen = {one.item for one in past.interactions}
        self.notes: list[str] = []
        disliked = _disliked(past.interactions, view.history.min_rating)
        self.votes = [
            one.item for one in past.interactions if one.item in self.places and one.item not in disliked
        ]
        self.cold = not self.votes
        self.barred = self.seen | asked.exclude | set(past.resting)
        self.allowed = self._allowed()

    def _allowed(self) -> NDArray[np.bool_]:
        """Of the model's items, shape (items,)."""
        found = self.loaded.policy.allowed.copy()
        if self.asked.filters:
            found &= self.loaded.catalogue.passing(self.asked.filters)
        found &= ~self.loaded.catalogue.among(self.barred)
        return found

    def answer(self) -> Answer:
        asked, items = self.asked, self.loaded.catalogue.items
        new = self._new()
        explored = self._explored(new)
        fixed = self._pinned(new)
        if explored is not None and explored.id not in {slot.item for slot in fixed.values()}:
            place = min(self.view.exploration.place, asked.k) - 1
            while place in fixed and place > 0:
                place -= 1
            if place not in fixed:
                fixed[place] = Slot(explored.id, "new")
        genres = {id_: item.genres for id_, item in new.items()} | {
            slot.item: items[slot.item].genres for slot in fixed.values() if slot.item in items
        }
        slots, scores, because = self._filled(fixed, genres)
        self._tell_of_gaps(len(slots))
        told = [self._told(slot, new, scores, because) for slot in slots]
        shown = next((slot.item for slot in slots if slot.why == "new"), None)
        view = self.view.exploration
        share = view.cold_share if self.cold else view.share
        return Answer(
            version=self.loaded.version,
            items=told,
            cold=self.cold,
            known=len(self.votes),
            notes=self.notes,
            degraded=self.past.degraded,
            explored=shown,
            share=share if shown is not None else 1 - share,
        )

    # --- what has a place of its own ----------------------------------------------------------------

    def _new(self) -> dict[int, NewItem]:
        """Registered items that may be in this list, by id."""
        policy, filters = self.loaded.policy, self.asked.filters
        return {
            item.id: item
            for item in self.past.new
            if item.id not in self.barred and policy.allows(item) and filters.passes(item.genres, item.year)
        }

    def _explored(self, new: dict[int, NewItem]) -> NewItem | None:
        view, request = self.view.exploration, self.asked.request
        if not new or not explores(view, request, cold=self.cold):
            return None
        return chosen(view, request, list(new.values()))

    def _pinned(self, new: dict[int, NewItem]) -> dict[int, Slot]:
        return {
            pin.place - 1: Slot(pin.item, "pinned")
            for pin in self.view.rules.pin
            if pin.place <= self.asked.k and (pin.item in new or self._may(pin.item))
        }

    def _may(self, item: int) -> bool:
        place = self.places.get(item)
        return place is not None and bool(self.allowed[place])

    # --- what the model says ------------------------------------------------------------------------

    def _filled(
        self, fixed: dict[int, Slot], genres: Mapping[int, Sequence[str]]
    ) -> tuple[list[Slot], dict[int, float], dict[int, int]]:
        """Places, and of the model's items the scores and reasons."""
        asked, policy, items = self.asked, self.loaded.policy, self.loaded.catalogue.items
        most = min(self.loaded.model.manifest.limits.k, max(1, len(items)))
        preferred = self._preferred()
        reorders = policy.reorders or bool(preferred)
        # Diversity chooses among a pool; a list that is no longer than that begins the same, however long it is.
        reach = max(SPARE, policy.reach * (PREFERRED if preferred else 1.0))
        # More than there are is no use, and a boost may be any number.
        far = min(math.ceil(min(reach * asked.k, most)), most)
        wanted = max(far, self.loaded.model.manifest.pool) if reorders else asked.k + len(fixed)
        while True:
            wanted = min(wanted, most)
            ids, scores, because = self._run(wanted)
            had = {**genres, **{id_: items[id_].genres for id_ in ids}}
            ordered = policy.boosted(ids, preferred, PREFERRED)
            slots = arranged(ordered, asked.k, fixed, had, self.view.rules.max_per_genre)
            if len(slots) == asked.k or wanted == most or len(ids) >= int(self.allowed.sum()):
                return slots, scores, because
            wanted = most

    def _preferred(self) -> frozenset[int]:
        if not self.cold or not self.asked.prefer:
            return frozenset()
        catalogue = self.loaded.catalogue
        return frozenset(catalogue.ids[catalogue.having(self.asked.prefer)].tolist())

    def _run(self, wanted: int) -> tuple[list[int], dict[int, float], dict[int, int]]:
        model, ids = self.loaded.model, self.loaded.catalogue.ids
        history, before = model.within_limits(self.votes)
        # The most popular first: should there be more than the model takes, what it would not return anyway is what is left out.
        barred = ids[~self.allowed & ~self.loaded.catalogue.among(self.votes)]
        exclude = np.concatenate([np.asarray(before, dtype=np.int64), barred])[
            : model.manifest.limits.exclude
        ]
        began = time.perf_counter()
        found = model.recommend([history], k=wanted, exclude=[exclude], diversity=self.asked.diversity)
        self.ran(time.perf_counter() - began)
        listed, scores, because = (
            values[0].tolist() for values in (found.items, found.scores, found.because)
        )
        kept = [at for at, id_ in enumerate(listed) if id_ >= 0 and self._may(id_)]
        return (
            [listed[at] for at in kept],
            {listed[at]: scores[at] for at in kept},
            {listed[at]: because[at] for at in kept},
        )

    def _tell_of_gaps(self, count: int) -> None:
        asked, total = self.asked, len(self.places)
        if self.past.degraded is not None:
            self.notes.append(
                "the store cannot be read: this list is of what was known last"
                if self.past.interactions
                else "the store cannot be read: this list is what is popular with everyone"
            )
        if count >= asked.k:
            return
        passing = int((self.loaded.policy.allowed & self.loaded.catalogue.passing(asked.filters)).sum())
        what = "nothing is left" if count == 0 else f"only {count} of {asked.k} are left"
        cap = self.view.rules.max_per_genre
        least = "" if cap is None else f"; at most {cap} of a genre are in a list"
        self.notes.append(
            f"{what}: of {total} items {passing} pass the rules and filters, and of these {int(self.allowed.sum())} "
            f"are neither known to the user, nor excluded, nor resting{least}"
        )

    # --- what is told -------------------------------------------------------------------------------

    def _told(
        self, slot: Slot, new: dict[int, NewItem], scores: dict[int, float], because: dict[int, int]
    ) -> dict[str, Any]:
        item = self.loaded.catalogue.items.get(slot.item) or new[slot.item]
        score = scores.get(slot.item)
        told: dict[str, Any] = {
            "item": slot.item,
            **({"key": item.key} if isinstance(item, Item) and item.key is not None else {}),
            "title": item.title,
            "genres": list(item.genres),
            "year": item.year,
            "score": None if score is None else round(score, 6),
            "why": "popular" if slot.why == "model" and self.cold else slot.why,
        }
        if self.asked.explain:
            told["reason"] = self._reason(slot, because.get(slot.item, -1))
        return told

    def _reason(self, slot: Slot, because: int) -> dict[str, Any]:
        if slot.why != "model":
            text = "chosen by the house" if slot.why == "pinned" else "new here"
            return {"item": None, "text": text}
        if because < 0:
            text = (
                "popular with everyone"
                if self.cold
                else "popular; nothing of what you did speaks for it or against"
            )
            return {"item": None, "text": text}
        cause = self.loaded.catalogue.items[because]
        rating = next((one.rating for one in reversed(self.past.interactions) if one.item == because), None)
        title = title_of(cause.title, cause.year)
        if rating is None:
            return {"item": because, "text": f"because of {title}"}
        return {"item": because, "rating": rating, "text": f"because you rated {title} {rating:g}"}


def _disliked(interactions: Sequence[Interaction], least: float | None) -> set[int]:
    """Items whose last rating is below ``least``."""
    if least is None:
        return set()
    last = {one.item: one.rating for one in interactions if one.rating is not None}
    return {item for item, rating in last.items() if rating < least}


def told_interaction(
    one: Interaction, titles: Callable[[int], tuple[str | None, int | None]]
) -> dict[str, Any]:
    """An interaction as JSON has it.

    Args:
        one: The interaction.
        titles: Title and year of an item, or None.
    """
    title, year = titles(one.item)
    return {
        "item": one.item,
        "title": title,
        "year": year,
        "time": one.time,
        "rating": one.rating,
        "event": one.event,
        "id": one.id,
    }
