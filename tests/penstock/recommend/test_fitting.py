"""Fitted weights against what their papers say, written out densely or one place at a time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from penstock.config import Ease, InteractionScoring, InteractionTrain, ItemKnn, Popularity, Transitions
from penstock.errors import PenstockError
from penstock.recommend import search
from penstock.recommend.fitting import (
    co_occurrences,
    ease,
    item_knn,
    popularity,
    settings_of,
    similarities,
    successions,
    transitions,
)
from penstock.recommend.interactions import Cases, Catalogue, Histories
from penstock.recommend.training import Problem, as_frame, from_frame, likeness, lists_by_item, prune

ITEMS = 12
TRAIN = InteractionTrain(neighbours=5, max_history=4, factors=3)


def histories(count: int = 30, seed: int = 0) -> Histories:
    draws = np.random.default_rng(seed)
    each = [draws.permutation(ITEMS)[: draws.integers(0, 9)] for _ in range(count)]
    starts = np.concatenate([[0], np.cumsum([len(one) for one in each])])
    places = np.concatenate(each).astype(np.int64)
    times = np.arange(len(places), dtype=np.int64) * 3_600_000_000
    return Histories([f"u{n:02}" for n in range(count)], places, times, starts, ITEMS)


PAST = histories()
X = PAST.matrix().toarray()


def test_ease_is_the_ridge_regression_of_each_column_on_the_others():
    weights = ease(co_occurrences(PAST), ridge=3.0)
    for column in range(ITEMS):
        others = [item for item in range(ITEMS) if item != column]
        A = X[:, others]
        expected = np.linalg.solve(A.T @ A + 3.0 * np.eye(ITEMS - 1), A.T @ X[:, column])
        np.testing.assert_allclose(weights[others, column], expected, atol=1e-5)
    assert (weights.diagonal() == 0).all()


@pytest.mark.parametrize(("past", "future"), [(2.0, 0.5), (1.0, 3.0)])
def test_transitions_are_the_regression_of_what_comes_next_on_what_came_before(past, future):
    gram, onwards = np.zeros((ITEMS, ITEMS)), np.zeros((ITEMS, ITEMS))
    for user in range(len(PAST.users)):
        own = PAST.of(user)
        for at in range(len(own)):
            x, y = np.zeros(ITEMS), np.zeros(ITEMS)
            for steps, item in enumerate(own[:at][::-1]):
                x[item] += 2 ** (-steps / past) if 2 ** (-steps / past) > 0.01 else 0
            for steps, item in enumerate(own[at:]):
                y[item] += 2 ** (-steps / future) if 2 ** (-steps / future) > 0.01 else 0
            gram += np.outer(x, x)
            onwards += np.outer(x, y)
    found = successions(PAST, past=past, future=future)
    np.testing.assert_allclose(found[0], gram, atol=0.05)
    np.testing.assert_allclose(found[1], onwards, atol=0.05)
    expected = np.linalg.solve(found[0] + 2.0 * np.eye(ITEMS), found[1])
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(transitions(*found, ridge=2.0), expected, atol=1e-4)


def test_transitions_know_which_way_time_goes():
    each = [np.array([0, 1, 2])] * 20
    starts = np.arange(0, 63, 3)
    chain = Histories(["u"] * 20, np.concatenate(each), np.arange(60), starts, 3)
    weights = transitions(*successions(chain, past=1.0, future=0.5), ridge=1.0)
    assert weights[0, 1] > 0.5 > abs(weights[1, 0])
    assert weights[1, 2] > 0.5 > abs(weights[2, 1])


def test_cosines_are_shrunk_and_the_largest_of_a_column_stay():
    gram = co_occurrences(PAST)
    np.testing.assert_array_equal(gram, X.T @ X)
    found = item_knn(gram, shrinkage=2.0, neighbours=3)
    for column in range(ITEMS):
        cosine = np.array(
            [
                gram[row, column] / (np.sqrt(gram[row, row] * gram[column, column]) + 2.0)
                for row in range(ITEMS)
            ]
        )
        cosine[column] = 0
        third = np.sort(cosine)[-3]
        np.testing.assert_allclose(found[:, column], np.where(cosine >= third, cosine, 0), atol=1e-6)


def test_popularity_of_late_counts_more_by_its_half_life():
    times = np.array([0, 0, 30], dtype=np.int64) * 86_400_000_000
    seen = Histories(["a", "b"], np.array([0, 1, 1]), times, np.array([0, 1, 3]), 3)
    np.testing.assert_allclose(popularity(seen, half_life=None), [1, 2, 0])
    np.testing.assert_allclose(popularity(seen, half_life=15.0), [0.25, 1.25, 0])


@pytest.mark.parametrize(
    "candidate",
    [
        ItemKnn(kind="item_knn", shrinkage=(1.0,), neighbours=(4,), half_lives=(2.0,)),
        Ease(kind="ease", ridge=(1.0,), half_lives=(None,)),
        Transitions(kind="transitions", past=(2.0,), future=(1.0,), ridge=(1.0,)),
    ],
    ids=lambda candidate: candidate.kind,
)
def test_the_search_judges_the_very_lists_that_the_artefact_gives(candidate):
    (fitted,) = similarities(candidate, settings_of(candidate), PAST)
    counts = np.maximum(X.sum(axis=0), 1).astype(np.int64)
    order = np.argsort(-counts, kind="stable")
    items = Catalogue(np.arange(100, 100 + ITEMS), counts[order])
    pruned = prune(fitted.matrix, TRAIN.neighbours)
    users = np.arange(len(PAST.users))
    lists = lists_by_item(pruned, fitted.half_life, PAST, users, train=TRAIN, depth=6)
    frame = as_frame(items, pruned, likeness(PAST, [[]] * ITEMS, TRAIN, 1))
    model = from_frame(frame, half_life=fitted.half_life, train=TRAIN, pool=10)
    for user in users:
        given = model.recommend(items.ids[PAST.of(int(user))], k=6)
        expected = np.where(lists[user] >= 0, items.ids[lists[user]], -1)
        np.testing.assert_array_equal(given.items[0], expected)


def test_pruning_keeps_the_strongest_and_tells_how_much_that_is():
    matrix = np.array([[0, 3, -4, 1], [2, 0, 0, 0], [1, 1, 0, 8], [0, 0, 0, 0]], dtype=np.float32)
    pruned = prune(matrix, 2)
    assert pruned.neighbours[0].tolist() == [1, 2]
    assert pruned.weights[0].tolist() == [3, -4]
    assert sorted(pruned.neighbours[1].tolist()) == [0, 4]
    assert pruned.neighbours[3].tolist() == [4, 4]
    assert pruned.kept == pytest.approx((7 + 2 + 9) / 20)


def test_items_are_alike_by_who_took_both_and_by_genre():
    genres = [["x"], ["x"], ["y"], *[["z"]] * (ITEMS - 3)]
    vectors = likeness(PAST, genres, InteractionTrain(factors=3, genre_weight=1.0), 1)
    assert (vectors[0] @ vectors[1], vectors[0] @ vectors[2]) == pytest.approx((1, 0))
    mixed = likeness(PAST, genres, InteractionTrain(factors=3, genre_weight=0.5), 1)
    np.testing.assert_allclose((mixed**2).sum(axis=1), 1, atol=0.01)
    np.testing.assert_array_equal(mixed, likeness(PAST, genres, InteractionTrain(factors=3), 1))


def test_a_grid_is_every_combination_with_those_of_one_fit_together():
    grid = settings_of(Ease(kind="ease", ridge=(1.0, 2.0), half_lives=(None, 3.0)))
    assert [list(one.values()) for one in grid] == [[1.0, None], [1.0, 3.0], [2.0, None], [2.0, 3.0]]


def posed() -> Problem:
    last = np.array([PAST.of(user)[-1] if len(PAST.of(user)) else 0 for user in range(len(PAST.users))])
    items = Catalogue(np.arange(ITEMS), np.ones(ITEMS, dtype=np.int64))
    keep = np.flatnonzero(PAST.lengths > 1)
    wanted = [np.array([(last[user] + 1) % ITEMS]) for user in keep]
    return Problem(items, PAST, Cases(keep, wanted), [[]] * ITEMS)


def test_the_best_that_is_no_baseline_is_chosen_though_a_baseline_be_better():
    trials = [
        search.Trial(candidate="als", settings={"a": 1}, metrics={"ndcg": 0.9}),
        search.Trial(candidate="ease", settings={"a": 1}, metrics={"ndcg": 0.2}),
        search.Trial(candidate="ease", settings={"a": 2}, metrics={"ndcg": 0.3}),
        search.Trial(candidate="ease", settings={"a": 3}, metrics={"ndcg": 0.3}),
        search.Trial(candidate="knn", settings={"a": 1}, metrics={"ndcg": 0.1}),
    ]
    from penstock.config import Als

    candidates = {"als": Als(kind="als"), "ease": Ease(kind="ease"), "knn": ItemKnn(kind="item_knn")}
    selection = search.select(trials, candidates, "ndcg")
    assert selection.winner == "ease"
    assert selection.candidates["ease"].settings == {"a": 2}
    with pytest.raises(PenstockError, match="all are baselines"):
        search.select(trials[:1], candidates, "ndcg")


def test_a_search_tries_every_setting_and_the_others_recommend_to_all():
    candidates = {
        "popular": Popularity(kind="popularity", half_lives=(None, 30.0)),
        "ease": Ease(kind="ease", ridge=(1.0, 5.0), half_lives=(None, 1.0)),
    }
    problem = posed()
    seen = []
    trials = search.search(
        candidates, problem, train=TRAIN, scoring=InteractionScoring(k=3), seed=1, advance=seen.append
    )
    assert [trial.candidate for trial in trials] == ["popular"] * 2 + ["ease"] * 4
    assert len(seen) == 6
    selection = search.select(trials, candidates, "ndcg")
    others = search.lists_of_others(selection, candidates, problem, train=TRAIN, depth=4, seed=1)
    assert others["model"].unique().to_list() == ["popular"]
    assert others.height == len(problem.cases.users)
    for user, items in others.select("user", "items").iter_rows():
        seen_items = set(PAST.of(int(user[1:])).tolist())
        assert not seen_items & set(items)
        assert len(items) == 4
    table = search.as_table(trials)
    assert table["settings"].to_list()[2:4] == ["ridge 1, half_life none", "ridge 1, half_life 1"]


def test_factors_by_least_squares_are_the_same_every_time_and_no_worse_than_chance():
    from penstock.recommend.fitting import als

    chosen = {"factors": 4, "regularisation": 0.1, "alpha": 5.0, "iterations": 5, "seed": 7}
    one, other = als(PAST, **chosen), als(PAST, **chosen)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    scores = one[0] @ one[1].T
    taken = X.astype(bool)
    assert scores[taken].mean() > scores[~taken].mean() + 0.3


def test_every_pair_of_settings_differs():
    grid = settings_of(Transitions(kind="transitions"))
    assert all(one != other for one, other in itertools.combinations(grid, 2))
