"""Transformers that scikit-learn does not have."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.preprocessing import TargetEncoder
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["OutlierClipper", "SinglePrecisionTargetEncoder"]


class OutlierClipper(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Clip each column to bounds learnt from the data. Missing values stay missing.

    With "quantile" the bounds are the ``quantile`` and ``1 − quantile`` quantiles. With "iqr" they are
    Tukey's fences (Exploratory Data Analysis, 1977): the quartiles less and plus ``iqr`` interquartile
    ranges. A column whose quartiles are equal (mostly one value) would be flattened by its fences and is
    left as it is. With "none" the values pass, in single precision: scikit-learn would read a polars frame in
    double precision, and the exported graph could then not be equal.

    Attributes:
        lower_: Lower bounds, float32, shape (n_features,).
        upper_: Upper bounds, float32, shape (n_features,).
    """

    lower_: NDArray[np.float32]
    upper_: NDArray[np.float32]

    def __init__(
        self,
        *,
        method: Literal["none", "quantile", "iqr"] = "quantile",
        quantile: float = 0.01,
        iqr: float = 3.0,
    ) -> None:
        self.method = method
        self.quantile = quantile
        self.iqr = iqr

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002
        """Learn the bounds from ``X``, shape (n_samples, n_features)."""
        values = validate_data(self, X, dtype=np.float32, ensure_all_finite="allow-nan")
        if self.method == "none":
            self.lower_ = np.full(values.shape[1], -np.inf, dtype=np.float32)
            self.upper_ = np.full(values.shape[1], np.inf, dtype=np.float32)
            return self
        empty = np.isnan(values).all(axis=0)
        # A column without any value has no quantile; NumPy would warn and give NaN.
        filled = np.where(empty, np.float32(0), values)
        if self.method == "quantile":
            lower, upper = np.nanquantile(filled, [self.quantile, 1 - self.quantile], axis=0)
        else:
            first, third = np.nanquantile(filled, [0.25, 0.75], axis=0)
            spread = np.where(third > first, self.iqr * (third - first), np.inf)
            lower, upper = first - spread, third + spread
        self.lower_ = np.where(empty, -np.inf, lower).astype(np.float32)
        self.upper_ = np.where(empty, np.inf, upper).astype(np.float32)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Clip ``X``, shape (n_samples, n_features)."""
        check_is_fitted(self)
        values = validate_data(self, X, dtype=np.float32, ensure_all_finite="allow-nan", reset=False)
        if self.method != "none":
            values = np.clip(values, self.lower_, self.upper_)
        return np.asarray(values, dtype=np.float32)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class SinglePrecisionTargetEncoder(TargetEncoder):  # type: ignore[misc]
    """scikit-learn's target encoder with float32 output, so that one such column does not widen the matrix."""

    def fit_transform(self, X: Any, y: Any) -> NDArray[np.float32]:
        """Encode the rows of ``X`` out of fold, and learn the encoding of rows to come."""
        return np.asarray(super().fit_transform(X, y), dtype=np.float32)

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Encode rows that were not learnt from."""
        return np.asarray(super().transform(X), dtype=np.float32)
