"""The page about a model of pictures: how good each phase is, how sure that is, and what it gets wrong."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.config import ImageReportView, View
from penstock.report import charts
from penstock.report.charts import Dot, Series
from penstock.report.images_run import PHASES, ImagesRun
from penstock.report.page import render
from penstock.report.run import Row
from penstock.report.wording import number, share

__all__ = ["images_page"]

FINAL, QUANTISED = "finetune", "int8"
NAMES = {
    "scratch": "From scratch",
    "head": "Head alone",
    "finetune": "Fine-tuned",
    "int8": "Fine-tuned, int8",
}
# Sentences have them in the middle.
WITHIN = {
    "scratch": "the network from scratch",
    "head": "the head alone",
    "finetune": "the fine-tuned network",
    "int8": "the int8 network",
}
STYLES = {"finetune": "k1", "head": "k3", "scratch": "k2"}
# Key in evaluation.json → heading, and whether it is a share.
FIGURES = {
    "top1": ("Top-1", True),
    "topk": ("Top-k", True),
    "balanced_accuracy": ("Balanced accuracy", True),
    "precision_macro": ("Precision, macro", True),
    "recall_macro": ("Recall, macro", True),
    "f1_macro": ("F1, macro", True),
    "log_loss": ("Log loss", False),
    "brier": ("Brier score", False),
    "ece": ("Calibration error", True),
}
KINDS = {
    "gaussian_noise": "Gaussian noise",
    "gaussian_blur": "Gaussian blur",
    "motion_blur": "Motion blur",
    "jpeg": "JPEG compression",
}
# Of the manifest, not among the facts about the artefact.
TOLD_ELSEWHERE = {"format", "kind", "task", "name", "title", "parameters"}
BARS = 60  # classes in a chart
CELLS = 100  # classes in a confusion matrix
MISTAKES = 15  # pairs of classes in the table of confusions


def images_page(run: ImagesRun, view: ImageReportView, dataset: str) -> str:
    """The report of a run as one HTML file that needs nothing else.

    Args:
        run: What the stages have written.
        view: What was chosen: the card, the backbone and the settings of each phase.
        dataset: Name in the configuration.
    """
    parts = {
        "curves": _curves(run),
        "classes": _classes(run),
        "confusion": _confusion(run),
        "calibration": _calibration(run),
        "robustness": _robustness(run),
        "quantised": _quantised(run),
        "wrong": _sheet(run, "wrong"),
        "explained": _sheet(run, "explained"),
        "data": _data(run),
    }
    headings = {
        "glance": "At a glance",
        "phases": "From scratch, head alone, fine-tuned",
        "curves": "Learning curves",
        "classes": "Classes",
        "confusion": "Confusion matrix",
        "calibration": "Calibration",
        "robustness": "Corrupted pictures",
        "quantised": "The int8 file",
        "wrong": "Most confident errors",
        "explained": "Where the network looks",
        "data": "Data",
        "card": "Model card",
        "artefact": "Artefact",
    }
    return render(
        "images.html",
        sections=[(name, heading) for name, heading in headings.items() if parts.get(name, True)],
        headings=headings,
        dataset=dataset,
        card=view.card,
        backbone=view.backbone,
        scoring=view.scoring,
        final=run.evaluation[FINAL],
        pictures=run.evaluation["pictures"],
        run=run,
        glance=_glance(run),
        phases=_phases(run, view),
        settings=_settings(view),
        artefact=_artefact(run),
        parity=_parity(run),
        **parts,
    )


# --- wording ----------------------------------------------------------------------------------------


def _points(value: float) -> str:
    """A difference of shares in points of a per cent, with its sign."""
    return f"{value * 100:+.1f}".replace("-", "−")


def _between(low: float | None, high: float | None) -> str:
    return f"{share(low)} to {share(high)}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else number(value, 2)


def _shown(name: str, value: float | None) -> str:
    _, is_share = FIGURES[name]
    return share(value) if is_share else number(value)


# --- headline ---------------------------------------------------------------------------------------


def _glance(run: ImagesRun) -> list[tuple[str, str, str]]:
    found, final = run.evaluation, run.evaluation[FINAL]
    differences = found.get("differences", {})
    items = [
        (
            "Top-1, hold-out",
            share(final["top1"]),
            f"{_between(final['top1_low'], final['top1_high'])}; {number(found['pictures'])} pictures",
        )
    ]
    items += [
        (
            f"Against {WITHIN[other]}",
            _points(against["difference"]),
            f"{_points(against['low'])} to {_points(against['high'])} points",
        )
        for other in ("head", "scratch")
        if (against := differences.get(f"{FINAL}_{other}"))
    ]
    if QUANTISED in found:
        items.append(("Top-1 of the int8 file", share(found[QUANTISED]["top1"]), "on the same pictures"))
    items.append(
        (
            "Calibration error",
            share(final["ece"]),
            f"{share(final['ece_uncalibrated'])} before temperature" if "ece_uncalibrated" in final else "",
        )
    )
    if corrupted := found.get("corrupted"):
        items.append(
            ("Top-1, corrupted", share(corrupted["mean"]), f"{share(corrupted['none'])} as they are")
        )
    return items


def _phases(run: ImagesRun, view: ImageReportView) -> dict[str, Any]:
    """The three ways to a network side by side, the last first; and whether they really differ."""
    there = [name for name in reversed(PHASES) if name in run.evaluation]
    dots = [
        Dot(
            NAMES[name],
            100 * run.evaluation[name]["top1"],
            100 * run.evaluation[name]["top1_low"],
            100 * run.evaluation[name]["top1_high"],
            marked=name == FINAL,
        )
        for name in there
    ]
    told = "; ".join(f"{NAMES[name]} {share(run.evaluation[name]['top1'])}" for name in there)
    level = 1 - view.scoring.confidence
    return {
        "chart": charts.dots(
            dots,
            axis="Top-1, per cent",
            alternative=f"Top-1 of each phase with its interval: {told}",
        ),
        "headings": _headings(view),
        "rows": [_figures(run.evaluation[name], NAMES[name], first=name == FINAL) for name in there],
        "tests": _tests(run, level, without=QUANTISED),
    }


def _headings(view: ImageReportView) -> list[str]:
    return [f"Top-{view.scoring.top}" if name == "topk" else label for name, (label, _) in FIGURES.items()]


def _figures(found: Mapping[str, Any], name: str, *, first: bool) -> dict[str, Any]:
    return {
        "name": name,
        "first": first,
        "interval": _between(found.get("top1_low"), found.get("top1_high")),
        "values": [_shown(key, found.get(key)) for key in FIGURES],
    }


def _tests(run: ImagesRun, level: float, *, only: str | None = None, without: str | None = None) -> list[Any]:
    found = []
    for key, test in run.evaluation.get("differences", {}).items():
        first, _, second = key.partition("_")
        if (only is not None and only not in (first, second)) or without in (first, second):
            continue
        found.append(
            {
                "first": NAMES.get(first, first),
                "second": NAMES.get(second, second),
                "difference": _points(test["difference"]),
                "interval": f"{_points(test['low'])} to {_points(test['high'])}",
                "only_first": test["only_first"],
                "only_second": test["only_second"],
                "p": _p(test["p"]),
                "verdict": _verdict(first, second, test, level),
            }
        )
    return found


def _verdict(first: str, second: str, test: Mapping[str, Any], level: float) -> str:
    one, other = WITHIN.get(first, first), WITHIN.get(second, second)
    if test["p"] >= level:
        return f"{one} and {other} cannot be told apart on these pictures"
    if test["difference"] < 0:
        one, other = other, one
    return f"{one} is right more often than {other}, beyond chance"


# --- curves -----------------------------------------------------------------------------------------


def _column(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [(float(row["epoch"]), float(row[name])) for row in rows if row.get(name)]


def _curves(run: ImagesRun) -> list[dict[str, Any]]:
    """Top-1 of all phases by epoch, then the losses of each."""
    there = [phase for phase in reversed(PHASES) if run.curves.get(phase)]
    found = []
    top1 = [
        Series(NAMES[phase], points, STYLES[phase], marked=len(points) < 3)
        for phase in there
        if (points := _column(run.curves[phase], "validation_top1"))
    ]
    if top1:
        told = "; ".join(f"{item.label} ends at {share(item.points[-1][1])}" for item in top1)
        found.append(
            _trend("Top-1 on the validation part", top1, "validation top-1", f"Top-1 by epoch: {told}.")
        )
    for phase in there:
        series = [
            Series(label, points, style, marked=len(points) < 3)
            for label, name, style in (
                ("Validation", "validation_loss", "holdout"),
                ("Training", "train_loss", "cv"),
            )
            if (points := _column(run.curves[phase], name))
        ]
        if series:
            told = "; ".join(f"{item.label} ends at {number(item.points[-1][1])}" for item in series)
            found.append(_trend(f"Loss: {NAMES[phase].lower()}", series, "loss", f"Loss by epoch: {told}."))
    return found


def _trend(title: str, series: Sequence[Series], y: str, told: str) -> dict[str, Any]:
    return {
        "title": title,
        "chart": charts.trends(series, x="epoch", y=y, alternative=told),
        "legend": [(item.style, item.label) for item in series],
    }


# --- classes and confusions -------------------------------------------------------------------------


def _classes(run: ImagesRun) -> dict[str, Any] | None:
    rows = run.tables.get("per_class", [])
    if not rows:
        return None
    ranked = sorted(rows, key=lambda row: (float(row["f1"]), row["class"]))
    shown = ranked[:BARS]
    told = ", ".join(f"{row['class']} {share(float(row['f1']))}" for row in ranked[:5])
    return {
        "rows": ranked,
        "left_out": len(rows) - len(shown),
        "chart": charts.bars(
            [Dot(row["class"], 100 * float(row["f1"])) for row in shown],
            axis="F1, per cent",
            alternative=f"F1 of each class, the worst first: {told}",
        ),
    }


def _confusion(run: ImagesRun) -> dict[str, Any] | None:
    rows = run.tables.get("confusion", [])
    if not rows:
        return None
    counts = Counter((row["actual"], row["predicted"]) for row in rows)
    actual = Counter(row["actual"] for row in rows)
    known = run.manifest.get("classes") or []
    labels = [*known, *sorted({label for pair in counts for label in pair} - set(known))]
    errors = sorted(
        ((pair, count) for pair, count in counts.items() if pair[0] != pair[1]),
        key=lambda item: (-item[1], item[0]),
    )
    chart = None
    if len(labels) <= CELLS:
        told = "; ".join(f"{one} taken for {other}: {count}" for (one, other), count in errors[:5])
        chart = charts.confusion(
            labels,
            [[counts[one, other] for other in labels] for one in labels],
            alternative=f"Confusion matrix of {len(labels)} classes. Most frequent errors: {told or 'none'}.",
        )
    mistakes = [(one, other, count, count / actual[one]) for (one, other), count in errors[:MISTAKES]]
    return {"chart": chart, "mistakes": mistakes, "pairs": len(errors), "classes": len(labels)}


# --- calibration, corruptions, int8 -----------------------------------------------------------------


def _calibration(run: ImagesRun) -> dict[str, Any] | None:
    rows = run.tables.get("calibration", [])
    final = run.evaluation[FINAL]
    series = [
        Series(label, points, style, marked=True)
        for name, label, style in (
            ("after", "With temperature", "holdout"),
            ("before", "Without", "cv"),
        )
        if (
            points := [
                (float(row["predicted"]), float(row["observed"]))
                for row in rows
                if row["temperature"] == name
            ]
        )
    ]
    if not series:
        return None
    told = (
        f"calibration error {share(final['ece'])}, without temperature {share(final.get('ece_uncalibrated'))}"
    )
    return {
        "chart": charts.lines(
            series,
            x="probability of the chosen class",
            y="share right",
            reference=[(0.0, 0.0), (1.0, 1.0)],
            alternative=f"Calibration of the fine-tuned network on the hold-out: {told}.",
        ),
        "legend": [(item.style, item.label) for item in series],
        "rows": [
            (
                NAMES[name],
                number(found.get("temperature"), 3),
                share(found.get("ece_uncalibrated")),
                share(found.get("ece")),
            )
            for name in reversed(PHASES)
            if (found := run.evaluation.get(name))
        ],
    }


def _robustness(run: ImagesRun) -> dict[str, Any] | None:
    rows = run.tables.get("corruption", [])
    if not rows:
        return None
    clean = next((float(row["top1"]) for row in rows if row["severity"] == "0"), None)
    severities = sorted({int(row["severity"]) for row in rows} - {0})
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["severity"] != "0"))
    top1 = {(row["kind"], int(row["severity"])): float(row["top1"]) for row in rows}
    return {
        "clean": clean,
        "severities": severities,
        "rows": [
            (
                KINDS.get(kind, kind.replace("_", " ").capitalize()),
                [
                    {"top1": value, "lost": None if clean is None or value is None else clean - value}
                    for value in (top1.get((kind, severity)) for severity in severities)
                ],
            )
            for kind in kinds
        ],
    }


def _quantised(run: ImagesRun) -> dict[str, Any] | None:
    if QUANTISED not in run.evaluation:
        return None
    final, small = run.evaluation[FINAL], run.evaluation[QUANTISED]
    tests = _tests(run, 0.0, only=QUANTISED)
    return {
        "rows": [
            (label, _shown(name, final.get(name)), _shown(name, small.get(name)))
            for name, (label, _) in FIGURES.items()
        ],
        "test": tests[0] if tests else None,
    }


# --- pictures ---------------------------------------------------------------------------------------


def _sheet(run: ImagesRun, name: str) -> dict[str, Any] | None:
    """A sheet and what is on it, left to right and top to bottom; None where one of both is missing."""
    rows, jpeg = run.tables.get(name), run.sheets.get(name)
    if rows is None or jpeg is None:
        return None
    return {"rows": rows, "picture": f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"}


# --- data and settings ------------------------------------------------------------------------------


def _data(run: ImagesRun) -> dict[str, Any] | None:
    if not run.ingest and not run.split:
        return None
    totals = run.split.get("pictures", {})
    classes = run.split.get("classes", {})
    labels = list(dict.fromkeys(label for counts in classes.values() for label in counts))
    names = {"train": "Training", "validation": "Validation", "holdout": "Hold-out"}
    return {
        "totals": [(names.get(part, part), count) for part, count in totals.items()],
        "parts": [names.get(part, part) for part in classes],
        "classes": [(label, [counts.get(label, 0) for counts in classes.values()]) for label in labels],
        "near": run.split.get("near_duplicates", {}),
        "reasons": [
            (reason.replace("_", " "), count) for reason, count in run.ingest.get("reasons", {}).items()
        ],
    }


def _settings(view: ImageReportView) -> list[tuple[str, list[tuple[str, str]]]]:
    """Every setting of each phase, one value a line."""
    groups: dict[str, View] = {
        "Backbone": view.backbone,
        "Head": view.extraction,
        "Fine-tuning": view.finetuning,
        "From scratch": view.scratch,
    }
    return [
        (name, [(key, _written(value)) for key, value in group.model_dump().items()])
        for name, group in groups.items()
    ]


def _artefact(run: ImagesRun) -> list[tuple[str, str]]:
    """What the manifest says, whatever that is."""
    return [
        (name.replace("_", " "), _written(value))
        for name, value in run.manifest.items()
        if name not in TOLD_ELSEWHERE
    ]


def _parity(run: ImagesRun) -> dict[str, Any]:
    """How far the files are from the network that they were made from, and from each other."""
    found = run.parity
    small = found.get("int8") or {}
    rows = [
        ("Largest difference of a probability, pictures in batches", number(found.get("max_difference"), 2)),
        ("The same, one picture a run", number(found.get("max_difference_single"), 2)),
        ("Pictures with another label", share(found.get("label_disagreement"))),
    ]
    if small:
        rows += [
            (
                "int8 against fp32: largest difference of a probability",
                number(small.get("max_difference"), 2),
            ),
            ("int8 against fp32: pictures with another label", share(small.get("label_disagreement"))),
        ]
    return {"pictures": found.get("pictures"), "rows": rows if found else []}


def _written(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_written(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(item, Mapping) for item in value) else ", "
        return between.join(_written(item) for item in value)
    return number(value, 6) if isinstance(value, int | float) else str(value)
