"""The report on pictures: says what the files say, whatever is missing; needs no network; lets no data become markup."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from penstock.config import Backbone, Card, Extraction, Finetuning, ImageReportView, ImageScoring
from penstock.errors import PenstockError
from penstock.report.images_page import images_page
from penstock.report.images_run import ImagesRun, read
from penstock.storage import write_json

JPEG = b"\xff\xd8\xff toy"


def _table(header: str, *rows: str) -> list[dict[str, str]]:
    return [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]


def _figures(top1: float, **more: float) -> dict[str, float]:
    names = ("balanced_accuracy", "precision_macro", "recall_macro", "f1_macro", "brier", "ece")
    return {
        **dict.fromkeys(names, 0.5),
        "top1": top1,
        "topk": 0.99,
        "top1_low": top1 - 0.03,
        "top1_high": top1 + 0.03,
        "log_loss": 0.4321,
        **more,
    }


def _difference(value: float, p: float) -> dict[str, Any]:
    return {
        "difference": value,
        "low": value - 0.02,
        "high": value + 0.02,
        "only_first": 31,
        "only_second": 17,
        "p": p,
    }


def _run() -> ImagesRun:
    listed = _table(
        "row,source,label,predicted,probability", "7,a/7.png,cat,dog,0.987", "9,a/9.png,dog,cat,0.6"
    )
    return ImagesRun(
        manifest={"classes": ["cat", "dog", "owl"], "sha256": "ab" * 32, "opset": {"ai.onnx": 20}},
        evaluation={
            "pictures": 400,
            "classes": 3,
            "finetune": _figures(0.9, ece=0.0123, ece_uncalibrated=0.0789, temperature=1.5),
            "head": _figures(0.85, ece_uncalibrated=0.03, temperature=1.1),
            "scratch": _figures(0.4, ece_uncalibrated=0.2, temperature=2.5),
            "int8": _figures(0.895),
            "differences": {
                "finetune_head": _difference(0.05, 0.2),
                "finetune_scratch": _difference(0.5, 1e-9),
                "head_scratch": _difference(-0.45, 0.001),
                "int8_finetune": _difference(-0.005, 0.75),
            },
            "corrupted": {"none": 0.91, "mean": 0.7},
        },
        ingest={
            "rows": 1200,
            "quarantined": 3,
            "quarantined_share": 0.0025,
            "reasons": {"too_small": 2, "empty": 1},
        },
        split={
            "pictures": {"train": 700, "validation": 100, "holdout": 400},
            "classes": {"train": {"cat": 300, "dog": 400}, "holdout": {"cat": 200, "owl": 200}},
            "near_duplicates": {"groups": 5, "pictures": 11, "largest": 3, "across_classes": 1},
        },
        parity={
            "pictures": 400,
            "max_difference": 1e-6,
            "max_difference_single": 2e-6,
            "label_disagreement": 0.0,
            "int8": {"max_difference": 0.2, "label_disagreement": 0.015},
        },
        tables={
            "phases": _table("phase,top1,low,high", "scratch,0.4,0.37,0.43"),
            "per_class": _table(
                "class,support,precision,recall,f1,mistaken_for",
                "cat,200,0.9,0.8,0.847,dog",
                "dog,150,0.95,0.96,0.955,",
                "owl,50,0.5,0.6,0.545,cat",
            ),
            "confusion": _table(
                "actual,predicted", *["cat,cat"] * 8, *["cat,dog"] * 2, *["dog,dog"] * 5, "owl,cat"
            ),
            "calibration": _table(
                "temperature,predicted,observed,count",
                "before,0.9,0.7,10",
                "after,0.8,0.81,10",
                "after,0.5,0.45,10",
            ),
            "corruption": _table(
                "kind,severity,top1",
                "none,0,0.91",
                "jpeg,1,0.9",
                "jpeg,2,0.85",
                "motion_blur,1,0.8",
                "motion_blur,2,0.4",
            ),
            "wrong": listed,
            "explained": listed[:1],
        },
        curves={
            phase: _table(
                "epoch,train_loss,validation_loss,validation_top1,learning_rate",
                *(f"{epoch},{2 / (epoch + 1)},{1.5 / (epoch + 1)},{epoch / 10},0.001" for epoch in range(9)),
            )
            for phase in ("head", "finetune", "scratch")
        },
        sheets={"wrong": JPEG, "explained": JPEG},
    )


@pytest.fixture
def run() -> ImagesRun:
    return _run()


@pytest.fixture
def view() -> ImageReportView:
    return ImageReportView(
        card=Card(title="Toy", intended_use="Tests."),
        backbone=Backbone(name="resnet10t", weights="random", side=64),
        extraction=Extraction(),
        finetuning=Finetuning(),
        scratch=Finetuning(epochs=77),
        scoring=ImageScoring(top=2, corrupted=100),
    )


Parse = Callable[[str], Any]


def test_needs_nothing_but_itself(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    source = images_page(run, view, "toy")
    page = parse(source)
    assert not {"script", "link", "iframe", "object", "image", "use"} & {one.tag for one in page.elements}
    addresses = [
        value for one in page.elements for name, value in one.attributes.items() if name in {"href", "src"}
    ]
    data = f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    assert [address for address in addresses if not address.startswith("#")] == [data, data]
    assert not any(word in source for word in ("http:", "https:", "url(", "@import"))
    (policy,) = (one.attributes["content"] for one in page.all("meta") if one.attributes.get("http-equiv"))
    assert policy.split("; ") == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]


def test_same_bytes_twice(view: ImageReportView) -> None:
    assert images_page(_run(), view, "toy") == images_page(_run(), view, "toy")


def test_contents_lead_to_every_section(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    page = parse(images_page(run, view, "toy"))
    targets = [one.attributes["href"][1:] for one in page.all("a")]
    headings = [one.attributes["id"] for one in page.all("h2") if "section" in one.inside]
    assert len(headings) == 13
    assert headings == targets[1:]


def test_everything_drawn_or_listed_has_a_name(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    page = parse(images_page(run, view, "toy"))
    assert len(page.all("svg")) >= 8
    assert all(one.attributes["aria-label"].strip() for one in page.all("svg"))
    assert all(one.attributes["alt"].strip() for one in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(one.attributes.get("scope") for one in page.all("th"))


def test_headline(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    page = parse(images_page(run, view, "toy"))
    figures = dict(zip([o.text for o in page.all("dt")], [o.text for o in page.all("dd")], strict=True))
    assert figures["Top-1, hold-out"] == "90.0%87.0% to 93.0%; 400 pictures"
    assert figures["Against the head alone"] == "+5.0+3.0 to +7.0 points"
    assert figures["Against the network from scratch"].startswith("+50.0")
    assert figures["Calibration error"] == "1.2%7.9% before temperature"
    assert figures["Top-1, corrupted"] == "70.0%91.0% as they are"


def test_verdicts_follow_p_and_the_sign(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    page = parse(images_page(run, view, "toy"))
    told = next(one.text for one in page.all("p") if "chance" in one.text)
    assert told == (
        "The fine-tuned network and the head alone cannot be told apart on these pictures; "
        "the fine-tuned network is right more often than the network from scratch, beyond chance; "
        "the network from scratch is right more often than the head alone, beyond chance."
    )
    assert page.row("Fine-tuned", 1) == [
        "Fine-tuned",
        "Head alone",
        "+5.0",
        "+3.0 to +7.0",
        "31",
        "17",
        "0.2",
    ]
    assert page.row("Fine-tuned", 2)[-1] == "< 0.0001"
    assert "differs from fp32 in top-1 by −0.5 points" in page.text


def test_tables_say_what_the_files_say(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    page = parse(images_page(run, view, "toy"))
    assert page.row("Phase")[2:5] == ["Top-1", "Top-2", "Balanced accuracy"]
    assert page.row("Fine-tuned")[:4] == ["Fine-tuned", "87.0% to 93.0%", "90.0%", "99.0%"]
    assert page.row("owl") == ["owl", "50", "50.0%", "60.0%", "54.5%", "cat"]
    assert page.row("dog")[-1] == "–"
    assert page.row("cat", 1) == ["cat", "dog", "2", "20.0%"]
    assert page.row("Motion blur") == ["Motion blur", "80.0%−11.0", "40.0%−51.0"]
    assert page.row("Fine-tuned", 3) == ["Fine-tuned", "1.5", "7.9%", "1.2%"]
    assert page.row("too small") == ["too small", "2"]
    assert page.row("owl", 2) == ["owl", "0", "200"]
    assert page.row("1", 0) == ["1", "7", "a/7.png", "cat", "dog", "98.7%"]
    assert page.row("The same, one picture a run")[1] == "2 × 10⁻⁶"
    assert page.row("int8 against fp32: pictures with another label")[1] == "1.5%"
    assert page.row("epochs", 2) == ["epochs", "77"]


def test_curves_of_all_phases(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    page = parse(images_page(run, view, "toy"))
    told = [one.attributes["aria-label"] for one in page.all("svg")]
    assert (
        "Top-1 by epoch: Fine-tuned ends at 80.0%; Head alone ends at 80.0%; From scratch ends at 80.0%."
        in told
    )
    assert told.count("Loss by epoch: Validation ends at 0.1667; Training ends at 0.2222.") == 3


def test_what_is_not_there_is_left_out(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    figures = {
        name: value
        for name, value in run.evaluation["finetune"].items()
        if name not in {"ece_uncalibrated", "temperature"}
    }
    bare = ImagesRun(manifest={}, evaluation={"pictures": 400, "classes": 3, "finetune": figures})
    page = parse(images_page(bare, view.model_copy(update={"card": Card()}), "toy"))
    assert [one.attributes["id"] for one in page.all("h2") if "section" in one.inside] == [
        "glance",
        "phases",
        "card",
        "artefact",
    ]
    assert page.all("h1")[0].text == "toy"
    assert not page.all("img")


def test_sheets_without_pictures_are_said(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    tables = {**run.tables, "wrong": [], "explained": []}
    page = parse(images_page(replace(run, tables=tables), view, "toy"))
    assert "Not one picture of the hold-out is wrong." in page.text
    assert "No picture was explained" in page.text
    assert not page.all("img")


def test_a_matrix_of_very_many_classes_is_a_list(run: ImagesRun, view: ImageReportView, parse: Parse) -> None:
    labels = [f"c{number:03}" for number in range(150)]
    rows = _table("actual,predicted", *(f"{one},{two}" for one, two in pairwise(labels)))
    many = replace(run, manifest={"classes": labels}, tables={**run.tables, "confusion": rows})
    page = parse(images_page(many, view, "toy"))
    assert "A matrix of 150 classes is too large" in page.text
    assert "The 15 most frequent of 149 confusions" in page.text
    assert not [one for one in page.all("svg") if one.attributes.get("class") == "matrix"]


def test_names_from_data_are_text(run: ImagesRun, view: ImageReportView, parse: Parse, hostile: str) -> None:
    renamed = {
        name: [{key: hostile if value == "cat" else value for key, value in row.items()} for row in rows]
        for name, rows in run.tables.items()
    }
    renamed["wrong"][0]["source"] = hostile
    card = Card(title=hostile, description=hostile, caveats=hostile)
    source = images_page(
        replace(
            run,
            manifest={"classes": [hostile, "dog", "owl"]},
            tables=renamed,
            ingest={**run.ingest, "reasons": {hostile: 1}},
        ),
        view.model_copy(update={"card": card}),
        "toy",
    )
    page = parse(source)
    assert "<script" not in source
    assert hostile in page.text
    assert any(hostile in one.attributes["aria-label"] for one in page.all("svg"))


def test_reads_what_is_there_and_names_what_must_be(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", {"classes": ["a"]})
    with pytest.raises(PenstockError, match=r"evaluation\.json: there is no such file"):
        read(tmp_path, tmp_path / "manifest.json")
    write_json(tmp_path / "evaluation.json", {"pictures": 1})
    bare = read(tmp_path, tmp_path / "manifest.json")
    assert (bare.tables, bare.curves, bare.sheets, bare.split) == ({}, {}, {}, {})
    (tmp_path / "head_curves.csv").write_text("epoch,train_loss\n0,1.5\n")
    (tmp_path / "wrong.jpg").write_bytes(JPEG)
    found = read(tmp_path, tmp_path / "manifest.json")
    assert found.curves == {"head": [{"epoch": "0", "train_loss": "1.5"}]}
    assert found.sheets == {"wrong": JPEG}
