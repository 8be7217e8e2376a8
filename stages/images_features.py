"""images_features: what the frozen backbone sees in each picture, computed once."""

from __future__ import annotations

import numpy as np

from penstock.config import ImageFeaturesView, load_view
from penstock.console import run_stage, say
from penstock.vision import backbone as backbones
from penstock.vision.data import read_album, read_split
from penstock.vision.outputs import write_features
from penstock.vision.training import extract, prepare_torch
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Keep the features of all pictures of ``dataset``, and of its training pictures' mirror images."""
    layout = ImageLayout(dataset)
    view = load_view(ImageFeaturesView, dataset)
    prepare_torch(view.compute, view.seed)
    network = backbones.create(view.backbone, None)
    album, split = read_album(layout.raw), read_split(layout.split)
    rows = np.arange(len(album))
    features = extract(network, album, view.backbone, rows, view.compute, mirrored=False)
    write_features(layout.features / "features.npy", features)
    train = split.parts["train"] if view.extraction.mirrored else split.parts["train"][:0]
    mirrored = extract(network, album, view.backbone, train, view.compute, mirrored=True)
    write_features(layout.features / "mirrored.npy", mirrored)
    say(f"{dataset}: {features.shape[1]} features of {len(features)} pictures, {len(mirrored)} mirrored")


if __name__ == "__main__":
    run_stage("images_features", main)
