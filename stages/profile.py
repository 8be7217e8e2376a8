"""profile: what the data are like, as JSON to compare and as a page to look at."""

from __future__ import annotations

from penstock.config import Column, ProfileView, load_view
from penstock.console import run_stage, say
from penstock.profiling import profile
from penstock.report.profile_page import profile_page
from penstock.storage import read_json, read_parquet, write_json, write_text
from stages.layout import Layout


def main(dataset: str) -> None:
    """Describe the raw table of ``dataset``."""
    layout = Layout(dataset)
    view = load_view(ProfileView, dataset)
    columns = {name: Column.model_validate(entry) for name, entry in read_json(layout.contract).items()}
    path = layout.reports / "profile.json"
    write_json(path, profile(read_parquet(layout.raw), columns, view.task, view.profile), sort_keys=False)
    # The page shows what the file says, rounded as it is there.
    found = read_json(path)
    write_text(layout.reports / "profile.html", profile_page(found, view.card, dataset))
    say(
        f"{dataset}: {found['rows']} rows, {len(found['columns'])} columns, {len(found['warnings'])} warnings"
    )
    for warning in found["warnings"]:
        say(f"  - {warning}")


if __name__ == "__main__":
    run_stage("profile", main)
