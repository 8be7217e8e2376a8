"""The page about a set of pictures: what is worth a warning, how many there are of each class, and some of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.config import Card
from penstock.report import charts
from penstock.report.charts import Dot
from penstock.report.page import render
from penstock.report.wording import number, share

__all__ = ["pictures_page"]

BARS = 60  # classes in a chart


def pictures_page(
    profile: Mapping[str, Any], sheets: Mapping[str, str], card: Card, dataset: str, *, side: int
) -> str:
    """The profile as one HTML file that needs nothing else.

    Args:
        profile: As profile.json has it.
        sheets: A contact sheet for each class that is shown, as data URI.
        card: What the data set is called and where it comes from.
        dataset: Its name in the configuration.
        side: Of a thumbnail, in pixels.
    """
    classes = profile["classes"]
    return render(
        "pictures.html",
        sections=[
            ("warnings", "Warnings"),
            ("overview", "Overview"),
            ("classes", "Classes"),
            ("sizes", "Sizes"),
            ("sheets", "Pictures of each class"),
        ],
        dataset=dataset,
        card=card,
        profile=profile,
        overview=_overview(profile),
        balance=_bars(classes, "count", "pictures", "Pictures of each class"),
        brightness=_bars(classes, "brightness", "mean grey level, of 255", "Mean brightness of each class"),
        left_out=max(0, len(classes) - BARS),
        sheets=[
            (label, sheet, f"{number(classes[label]['count'])} pictures") for label, sheet in sheets.items()
        ],
        unseen=len(classes) - len(sheets),
        side=side,
    )


def _overview(profile: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    sizes = profile["sizes"]
    counts = [one["count"] for one in profile["classes"].values()]
    shorter, longer = sizes["shorter"], sizes["longer"]
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in profile["reasons"].items())
    return [
        (
            "Pictures",
            number(profile["pictures"]),
            f"{number(profile['rescaled'])} stored smaller than they came",
        ),
        ("Classes", number(len(counts)), f"of {number(min(counts))} to {number(max(counts))} pictures"),
        (
            "Median size",
            f"{number(longer['median'])} × {number(shorter['median'])}",
            f"longer by shorter side; {number(sizes['distinct'])} sizes",
        ),
        (
            "In quarantine",
            number(profile["quarantined"]),
            reasons or "nothing was wrong",
        ),
        (
            "Class by size alone",
            share(profile["by_size"]),
            f"{share(max(counts) / profile['pictures'])} by a guess",
        ),
        ("Brightness by class", share(profile["brightness_explained"]), "of its variance"),
    ]


def _bars(classes: Mapping[str, Any], key: str, axis: str, title: str) -> Any:
    shown = [(label, one[key]) for label, one in classes.items()][:BARS]
    told = ", ".join(f"{label} {number(value, 3)}" for label, value in shown)
    return charts.bars(
        [Dot(label, value) for label, value in shown], axis=axis, alternative=f"{title}: {told}"
    )
