"""features: stateless derived columns, and the names of what may be learnt from."""

from __future__ import annotations

import polars as pl

from penstock.config import FeaturesView, Task, load_view
from penstock.console import run_stage, say
from penstock.features.columns import as_features, describe
from penstock.storage import read_json, read_parquet, write_json, write_parquet
from stages.layout import Layout


def kept_beside(raw: pl.DataFrame, features: pl.DataFrame, task: Task) -> pl.DataFrame:
    """The columns that later stages need and no model sees: target, ids, group and time."""
    names = [name for name in (*task.ids, task.group, task.time, task.target) if name is not None]
    return raw.select(name for name in dict.fromkeys(names) if name not in features.columns)


def main(dataset: str) -> None:
    """Turn the prepared parts of ``dataset`` into feature tables."""
    layout = Layout(dataset)
    view = load_view(FeaturesView, dataset)
    contract = read_json(layout.contract)
    for part in ("train", "holdout"):
        raw = read_parquet(layout.prepared / f"{part}.parquet")
        features = as_features(raw, view.derive, view.task)
        if part == "train":
            text = frozenset(name for name, column in contract.items() if column["type"] == "text")
            columns = describe(features, raw[view.task.target], view.task, text=text)
            write_json(layout.features / "columns.json", columns.model_dump())
            say(
                f"{dataset}: {len(columns.numeric)} numeric and {len(columns.categorical)} categorical features"
            )
        beside = kept_beside(raw, features, view.task)
        write_parquet(
            layout.features / f"{part}.parquet",
            pl.concat([features.select(columns.features), beside], how="horizontal"),
        )


if __name__ == "__main__":
    run_stage("features", main)
