"""What is loaded predicts the same; what is saved twice is the same; what is foreign stays out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
from sklearn.pipeline import Pipeline

from penstock.config import Candidate, Features, Sampler
from penstock.errors import PenstockError
from penstock.features.transformers import OutlierClipper
from penstock.validation import fitting, persistence
from penstock.validation.calibration import Calibrated
from penstock.validation.fitting import Table

EVERY = np.arange(240)

SCRIPT = """
import sys
from hashlib import sha256
import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder
from penstock.features.transformers import OutlierClipper
from penstock.validation.persistence import dumps
x = np.random.default_rng(0).integers(0, 5, (80, 3)).astype(np.float32)
steps = [("clip", OutlierClipper()), ("code", OneHotEncoder(sparse_output=False)), ("model", RandomForestClassifier(3, random_state=0))]
print(sha256(dumps(Pipeline(steps).fit(x, x[:, 0] > 2))).hexdigest())
"""


def fitted(table: Table, model: Any, recipe: Features, *, log_target: bool = False) -> Pipeline:
    matrices = fitting.prepare(table, EVERY, EVERY[:0], recipe, Sampler())
    estimator = fitting.fit(Candidate(model=model, log_target=log_target), {}, matrices, table.kind, 0)
    return Pipeline([*matrices.transformer.steps, ("model", estimator)])


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("logistic", Features(encode="target", clip="iqr")),
        ("random_forest", Features(reduce="select", components=3)),
        ("gradient_boosting", Features(encode="ordinal", scale="none")),
        ("lightgbm", Features(reduce="svd", components=2)),
        ("svm", Features(scale="robust")),
        ("knn", Features(scale="minmax", reduce="pca", components=2)),
    ],
)
@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_loaded_pipeline_predicts_the_same(
    make_table: Callable[..., Table], tmp_path: Path, model: str, recipe: Features, kind: str
) -> None:
    if kind == "regression" and model == "logistic":
        model = "ridge"
    table = make_table(kind)
    pipeline = fitted(table, model, recipe, log_target=kind == "regression")
    persistence.save(pipeline, tmp_path / "pipeline.skops")
    loaded = persistence.load(tmp_path / "pipeline.skops")
    before, after = (fitting.predict(each, table.frame, table.n_classes) for each in (pipeline, loaded))
    assert np.array_equal(before, after)
    assert persistence.dumps(loaded) == persistence.dumps(persistence.loads(persistence.dumps(loaded)))


def test_a_calibrated_model_comes_back(make_table: Callable[..., Table]) -> None:
    table = make_table()
    pipeline = fitted(table, "logistic", Features())
    scores = fitting.predict(pipeline, table.frame, 2)[:, 1]
    for method in ("sigmoid", "isotonic"):
        model = Calibrated(method=method).fit_scores(pipeline.named_steps["model"], scores, table.y)  # type: ignore[arg-type]
        whole = Pipeline([*pipeline.steps[:-1], ("model", model)])
        loaded = persistence.loads(persistence.dumps(whole))
        assert np.array_equal(loaded.predict_proba(table.frame), whole.predict_proba(table.frame))


def test_two_processes_write_the_same_bytes() -> None:
    digests = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())},
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0].strip()) == 64


def test_a_foreign_type_is_not_loaded(tmp_path: Path) -> None:
    class_of_mine = type("Foreign", (OutlierClipper,), {"__module__": __name__})
    globals()["Foreign"] = class_of_mine
    path = tmp_path / "bad.skops"
    skops.io.dump(class_of_mine(), path)
    with pytest.raises(PenstockError, match=r"types that Penstock does not load: .*Foreign"):
        persistence.load(path)


def test_a_damaged_or_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.skops"
    path.write_bytes(persistence.dumps(OutlierClipper().fit(np.ones((3, 1))))[:-40])
    with pytest.raises(PenstockError, match=r"cut.skops: not a readable skops file"):
        persistence.load(path)
    with pytest.raises(PenstockError, match="there is no such file"):
        persistence.load(tmp_path / "absent.skops")
