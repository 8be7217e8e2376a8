"""Runs of each kind of task, made up, small and complete; and an HTML parser that sees what a browser would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import pytest

from penstock.config import Card, Scoring, Task
from penstock.report.run import Curves, Run

VOID = {"meta", "br", "link", "img", "input", "hr"}
HOSTILE = """<script>alert("x")</script>'&"""


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]
    text: str = ""


@dataclass
class Page(HTMLParser):
    """Elements in order, with all text below each; complains of tags that do not match."""

    source: str
    elements: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[Element] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute: {names}"
        inside = tuple(element.tag for element in self.open)
        element = Element(tag, {name: value or "" for name, value in attrs}, inside)
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        return self.all("body")[0].text

    def row(self, header: str, number: int = 0) -> list[str]:
        """The cells' texts of a table's row that starts with ``header``."""
        found = []
        for at, element in enumerate(self.elements):
            if element.tag == "tr" and (cells := self._cells(at)) and cells[0].startswith(header):
                found.append(cells)
        return found[number]

    def _cells(self, at: int) -> list[str]:
        depth = len(self.elements[at].inside)
        cells = []
        for element in self.elements[at + 1 :]:
            if len(element.inside) <= depth:
                break
            if element.tag in {"td", "th"}:
                cells.append(" ".join(element.text.split(" ")).strip())
        return cells


@pytest.fixture
def parse() -> Callable[[str], Page]:
    return Page


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@dataclass
class Case:
    run: Run
    task: Task
    scoring: Scoring
    card: Card
    dataset: str = "toy"

    def arguments(self) -> dict[str, Any]:
        return {"card": self.card, "task": self.task, "scoring": self.scoring, "dataset": self.dataset}


def _summary(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 0.01, "low": mean - 0.02, "high": mean + 0.02}


def _entry(name: str, metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "name": name,
        "model": name,
        "params_per_fold": [{}] * 5,
        "thresholds": [0.3] * 5,
        "folds": [metrics] * 5,
        "metrics": {metric: _summary(value) for metric, value in metrics.items()},
    }


def _table(header: str, *rows: str) -> list[dict[str, str]]:
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


def _curves(header: str, points: list[tuple[float, float]], classes: tuple[str, ...]) -> list[dict[str, str]]:
    rows = [f"{x},{y}" for x, y in points]
    if not classes:
        return _table(header, *rows)
    return _table(f"{header},class", *(f"{row},{label}" for label in classes for row in rows))


def _classification_tables(labels: tuple[str, ...]) -> dict[str, list[dict[str, str]]]:
    several = labels if len(labels) > 2 else ()
    first, last = labels[0], labels[-1]
    return {
        "roc": _curves("fpr,tpr", [(0, 0), (0.1, 0.7), (1, 1)], several),
        "precision_recall": _curves("recall,precision", [(0.1, 1), (0.5, 0.8), (1, 0.3)], several),
        "calibration": _curves("predicted,observed", [(0.1, 0.12), (0.8, 0.7)], several),
        "gain": _curves("share,gain", [(0, 0), (0.1, 0.3), (0.3, 0.7), (1, 1)], several),
        "confusion": _table(
            "actual,predicted", *[f"{first},{first}"] * 6, f"{first},{last}", *[f"{last},{last}"] * 3
        ),
    }


METRICS: dict[str, dict[str, float]] = {
    "binary": {"roc_auc": 0.8471, "f1": 0.6, "f1_default": 0.5, "recall": 0.7, "recall_default": 0.4},
    "multiclass": {"roc_auc": 0.8471, "f1": 0.6},
    "regression": {"r2": 0.9, "rmse": 20402.7, "mape": 0.085},
}


def _profile(kind: str) -> dict[str, Any]:
    number = {
        "type": "number", "role": "feature", "count": 9, "missing": 1, "distinct": 9, "min": 0.5, "max": 9.25,
        "mean": 4.5, "std": 2.0, "p05": 0.6, "p25": 2.0, "median": 4.25, "p75": 6.0, "p95": 9.0, "skew": 0.25,
        "zeros": 0, "histogram": {"low": 0.5, "high": 9.25, "counts": [1, 0, 8]},
        "mutual_information": 0.123456, "alone": 0.71,
    }  # fmt: skip
    codes = {
        "type": "category", "role": "feature", "count": 10, "missing": 0, "distinct": 2, "top": [["b", 6], ["c", 4]],
        "other": 0, "length": {"min": 1, "mean": 1.0, "max": 1}, "mutual_information": 0.5, "alone": 0.99,
    }  # fmt: skip
    target = {"regression": {**number, "role": "target"}}.get(kind, {**codes, "role": "target"})
    classes = {"b": {"count": 6, "share": 0.6}, "c": {"count": 4, "share": 0.4}}
    return {
        "rows": 10,
        "duplicate_rows": 2,
        "target": {"name": "t", "kind": kind, "missing": 0} | ({} if kind == "regression" else {"classes": classes}),
        "columns": {"t": target, "x": number, "k": codes, "day": {"type": "date", "role": "time", "count": 10, "missing": 0, "distinct": 3, "min": "2024-01-01", "max": "2024-01-03"}, "void": {"type": "number", "role": "feature", "count": 0, "missing": 10, "distinct": 0}},
        "correlations": {
            "pairs": [{"left": "x", "right": "z", "pearson": -0.987654}],
            "names": ["x", "z"],
            "matrix": [[1.0, -0.987654], [-0.987654, 1.0]],
        },
        "constant": ["void"],
        "id_like": [],
        "leak_suspects": ["k"],
        "warnings": ["k alone foretells t with AUC 0.990"],
    }  # fmt: skip


