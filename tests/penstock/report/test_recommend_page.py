"""The recommender's page: nothing from outside, nothing of the data taken for markup, and the figures that were found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.config import Card, InteractionReportView, InteractionScoring
from penstock.report.recommend_page import RecommendRun, recommend_page

Parse = Callable[[str], Any]
HOSTILE = """<script>alert("x")</script>'&"""
FIGURES = {"hit_rate": 0.5, "ndcg": 0.3, "mrr": 0.2, "recall": 0.5}
BEYOND = {"coverage": 0.25, "gini": 0.5, "novelty": 2.5, "popularity_lift": 1.5, "diversity": None}
MODELS = {"transitions": 0.3, "item_knn": 0.1, "ease": 0.2, "als": 0.15, "popularity": 0.05}


def texts(**values: Any) -> dict[str, str]:
    return {name: "" if value is None else str(value) for name, value in values.items()}


def a_run(title: str = "Film") -> RecommendRun:
    board = [
        texts(model=name, metric=metric, value=ndcg, low=ndcg - 0.01, high=ndcg + 0.01)
        for name, ndcg in MODELS.items()
        for metric in FIGURES
    ]
    curves = [
        texts(model=name, k=k, **dict.fromkeys(FIGURES, ndcg * k / 10))
        for name, ndcg in MODELS.items()
        for k in (1, 10)
    ]
    activity = [texts(**{"from": 1, "to": 9, "users": 20, "model": name, **FIGURES}) for name in MODELS]
    example = {
        "past": [title],
        "wanted": [title],
        "items": [title, "Other", None],
        "because": ["Third", None, None],
    }
    return RecommendRun(
        manifest={
            "model": "transitions",
            "sha256": "ab" * 32,
            "voting": 100,
            "data_sha256": "cd",
            "code_sha256": "ef",
            "versions": {"numpy": "2"},
        },
        evaluation={
            "users": 20,
            "k": 10,
            **{name: {**FIGURES, "ndcg": ndcg, **BEYOND} for name, ndcg in MODELS.items()},
        },
        files={
            "ingest": {"rows": 1234, "users": 21, "items": 90, "quarantined": 3},
            "split": {},
            "training": {"items": 50, "weights": 500, "kept": 0.8, "half_life": None},
            "parity": {"max_difference": 0.0, "disagreement": 0.0},
        },
        tables={
            "leaderboard": board,
            "beyond": [],
            "tests": [
                texts(
                    model="transitions",
                    other="als",
                    metric="ndcg",
                    difference=0.15,
                    low=0.1,
                    high=0.2,
                    p=0.0005,
                )
            ],
            "curves": curves,
            "activity": activity,
            "trade": [texts(asked=0.0, **FIGURES, **BEYOND), texts(asked=1.0, **FIGURES, **BEYOND)],
        },
        trials=[texts(candidate="ease", settings="ridge 1", **FIGURES)],
        examples=[example],
    )


def render(title: str = "Film") -> str:
    view = InteractionReportView(card=Card(title="Toy"), scoring=InteractionScoring())
    return recommend_page(a_run(title), view, "toy")


def test_needs_nothing_but_itself(parse: Parse) -> None:
    source = render()
    page = parse(source)
    assert "http:" not in source
    assert "https:" not in source
    policy = [one.attributes["content"] for one in page.all("meta") if "http-equiv" in one.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    anchors = {one.attributes["href"][1:] for one in page.all("a") if one.attributes["href"] != "#main"}
    assert anchors == {one.attributes["id"] for one in page.all("h2")} - {"contents"}


def test_says_what_was_found_the_winner_first_and_then_the_better_ones(parse: Parse) -> None:
    page = parse(render())
    names = [one.text.strip() for one in page.all("th") if "scope" in one.attributes]
    first = names.index("Transitions")
    order = [
        name for name in names[first:] if name in {"Transitions", "EASE", "ALS", "Item kNN", "Popularity"}
    ]
    assert order[:5] == ["Transitions", "EASE", "ALS", "Item kNN", "Popularity"]
    assert page.row("ALS", 1)[1:] == ["NDCG", "0.1500", "0.1000 to 0.2000", "0.0005"]
    text = " ".join(page.all("main")[0].text.split())
    assert "50 of them have enough interactions" in text
    assert "3 in quarantine" in text
    # Five models and four colours: what the winner must beat is drawn.
    assert [one.text.strip() for one in page.all("li") if "svg" not in one.inside][-4:] == [
        "Transitions",
        "ALS",
        "Popularity",
        "EASE",
    ]


def test_a_title_is_text_whatever_it_is(parse: Parse) -> None:
    page = parse(render(HOSTILE))
    assert not page.all("script")
    assert any(HOSTILE in one.text for one in page.all("summary"))
    assert any(HOSTILE in one.text for one in page.all("th"))


def test_a_user_has_no_name_and_an_empty_place_no_row(parse: Parse) -> None:
    page = parse(render())
    assert any("User 1, who took up Film" in one.text for one in page.all("summary"))
    details = next(one for one in page.all("details"))
    assert "Third" in details.text
    assert "None" not in details.text
