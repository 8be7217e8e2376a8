"""On pure noise the honest order scores 0.5. Resampling, encoding or selecting before splitting does not.

The tables hold nothing about their target: the true AUC is 0.5. Each leak is built with the plain tools of
imbalanced-learn and scikit-learn in the order in which it is found in the wild.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from imblearn.over_sampling import SMOTE, RandomOverSampler
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

from penstock.config import Candidate, Features, Sampler, Scoring, Search, Splitter
from penstock.features.columns import Columns
from penstock.validation import leaderboard
from penstock.validation.fitting import Table
from penstock.validation.judging import Plan
from penstock.validation.metrics import Summary
from penstock.validation.parallel import workers

ROWS, NOISE, CATEGORIES = 600, 60, 250
SPLITTER = Splitter(n_splits=5, n_repeats=2)
FOREST = Candidate(model="random_forest", params={"n_estimators": 30, "min_samples_leaf": 1})


def noise() -> Table:
    draws = np.random.default_rng(3)
    frame = pl.DataFrame(
        {f"x{i}": draws.normal(size=ROWS).astype(np.float32) for i in range(NOISE)}
    ).with_columns(pl.Series("code", [f"c{k}" for k in draws.integers(0, CATEGORIES, ROWS)]))
    numeric = tuple(f"x{i}" for i in range(NOISE))
    columns = Columns(
        numeric=numeric,
        categorical=("code",),
        cardinality={"code": frame["code"].n_unique()},
        target="y",
        task="binary",
        classes=("n", "p"),
    )
    y = np.zeros(ROWS, dtype=np.int64)
    y[draws.choice(ROWS, ROWS // 8, replace=False)] = 1
    return Table(frame, y, columns, None, None, 0)


def ours(table: Table, candidate: Candidate, features: Features, sampler: Sampler) -> Summary:
    plan = Plan(SPLITTER, Search(name="none"), Scoring(metric="roc_auc", threshold="default"))
    with workers(1, []) as spread:
        found = leaderboard.build(
            table,
            plan,
            {"model": candidate},
            features=features,
            sampler=sampler,
            compare_samplers=(),
            spread=spread,
            advance=lambda _: None,
        )
    return found.winner.summaries["roc_auc"]


def numbers(table: Table) -> NDArray[np.float32]:
    return table.frame.select(table.columns.numeric).to_numpy()


def score(model: object, x: NDArray[np.float32], y: NDArray[np.int64]) -> float:
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(model, x, y, cv=folds, scoring="roc_auc").mean())


def oversampled_first(table: Table) -> float:
    x, y = RandomOverSampler(random_state=0).fit_resample(numbers(table), table.y)
    return score(RandomForestClassifier(30, random_state=0), x, y)


def smoted_first(table: Table) -> float:
    x, y = SMOTE(random_state=0).fit_resample(numbers(table), table.y)
    return score(RandomForestClassifier(30, random_state=0), x, y)


def target_encoded_first(table: Table) -> float:
    mean = (
        pl.Series("y", table.y)
        .to_frame()
        .with_columns(table.frame["code"])
        .select(pl.col("y").mean().over("code"))
    )
    return score(LogisticRegression(), mean.to_numpy().astype(np.float32), table.y)


def selected_first(table: Table) -> float:
    return score(LogisticRegression(), SelectKBest(k=10).fit_transform(numbers(table), table.y), table.y)


@pytest.mark.parametrize(
    ("leaky", "candidate", "features", "sampler"),
    [
        (oversampled_first, FOREST, Features(encode="ordinal"), Sampler(name="random_over")),
        (smoted_first, FOREST, Features(encode="ordinal"), Sampler(name="smote")),
        (target_encoded_first, Candidate(model="logistic"), Features(encode="target"), Sampler()),
        (
            selected_first,
            Candidate(model="logistic"),
            Features(encode="target", reduce="select", components=10),
            Sampler(),
        ),
    ],
)
def test_the_leaky_order_invents_a_signal_and_ours_does_not(
    leaky: Callable[[Table], float], candidate: Candidate, features: Features, sampler: Sampler
) -> None:
    table = noise()
    honest = ours(table, candidate, features, sampler)
    assert honest.low < 0.5 < honest.high
    assert abs(honest.mean - 0.5) < 0.08
    assert leaky(table) > max(0.6, honest.high)


def test_scaling_before_splitting_lets_the_test_rows_speak() -> None:
    """Scaling alone moves no AUC here: its leak is that the training matrix knows of the test rows."""
    from penstock.validation import fitting

    table = noise()
    half = np.arange(ROWS // 2)
    rest = np.arange(ROWS // 2, ROWS)
    apart = fitting.prepare(table, half, rest, Features(), Sampler()).train
    together = fitting.prepare(table, np.arange(ROWS), rest[:0], Features(), Sampler()).train[half]
    assert np.abs(apart[:, :NOISE].mean(axis=0)).max() < 1e-6
    assert np.abs(together[:, :NOISE].mean(axis=0)).max() > 0.01
