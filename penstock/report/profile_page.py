"""The page about the data: what is worth a warning first, then column by column and in pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from penstock.config import Card
from penstock.report import charts
from penstock.report.charts import Dot
from penstock.report.page import render
from penstock.report.wording import number, share

__all__ = ["profile_page"]

RANKED = 25  # bars in a ranking
SMALL_BARS = 12  # categories in the bars of a table's cell


def profile_page(profile: Mapping[str, Any], card: Card, dataset: str) -> str:
    """The profile as one HTML file that needs nothing else.

    Args:
        profile: As profile.json has it.
        card: What the data set is called and where it comes from.
        dataset: Its name in the configuration.
    """
    columns = profile["columns"]
    correlations = profile["correlations"]
    sections = [
        ("warnings", "Warnings"),
        ("overview", "Overview"),
        ("target", "Target"),
        ("columns", "Columns"),
        ("missing", "Missing values"),
        ("correlations", "Correlations"),
        ("information", "What the columns tell of the target"),
    ]
    return render(
        "profile.html",
        sections=sections,
        dataset=dataset,
        card=card,
        profile=profile,
        overview=_overview(profile),
        target=_target(profile),
        columns=[_column(name, entry, profile["rows"]) for name, entry in columns.items()],
        missing=_missing(columns, profile["rows"]),
        heat_map=_heat_map(correlations),
        pairs=correlations["pairs"],
        ranking=_ranking(columns, profile["target"]),
        small_bars=SMALL_BARS,
        measure=_measure(profile["target"]),
    )


def _measure(target: Mapping[str, Any]) -> str:
    return "R²" if target["kind"] == "regression" else "AUC"


def _overview(profile: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    columns = profile["columns"]
    cells = profile["rows"] * len(columns)
    missing = sum(entry["missing"] for entry in columns.values())
    types = [entry["type"] for entry in columns.values()]
    counted = ", ".join(f"{types.count(kind)} {kind}" for kind in dict.fromkeys(types))
    return [
        ("Rows", number(profile["rows"]), f"{number(profile['duplicate_rows'])} repeat an earlier one"),
        ("Columns", number(len(columns)), counted),
        ("Missing cells", share(missing / cells if cells else None), f"{number(missing)} of {number(cells)}"),
        ("Target", profile["target"]["name"], profile["target"]["kind"]),
    ]


def _target(profile: Mapping[str, Any]) -> dict[str, Any]:
    target = profile["target"]
    entry = profile["columns"].get(target["name"], {})
    classes = target.get("classes")
    if classes:
        told = ", ".join(f"{label} {share(one['share'])}" for label, one in classes.items())
        rows = [Dot(label, one["share"] * 100) for label, one in classes.items()]
        chart = charts.bars(rows, axis="% of the rows", alternative=f"Share of each class: {told}")
    else:
        chart = _small(target["name"], entry)
    return {**target, "classes": classes, "chart": chart, "entry": entry}


def _column(name: str, entry: Mapping[str, Any], rows: int) -> dict[str, Any]:
    return {
        **entry,
        "name": name,
        "missing_share": entry["missing"] / rows if rows else None,
        "chart": _small(name, entry),
        "summary": _summary(entry),
    }


def _small(name: str, entry: Mapping[str, Any]) -> Any:
    """The distribution of a column, or None where nothing is known of it."""
    if "histogram" in entry:
        found = entry["histogram"]
        told = f"Histogram of {name} from {number(entry['min'])} to {number(entry['max'])}, median {number(entry['median'])}"
        return charts.histogram(found["counts"], told)
    if "top" in entry:
        counts = [count for _, count in entry["top"][:SMALL_BARS]]
        return charts.histogram(counts, f"Categories of {name}: {_largest(entry)}", categories=True)
    return None


def _largest(entry: Mapping[str, Any], listed: int = 3) -> str:
    parts = [f"{value} {share(count / entry['count'])}" for value, count in entry["top"][:listed]]
    more = entry["distinct"] - len(parts)
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")


def _summary(entry: Mapping[str, Any]) -> str:
    if "median" in entry:
        spread = f"{number(entry['p05'])} … {number(entry['median'])} … {number(entry['p95'])}"
        return (
            f"{spread}; mean {number(entry['mean'])}, from {number(entry['min'])} to {number(entry['max'])}"
        )
    if "top" in entry:
        return _largest(entry)
    return f"from {entry['min']} to {entry['max']}" if "min" in entry else "no value"


def _missing(columns: Mapping[str, Any], rows: int) -> Any:
    found = sorted(
        ((name, entry["missing"] / rows) for name, entry in columns.items() if entry["missing"]),
        key=lambda item: (-item[1], item[0]),
    )
    if not found:
        return None
    told = ", ".join(f"{name} {share(part)}" for name, part in found[:RANKED])
    return charts.bars(
        [Dot(name, part * 100) for name, part in found[:RANKED]],
        axis="% of the rows",
        alternative=f"Share of rows without a value: {told}",
    )


def _heat_map(correlations: Mapping[str, Any]) -> Any:
    names = correlations.get("names", [])
    if len(names) < 2:
        return None
    told = f"Pearson correlations of {len(names)} numeric columns; the strongest are listed in the table"
    return charts.heat_map(names, correlations["matrix"], alternative=told)


def _ranking(columns: Mapping[str, Any], target: Mapping[str, Any]) -> dict[str, Any] | None:
    """Features by mutual information; None where nothing could be measured."""
    found = [
        {
            "name": name,
            "mutual_information": entry["mutual_information"],
            "alone": entry["alone"],
        }
        for name, entry in columns.items()
        if entry.get("mutual_information") is not None
    ]
    if not found:
        return None
    found.sort(key=lambda item: (-item["mutual_information"], item["name"]))
    told = ", ".join(f"{item['name']} {number(item['mutual_information'], 3)}" for item in found[:5])
    chart = charts.bars(
        [Dot(item["name"], item["mutual_information"]) for item in found[:RANKED]],
        axis="mutual information in nats",
        alternative=f"Mutual information with {target['name']}, the largest: {told}",
    )
    return {"rows": found, "chart": chart, "shown": min(RANKED, len(found))}
