"""images_profile: what the pictures are like, as JSON to compare and as a page to look at."""

from __future__ import annotations

import polars as pl

from penstock.config import ImageProfileView, load_view
from penstock.console import run_stage, say
from penstock.report.pictures_page import pictures_page
from penstock.storage import read_json, write_csv, write_json, write_text
from penstock.vision.profiling import profile
from penstock.vision.sheets import data_uri
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Describe the pictures of ``dataset``."""
    layout = ImageLayout(dataset)
    view = load_view(ImageProfileView, dataset)
    path = layout.reports / "profile.json"
    described, sheets = profile(layout.raw, read_json(layout.reports / "ingest.json"), view.profile)
    write_json(path, described, sort_keys=False)
    # The page shows what the file says, rounded as it is there.
    found = read_json(path)
    balance = {label: one["count"] for label, one in found["classes"].items()}
    write_csv(
        layout.reports / "balance.csv",
        pl.DataFrame({"class": list(balance), "pictures": list(balance.values())}),
    )
    page = pictures_page(
        found,
        {label: data_uri(sheet) for label, sheet in sheets.items()},
        view.card,
        dataset,
        side=view.profile.thumbnail,
    )
    write_text(layout.reports / "profile.html", page)
    say(
        f"{dataset}: {found['pictures']} pictures of {len(balance)} classes, {len(found['warnings'])} warnings"
    )
    for warning in found["warnings"]:
        say(f"  - {warning}")


if __name__ == "__main__":
    run_stage("images_profile", main)
