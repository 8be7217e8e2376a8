"""Searches try what the space allows and return the best of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from penstock.config import Candidate, Grid, Range, Search
from penstock.errors import PenstockError
from penstock.validation import search

CANDIDATE = Candidate(
    model="lightgbm",
    space={
        "num_leaves": Range(kind="int", low=2, high=64, log=True, grid_points=6),
        "learning_rate": Range(kind="float", low=0.01, high=0.1, grid_points=2),
        "extra_trees": Grid(kind="choice", values=(True, False)),
    },
)


def near_eight(settings: Sequence[search.Setting]) -> list[float]:
    return [
        -abs(float(setting["num_leaves"] or 0) - 8) + 100 * bool(setting["extra_trees"])
        for setting in settings
    ]


def best(name: Any, seed: int = 0, trials: int = 30) -> search.Setting:
    return search.best(CANDIDATE, Search(name=name, trials=trials), near_eight, name="c", seed=seed)


def test_a_grid_is_the_product_of_its_axes() -> None:
    found = search.settings(CANDIDATE, Search(name="grid"), name="c", seed=0)
    assert found is not None
    assert len(found) == 6 * 2 * 2
    assert [setting["num_leaves"] for setting in found[::4]] == [2, 4, 8, 16, 32, 64]
    assert {setting["learning_rate"] for setting in found} == {0.01, 0.1}


@pytest.mark.parametrize("name", ["grid", "random", "optuna"])
def test_every_search_finds_the_neighbourhood_of_the_best_and_repeats_itself(name: str) -> None:
    found = best(name)
    assert found == best(name)
    assert found["extra_trees"] is True
    assert 5 <= float(found["num_leaves"] or 0) <= 12


def test_random_draws_stay_in_the_space_and_depend_on_the_seed() -> None:
    draws = [
        search.settings(CANDIDATE, Search(name="random", trials=50), name="c", seed=seed) for seed in (0, 1)
    ]
    assert draws[0] != draws[1]
    for setting in draws[0] or []:
        assert 2 <= float(setting["num_leaves"] or 0) <= 64
        assert isinstance(setting["num_leaves"], int)
        assert 0.01 <= float(setting["learning_rate"] or 0) <= 0.1


def test_equal_scores_go_to_the_first_and_nan_to_none() -> None:
    candidate = Candidate(model="knn", space={"n_neighbors": Grid(kind="choice", values=(1, 2, 3))})
    chosen = search.best(candidate, Search(name="grid"), lambda _: [float("nan"), 1.0, 1.0], name="c", seed=0)
    assert chosen == {"n_neighbors": 2}


def test_nothing_to_search_is_one_empty_setting() -> None:
    assert search.settings(Candidate(model="knn"), Search(name="optuna"), name="c", seed=0) == [{}]
    assert search.settings(CANDIDATE, Search(name="none"), name="c", seed=0) == [{}]


def test_a_huge_grid_is_refused() -> None:
    wide = {f"p{i}": Range(kind="float", low=0, high=1, grid_points=11) for i in range(3)}
    with pytest.raises(PenstockError, match="1331 settings"):
        search.settings(Candidate(model="knn", space=wide), Search(name="grid"), name="c", seed=0)
