"""Numbers and the names of metrics as people read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "Metric", "figure", "metric", "number", "percent", "share"]

ABSENT = "–"
SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Metric:
    """How a metric is called, which way it is better and what it counts in."""

    label: str
    better: Literal["higher", "lower"]
    unit: Literal["share", "target", "cost", "none"] = "none"


METRICS = {
    "accuracy": Metric("Accuracy", "higher"),
    "balanced_accuracy": Metric("Balanced accuracy", "higher"),
    "precision": Metric("Precision", "higher"),
    "recall": Metric("Recall", "higher"),
    "f1": Metric("F1", "higher"),
    "f_beta": Metric("F-beta", "higher"),
    "mcc": Metric("Matthews correlation", "higher"),
    "cost": Metric("Cost per row", "lower", "cost"),
    "roc_auc": Metric("ROC AUC", "higher"),
    "pr_auc": Metric("PR AUC", "higher"),
    "log_loss": Metric("Log loss", "lower"),
    "brier": Metric("Brier score", "lower"),
    "calibration_error": Metric("Calibration error", "lower"),
    "r2": Metric("R²", "higher"),
    "rmse": Metric("RMSE", "lower", "target"),
    "mae": Metric("MAE", "lower", "target"),
    "mape": Metric("MAPE", "lower", "share"),
    "median_error": Metric("Median absolute error", "lower", "target"),
}


def metric(name: str) -> Metric:
    """What is known of a metric; one that is not in the table keeps its name."""
    return METRICS.get(name, Metric(name, "higher"))


def number(value: float | None, digits: int = 4) -> str:
    """``digits`` significant digits, thousands set apart; whole numbers whole; small ones as a power of ten."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == int(value) or abs(value) >= 10 ** (digits - 1):
        return _minus(_whole(value))
    if abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return _minus(mantissa) + " × 10" + str(int(exponent)).translate(SUPERSCRIPT)
    return _minus(f"{value:.{digits}g}")


def _whole(value: float) -> str:
    # Four digits stand together: a year is no quantity.
    text = f"{value:,.0f}"
    return text.replace(",", "") if abs(value) < 9999.5 else text


def figure(value: float | None, unit: str = "none") -> str:
    """A metric: four decimals, so that columns of them line up; large ones as whole numbers; shares in per cent."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if unit == "share":
        return share(value)
    if abs(value) >= 1000:
        return _minus(f"{value:,.0f}")
    return _minus(f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}")


def percent(value: float) -> str:
    """A whole number of per cent, for axes."""
    return _minus(f"{value * 100:.0f}%")


def share(value: float | None) -> str:
    """One decimal of a per cent; what is not nothing is not written as nothing."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if 0 < abs(value) < 0.0005:
        return "< 0.1%"
    return _minus(f"{value * 100:.1f}%")


def _minus(text: str) -> str:
    return text.replace("-", "−")
