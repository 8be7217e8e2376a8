"""ingest: from the source to typed Parquet; rows that break the contract to quarantine, counted."""

from __future__ import annotations

import polars as pl

from penstock import contract, sources
from penstock.config import IngestView, load_view
from penstock.console import run_stage, say
from penstock.storage import write_json, write_parquet
from stages.layout import Layout


def main(dataset: str) -> None:
    """Read, check and store ``dataset``."""
    layout = Layout(dataset)
    view = load_view(IngestView, dataset)
    table = sources.read(view.source)
    contract.require_target(view.task.target, table.frame)
    columns = contract.complete(view.contract, table.frame, source=table.name)
    checked = contract.check(
        table.frame, columns, source=table.source, position=table.position, unique=view.contract.unique
    )
    bad = pl.concat([table.broken, checked.bad]).sort("source", "position")
    reasons = table.reasons | checked.reasons
    # Before any failure: the rows that cause it must be there to look at.
    write_parquet(layout.quarantine, bad)
    share = contract.limit_quarantine(
        bad,
        reasons,
        rows=bad.height + checked.good.height,
        allowed=view.contract.max_quarantine_share,
        file=layout.quarantine,
    )
    write_parquet(layout.raw, checked.good)
    write_json(
        layout.contract, {name: column.model_dump() for name, column in columns.items()}, sort_keys=False
    )
    write_json(
        layout.reports / "ingest.json",
        {
            "rows": checked.good.height,
            "quarantined": bad.height,
            "quarantined_share": share,
            "reasons": reasons,
        },
    )
    say(f"{dataset}: {checked.good.height} rows of {len(columns)} columns, {bad.height} in quarantine")


if __name__ == "__main__":
    run_stage("ingest", main)
