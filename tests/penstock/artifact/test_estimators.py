"""Every model of the registry, for every task it is for, is the same model in ONNX."""

from __future__ import annotations

import typing

import numpy as np
import pytest

from penstock.config import REGRESSION_ONLY, Features, ModelName
from penstock.validation.calibration import Calibrated

MODELS = typing.get_args(ModelName)
SMALL = {
    "random_forest": {"n_estimators": 20, "min_samples_leaf": 5},
    "extra_trees": {"n_estimators": 20, "min_samples_leaf": 5},
    "gradient_boosting": {"n_estimators": 30},
    "lightgbm": {"n_estimators": 60, "num_leaves": 8},
    "lasso": {"alpha": 1.0},
    "elastic_net": {"alpha": 0.1},
    "logistic": {"max_iter": 500},
}
CASES = [
    (kind, model)
    for kind in ("binary", "multiclass", "regression")
    for model in MODELS
    if (model in REGRESSION_ONLY) <= (kind == "regression")
    and (model == "logistic") <= (kind != "regression")
]


@pytest.mark.parametrize(("kind", "model"), CASES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_every_model_is_the_same_in_onnx(make, raw_table, kind, model):
    made = make(kind=kind, model=model, params=SMALL.get(model))
    raw = raw_table(200, seed=5, kind=kind)
    wanted = made.reference(raw)
    outputs = made.load().run(raw)
    if kind == "regression":
        spread = raw["answer"].std()
        assert np.abs(outputs["value"][:, 0] - wanted).max() / spread < 1e-5
    else:
        assert np.abs(outputs["probabilities"] - wanted).max() < 1e-5
        classes = np.array([str(label) for label in made.columns.classes])
        said = wanted[:, 1] >= 0.5 if kind == "binary" else wanted.argmax(axis=1)
        clear = np.abs(np.sort(wanted, axis=1)[:, -1] - np.sort(wanted, axis=1)[:, -2]) > 1e-4
        assert (outputs["label"][clear] == classes[said.astype(int)][clear]).all()


@pytest.mark.parametrize("model", ["lightgbm", "ridge", "random_forest"])
def test_a_log_target_comes_back_in_its_own_unit(make, raw_table, model):
    made = make(kind="regression", model=model, params=SMALL.get(model), log_target=True)
    raw = raw_table(200, seed=5, kind="regression")
    wanted = made.reference(raw)
    assert np.allclose(made.load().run(raw)["value"][:, 0], wanted, rtol=3e-6)
    assert np.corrcoef(wanted, raw["answer"])[0, 1] > 0.6


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("model", ["logistic", "lightgbm"])
def test_calibration_is_part_of_the_graph(make, raw_table, model, method):
    def calibrated(estimator, matrix, y):
        scores = estimator.predict_proba(matrix)[:, 1] ** 2
        return Calibrated(method=method).fit_scores(estimator, scores, y)

    made = make(model=model, params=SMALL.get(model), wrap=calibrated)
    raw = raw_table(200, seed=5)
    assert np.abs(made.load().run(raw)["probabilities"] - made.reference(raw)).max() < 1e-5


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
def test_the_label_is_cut_at_the_threshold(make, raw_table, threshold):
    made = make(threshold=threshold)
    raw = raw_table(300, seed=6)
    outputs = made.load().run(raw)
    assert (
        outputs["label"] == np.where(outputs["probabilities"][:, 1] >= np.float32(threshold), "yes", "no")
    ).all()


def test_no_row_changes_its_branch_at_a_decimal_midway_between_two(make, raw_table):
    # Incomes have one decimal: LightGBM cuts midway between two of them, where the last bit of a scaled value decides.
    params = {"n_estimators": 200, "num_leaves": 31, "min_child_samples": 1}
    made = make(model="lightgbm", params=params, rows=2000)
    raw = raw_table(3000, seed=9)
    assert np.abs(made.load().run(raw)["probabilities"] - made.reference(raw)).max() < 1e-5


@pytest.mark.parametrize("scale", ["none", "standard", "minmax", "robust"])
def test_every_scaler_keeps_the_branches_of_a_deep_forest(make, raw_table, scale):
    made = make(
        model="random_forest",
        params={"n_estimators": 30},
        features=Features(scale=scale, clip="iqr"),
        rows=1500,
    )
    raw = raw_table(1500, seed=9)
    assert np.abs(made.load().run(raw)["probabilities"] - made.reference(raw)).max() < 1e-5
