"""Figures of answers to pictures: as scikit-learn has them; intervals that cover; a test that is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from penstock.config import ImageScoring
from penstock.vision import judging

SCORING = ImageScoring(top=3, calibration_bins=10)


def _answers(seed: int, n: int = 400, classes: int = 6, sharpness: float = 2.0) -> tuple[Any, Any]:
    """Logits that are right more often than not, and the truth."""
    draws = np.random.default_rng(seed)
    y = draws.integers(0, classes, n)
    logits = draws.normal(size=(n, classes)) + sharpness * np.eye(classes)[y]
    return logits, y


@pytest.mark.parametrize("classes", [2, 6])
def test_figures_are_those_of_scikit_learn(classes: int) -> None:
    logits, y = _answers(1, classes=classes)
    probabilities = softmax(logits, axis=1)
    chosen = probabilities.argmax(axis=1)
    found = judging.measure(y, probabilities, SCORING)
    assert found["top1"] == pytest.approx(sk.accuracy_score(y, chosen))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, chosen))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y, chosen, average="macro", zero_division=0)
    assert found["precision_macro"] == pytest.approx(precision)
    assert found["recall_macro"] == pytest.approx(recall)
    assert found["f1_macro"] == pytest.approx(f1)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y, probabilities))
    brier = sum(sk.brier_score_loss(y == k, probabilities[:, k]) for k in range(classes))
    assert found["brier"] == pytest.approx(brier)
    if classes > 3:
        expected = sk.top_k_accuracy_score(y, probabilities, k=3)
        assert found["topk"] == pytest.approx(expected)
    else:
        assert found["topk"] == 1.0


def test_a_class_that_does_not_occur_changes_no_average() -> None:
    logits, y = _answers(2, classes=5)
    probabilities = softmax(logits, axis=1)
    wider = np.column_stack([probabilities, np.zeros(len(y))])
    plain, with_absent = (judging.measure(y, p, SCORING) for p in (probabilities, wider))
    assert with_absent == pytest.approx(plain)


def test_sure_mistake_has_a_finite_loss() -> None:
    found = judging.measure(np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]), SCORING)
    assert np.isfinite(found["log_loss"])
    assert found["top1"] == 0.5
    assert found["ece"] == pytest.approx(0.5)


def test_topk_counts_a_tie_once() -> None:
    even = np.full((4, 4), 0.25)
    y = np.arange(4)
    assert [judging.topk(y, even, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]
    assert judging.topk(y, even, 1) == judging.measure(y, even, SCORING)["top1"]


def test_per_class_is_that_of_scikit_learn() -> None:
    logits, y = _answers(3, classes=4)
    chosen = logits.argmax(axis=1)
    table = judging.per_class(y, chosen, ("a", "b", "c", "d"))
    precision, recall, f1, support = sk.precision_recall_fscore_support(y, chosen)
    np.testing.assert_allclose(table["precision"], precision)
    np.testing.assert_allclose(table["recall"], recall)
    np.testing.assert_allclose(table["f1"], f1)
    np.testing.assert_array_equal(table["support"], support)
    np.testing.assert_array_equal(judging.confusion_matrix(y, chosen, 4), sk.confusion_matrix(y, chosen))


def test_what_a_class_is_mistaken_for() -> None:
    y, chosen = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 1, 2, 2, 1, 2])
    table = judging.per_class(y, chosen, ("a", "b", "c"))
    assert table["mistaken_for"].to_list() == ["c", None, None]


def test_calibration_error_of_two_bins_by_hand() -> None:
    # Three answers at 0.9, two right; two at 0.6, one right.
    top = np.array([0.9, 0.9, 0.9, 0.6, 0.6])
    probabilities = np.column_stack([top, 1 - top])
    y = np.array([0, 0, 1, 0, 1])
    expected = 3 / 5 * abs(0.9 - 2 / 3) + 2 / 5 * abs(0.6 - 1 / 2)
    assert judging.expected_calibration_error(y, probabilities, 10) == pytest.approx(expected)
    assert judging.reliability(y, probabilities, 10)["count"].to_list() == [2, 3]


# --- how sure ---------------------------------------------------------------------------------------


def test_interval_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        found = judging.top1_interval(draws.uniform(size=300) < 0.8, confidence=0.9, seed=seed)
        covered += found.low <= 0.8 <= found.high
    assert 0.83 <= covered / 200 <= 0.96


def test_interval_is_that_of_resampled_pictures() -> None:
    right = np.random.default_rng(5).uniform(size=200) < 0.7
    found = judging.top1_interval(right, confidence=0.95, seed=1)
    resamples = np.random.default_rng(2).integers(0, 200, (4000, 200))
    low, high = np.quantile(right[resamples].mean(axis=1), [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.011)
    assert found.high == pytest.approx(high, abs=0.011)
    assert found == judging.top1_interval(right, confidence=0.95, seed=1)


def test_pairs_are_resampled_as_pairs() -> None:
    """Two networks that agree nearly always differ less than their own intervals are wide."""
    draws = np.random.default_rng(6)
    first = draws.uniform(size=500) < 0.7
    second = first.copy()
    second[np.flatnonzero(first)[:20]] = False
    found = judging.compare(first, second, confidence=0.95, seed=1)
    resamples = draws.integers(0, 500, (4000, 500))
    low, high = np.quantile((first[resamples].mean(axis=1) - second[resamples].mean(axis=1)), [0.025, 0.975])
    assert found.difference == pytest.approx(0.04)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.005), pytest.approx(high, abs=0.005))
    assert found.low > 0
    assert (found.only_first, found.only_second) == (20, 0)
    assert found.p == pytest.approx(2 * 0.5**20)


def test_mcnemar_by_hand() -> None:
    first = np.array([True] * 6 + [False] * 2 + [True] * 5)
    second = np.array([False] * 6 + [True] * 2 + [True] * 5)
    found = judging.compare(first, second, confidence=0.95, seed=0)
    # P(at most 2 or at least 6 heads in 8 tosses) = 2 · (1 + 8 + 28) / 256
    assert found.p == pytest.approx(74 / 256)
    turned = judging.compare(second, first, confidence=0.95, seed=0)
    assert turned.p == found.p
    assert turned.difference == -found.difference


def test_equal_answers_do_not_differ() -> None:
    right = np.array([True, False, True])
    found = judging.compare(right, right, confidence=0.95, seed=0)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_only_pairs_that_are_there_are_compared() -> None:
    right = {"finetune": np.array([True, True]), "head": np.array([True, False])}
    found = judging.compare_all(
        right, [("finetune", "head"), ("finetune", "scratch")], confidence=0.95, seed=0
    )
    assert list(found) == ["finetune_head"]


def test_errors_are_ranked_by_confidence() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]])
    y = np.array([0, 1, 0, 1])
    assert judging.most_confident_errors(y, probabilities, 2).tolist() == [2, 3]
    assert judging.most_confident_errors(y, probabilities, 9).tolist() == [2, 3, 1]
