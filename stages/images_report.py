"""images_report: one page about a model of pictures that can be read without a network."""

from __future__ import annotations

from penstock.config import ImageReportView, load_view
from penstock.console import run_stage, say
from penstock.report.images_page import images_page
from penstock.report.images_run import read
from penstock.storage import write_text
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Put together what the stages have found out about ``dataset``."""
    layout = ImageLayout(dataset)
    view = load_view(ImageReportView, dataset)
    run = read(layout.reports, layout.model / "manifest.json")
    path = layout.reports / "report.html"
    write_text(path, images_page(run, view, dataset))
    say(f"{dataset}: {path}")


if __name__ == "__main__":
    run_stage("images_report", main)
