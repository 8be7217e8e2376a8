"""recommend_split: which interactions are learnt from, which tune and which judge, by time."""

from __future__ import annotations

from penstock.config import InteractionSplitView, load_view
from penstock.console import run_stage, say
from penstock.recommend.splitting import split
from penstock.storage import read_parquet, write_json, write_parquet
from stages.layout import InteractionLayout


def main(dataset: str) -> None:
    """Divide the interactions of ``dataset``."""
    layout = InteractionLayout(dataset)
    view = load_view(InteractionSplitView, dataset)
    done = split(read_parquet(layout.raw), view.prepare, view.seed)
    write_parquet(layout.split, done.frame)
    summary = done.summary()
    write_json(layout.reports / "split.json", summary, sort_keys=False)
    counts = ", ".join(f"{part} {count['interactions']}" for part, count in summary["parts"].items())
    say(f"{dataset}: {counts} interactions")


if __name__ == "__main__":
    run_stage("recommend_split", main)
