"""images_scratch: the same network from random weights, to see what the transfer is worth."""

from __future__ import annotations

from penstock.config import ImageScratchView, load_view
from penstock.console import run_stage
from penstock.vision import backbone as backbones
from penstock.vision.data import read_split
from penstock.vision.training import learn, prepare_torch
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Train the network of ``dataset`` from nothing."""
    layout = ImageLayout(dataset)
    view = load_view(ImageScratchView, dataset)
    prepare_torch(view.compute, view.seed)
    unlearnt = view.backbone.model_copy(update={"weights": "random", "path": None})
    classes = read_split(layout.split).classes
    network = backbones.create(unlearnt, len(classes), dropout=view.scratch.dropout)
    learn(
        "scratch",
        network,
        view.scratch,
        view.backbone,
        view.compute,
        seed=view.seed,
        paths=layout.phase("scratch"),
        title=f"{dataset}, scratch",
    )


if __name__ == "__main__":
    run_stage("images_scratch", main)