def _case(kind: str) -> Case:
    labels = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}[kind]
    deciding = "r2" if kind == "regression" else "roc_auc"
    metrics = METRICS[kind]
    threshold = 0.2975 if kind == "binary" else None
    names = list(metrics)
    slices = _table(
        ",".join(["column", "value", "count", *names]),
        ",".join(["", "all", "400", *(str(metrics[name]) for name in names)]),
        ",".join(["k", "b", "100", *(str(metrics[name] - 0.05) for name in names)]),
        ",".join(["k", "c", "100", *(str(metrics[name] - 0.03) for name in names)]),
        ",".join(["k", "d", "3", *("" for _ in names)]),
    )
    points = {
        "residuals": _table("predicted,residual", "10,1", "20,-2"),
        "predicted_actual": _table("actual,predicted", "11,10", "18,20"),
    }
    curves = _classification_tables(labels) if labels else points
    model = {"candidate": "lightgbm", "model": "lightgbm", "params": {"num_leaves": 8}, "recipe": {"impute": "median"}, "log_target": kind == "regression", "threshold": threshold, "metric": deciding, "mean": metrics[deciding]}  # fmt: skip
    run = Run(
        manifest={
            "sha256": "ab" * 32, "data_sha256": "cd" * 32, "code_sha256": "ef" * 32, "opset": {"ai.onnx": 20},
            "classes": list(labels) or None, "positive": "yes" if kind == "binary" else None, "threshold": threshold,
            "inputs": [{"name": "x", "element": "float", "column": {"type": "number", "nullable": True, "min": 0.0, "max": None, "values": None, "unique": False}},
                       {"name": "k", "element": "string", "column": {"type": "category", "nullable": False, "min": None, "max": None, "values": ["b", "c"], "unique": False}}],
            "outputs": [{"name": "value", "element": "float", "shape": ["rows", 1]}], "versions": {"onnx": "1.23.2"},
        },
        leaderboard={
            "metric": deciding,
            "candidates": [_entry("lightgbm", metrics), _entry("dummy", {name: value / 2 for name, value in metrics.items()})],
            "best_params": {"num_leaves": 8},
            "significance": {"best": "lightgbm", "second": "dummy", "difference": 0.4, "t": 7.5, "p": 0.0021, "verdict": "lightgbm is better than dummy beyond chance"},
            "samplers": [],
        },
        validation={"winner": "lightgbm", **metrics, f"{deciding}_std": 0.01, f"{deciding}_low": metrics[deciding] - 0.02, f"{deciding}_high": metrics[deciding] + 0.02} | ({"threshold": threshold} if threshold else {}),
        evaluation=dict(metrics),
        selection=model,
        parity={"rows": 400, "max_difference": 1.2e-07, "max_difference_single": 2.4e-07, "worst_row": 7, "label_disagreement": 0.0, "metric_difference": 0.0},
        ingest={"rows": 1990, "quarantined": 10, "quarantined_share": 0.005, "reasons": {"x: min": 10}},
        prepare={"rows": 1990, "duplicates_removed": 3, "missing_target_removed": 1, "train": 1586, "holdout": 400, "target": {"train": {"b": 0.6}, "holdout": {"b": 0.61}}},
        profile=_profile(kind),
        training={"rows": 1586, "features": 2, deciding: 0.9321},
        prediction={"rows": 395, "rejected": 5, "reasons": {"x: number": 5}},
        importance=_table("feature,importance,std", "x,0.0610409,0.00366", "k,-0.001,0.0005"),
        out_of_fold=Curves(curves),
        holdout=Curves({**curves, "slices": slices}),
    )  # fmt: skip
    task = Task(kind=kind, target="t", positive="yes" if kind == "binary" else None, slices=("k",))  # type: ignore[arg-type]
    return Case(run, task, Scoring(metric=deciding), Card(title="Toy", intended_use="Tests."))  # type: ignore[arg-type]


@pytest.fixture
def make_case() -> Callable[[str], Case]:
    return _case


@pytest.fixture
def make_profile() -> Callable[[str], dict[str, Any]]:
    return _profile
