"""The page about a recommender: how good its lists are beside others', for whom, and what they are like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penstock.config import InteractionReportView
from penstock.report import charts
from penstock.report.charts import Dot, Series
from penstock.report.page import render
from penstock.report.run import Row, read_table
from penstock.report.wording import figure, number, share
from penstock.storage import read_json

__all__ = ["RecommendRun", "read", "recommend_page"]

TABLES = ("leaderboard", "beyond", "tests", "curves", "activity", "trade")
METRICS = {"hit_rate": "Hit rate", "ndcg": "NDCG", "mrr": "MRR", "recall": "Recall"}
BEYOND = {
    "coverage": ("Coverage", True),
    "gini": ("Gini", False),
    "novelty": ("Novelty, bits", False),
    "popularity_lift": ("Popularity lift", False),
    "diversity": ("Diversity of genres", False),
}
NAMES = {
    "popularity": "Popularity",
    "item_knn": "Item kNN",
    "ease": "EASE",
    "transitions": "Transitions",
    "als": "ALS",
}
BASELINES = ("als", "popularity")
STYLES = ("k1", "k2", "k3", "k4")
TRIALS = 20  # in the table of the search


@dataclass(frozen=True)
class RecommendRun:
    """Everything that the page shows and the configuration does not say.

    Attributes:
        manifest: Of the artefact.
        evaluation: Figures by model.
        files: ingest, split, training, parity: the files of these names; empty where there is none.
        tables: Name of a table of the evaluation → rows.
        trials: Of the search.
        examples: Users with their list.
    """

    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, list[Row]] = field(default_factory=dict)
    trials: list[Row] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)


def read(reports: Path, manifest: Path) -> RecommendRun:
    """Read the files of one set of interactions.

    Raises:
        PenstockError: One is missing, or cannot be read.
    """
    names = ("ingest", "split", "training", "parity")
    return RecommendRun(
        manifest=read_json(manifest),
        evaluation=read_json(reports / "evaluation.json"),
        files={name: read_json(reports / f"{name}.json") for name in names},
        tables={name: read_table(reports / "evaluation" / f"{name}.csv") for name in TABLES},
        trials=read_table(reports / "validation" / "trials.csv"),
        examples=read_json(reports / "evaluation" / "examples.json"),
    )


def recommend_page(run: RecommendRun, view: InteractionReportView, dataset: str) -> str:
    """The report as one HTML file that needs nothing else."""
    winner = run.manifest["model"]
    others = [name for name in run.evaluation if name not in {winner, "users", "k"}]
    models = [winner, *sorted(others, key=lambda name: -run.evaluation[name]["ndcg"])]
    # What the winner must beat is drawn first: there are more models than colours.
    drawn = [winner, *sorted(models[1:], key=lambda name: name not in BASELINES)][: len(STYLES)]
    headings = {
        "glance": "At a glance",
        "models": "Models",
        "curves": "By length of the list",
        "beyond": "Beyond hits",
        "diversity": "What diversity costs",
        "activity": "For whom",
        "examples": "Examples",
        "search": "The search",
        "artefact": "The artefact",
    }
    k = run.evaluation["k"]
    return render(
        "recommend.html",
        sections=list(headings.items()),
        headings=headings,
        dataset=dataset,
        card=view.card,
        scoring=view.scoring,
        k=k,
        users=run.evaluation["users"],
        winner=_name(winner),
        glance=_glance(run, winner),
        metrics=list(METRICS.values()),
        board=_board(run, models),
        charts=[_dots(run, models, metric) for metric in ("hit_rate", "ndcg")],
        tests=[_test(row) for row in run.tables["tests"]],
        curve=_curve(run, drawn),
        legend=[(style, _name(name)) for style, name in zip(STYLES, drawn, strict=False)],
        beyond_headings=[label for label, _ in BEYOND.values()],
        beyond=_beyond(run, models),
        trade=_trade(run),
        trade_chart=_trade_chart(run),
        activity=_activity(run, models),
        examples=run.examples,
        trials=_trials(run, view.scoring.metric),
        trial_count=len(run.trials),
        split=run.files["split"],
        facts=_facts(run),
    )


def _name(model: str) -> str:
    return NAMES.get(model, model)


def _number(text: str) -> float | None:
    return float(text) if text else None


def _glance(run: RecommendRun, winner: str) -> list[tuple[str, str, str]]:
    own, k = run.evaluation[winner], run.evaluation["k"]
    bounds = {row["metric"]: row for row in run.tables["leaderboard"] if row["model"] == winner}

    def between(metric: str) -> str:
        return f"{figure(_number(bounds[metric]['low']))} to {figure(_number(bounds[metric]['high']))}"

    ingest, training = run.files["ingest"], run.files["training"]
    return [
        (f"Hit rate at {k}", figure(own["hit_rate"]), between("hit_rate")),
        (f"NDCG at {k}", figure(own["ndcg"]), between("ndcg")),
        ("MRR", figure(own["mrr"]), between("mrr")),
        ("Interactions", number(ingest["rows"]), f"{number(ingest['quarantined'])} in quarantine"),
        ("Users", number(ingest["users"]), f"{number(run.evaluation['users'])} are judged"),
        (
            "Items",
            number(ingest["items"]),
            f"{number(training['items'])} of them have enough interactions to be recommended",
        ),
        ("Coverage", share(own["coverage"]), f"of the items are in the first {k} of anyone"),
    ]


def _board(run: RecommendRun, models: Sequence[str]) -> list[dict[str, Any]]:
    cells = {(row["model"], row["metric"]): row for row in run.tables["leaderboard"]}
    return [
        {
            "name": _name(name),
            "first": at == 0,
            "values": [
                (
                    figure(_number(cells[name, metric]["value"])),
                    f"{figure(_number(cells[name, metric]['low']))}–{figure(_number(cells[name, metric]['high']))}",
                )
                for metric in METRICS
            ],
        }
        for at, name in enumerate(models)
    ]


def _dots(run: RecommendRun, models: Sequence[str], metric: str) -> tuple[str, Any]:
    cells = {row["model"]: row for row in run.tables["leaderboard"] if row["metric"] == metric}
    rows = [
        Dot(
            _name(name),
            _number(cells[name]["value"]),
            _number(cells[name]["low"]),
            _number(cells[name]["high"]),
        )
        for name in models
    ]
    told = ", ".join(f"{row.label} {figure(row.value)}" for row in rows)
    title = f"{METRICS[metric]} at {run.evaluation['k']}"
    return title, charts.dots(rows, axis=title, alternative=f"{title}: {told}")


def _test(row: Row) -> dict[str, str]:
    return {
        "other": _name(row["other"]),
        "metric": METRICS[row["metric"]],
        "difference": figure(_number(row["difference"])),
        "interval": f"{figure(_number(row['low']))} to {figure(_number(row['high']))}",
        "p": number(_number(row["p"]), 2),
    }


def _curve(run: RecommendRun, models: Sequence[str]) -> Any:
    series = [
        Series(
            _name(name),
            [
                (float(row["k"]), float(row["hit_rate"]))
                for row in run.tables["curves"]
                if row["model"] == name
            ],
            style,
        )
        for style, name in zip(STYLES, models, strict=False)
    ]
    ends = ", ".join(f"{one.label} {figure(one.points[-1][1])}" for one in series)
    return charts.trends(
        series,
        x="length of the list",
        y="hit rate",
        alternative=f"Hit rate by length of the list; at the end: {ends}",
    )


def _beyond(run: RecommendRun, models: Sequence[str]) -> list[tuple[str, list[str]]]:
    return [
        (
            _name(name),
            [
                (share if as_share else figure)(run.evaluation[name][key])
                for key, (_, as_share) in BEYOND.items()
            ],
        )
        for name in models
    ]


def _trade(run: RecommendRun) -> list[list[str]]:
    shown = ("hit_rate", "ndcg", "diversity", "coverage", "novelty")
    return [
        [number(float(row["asked"])), *[figure(_number(row[name])) for name in shown]]
        for row in run.tables["trade"]
    ]


def _trade_chart(run: RecommendRun) -> Any:
    points = [
        (diversity, float(row["ndcg"]))
        for row in run.tables["trade"]
        if (diversity := _number(row["diversity"])) is not None
    ]
    if not points:
        return None
    return charts.trends(
        [Series("diversity", points, "k1", marked=True)],
        x="diversity of genres in a list",
        y="NDCG",
        alternative=f"NDCG from {figure(points[0][1])} without to {figure(points[-1][1])} with full diversity",
    )


def _activity(run: RecommendRun, models: Sequence[str]) -> dict[str, Any]:
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in run.tables["activity"]:
        groups.setdefault((row["from"], row["to"], row["users"]), {})[row["model"]] = row
    return {
        "models": [_name(name) for name in models],
        "rows": [
            (f"{low} to {high}", users, [figure(float(rows[name]["hit_rate"])) for name in models])
            for (low, high, users), rows in groups.items()
        ],
    }


def _trials(run: RecommendRun, metric: str) -> list[dict[str, str]]:
    best = sorted(run.trials, key=lambda row: -float(row[metric]))[:TRIALS]
    return [
        {
            "name": _name(row["candidate"]),
            "settings": row["settings"],
            "values": "",
            **{key: figure(float(row[key])) for key in METRICS},
        }
        for row in best
    ]


def _facts(run: RecommendRun) -> list[tuple[str, str]]:
    manifest: Mapping[str, Any] = run.manifest
    training, parity = run.files["training"], run.files["parity"]
    return [
        ("SHA-256", manifest["sha256"]),
        ("Weights", f"{number(training['weights'])}, {share(training['kept'])} of the sum of all"),
        (
            "Half-life of a vote",
            f"{number(training['half_life'])} places" if training["half_life"] else "none",
        ),
        ("Items of a history that vote", number(manifest["voting"])),
        ("From the arrays", f"{number(parity['max_difference'])} at most in a score"),
        ("Other item at a place", share(parity["disagreement"])),
        ("Data, SHA-256", manifest["data_sha256"]),
        ("Code, SHA-256", manifest["code_sha256"]),
        ("Made with", ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())),
    ]
