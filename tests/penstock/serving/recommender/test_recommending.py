"""Lists: the model's order, filters, rules, new items and reasons."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config.serving.recommender import Exploration, Recommend
from penstock.serving.recommender.catalogue import Filters
from penstock.serving.recommender.exploration import chosen, explores
from penstock.serving.recommender.loaded import Model, open_loaded
from penstock.serving.recommender.recommending import Answer, Asked, Recommender
from penstock.serving.recommender.rules import Policy, Slot, arranged
from penstock.serving.recommender.store import (
    Added,
    Interaction,
    NewItem,
    Store,
    StoreDownError,
)
from tests.penstock.serving.recommender.recommenders import COUNT, genres, place


class InMemory(Store):
    """A stand-in that can be down at will; what real stores do is tested with them."""

    def __init__(self) -> None:
        self.done: list[Interaction] = []
        self.new: list[NewItem] = []
        self.was_shown: dict[int, int] = {}
        self.down = False

    def _up(self) -> None:
        if self.down:
            raise StoreDownError("down")

    async def add(self, interactions, keep):  # noqa: ARG002
        self.done += interactions
        return Added(len(interactions), 0)

    async def history(self, user):
        self._up()
        return [one for one in self.done if one.user == user]

    async def items(self):
        self._up()
        return self.new

    async def shown(self, user, since):  # noqa: ARG002
        self._up()
        return self.was_shown

    async def remove(self, user, item, time): ...
    async def forget(self, user): ...
    async def register(self, items, most): ...
    async def withdraw(self, item): ...
    async def show(self, impressions, keep_ms): ...
    async def close(self): ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ring"
    place(folder)
    return folder


class Here:
    """A recommender without a server. It explores nothing, unless it is told to."""

    def __init__(self, folder, **changes: Any) -> None:
        self.view = Recommend.model_validate(
            {"model": str(folder), "exploration": {"share": 0, "cold_share": 0}} | changes
        )
        self.store = InMemory()
        self.model = Model.__new__(Model)  # without its thread, which loads others
        self.model._now = open_loaded(self.view)
        self.recommender = Recommender(self.view, self.model, self.store)

    def did(self, *items: int, rating: float | None = None) -> None:
        self.store.done += [Interaction("a", item, 100 + at, rating) for at, item in enumerate(items)]

    def asked(self, request: str = "r", **more: Any) -> Answer:
        asked = Asked("a", request, **({"k": 5} | more))
        return asyncio.run(self.recommender.recommend(asked))

    def items(self, **more: Any) -> list[int]:
        return [item["item"] for item in self.asked(**more).items]


# --- the model --------------------------------------------------------------------------------------


def test_a_new_user_is_shown_what_is_popular(folder):
    answer = Here(folder).asked(explain=True)
    assert [item["item"] for item in answer.items] == [0, 1, 2, 3, 4]
    assert answer.cold
    assert answer.items[0]["why"] == "popular"
    assert answer.items[0]["reason"]["text"] == "popular with everyone"


def test_what_was_done_decides_and_is_not_shown_again(folder):
    here = Here(folder)
    here.did(10)
    assert here.items() == [11, 12, 13, 14, 15]
    here.did(12)
    assert here.items()[0] == 13  # half of 10's vote, all of 12's
    assert {10, 12}.isdisjoint(here.items(k=30))


def test_what_the_model_does_not_know_is_kept_and_says_nothing(folder):
    here = Here(folder)
    here.did(5000)
    assert here.asked().cold
    here.did(10, 6000)
    assert here.items() == [11, 12, 13, 14, 15]


def test_what_was_rated_low_has_no_vote_and_is_not_shown(folder):
    here = Here(folder, history={"min_rating": 3})
    here.did(0, 1, rating=1.0)
    answer = here.asked()
    assert answer.cold
    assert [item["item"] for item in answer.items] == [2, 3, 4, 5, 6]
    # The last rating counts, whichever way a mind was changed.
    here.did(10, rating=5.0)
    assert here.items()[0] == 11
    here.did(10, rating=2.0)
    assert here.asked().cold


def test_a_history_longer_than_the_model_takes_is_masked_all_the_same(folder):
    here = Here(folder)
    for _ in range(2):
        here.did(*range(35), *range(35))  # 140, where a request may have 50
    assert set(here.items(k=10)) == set(range(35, 40))


def test_the_reason_is_what_speaks_most_for_it(folder):
    here = Here(folder)
    here.did(10, rating=4.5)
    here.store.done.append(Interaction("a", 30, 500))
    reasons = {item["item"]: item["reason"] for item in here.asked(k=20, explain=True).items}
    assert reasons[11] == {"item": 10, "rating": 4.5, "text": "because you rated Film 10 (1990) 4.5"}
    assert reasons[31] == {"item": 30, "text": "because of Film 30 (2010)"}
    assert reasons[0]["item"] in {None, 30}
    assert "reason" not in here.asked().items[0]


# --- filters and rules ------------------------------------------------------------------------------


def test_what_is_excluded_or_filtered_is_not_shown(folder):
    here = Here(folder)
    here.did(10)
    assert here.items(exclude=frozenset({11, 13})) == [12, 14, 15, 16, 17]
    assert here.items(filters=Filters(genres=("Drama",)))[:3] == [12, 15, 18]
    assert here.items(filters=Filters(not_genres=("Drama",)))[:3] == [11, 13, 14]
    assert here.items(filters=Filters(year_from=1993, year_to=1994)) == [13, 14]


def test_a_list_that_is_short_says_why(folder):
    here = Here(folder)
    here.did(13)
    answer = here.asked(filters=Filters(year_from=1993, year_to=1994))
    assert [item["item"] for item in answer.items] == [14]
    assert answer.notes == [
        "only 1 of 5 are left: of 40 items 2 pass the rules and filters, and of these 1 are neither known to the user, nor excluded, nor resting"
    ]
    assert (
        here.asked(filters=Filters(year_from=3000)).notes[0].startswith("nothing is left: of 40 items 0 pass")
    )
    assert here.asked().notes == []


def test_the_rules_hold(folder):
    assert Here(folder, rules={"deny": [0, 2]}).items() == [1, 3, 4, 5, 6]
    assert Here(folder, rules={"allow": [7, 3, 9999]}).items() == [3, 7]
    assert Here(folder, rules={"allow": []}).items() == []
    assert Here(folder, rules={"genres": ["War"]}).items() == [2, 5, 8, 11, 14]
    assert Here(folder, rules={"not_genres": ["War", "Drama"]}).items() == [1, 4, 7, 10, 13]
    assert Here(folder, rules={"year_from": 1990, "year_to": 1992}).items() == [10, 11, 12]


def test_at_most_so_many_of_a_genre(folder):
    here = Here(folder, rules={"max_per_genre": 1})
    answer = here.asked()
    assert [item["item"] for item in answer.items] == [0, 1, 2]
    assert "at most 1 of a genre" in answer.notes[0]


def test_a_boost_moves_by_its_factor(folder):
    # From place 4 to 1, behind what is there; and from place 1 to 4, which is 3 as the others move up.
    assert Here(folder, rules={"boost": {3: 4}}).items() == [0, 3, 1, 2, 4]
    assert Here(folder, rules={"boost": {0: 0.25}}).items() == [1, 2, 0, 3, 4]
    # Beyond the end of the list too.
    assert 20 in Here(folder, rules={"boost": {20: 100}}).items()
    war = Here(folder, rules={"boost_genres": {"War": 100}}).items()
    assert war == [2, 5, 8, 11, 14]


def test_what_is_pinned_has_its_place_unless_something_is_against_it(folder):
    here = Here(folder, rules={"pin": [{"item": 30, "place": 2}]})
    assert here.items() == [0, 30, 1, 2, 3]
    assert here.asked(explain=True).items[1]["reason"]["text"] == "chosen by the house"
    assert here.items(k=1) == [0]
    assert 30 not in here.items(exclude=frozenset({30}))
    assert 30 not in here.items(filters=Filters(genres=("War",)))
    here.did(30)
    assert 30 not in here.items()


def test_what_is_pinned_may_be_new(folder):
    here = Here(folder, rules={"pin": [{"item": 777}]})
    assert here.items()[0] == 0
    here.store.new = [NewItem(777, "Brand new", (), None)]
    assert here.items()[0] == 0  # what was read a moment ago is not read again
    here.recommender.refresh()
    assert here.items() == [777, 0, 1, 2, 3]


def test_what_was_shown_too_often_rests(folder):
    here = Here(folder, rules={"rest": {"span": "7d", "after": 2}})
    here.store.was_shown = {0: 2, 1: 1}
    assert here.items() == [1, 2, 3, 4, 5]


def test_what_a_new_user_prefers_comes_sooner_and_is_forgotten_once_more_is_known(folder):
    here = Here(folder)
    assert here.items(prefer=("War",)) == [0, 2, 1, 5, 8]  # from places 3, 6 and 9 to 1, 2 and 3
    here.did(10)
    assert here.items(prefer=("War",)) == here.items()


def test_rules_that_name_what_does_not_exist_are_told_of(folder):
    here = Here(folder, rules={"deny": [0, 12345], "genres": ["Dramma", "War"], "boost": {777: 2}})
    assert here.model.now.policy.unknown() == ["genres: 'Dramma'", "deny: 12345", "boost: 777"]


@pytest.mark.parametrize(
    "rules",
    [
        {"year_from": 2000, "year_to": 1999},
        {"pin": [{"item": 1}, {"item": 2}]},
        {"pin": [{"item": 1, "place": 1}, {"item": 1, "place": 2}]},
        {"pin": [{"item": 1}], "deny": [1]},
        {"max_per_genre": 0},
        {"boost": {1: 0}},
        {"denny": [1]},
    ],
)
def test_rules_that_cannot_be_are_refused(rules):
    with pytest.raises(ValueError, match="rules"):
        Recommend.model_validate({"rules": rules})


ITEM = st.integers(0, COUNT + 3)
RULES = st.fixed_dictionaries(
    {},
    optional={
        "allow": st.lists(ITEM, min_size=5, max_size=30),
        "deny": st.lists(ITEM, max_size=10),
        "genres": st.lists(st.sampled_from(["Drama", "Comedy"]), min_size=1, max_size=2),
        "not_genres": st.just(["Comedy"]),
        "year_from": st.integers(1975, 2000),
        "max_per_genre": st.integers(1, 4),
        "boost": st.dictionaries(ITEM, st.floats(0.1, 10), max_size=4),
        "pin": st.lists(ITEM, max_size=1).map(lambda ids: [{"item": id_, "place": 2} for id_ in ids]),
    },
)


@settings(max_examples=40, deadline=None)
@given(
    rules=RULES,
    past=st.lists(ITEM, max_size=15),
    k=st.integers(1, 20),
    diversity=st.sampled_from([0.0, 0.4, 1.0]),
    exclude=st.frozensets(ITEM, max_size=5),
)
def test_no_rule_is_ever_broken_and_no_place_is_left_that_could_be_filled(
    folder, rules, past, k, diversity, exclude
):
    pinned = {pin["item"] for pin in rules.get("pin", ())}
    if pinned & set(rules.get("deny", ())):
        rules = rules | {"deny": []}
    here = Here(folder, rules=rules)
    here.did(*past)
    found = here.items(k=k, diversity=diversity, exclude=exclude)
    assert len(found) == len(set(found)) <= k

    def may(item: int) -> bool:
        return (
            item < COUNT
            and item not in past
            and item not in exclude
            and item in rules.get("allow", range(COUNT))
            and item not in rules.get("deny", ())
            and (genres(item)[0] in rules.get("genres", genres(item)))
            and genres(item)[0] not in rules.get("not_genres", ())
            and 1980 + item >= rules.get("year_from", 0)
        )

    assert all(may(item) for item in found)
    could = [item for item in range(COUNT) if may(item)]
    most = rules.get("max_per_genre")
    if most is None:
        assert len(found) == min(k, len(could))
    else:
        counts = Counter(genres(item)[0] for item in found)
        assert max(counts.values(), default=0) <= most
        left = sum(min(most, count) for count in Counter(genres(item)[0] for item in could).values())
        assert len(found) == min(k, left)


def test_places_around_those_that_are_fixed():
    slots = arranged([1, 2, 3], 4, {1: Slot(9, "new"), 7: Slot(8, "pinned")}, {}, None)
    assert [slot.item for slot in slots] == [1, 9, 2, 3]
    # A place behind the end of what is left.
    assert [slot.item for slot in arranged([1], 4, {3: Slot(9, "pinned")}, {}, None)] == [1, 9]
    # What is fixed counts for its genre.
    had = {1: ["War"], 2: ["Drama"], 9: ["War"]}
    assert [slot.item for slot in arranged([1, 2], 3, {0: Slot(9, "new")}, had, 1)] == [9, 2]


def test_rules_say_of_a_new_item_what_they_say_of_others(folder):
    def allows(item: NewItem, **rules: Any) -> bool:
        here = Here(folder, rules=rules)
        return Policy(here.view.rules, here.model.now.catalogue).allows(item)

    item = NewItem(777, "New", ("War",), 2020)
    assert allows(item)
    assert not allows(item, deny=[777])
    assert not allows(item, allow=[1])
    assert not allows(item, genres=["Drama"])
    assert not allows(item, not_genres=["War"])
    assert not allows(item, year_to=2019)
    assert not allows(NewItem(777, "New", ("War",), None), year_from=1900)


# --- new items --------------------------------------------------------------------------------------


def test_a_share_of_lists_has_a_new_item(folder):
    here = Here(folder, exploration={"share": 0.25, "cold_share": 1.0, "place": 3})
    here.store.new = [NewItem(777, "New", ("War",), 2020)]
    answer = here.asked()
    assert [item["item"] for item in answer.items] == [0, 1, 777, 2, 3]
    assert (answer.items[2]["why"], answer.items[2]["score"], answer.explored) == ("new", None, 777)
    here.did(10)
    lists = [here.asked(f"r{number}") for number in range(300)]
    explored = sum(answer.explored is not None for answer in lists)
    assert 45 <= explored <= 107  # 75 ± 4.3 standard deviations
    assert here.asked("r7").items == here.asked("r7").items  # the same request, the same list
    here.store.done.append(Interaction("a", 777, 999))
    assert not any(777 in here.items(request=f"r{number}") for number in range(50))


def test_a_new_item_has_to_pass_filters(folder):
    here = Here(folder, exploration={"cold_share": 1.0})
    here.store.new = [NewItem(777, "New", ("War",), 2020), NewItem(5, "What the model knows", (), None)]
    assert 777 not in here.items(filters=Filters(genres=("Drama",)))
    assert 777 in here.items(filters=Filters(genres=("War",)))
    assert here.items(exclude=frozenset({777})) == [0, 1, 2, 3, 4]


def test_thompson_finds_the_item_that_is_clicked():
    view = Exploration(share=1.0)
    rates = {1: 0.05, 2: 0.3, 3: 0.1}
    counts = {item: [0, 0] for item in rates}
    world = random.Random(7)
    for number in range(1500):
        items = [NewItem(item, "", (), None, *counts[item]) for item in rates]
        found = chosen(view, f"r{number}", items)
        assert found is not None
        counts[found.id][0] += 1
        counts[found.id][1] += world.random() < rates[found.id]
    shown = {item: count[0] for item, count in counts.items()}
    assert shown[2] > 1000, shown
    assert min(shown.values()) >= 5  # each has had its chance
    assert chosen(view, "r", []) is None


def test_none_and_all():
    assert not any(explores(Exploration(share=0, cold_share=0), f"r{n}", cold=n % 2 == 0) for n in range(200))
    assert all(explores(Exploration(share=1, cold_share=1), f"r{n}", cold=n % 2 == 0) for n in range(200))


# --- without the store ------------------------------------------------------------------------------


def test_while_the_store_is_down_the_last_that_was_known_answers_and_is_told_of(folder):
    here = Here(folder)
    here.did(10)
    before = here.items()
    here.store.down = True
    answer = here.asked()
    assert [item["item"] for item in answer.items] == before
    assert answer.degraded == "store"
    assert "of what was known last" in answer.notes[0]
    stranger = asyncio.run(here.recommender.recommend(Asked("b", "r", k=3)))
    assert [item["item"] for item in stranger.items] == [0, 1, 2]
    assert "popular with everyone" in stranger.notes[0]
    here.store.down = False
    here.did(20)
    assert here.items() != before
    assert here.asked().degraded is None


def test_what_is_remembered_is_bounded(folder, monkeypatch):
    monkeypatch.setattr("penstock.serving.recommender.recommending.REMEMBERED", 30)
    here = Here(folder)
    for user in "abcdefgh":
        here.store.done += [Interaction(user, item, 100 + item) for item in range(9)]
        for _ in range(2):
            asyncio.run(here.recommender.recommend(Asked(user, "r")))
    assert list(here.recommender._remembered) == ["f", "g", "h"]
    assert here.recommender._held == 30


def test_who_is_forgotten_is_not_remembered(folder):
    here = Here(folder)
    here.did(10)
    here.asked()
    here.recommender.forget("a")
    here.store.down = True
    assert here.items() == [0, 1, 2, 3, 4]
