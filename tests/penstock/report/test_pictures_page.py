"""The pictures' page: nothing from outside, and nothing of the data taken for markup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.config import Card
from penstock.report.pictures_page import pictures_page
from penstock.vision.sheets import data_uri

Parse = Callable[[str], Any]
HOSTILE = """<script>alert("x")</script>'&"""


def described(*labels: str) -> dict[str, Any]:
    one = {"count": 20, "share": 1 / len(labels), "brightness": 120.5, "contrast": 40.25}
    side = {"min": 20, "median": 24.0, "max": 4000}
    return {
        "pictures": 20 * len(labels),
        "classes": dict.fromkeys(labels, one),
        "sizes": {"distinct": 3, "shorter": side, "longer": side, "top": [[24, 20, 30], [20, 24, 10]]},
        "by_size": 0.5,
        "brightness_explained": 0.01,
        "flat": [],
        "quarantined": 2,
        "reasons": {"not_a_picture": 2},
        "rescaled": 1,
        "warnings": ["2 pictures are in quarantine: 2 × not_a_picture."],
    }


def render(*labels: str) -> str:
    sheets = {label: data_uri(b"jpeg") for label in labels[:60]}
    return pictures_page(described(*labels), sheets, Card(title="Toy"), "toy", side=64)


def test_needs_nothing_but_itself(parse: Parse) -> None:
    source = render("cat", "owl")
    page = parse(source)
    assert "http:" not in source
    assert "https:" not in source
    policy = [one.attributes["content"] for one in page.all("meta") if "http-equiv" in one.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    images = page.all("img")
    assert [image.attributes["src"] for image in images] == [data_uri(b"jpeg")] * 2
    assert [image.attributes["alt"] for image in images] == [f"Contact sheet of pictures labelled {x}" for x in ("cat", "owl")]  # fmt: skip


def test_says_what_the_profile_says(parse: Parse) -> None:
    page = parse(render("cat", "owl"))
    text = " ".join(page.all("main")[0].text.split())
    assert "2 pictures are in quarantine: 2 × not_a_picture." in text
    assert "2 not a picture" in text
    assert [one.text for one in page.all("tr")][-2:] == ["24 × 2030", "20 × 2410"]
    assert "The most frequent of 3 sizes" in text
    assert "more classes are not shown" not in text


def test_a_class_is_text_whatever_it_is_called(parse: Parse) -> None:
    page = parse(render(HOSTILE, "owl"))
    assert not page.all("script")
    assert any(HOSTILE in one.text for one in page.all("figcaption"))


def test_of_many_classes_some_are_shown_and_all_counted(parse: Parse) -> None:
    page = parse(render(*(f"class {at:03}" for at in range(75))))
    text = " ".join(page.all("main")[0].text.split())
    assert "15 more classes are not shown" in text
    assert "15 more are in the table" in text
    assert "class 074" in text
    assert len(page.all("img")) == 60
