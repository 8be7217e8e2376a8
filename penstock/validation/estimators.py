"""The models that a configuration can name: an allow-list, checked parameters, fixed seeds, one thread.

Every one of them converts to ONNX. That is why gradient_boosting is not its histogram variant, which has
no converter (LightGBM is the same idea), and why svm is an SVC whose margin is calibrated by Platt's
sigmoid outside of it: its own ``probability`` is on its way out of scikit-learn.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from penstock.config import Scalar
from penstock.errors import PenstockError

__all__ = ["build", "modules", "needs_double", "prefix_parameter"]


class Entry(NamedTuple):
    """Where an estimator is, and what Penstock sets on it before the user does."""

    classifier: str | None
    regressor: str | None
    defaults: Mapping[str, Any] = {}


_MODELS: dict[str, Entry] = {
    "dummy": Entry("sklearn.dummy:DummyClassifier", "sklearn.dummy:DummyRegressor"),
    "logistic": Entry("sklearn.linear_model:LogisticRegression", None, {"max_iter": 2000}),
    "linear": Entry(None, "sklearn.linear_model:LinearRegression"),
    "ridge": Entry(None, "sklearn.linear_model:Ridge"),
    "lasso": Entry(None, "sklearn.linear_model:Lasso", {"max_iter": 10_000}),
    "elastic_net": Entry(None, "sklearn.linear_model:ElasticNet", {"max_iter": 10_000}),
    "knn": Entry("sklearn.neighbors:KNeighborsClassifier", "sklearn.neighbors:KNeighborsRegressor"),
    "decision_tree": Entry("sklearn.tree:DecisionTreeClassifier", "sklearn.tree:DecisionTreeRegressor"),
    "random_forest": Entry(
        "sklearn.ensemble:RandomForestClassifier", "sklearn.ensemble:RandomForestRegressor"
    ),
    "extra_trees": Entry("sklearn.ensemble:ExtraTreesClassifier", "sklearn.ensemble:ExtraTreesRegressor"),
    "gradient_boosting": Entry(
        "sklearn.ensemble:GradientBoostingClassifier", "sklearn.ensemble:GradientBoostingRegressor"
    ),
    "lightgbm": Entry("lightgbm:LGBMClassifier", "lightgbm:LGBMRegressor"),
    "svm": Entry("sklearn.svm:SVC", "sklearn.svm:SVR"),
}

# Set by Penstock for every model that has them: same bytes on every run, cores shared between fits.
_OWN: dict[str, Any] = {"random_state": None, "n_jobs": 1}
_LIGHTGBM_OWN: dict[str, Any] = {"deterministic": True, "force_row_wise": True, "verbosity": -1}
# What LightGBM takes beyond its constructor's signature, and is worth setting.
_LIGHTGBM_MORE = frozenset(
    {"max_bin", "min_data_in_bin", "path_smooth", "extra_trees", "feature_fraction_bynode"}
)
_DENIED = frozenset({"verbose", "warm_start", "probability", "class_weight", "objective", "cache_size"})

# Normal equations of correlated columns lose half the digits there are, and single precision has only seven.
_DOUBLE = frozenset({"logistic", "linear", "ridge", "lasso", "elastic_net"})

PLATT_FOLDS = 3


def needs_double(model: str) -> bool:
    """Whether the model is to be fitted in double precision."""
    return model in _DOUBLE


def prefix_parameter(model: str) -> str | None:
    """The parameter of which one fit at its largest value holds the fits at all smaller values.

    Boosting rounds follow each other without looking ahead, so the first k rounds of n are the fit of k.
    """
    return "n_estimators" if model in {"lightgbm", "gradient_boosting"} else None


def modules(models: Iterable[str], kind: str) -> list[str]:
    """The modules that ``build`` will import for these models.

    Raises:
        PenstockError: One of them is not for the task.
    """
    return sorted({_address(model, kind).partition(":")[0] for model in models})


def build(
    model: str, kind: str, params: Mapping[str, Scalar | None], *, seed: int, log_target: bool = False
) -> Any:
    """An unfitted scikit-learn estimator.

    Args:
        model: A name of config.ModelName.
        kind: binary, multiclass or regression.
        params: The estimator's own parameters.
        seed: Its random state.
        log_target: Regression: fit ln(1 + y) and predict y.

    Raises:
        PenstockError: No such model for the task, or no such parameter.
    """
    estimator = _plain(model, kind, params, seed)
    if model == "svm" and kind != "regression":
        from sklearn.calibration import CalibratedClassifierCV

        return CalibratedClassifierCV(estimator, method="sigmoid", cv=PLATT_FOLDS, ensemble=False)
    if log_target:
        import numpy as np
        from sklearn.compose import TransformedTargetRegressor

        # The check fits nothing and warns of rounding at the far end of large targets.
        return TransformedTargetRegressor(
            estimator, func=np.log1p, inverse_func=np.expm1, check_inverse=False
        )
    return estimator


def _address(model: str, kind: str) -> str:
    entry = _MODELS.get(model)
    if entry is None:
        near = difflib.get_close_matches(model, _MODELS, n=1)
        raise PenstockError(
            f"no model {model!r}",
            hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(_MODELS)}",
        )
    address = entry.regressor if kind == "regression" else entry.classifier
    if address is None:
        raise PenstockError(
            f"the model {model!r} is not for a {kind} task", hint="choose another in `candidates`"
        )
    return address


def _plain(model: str, kind: str, params: Mapping[str, Scalar | None], seed: int) -> Any:
    where, _, name = _address(model, kind).partition(":")
    constructor = getattr(import_module(where), name)
    known = frozenset(inspect.signature(constructor).parameters) - {"kwargs", "args"}
    own = {**_OWN, "random_state": seed} | (_LIGHTGBM_OWN if model == "lightgbm" else {})
    more = _LIGHTGBM_MORE if model == "lightgbm" else frozenset()
    _check(model, params, (known | more) - _DENIED, own.keys())
    # LogisticRegression still lists n_jobs, but warns of any value.
    fixed = {key: value for key, value in own.items() if key in known or key in _LIGHTGBM_OWN}
    if model == "logistic":
        del fixed["n_jobs"]
    return constructor(**{**_MODELS[model].defaults, **params, **fixed})


def _check(model: str, params: Mapping[str, Any], known: frozenset[str], own: Any) -> None:
    for name in params:
        if name in own:
            raise PenstockError(
                f"the parameter {name!r} of {model} is not free: Penstock sets it, so that every run gives the same",
                hint="remove it; the seed is `seed` in conf/config.yaml",
            )
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known - own), n=1)
            raise PenstockError(
                f"the model {model} has no parameter {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(sorted(known - own))}",
            )
