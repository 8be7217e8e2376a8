"""The report: says what the files say, whatever the task; needs no network; lets no data become markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from penstock.config import Card
from penstock.report.run import Curves
from penstock.report.run_page import run_page

KINDS = ("binary", "multiclass", "regression")


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, make_case: Callable[[str], Any]) -> Any:
    return make_case(request.param)


def render(case: Any) -> str:
    return run_page(case.run, **case.arguments())


def test_needs_nothing_but_itself(case: Any, parse: Callable[[str], Any]) -> None:
    source = render(case)
    page = parse(source)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & {
        element.tag for element in page.elements
    }
    links = [
        value
        for element in page.elements
        for name, value in element.attributes.items()
        if name in {"href", "src"}
    ]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "http:" not in source
    assert "https:" not in source
    assert "url(" not in source
    assert "@import" not in source


def test_same_bytes_twice(case: Any, make_case: Callable[[str], Any]) -> None:
    assert render(case) == render(make_case(case.task.kind))


def test_contents_lead_to_every_section(case: Any, parse: Callable[[str], Any]) -> None:
    page = parse(render(case))
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    targets = [element.attributes["href"][1:] for element in page.all("a")]
    assert set(targets) <= set(ids)
    headings = [element.attributes["id"] for element in page.all("h2") if "section" in element.inside]
    assert headings == targets[1:]


def test_everything_drawn_or_listed_has_a_name(case: Any, parse: Callable[[str], Any]) -> None:
    page = parse(render(case))
    assert len(page.all("svg")) >= 4
    for drawing in page.all("svg"):
        assert drawing.attributes["role"] == "img"
        assert drawing.attributes["aria-label"].strip()
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(caption.text.strip() for caption in page.all("caption"))
    assert all(header.attributes.get("scope") for header in page.all("th"))


def test_headline_of_two_classes(make_case: Callable[[str], Any], parse: Callable[[str], Any]) -> None:
    page = parse(render(make_case("binary")))
    figures = dict(
        zip([one.text for one in page.all("dt")], [one.text for one in page.all("dd")], strict=True)
    )
    assert figures["ROC AUC, hold-out"] == "0.8471400 rows that chose nothing"
    assert figures["ROC AUC, cross-validation"] == "0.847195% interval 0.8271 to 0.8671"
    assert figures["Decision threshold"].startswith("0.2975")
    assert figures["ONNX and pipeline differ by"].startswith("1.2 × 10⁻⁷")
    assert figures["SHA-256 of the file"] == "ab" * 32
    assert figures["Rows that kept the contract"] == "1990"
    assert figures["Quarantined"] == "10 (0.5%)"
    assert "The hold-out lies inside the interval" in page.text


def test_tables_say_what_the_files_say(make_case: Callable[[str], Any], parse: Callable[[str], Any]) -> None:
    page = parse(render(make_case("binary")))
    assert page.row("lightgbm") == [
        "lightgbm",
        "lightgbm",
        "0.8471",
        "0.0100",
        "0.8271 to 0.8671",
        "0.6000",
        "0.7000",
    ]
    assert page.row("ROC AUC") == ["ROC AUC", "higher", "0.8471", "0.0100", "0.8271 to 0.8671", "0.8471"]
    # Cross-validation default and tuned, then the hold-out's.
    assert page.row("Recall") == ["Recall", "higher", "0.4000", "0.7000", "0.4000", "0.7000"]
    assert page.row("no") == ["no", "685.7%", "114.3%", "7"]
    assert page.row("yes") == ["yes", "00.0%", "3100.0%", "3"]
    assert page.row("x: min") == ["x: min", "10"]
    assert page.row("x: number") == ["x: number", "5"]
    assert page.row("k", 1)[0] == "k"
    assert "lightgbm is better than dummy beyond chance." in page.text
    assert "The best-scored 20% of the hold-out hold 50% of its positives." in page.text


def test_errors_of_regression_are_in_units_of_the_target(
    make_case: Callable[[str], Any], parse: Callable[[str], Any]
) -> None:
    page = parse(render(make_case("regression")))
    assert page.row("RMSE")[0] == "RMSE, in units of t"
    assert page.row("RMSE")[-1] == "20,403"
    assert page.row("MAPE")[-1] == "8.5%"
    assert "Confusion matrix" not in page.text
    assert "lightgbm of ln(1 + t)" in page.text


def test_every_class_has_its_curve(make_case: Callable[[str], Any], parse: Callable[[str], Any]) -> None:
    page = parse(render(make_case("multiclass")))
    drawn = [element.attributes["class"] for element in page.all("path") if "svg" in element.inside]
    for style in ("line k1", "line k2", "line k3", "line k3 dashed"):
        assert style in drawn
    assert len(page.row("a", 0)) == 5


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.86, "inside"), (0.87, "better than the interval"), (0.82, "worse than the interval")],
)
def test_holdout_is_held_against_the_interval(
    make_case: Callable[[str], Any], value: float, verdict: str
) -> None:
    case = make_case("binary")
    case.run = replace(case.run, evaluation={**case.run.evaluation, "roc_auc": value})
    assert verdict in render(case)


def test_a_slice_is_flagged_when_fewer_rows_do_not_explain_it(
    make_case: Callable[[str], Any], parse: Callable[[str], Any]
) -> None:
    # Half the interval is 0.02; a slice of a quarter of the rows may be twice that worse: 0.04.
    page = parse(render(make_case("binary")))
    flagged = [element.text for element in page.all("tr") if element.attributes.get("class") == "flag"]
    assert len(flagged) == 1
    assert flagged[0].startswith("kb (worse)100")
    assert page.row("k", 2)[:4] == ["k", "c", "100", "0.8171"]
    assert page.row("k", 3) == ["k", "d", "3", *["–"] * (len(page.row("k", 2)) - 3)]


def test_a_loss_is_worse_when_it_is_larger(
    make_case: Callable[[str], Any], parse: Callable[[str], Any]
) -> None:
    case = make_case("regression")
    case.scoring = case.scoring.model_copy(update={"metric": "rmse"})
    case.run = replace(
        case.run, validation={**case.run.validation, "rmse_low": 20000.0, "rmse_high": 21000.0}
    )
    rows = [{**row} for row in case.run.holdout.tables["slices"]]
    rows[1]["rmse"], rows[2]["rmse"] = "22000", "10000"
    case.run = replace(case.run, holdout=Curves({**case.run.holdout.tables, "slices": rows}))
    flagged = [e.text for e in parse(render(case)).all("tr") if e.attributes.get("class") == "flag"]
    assert [text[:2] for text in flagged] == ["kb"]


def test_names_from_data_are_text(case: Any, parse: Callable[[str], Any], hostile: str) -> None:
    run = case.run
    tables = {name: [{**row} for row in rows] for name, rows in run.holdout.tables.items()}
    tables["slices"][1]["value"] = hostile
    for row in tables.get("confusion", [])[:1]:
        row["actual"] = hostile
    for name in ("roc", "gain"):
        for row in tables.get(name, []):
            if "class" in row:
                row["class"] = row["class"].replace("a", hostile)
    case.run = replace(
        run,
        holdout=Curves(tables),
        importance=[{"feature": hostile, "importance": "0.1", "std": "0.01"}],
        ingest={**run.ingest, "reasons": {hostile: 1}},
        profile={**run.profile, "warnings": [hostile]},
        leaderboard={
            **run.leaderboard,
            "candidates": [{**run.leaderboard["candidates"][0], "name": hostile}],
        },
    )
    case.card = Card(title=hostile, description=hostile, caveats=hostile)
    source = render(case)
    page = parse(source)
    assert "<script" not in source
    assert not page.all("script")
    assert hostile in page.text
    assert any(hostile in drawing.attributes["aria-label"] for drawing in page.all("svg"))


def test_what_is_not_there_is_left_out(case: Any, parse: Callable[[str], Any]) -> None:
    run = case.run
    tables = {name: rows for name, rows in run.holdout.tables.items() if name == "confusion"}
    entry = run.leaderboard["candidates"][0]
    case.run = replace(
        run,
        training={},
        prediction={},
        importance=[],
        holdout=Curves(tables),
        out_of_fold=Curves({}),
        leaderboard={
            "metric": run.leaderboard["metric"],
            "candidates": [entry],
            "significance": None,
            "samplers": [],
        },
        validation={
            name: value for name, value in run.validation.items() if not name.endswith(("_low", "_high"))
        },
        prepare={"train": 1586, "holdout": 400},
    )
    case.card = Card()
    page = parse(render(case))
    headings = [element.text for element in page.all("h2")]
    assert "Slices" not in headings
    assert "Samplers" not in headings
    assert "there was one candidate" in page.text
    assert "There is no interval" in page.text
    assert "There are no curves." in page.text
    assert page.all("h1")[0].text == "toy"
    assert page.text.count("not stated") == 6


def test_samplers_side_by_side(make_case: Callable[[str], Any], parse: Callable[[str], Any]) -> None:
    case = make_case("binary")
    candidates = case.run.leaderboard["candidates"]
    samplers = [{**candidates[0], "name": "smote"}, {**candidates[1], "name": "none"}]
    case.run = replace(case.run, leaderboard={**case.run.leaderboard, "samplers": samplers})
    page = parse(render(case))
    assert page.row("smote")[2] == "0.8471"
    assert page.row("none")[2] == "0.4235"


def test_a_value_without_number_is_a_dash(
    make_case: Callable[[str], Any], parse: Callable[[str], Any]
) -> None:
    case = make_case("binary")
    nothing = {"mean": None, "std": None, "low": None, "high": None}
    dummy = case.run.leaderboard["candidates"][1]
    dummy["metrics"]["roc_auc"] = nothing
    assert parse(render(case)).row("dummy")[2:5] == ["–", "–", "– to –"]
