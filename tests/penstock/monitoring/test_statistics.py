"""Formulas against libraries that have them, and against what must hold of them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from penstock.config.monitoring import Fairness
from penstock.monitoring import distances
from penstock.monitoring.coding import coding_of, granularity
from penstock.monitoring.comparison import weighted_auc
from penstock.monitoring.estimation import density_ratio
from penstock.monitoring.fairness import Group, difference, fairness_findings
from penstock.monitoring.sketch import GRID
from penstock.monitoring.trends import adwin, cusum, mann_kendall, theil_sen

counts = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(lambda values: sum(values) > 0)


@given(counts, st.data())
def test_distances_are_nothing_only_between_equals(left, data):
    right = data.draw(st.lists(st.integers(0, 500), min_size=len(left), max_size=len(left)).filter(sum))
    p, q = np.array(left, float), np.array(right, float)
    for measure in (
        distances.psi,
        distances.jensen_shannon,
        lambda a, b: distances.kolmogorov_smirnov(a, b, ordered=True),
    ):
        assert measure(p, p) == pytest.approx(0, abs=1e-7)
        assert measure(p, q) == pytest.approx(measure(q, p))
        assert measure(p, q) >= 0
    assert distances.jensen_shannon(p, q) <= 1 + 1e-9
    if not np.allclose(p / p.sum(), q / q.sum()):
        assert distances.jensen_shannon(p, q) > 0


@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=60),
    st.lists(st.integers(-50, 50), min_size=2, max_size=60),
)
def test_wasserstein_of_bins_with_one_value_each_is_scipys(left, right):
    grid = np.arange(-50, 51, dtype=float)
    p, q = (np.bincount(np.array(values) + 50, minlength=101).astype(float) for values in (left, right))
    found = distances.wasserstein(p, p * grid, q, q * grid)
    assert found == pytest.approx(stats.wasserstein_distance(left, right))


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=2, max_size=8))
def test_chi_squared_is_scipys(cells):
    table = np.array(cells, float).T
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return
    expected = stats.chi2_contingency(table, correction=False).pvalue
    assert distances.chi_squared(table[0], table[1]) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_benjamini_hochberg_is_statsmodels(p_values):
    expected = multipletests(p_values, method="fdr_bh")[1]
    assert distances.benjamini_hochberg(np.array(p_values)) == pytest.approx(expected)


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_the_area_under_the_curve_is_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    steps, positive = rng.integers(0, GRID, 80), rng.random(80) < 0.4
    if positive.all() or not positive.any():
        return
    ranking = np.stack([np.bincount(steps[positive == side], minlength=GRID) for side in (False, True)])
    assert weighted_auc(ranking.astype(float)) == pytest.approx(roc_auc_score(positive, steps))


def test_newcombes_interval_is_statsmodels():
    found = difference(45, 80, 30, 90)
    low, high = confint_proportions_2indep(45, 80, 30, 90, method="newcomb", alpha=2 * stats.norm.sf(2.576))
    assert found == pytest.approx((45 / 80 - 30 / 90, low, high), abs=1e-6)


def test_a_group_that_is_no_longer_selected_is_told_of_and_one_that_never_was_is_not():
    def group(rate):
        return Group(400, int(400 * rate), 0, 0, 0, 0)

    limits = Fairness(columns=("sex",))
    fair, unfair = {"f": group(0.3), "m": group(0.32)}, {"f": group(0.12), "m": group(0.32)}
    assert fairness_findings("sex", fair, fair, limits) == []
    assert [one.severity for one in fairness_findings("sex", fair, unfair, limits)] == ["warning"]
    assert [one.severity for one in fairness_findings("sex", unfair, unfair, limits)] == ["info"]


def test_mann_kendall_keeps_its_level_and_finds_a_ramp():
    rng = np.random.default_rng(0)
    level = np.mean([mann_kendall(rng.normal(size=24)) < 0.05 for _ in range(2000)])
    assert 0.03 < level < 0.06
    ramp = np.arange(24) * 0.2 + rng.normal(size=24)
    assert mann_kendall(ramp) < 1e-3
    assert theil_sen(np.arange(10) * 0.2) == pytest.approx(0.2)


def test_a_cumulative_sum_finds_what_stays_and_forgives_what_passes():
    rng = np.random.default_rng(1)
    errors = np.full(40, 0.1)
    quiet = rng.normal(1, 0.1, 40)
    assert cusum(quiet, errors, slack=0.75) < 9
    passing, staying = quiet.copy(), quiet.copy()
    passing[20] += 0.5
    staying[20:] += 0.25
    assert cusum(passing, errors, slack=0.75) < 9
    assert cusum(staying, errors, slack=0.75) > 9


def test_adaptive_windows_tell_of_the_window_in_which_the_error_rose():
    rng = np.random.default_rng(2)
    quiet = [list(rng.normal(0.4, 0.05, 50)) for _ in range(20)]
    assert adwin(quiet, delta=1e-4, scale=1.0) is None
    risen = [*quiet, *(list(rng.normal(0.7, 0.05, 50)) for _ in range(3))]
    first = next(count for count in range(21, 24) if adwin(risen[:count], delta=1e-4, scale=1.0) is not None)
    assert first <= 22
    fallen = [*quiet, *(list(rng.normal(0.1, 0.05, 50)) for _ in range(3))]
    assert all(adwin(fallen[:count], delta=1e-4, scale=1.0) is None for count in range(21, 24))


def test_weights_make_the_reference_look_like_the_window():
    rng = np.random.default_rng(3)
    reference, window = rng.normal(0, 1, (3000, 2)), rng.normal((0.7, 0), 1, (2000, 2))
    weights = density_ratio(reference, window)
    assert weights.mean() == pytest.approx(1)
    assert np.average(reference, axis=0, weights=weights) == pytest.approx([0.7, 0], abs=0.08)


@given(st.lists(st.one_of(st.none(), st.sampled_from([1.5, 2.25, -3.0, 7.125])), min_size=30, max_size=60))
def test_every_value_has_a_code(values):
    frame = pl.DataFrame({"x": pl.Series([1.0, 2.0, 3.5, 2.25] * 10)})
    coding = coding_of(frame, ["x"])
    codes, _ = coding.encode(pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)}))
    part = coding.parts[0]
    assert ((codes[:, 0] == part.codes - 1) == np.array([value is None for value in values])).all()
    assert ((codes[:, 0] >= 0) & (codes[:, 0] < part.codes)).all()


def test_text_where_numbers_were_is_not_known_and_not_missing():
    coding = coding_of(pl.DataFrame({"x": [1.5, 2.5, 3.5]}), ["x"])
    codes, _ = coding.encode(pl.DataFrame({"x": ["1.5", "2,5", None]}))
    part = coding.parts[0]
    assert codes[:, 0].tolist()[1:] == [part.codes - 2, part.codes - 1]


def test_decimals_are_counted():
    assert granularity(np.array([3.0, 2.5, 19.95, 0.125, 1e6, 123456.7])).tolist() == [0, 1, 2, 3, 0, 1]
