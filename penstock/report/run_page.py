"""The page about the model: how good it is, on what, how that was found out, and what the artefact is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.config import Card, Scoring, Task
from penstock.report import charts
from penstock.report.charts import Dot, Series
from penstock.report.page import render
from penstock.report.run import Curves, Row, Run
from penstock.report.wording import METRICS, figure, metric, number, share

__all__ = ["run_page"]

HOLDOUT, CROSS_VALIDATION = "Hold-out", "Cross-validation"
DEFAULT = "_default"  # suffix of metrics at a threshold of 0.5
# Beside the deciding metric in tables that compare.
SHOWN = (
    "roc_auc",
    "pr_auc",
    "f1",
    "recall",
    "precision",
    "mcc",
    "log_loss",
    "brier",
    "r2",
    "rmse",
    "mae",
    "mape",
)
COLOURS = 8  # of classes in one chart
IMPORTANT = 25  # bars of importances
CONTACTED = 0.2  # share of rows of which the gain is put in words


def run_page(run: Run, *, card: Card, task: Task, scoring: Scoring, dataset: str) -> str:
    """The report of a run as one HTML file that needs nothing else.

    Args:
        run: What the stages have written.
        card: What the model card says beyond what is measured.
        task: What is predicted.
        scoring: What decided.
        dataset: Name in the configuration.
    """
    samplers = run.leaderboard.get("samplers") or []
    slices = _slices(run, scoring.metric)
    sections = [
        ("glance", "At a glance"),
        ("candidates", "Candidates"),
        ("metrics", "Metrics"),
        ("curves", "Predicted and actual values" if task.kind == "regression" else "Curves"),
        *([("confusion", "Confusion matrix")] if task.kind != "regression" else []),
        *([("samplers", "Samplers")] if samplers else []),
        ("importance", "Importance of the columns"),
        *([("slices", "Slices")] if slices else []),
        ("data", "Data"),
        ("card", "Model card"),
        ("artefact", "Artefact"),
    ]
    return render(
        "run.html",
        sections=sections,
        dataset=dataset,
        card=card,
        task=task,
        scoring=scoring,
        run=run,
        deciding=metric(scoring.metric),
        glance=_glance(run, scoring),
        verdict=_verdict(run, scoring),
        candidates=_board(run.leaderboard["candidates"], scoring.metric, "candidate"),
        significance=run.leaderboard.get("significance"),
        samplers=_board(samplers, scoring.metric, "sampler") if samplers else None,
        general=_general(run),
        decisions=_decisions(run),
        curves=_regression(run) if task.kind == "regression" else _classification(run, scoring),
        gain=_gain_in_words(run),
        confusion=_confusions(run),
        importance=_importance(run.importance),
        slices=slices,
        balance=_balance(run.prepare),
        parameters=_flat(run.selection),
        target_unit=f"in units of {task.target}",
    )


# --- headline figures -------------------------------------------------------------------------------


def _interval(run: Run, name: str) -> tuple[float, float] | None:
    low, high = run.validation.get(f"{name}_low"), run.validation.get(f"{name}_high")
    return None if low is None or high is None else (low, high)


def _glance(run: Run, scoring: Scoring) -> list[tuple[str, str, str]]:
    name = scoring.metric
    about = metric(name)
    interval = _interval(run, name)
    between = (
        f"{scoring.confidence:.0%} interval {figure(interval[0], about.unit)} to {figure(interval[1], about.unit)}"
        if interval
        else "no interval"
    )
    threshold = run.validation.get("threshold")
    holdout, trained = run.prepare.get("holdout"), run.prepare.get("train")
    return [
        (
            f"{about.label}, hold-out",
            figure(run.evaluation.get(name), about.unit),
            f"{number(holdout)} rows that chose nothing",
        ),
        (f"{about.label}, cross-validation", figure(run.validation.get(name), about.unit), between),
        (
            "Model",
            str(run.selection.get("candidate", run.validation.get("winner"))),
            f"trained on {number(trained)} rows",
        ),
        *(
            [("Decision threshold", figure(threshold), f"tuned for {scoring.threshold}")]
            if threshold is not None
            else []
        ),
        (
            "ONNX and pipeline differ by",
            number(run.parity.get("max_difference"), 2),
            f"at most, over {number(run.parity.get('rows'))} rows",
        ),
    ]


def _verdict(run: Run, scoring: Scoring) -> str:
    """Whether the hold-out bears out what cross-validation promised."""
    value, interval = run.evaluation.get(scoring.metric), _interval(run, scoring.metric)
    if value is None or interval is None:
        return "There is no interval to hold the hold-out against."
    low, high = interval
    if low <= value <= high:
        return "The hold-out lies inside the interval of cross-validation: nothing speaks against either."
    better = (value > high) == (metric(scoring.metric).better == "higher")
    if better:
        return "The hold-out is better than the interval of cross-validation: expect less of new data than it shows."
    return (
        "The hold-out is worse than the interval of cross-validation: the choice may have been fitted to the"
        " folds, or the hold-out differs from the rest."
    )


# --- candidates and samplers ------------------------------------------------------------------------


def _board(entries: Sequence[Mapping[str, Any]], name: str, what: str) -> dict[str, Any]:
    """A table and its chart, the best first."""
    about = metric(name)
    shown = [
        other for other in SHOWN if other != name and all(other in entry["metrics"] for entry in entries)
    ]
    rows = [
        {
            "name": entry["name"],
            "model": entry["model"],
            "deciding": entry["metrics"][name],
            "others": [entry["metrics"][other]["mean"] for other in shown],
            "folds": len(entry["folds"]),
        }
        for entry in entries
    ]
    told = "; ".join(
        f"{row['name']} {figure(row['deciding']['mean'], about.unit)}"
        f" ({figure(row['deciding']['low'], about.unit)} to {figure(row['deciding']['high'], about.unit)})"
        for row in rows
    )
    chart = charts.dots(
        [
            Dot(
                row["name"],
                row["deciding"]["mean"],
                row["deciding"]["low"],
                row["deciding"]["high"],
                marked=at == 0,
            )
            for at, row in enumerate(rows)
        ],
        axis=f"{about.label}, {about.better} is better",
        alternative=f"{about.label} of each {what} with its interval: {told}",
    )
    return {"rows": rows, "others": shown, "chart": chart}


# --- metrics ----------------------------------------------------------------------------------------


def _winner(run: Run) -> dict[str, Any]:
    """Metric → mean, std, low, high of the winner."""
    found: dict[str, Any] = run.leaderboard["candidates"][0]["metrics"]
    return found


def _names(run: Run) -> list[str]:
    """Metrics in the order of METRICS, then any that it lacks."""
    there = {*run.evaluation, *_winner(run)}
    return [name for name in METRICS if name in there] + sorted(
        name for name in there - METRICS.keys() if not name.endswith(DEFAULT)
    )


def _general(run: Run) -> list[dict[str, Any]]:
    """Every metric that no threshold changes."""
    winner = _winner(run)
    return [
        {"name": name, "cv": winner.get(name, {}), "holdout": run.evaluation.get(name)}
        for name in _names(run)
        if name + DEFAULT not in run.evaluation
    ]


def _decisions(run: Run) -> list[dict[str, Any]]:
    """Metrics of decisions, at 0.5 and at the tuned threshold."""
    winner = _winner(run)
    return [
        {
            "name": name,
            "cv_default": winner.get(name + DEFAULT, {}).get("mean"),
            "cv": winner.get(name, {}).get("mean"),
            "holdout_default": run.evaluation[name + DEFAULT],
            "holdout": run.evaluation.get(name),
        }
        for name in _names(run)
        if name + DEFAULT in run.evaluation
    ]


# --- curves -----------------------------------------------------------------------------------------


def _classification(run: Run, scoring: Scoring) -> dict[str, Any]:
    labels = run.holdout.classes("roc") or run.out_of_fold.classes("roc")
    most = Counter(row["actual"] for row in run.holdout.tables.get("confusion", []))
    shown = sorted(labels, key=lambda label: (-most[label], label))[:COLOURS]
    prevalence = _prevalence(run)
    drawn = [
        ("roc", "fpr", "tpr", "ROC", "false positive rate", "true positive rate", [(0.0, 0.0), (1.0, 1.0)]),
        (
            "precision_recall",
            "recall",
            "precision",
            "Precision and recall",
            "recall",
            "precision",
            [(0.0, prevalence), (1.0, prevalence)] if prevalence is not None and not labels else [],
        ),
        (
            "calibration",
            "predicted",
            "observed",
            "Calibration",
            "predicted probability",
            "observed share",
            [(0.0, 0.0), (1.0, 1.0)],
        ),
        (
            "gain",
            "share",
            "gain",
            "Cumulative gain",
            "share of rows, best score first",
            "share of positives found",
            [(0.0, 0.0), (1.0, 1.0)],
        ),
    ]
    found = []
    for name, x, y, title, x_label, y_label, reference in drawn:
        series = _series(run, name, x, y, shown)
        if any(item.points for item in series):
            svg = charts.lines(
                series, x=x_label, y=y_label, reference=reference, alternative=_told(title, name, run, labels)
            )
            found.append((title, svg, _note(name, scoring, prevalence, labels)))
    return {"charts": found, "classes": shown, "left_out": len(labels) - len(shown)}


def _series(run: Run, name: str, x: str, y: str, classes: Sequence[str]) -> list[Series]:
    marked = name == "calibration"
    if not classes:
        return [
            Series(HOLDOUT, run.holdout.points(name, x, y), "holdout", marked=marked),
            Series(CROSS_VALIDATION, run.out_of_fold.points(name, x, y), "cv", marked=marked),
        ]
    return [
        Series(f"{label}, {where}", curves.points(name, x, y, label), f"k{at}{style}")
        for where, curves, style in (
            (HOLDOUT, run.holdout, ""),
            (CROSS_VALIDATION, run.out_of_fold, " dashed"),
        )
        for at, label in enumerate(classes, start=1)
    ]


def _told(title: str, name: str, run: Run, labels: Sequence[str]) -> str:
    measured = {"roc": "roc_auc", "precision_recall": "pr_auc", "calibration": "calibration_error"}.get(name)
    told = f"{title} on the hold-out and in cross-validation"
    if labels:
        told += f", one curve for each of {len(labels)} classes against the rest"
    if measured is None:
        return f"{told}. {_gain_in_words(run)}".strip()
    label = metric(measured).label
    return f"{told}. {label}: hold-out {figure(run.evaluation.get(measured))}, cross-validation {figure(run.validation.get(measured))}."


def _note(name: str, scoring: Scoring, prevalence: float | None, labels: Sequence[str]) -> str:
    if name == "calibration":
        return f"{scoring.calibration_bins} bins of equal width; on the dotted line a predicted share is the observed one."
    if name == "precision_recall" and prevalence is not None and not labels:
        return f"Dotted: {share(prevalence)} of the hold-out is positive, the precision of chance."
    return "Dotted: chance."


def _prevalence(run: Run) -> float | None:
    """Share of the positive class in the hold-out (binary)."""
    positive = run.manifest.get("positive")
    rows = run.holdout.tables.get("confusion", [])
    if positive is None or not rows:
        return None
    return sum(1 for row in rows if row["actual"] == positive) / len(rows)


def _gain_in_words(run: Run) -> str:
    """Empty where there is no single gain curve."""
    if run.holdout.classes("gain"):
        return ""
    before = None
    for at, gain in run.holdout.points("gain", "share", "gain"):
        if at >= CONTACTED:
            if before is None or at == CONTACTED:
                reached = gain
            else:
                reached = before[1] + (gain - before[1]) * (CONTACTED - before[0]) / (at - before[0])
            return f"The best-scored {CONTACTED:.0%} of the hold-out hold {reached:.0%} of its positives."
        before = (at, gain)
    return ""


def _regression(run: Run) -> dict[str, Any]:
    drawn = (
        (
            "predicted_actual",
            "actual",
            "predicted",
            "Predicted against actual values",
            "actual",
            "predicted",
            "diagonal",
            "On the dotted line a prediction is right.",
        ),
        (
            "residuals",
            "predicted",
            "residual",
            "Residuals",
            "predicted",
            "actual − predicted",
            "zero",
            "Above the dotted line the model predicts too little.",
        ),
    )
    found = []
    for name, x, y, title, x_label, y_label, reference, note in drawn:
        series = _series(run, name, x, y, ())
        if any(item.points for item in series):
            told = (
                f"{title} on the hold-out and in cross-validation. RMSE: hold-out {figure(run.evaluation.get('rmse'))},"
                f" cross-validation {figure(run.validation.get('rmse'))}."
            )
            svg = charts.scatter(series, x=x_label, y=y_label, alternative=told, reference=reference)
            found.append((title, svg, f"{note} At most 500 rows of each."))
    return {"charts": found, "classes": [], "left_out": 0}


# --- confusion, importances, slices -----------------------------------------------------------------


def _confusions(run: Run) -> list[dict[str, Any]]:
    parts = (
        (HOLDOUT, run.holdout, "at the tuned threshold"),
        (CROSS_VALIDATION, run.out_of_fold, "out of fold, each fold at the threshold tuned without it"),
    )
    return [found for where, curves, how in parts if (found := _confusion(run, where, curves, how))]


def _confusion(run: Run, where: str, curves: Curves, how: str) -> dict[str, Any] | None:
    rows = curves.tables.get("confusion", [])
    if not rows:
        return None
    counts = Counter((row["actual"], row["predicted"]) for row in rows)
    known = run.manifest.get("classes") or []
    labels = [*known, *sorted({label for pair in counts for label in pair} - set(known))]
    lines = []
    for actual in labels:
        total = sum(counts[actual, predicted] for predicted in labels)
        cells = [
            {"count": counts[actual, predicted], "part": counts[actual, predicted] / total if total else 0.0}
            for predicted in labels
        ]
        lines.append({"label": actual, "cells": cells, "total": total})
    tuned = run.manifest.get("threshold") is not None
    return {"where": where, "how": how if tuned else "", "labels": labels, "lines": lines}


def _importance(rows: Sequence[Row]) -> dict[str, Any]:
    names = [name for name in (rows[0] if rows else {}) if name != "feature"]
    table = [{"feature": row["feature"], "values": [_value(row[name]) for name in names]} for row in rows]
    found = [_important(row) for row in rows[:IMPORTANT]]
    told = ", ".join(f"{row.label} {number(row.value, 3)}" for row in found[:5])
    return {
        "names": names,
        "table": table,
        "shown": len(found),
        "chart": charts.bars(
            found, axis="loss of the metric", alternative=f"Permutation importance, the largest: {told}"
        ),
    }


def _important(row: Row) -> Dot:
    value, spread = _value(row.get("importance", "")), _value(row.get("std", ""))
    if value is None or spread is None:
        return Dot(row["feature"], value)
    return Dot(row["feature"], value, value - spread, value + spread)


def _value(text: str) -> float | None:
    return float(text) if text else None


def _slices(run: Run, name: str) -> dict[str, Any] | None:
    """Hold-out metrics by slice; None where there are none.

    A slice is flagged when it is worse than the whole by more than half the width of cross-validation's
    interval, which is widened by √(rows of the hold-out / rows of the slice): fewer rows vary more.
    """
    rows = run.holdout.tables.get("slices", [])
    whole = next((row for row in rows if not row["column"]), None)
    parts = [row for row in rows if row["column"]]
    if whole is None or not parts:
        return None
    shown = [name, *(other for other in SHOWN if other in whole and other != name)]
    interval = _interval(run, name)
    half = (interval[1] - interval[0]) / 2 if interval else None
    found = [
        {
            "column": row["column"],
            "value": row["value"],
            "count": int(row["count"]),
            "metrics": [_value(row[other]) for other in shown],
            "worse": _is_worse(row, whole, name, half),
        }
        for row in (whole, *parts)
    ]
    return {
        "names": shown,
        "rows": found,
        "judged": half is not None,
        "worse": [row for row in found if row["worse"]],
    }


def _is_worse(row: Row, whole: Row, name: str, half: float | None) -> bool:
    value, overall = _value(row[name]), _value(whole[name])
    if value is None or overall is None or half is None or row is whole:
        return False
    short = overall - value if metric(name).better == "higher" else value - overall
    return short > half * math.sqrt(int(whole["count"]) / int(row["count"]))


# --- data and parameters ----------------------------------------------------------------------------


def _balance(prepare: Mapping[str, Any]) -> dict[str, Any] | None:
    """The target's balance (or its summary) in either part, side by side."""
    known = prepare.get("target") or {}
    parts = {
        name: known[key]
        for key, name in (("train", "training part"), ("holdout", "hold-out"))
        if key in known
    }
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    if not names:
        return None
    return {
        "parts": list(parts),
        "rows": [(name, [part.get(name) for part in parts.values()]) for name in names],
    }


def _flat(selection: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The choice, one value a line."""
    found: list[tuple[str, str]] = []
    for name, value in selection.items():
        if isinstance(value, Mapping):
            found += [(f"{name}.{inner}", _written(item)) for inner, item in value.items()]
        else:
            found.append((name, _written(value)))
    return found


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return number(value, 6) if isinstance(value, int | float) else str(value)
