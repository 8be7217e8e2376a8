"""images_head: phase one. A linear head learns from the kept features; the backbone stays as it came."""

from __future__ import annotations

import numpy as np
import torch

from penstock.config import ImageHeadView, load_view
from penstock.console import run_stage, say
from penstock.vision import backbone as backbones
from penstock.vision.data import read_split
from penstock.vision.outputs import read_features, write_answers, write_curves
from penstock.vision.training import checkpoints, fit_head, prepare_torch, remove
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Train the head of ``dataset`` and put it on the backbone."""
    layout = ImageLayout(dataset)
    view = load_view(ImageHeadView, dataset)
    prepare_torch(view.compute, view.seed)
    split = read_split(layout.split)
    features = read_features(layout.features / "features.npy")
    mirrored = read_features(layout.features / "mirrored.npy")
    rows = split.parts["train"]
    train = np.concatenate([features[rows], mirrored])
    codes = np.resize(split.codes[rows], len(train))  # twice over where there are mirror images
    judged = {part: features[split.parts[part]] for part in ("validation", "holdout")}
    folder = checkpoints(layout.checkpoints("head"), view, train, codes)
    head, epochs = fit_head(
        (train, codes),
        (judged["validation"], split.codes[split.parts["validation"]]),
        view.extraction,
        view.compute,
        classes=len(split.classes),
        seed=view.seed,
        folder=folder,
        live=layout.live("head"),
        title=f"{dataset}, head",
    )
    network = backbones.create(view.backbone, len(split.classes))
    network.get_classifier().load_state_dict(head.state_dict())
    backbones.save(layout.weights("head"), network, split.classes)
    with torch.inference_mode():
        logits = {part: head(torch.from_numpy(found)).numpy() for part, found in judged.items()}
    write_answers(layout.answers("head"), split, logits)
    write_curves(layout.curves("head"), epochs)
    remove(folder)
    say(f"{dataset}: head trained, validation top-1 {max(e['validation_top1'] for e in epochs):.3f} at best")


if __name__ == "__main__":
    run_stage("images_head", main)
