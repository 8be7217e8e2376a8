"""The allow-list builds what is named, and refuses what is not."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from penstock.config import ModelName
from penstock.errors import PenstockError
from penstock.validation import estimators

CLASSIFIERS = set(typing.get_args(ModelName)) - {"linear", "ridge", "lasso", "elastic_net"}
REGRESSORS = set(typing.get_args(ModelName)) - {"logistic"}


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(120, 4)).astype(np.float32)
    return x, x[:, 0] + 0.1 * x[:, 1] ** 2


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_every_classifier_gives_the_same_probabilities_twice(name: str) -> None:
    x, value = data()
    y = (value > 0).astype(int)
    first, second = (
        estimators.build(name, "binary", {}, seed=7).fit(x, y).predict_proba(x) for _ in range(2)
    )
    assert np.array_equal(first, second)
    assert first.shape == (120, 2)


@pytest.mark.parametrize("name", sorted(REGRESSORS))
def test_every_regressor_fits_plain_and_on_a_log_target(name: str) -> None:
    x, value = data()
    y = np.exp(value)
    for log_target in (False, True):
        made = estimators.build(name, "regression", {}, seed=7, log_target=log_target).fit(x, y)
        assert made.predict(x).shape == (120,)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"num_leave": 4}, "did you mean 'num_leaves'"),
        ({"random_state": 4}, "Penstock sets it"),
        ({"n_jobs": 4}, "Penstock sets it"),
        ({"class_weight": "balanced"}, "no parameter 'class_weight'"),
    ],
)
def test_a_parameter_that_is_not_there_or_not_free_is_refused(
    params: dict[str, typing.Any], message: str
) -> None:
    with pytest.raises(PenstockError) as caught:
        estimators.build("lightgbm", "binary", params, seed=0)
    assert message in str(caught.value)


def test_an_unknown_model_is_refused_with_its_neighbour() -> None:
    with pytest.raises(PenstockError, match="did you mean 'lightgbm'"):
        estimators.build("ligthgbm", "binary", {}, seed=0)
    with pytest.raises(PenstockError, match="not for a regression"):
        estimators.build("logistic", "regression", {}, seed=0)


def test_modules_are_listed_once_without_importing_them() -> None:
    assert estimators.modules(["ridge", "lasso", "lightgbm"], "regression") == [
        "lightgbm",
        "sklearn.linear_model",
    ]
