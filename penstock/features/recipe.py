"""The fitted half of the features: a scikit-learn transformer built from conf/, fitted only inside folds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_selection import SelectKBest, f_classif, f_regression
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from penstock.config import Features
from penstock.errors import PenstockError
from penstock.features.columns import Columns
from penstock.features.transformers import OutlierClipper, SinglePrecisionTargetEncoder

__all__ = ["build"]


def build(features: Features, columns: Columns, seed: int) -> Pipeline:
    """An unfitted transformer from a feature table to a matrix.

    Args:
        features: What is switched on.
        columns: The columns of the table.
        seed: For the target encoder's internal folds and for randomised decompositions.

    Returns:
        A pipeline with the steps "encode" and "reduce"; it takes a polars frame with the feature columns
        and gives a float32 matrix, shape (n_samples, n_outputs).
    """
    parts: list[tuple[str, Any, list[str]]] = []
    if columns.numeric:
        parts.append(("numeric", _numeric(features), list(columns.numeric)))
    for name, encoder, chosen in _categorical(features, columns, seed):
        if chosen:
            parts.append((name, encoder, chosen))
    encode = ColumnTransformer(parts, sparse_threshold=0.0, verbose_feature_names_out=False)
    return Pipeline([("encode", encode), ("reduce", _reduce(features, columns, seed))])


def _numeric(features: Features) -> Pipeline:
    clipper = OutlierClipper(method=features.clip, quantile=features.clip_quantile, iqr=features.clip_iqr)
    imputer = SimpleImputer(
        strategy=features.impute,
        fill_value=features.impute_value if features.impute == "constant" else None,
        add_indicator=features.indicators,
        # A column that has no value in one fold must still give a column, or the folds would disagree.
        keep_empty_features=True,
    )
    steps: list[tuple[str, Any]] = [("clip", clipper), ("impute", imputer)]
    scalers = {"standard": StandardScaler, "minmax": MinMaxScaler, "robust": RobustScaler}
    if features.scale != "none":
        steps.append(("scale", scalers[features.scale]()))
    return Pipeline(steps)


def _categorical(features: Features, columns: Columns, seed: int) -> list[tuple[str, Any, list[str]]]:
    limit = features.target_above if features.target_above is not None else math.inf
    many = [name for name in columns.categorical if columns.cardinality[name] > limit]
    few = [name for name in columns.categorical if name not in many]
    if features.encode == "target":
        few, many = [], list(columns.categorical)
    folds = KFold if columns.task == "regression" else StratifiedKFold
    target = SinglePrecisionTargetEncoder(
        target_type={"binary": "binary", "multiclass": "multiclass", "regression": "continuous"}[
            columns.task
        ],
        smooth=features.target_smoothing,
        cv=folds(n_splits=5, shuffle=True, random_state=seed),
    )
    if features.encode == "ordinal":
        # Unknown and rare values become −1, which no known category has.
        plain: Any = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float32)
        return [("ordinal", plain, few), ("target", target, many)]
    one_hot = OneHotEncoder(
        handle_unknown="infrequent_if_exist" if features.rare > 0 else "ignore",
        min_frequency=features.rare if features.rare > 0 else None,
        sparse_output=False,
        dtype=np.float32,
    )
    return [("one_hot", one_hot, few), ("target", target, many)]


def _reduce(features: Features, columns: Columns, seed: int) -> Any:
    match features.reduce:
        case "none":
            return "passthrough"
        case "pca":
            # The full solver has no random start: the same bytes on every run.
            return PCA(n_components=features.components, svd_solver="full")
        case "svd":
            return TruncatedSVD(n_components=features.components, algorithm="arpack", random_state=seed)
        case "select":
            score = f_regression if columns.task == "regression" else f_classif
            return SelectKBest(score, k=features.components)
    raise PenstockError(f"features.reduce: {features.reduce!r} is not known")
