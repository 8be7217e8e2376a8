"""ingest: from the source to typed Parquet; rows, interactions or pictures that break the contract to quarantine, counted."""

from __future__ import annotations

import polars as pl

from penstock import contract, sources
from penstock.config import (
    IMAGES,
    INTERACTIONS,
    ImageIngestView,
    IngestView,
    InteractionIngestView,
    kind_of,
    load_view,
)
from penstock.console import run_stage, say
from penstock.storage import write_json, write_parquet
from stages.layout import ImageLayout, InteractionLayout, Layout


def main(dataset: str) -> None:
    """Read, check and store ``dataset``."""
    {IMAGES: _pictures, INTERACTIONS: _events}.get(kind_of(dataset), _table)(dataset)


def _table(dataset: str) -> None:
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


def _events(dataset: str) -> None:
    # Late, as below.
    from penstock.recommend.ingestion import ingest

    layout = InteractionLayout(dataset)
    view = load_view(InteractionIngestView, dataset)
    done = ingest(sources.read(view.source), view.contract, view.task)
    write_parquet(layout.quarantine, done.bad)
    share = contract.limit_quarantine(
        done.bad,
        done.reasons,
        rows=done.bad.height + done.interactions.height,
        allowed=view.contract.max_quarantine_share,
        file=layout.quarantine,
    )
    write_parquet(layout.raw, done.interactions)
    write_json(
        layout.contract, {name: column.model_dump() for name, column in done.columns.items()}, sort_keys=False
    )
    counts = {name: done.interactions[name].n_unique() for name in ("user", "item")}
    write_json(
        layout.reports / "ingest.json",
        {
            "rows": done.interactions.height,
            "users": counts["user"],
            "items": counts["item"],
            "quarantined": done.bad.height,
            "quarantined_share": share,
            "reasons": done.reasons,
        },
    )
    say(
        f"{dataset}: {done.interactions.height} interactions of {counts['user']} users with {counts['item']} items, "
        f"{done.bad.height} in quarantine"
    )


def _pictures(dataset: str) -> None:
    # Late: a table needs no Pillow.
    from penstock.sources.pictures import read
    from penstock.vision.ingestion import ingest

    layout = ImageLayout(dataset)
    view = load_view(ImageIngestView, dataset)
    done = ingest(
        read(view.source),
        view.contract,
        raw=layout.raw,
        quarantine=layout.quarantine,
        what=f"pictures of {dataset}",
    )
    write_json(
        layout.contract,
        {"classes": done.classes, "contract": view.contract.model_dump()},
        sort_keys=False,
    )
    write_json(
        layout.reports / "ingest.json",
        {
            "rows": sum(done.classes.values()),
            "quarantined": done.quarantined,
            "quarantined_share": done.share,
            "reasons": done.reasons,
            "rescaled": done.rescaled,
        },
    )
    say(
        f"{dataset}: {sum(done.classes.values())} pictures of {len(done.classes)} classes, "
        f"{done.quarantined} in quarantine"
    )


if __name__ == "__main__":
    run_stage("ingest", main)
