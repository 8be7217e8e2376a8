"""report: one page about the model that can be read without a network."""

from __future__ import annotations

from penstock.config import ReportView, load_view
from penstock.console import run_stage, say
from penstock.report.run import read
from penstock.report.run_page import run_page
from penstock.storage import write_text
from stages.layout import Layout


def main(dataset: str) -> None:
    """Put together what the stages have found out about ``dataset``."""
    layout = Layout(dataset)
    view = load_view(ReportView, dataset)
    run = read(layout.reports, layout.model / "manifest.json")
    path = layout.reports / "report.html"
    write_text(path, run_page(run, card=view.card, task=view.task, scoring=view.scoring, dataset=dataset))
    say(f"{dataset}: {path}")


if __name__ == "__main__":
    run_stage("report", main)
