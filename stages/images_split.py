"""images_split: which pictures are learnt from, which stop the learning, and which judge it."""

from __future__ import annotations

from penstock.config import ImageSplitView, load_view
from penstock.console import run_stage, say
from penstock.storage import read_parquet, write_json, write_parquet
from penstock.vision.splitting import split
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Divide the pictures of ``dataset``."""
    layout = ImageLayout(dataset)
    view = load_view(ImageSplitView, dataset)
    raw = read_parquet(layout.raw, columns=["label", "hash"])
    done = split(raw["label"], raw["hash"].to_numpy(), view.prepare, view.seed)
    write_parquet(layout.split, done.frame)
    summary = done.summary()
    write_json(layout.reports / "split.json", summary, sort_keys=False)
    counts = ", ".join(f"{part} {count}" for part, count in summary["pictures"].items())
    say(f"{dataset}: {counts}; {done.grouped} of them look like another")


if __name__ == "__main__":
    run_stage("images_split", main)
