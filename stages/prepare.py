"""prepare: clean, and set the hold-out apart."""

from __future__ import annotations

from penstock.config import PrepareView, load_view
from penstock.console import run_stage, say
from penstock.preparation import clean, is_holdout, target_summary
from penstock.storage import read_parquet, write_json, write_parquet
from stages.layout import Layout


def main(dataset: str) -> None:
    """Divide the raw table of ``dataset`` into train.parquet and holdout.parquet."""
    layout = Layout(dataset)
    view = load_view(PrepareView, dataset)
    cleaned = clean(read_parquet(layout.raw), view.task, view.prepare)
    apart = is_holdout(cleaned.frame, view.task, view.prepare, view.seed)
    parts = {"train": cleaned.frame.filter(~apart), "holdout": cleaned.frame.filter(apart)}
    for name, part in parts.items():
        write_parquet(layout.prepared / f"{name}.parquet", part)
    write_json(
        layout.reports / "prepare.json",
        {
            "rows": cleaned.frame.height,
            "duplicates_removed": cleaned.duplicates_removed,
            "missing_target_removed": cleaned.missing_target_removed,
            "train": parts["train"].height,
            "holdout": parts["holdout"].height,
            "target": {
                name: target_summary(part[view.task.target], view.task) for name, part in parts.items()
            },
        },
    )
    say(f"{dataset}: {parts['train'].height} rows to learn from, {parts['holdout'].height} set apart")


if __name__ == "__main__":
    run_stage("prepare", main)
