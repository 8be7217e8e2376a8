"""recommend_report: one page about a recommender that can be read without a network."""

from __future__ import annotations

from penstock.config import InteractionReportView, load_view
from penstock.console import run_stage, say
from penstock.report.recommend_page import read, recommend_page
from penstock.storage import write_text
from stages.layout import InteractionLayout


def main(dataset: str) -> None:
    """Put together what the stages have found out about ``dataset``."""
    layout = InteractionLayout(dataset)
    view = load_view(InteractionReportView, dataset)
    run = read(layout.reports, layout.model / "manifest.json")
    path = layout.reports / "report.html"
    write_text(path, recommend_page(run, view, dataset))
    say(f"{dataset}: {path}")


if __name__ == "__main__":
    run_stage("recommend_report", main)
