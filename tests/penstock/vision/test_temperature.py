"""The temperature that makes probabilities honest, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from penstock.vision.temperature import fit_temperature, measure, negative_log_likelihood, probabilities


def honest(temperature: float, pictures: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times too confident, and classes drawn by the honest ones."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(pictures, 4)) * 2
    odds = softmax(logits, axis=1).cumsum(axis=1)
    codes = (random.random((pictures, 1)) > odds).sum(axis=1)
    return (logits * temperature).astype(np.float32), codes


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_that_was_put_in_comes_out(temperature):
    assert fit_temperature(*honest(temperature)) == pytest.approx(temperature, rel=0.03)


@given(seed=st.integers(0, 10_000), pictures=st.integers(2, 60), scale=st.floats(0.1, 30))
@settings(max_examples=60, deadline=None)
def test_no_other_temperature_is_better(seed, pictures, scale):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(pictures, 3)) * scale
    codes = random.integers(0, 3, pictures)
    found = fit_temperature(logits, codes)
    if found == 1.0:
        assert (logits.argmax(axis=1) == codes).all()
        return
    best = negative_log_likelihood(logits, codes, found)
    for other in np.geomspace(0.05, 20, 80):
        assert best <= negative_log_likelihood(logits, codes, other) + 1e-6


def test_without_an_error_there_is_nothing_to_learn():
    logits = np.eye(3, dtype=np.float32)
    assert fit_temperature(logits, np.arange(3)) == 1.0
    assert fit_temperature(logits[:0], np.arange(0)) == 1.0


def test_the_worst_guesses_stay_within_bounds():
    logits = np.eye(3, dtype=np.float32)[[1, 2, 0]] * 9
    assert fit_temperature(logits, np.arange(3)) == pytest.approx(20, rel=1e-3)


def test_figures_of_logits():
    logits = np.log(np.array([[0.5, 0.5, 1e-9], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]))
    codes = np.array([0, 1, 1])
    found = measure(logits, codes, 1.0)
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["log_loss"] == pytest.approx(-np.log([0.5, 0.7, 0.3]).mean())
    assert measure(logits[:0], codes[:0], 1.0) == {"top1": None, "log_loss": None}
    assert probabilities(logits, 1.0)[2] == pytest.approx([0.6, 0.3, 0.1])
