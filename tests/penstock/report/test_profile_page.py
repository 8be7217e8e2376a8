"""The data's page: warnings first, every column, nothing from outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.config import Card
from penstock.report.profile_page import profile_page

Make = Callable[[str], dict[str, Any]]
Parse = Callable[[str], Any]
KINDS = ("binary", "multiclass", "regression")


def render(profile: dict[str, Any], card: Card | None = None) -> str:
    return profile_page(profile, card or Card(title="Toy"), "toy")


@pytest.mark.parametrize("kind", KINDS)
def test_needs_nothing_but_itself(kind: str, make_profile: Make, parse: Parse) -> None:
    source = render(make_profile(kind))
    page = parse(source)
    assert "http:" not in source
    assert "https:" not in source
    assert not {"script", "link", "img", "iframe"} & {element.tag for element in page.elements}
    links = [e.attributes[name] for e in page.elements for name in ("href", "src") if name in e.attributes]
    assert all(link.startswith("#") for link in links)
    assert source == render(make_profile(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_drawn_or_listed_has_a_name(kind: str, make_profile: Make, parse: Parse) -> None:
    page = parse(render(make_profile(kind)))
    drawings = page.all("svg")
    assert len(drawings) >= 6
    assert all(d.attributes["role"] == "img" and d.attributes["aria-label"].strip() for d in drawings)
    assert len(page.all("caption")) == len(page.all("table"))


def test_warnings_come_first(make_profile: Make, parse: Parse) -> None:
    page = parse(render(make_profile("binary")))
    headings = [element.text for element in page.all("h2") if "section" in element.inside]
    assert headings[0] == "Warnings"
    assert "k alone foretells t with AUC 0.990" in page.text
    assert "k: AUC 0.9900 alone" in page.text


def test_columns_say_what_the_profile_says(make_profile: Make, parse: Parse) -> None:
    page = parse(render(make_profile("binary")))
    assert page.row("x") == [
        "x", "number", "feature", "", "0.6 … 4.25 … 9; mean 4.5, from 0.5 to 9.25", "9", "10.0%", "0.25",
    ]  # fmt: skip
    assert page.row("k")[4] == "b 60.0%, c 40.0%"
    assert page.row("day")[4] == "from 2024-01-01 to 2024-01-03"
    assert page.row("void")[4] == "no value"
    assert page.row("x", 1) == ["x", "z", "−0.9877"]
    assert page.row("b") == ["b", "6", "60.0%"]
    # The most telling first.
    assert page.row("k", 1) == ["k", "0.5000", "0.9900"]
    assert page.row("x", 2) == ["x", "0.1235", "0.7100"]


def test_a_number_as_target_has_a_distribution(make_profile: Make, parse: Parse) -> None:
    page = parse(render(make_profile("regression")))
    assert page.row("0.5") == ["0.5", "0.6", "2", "4.25", "6", "9", "9.25", "4.5", "2", "0.25"]


def test_names_from_data_are_text(make_profile: Make, parse: Parse, hostile: str) -> None:
    profile = make_profile("binary")
    profile["columns"] = {
        hostile if name == "x" else name: entry for name, entry in profile["columns"].items()
    }
    profile["columns"]["k"]["top"][0][0] = hostile
    profile["target"]["classes"] = {hostile: {"count": 10, "share": 1.0}}
    profile["correlations"]["names"][0] = hostile
    profile["warnings"] = [hostile]
    source = render(profile, Card(title=hostile, source=hostile))
    page = parse(source)
    assert "<script" not in source
    assert hostile in page.text
    assert any(hostile in drawing.attributes["aria-label"] for drawing in page.all("svg"))


def test_an_empty_profile_renders(make_profile: Make, parse: Parse) -> None:
    profile = make_profile("regression")
    profile |= {"constant": [], "leak_suspects": [], "warnings": [], "correlations": {"pairs": []}}
    profile["columns"] = {"void": profile["columns"]["void"]}
    page = parse(render(profile, Card()))
    assert "Nothing was found that is worth a warning." in page.text
    assert "The target does not vary" in page.text
    assert "There is no matrix" in page.text
    assert page.all("h1")[0].text == "toy: the data"
