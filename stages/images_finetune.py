"""images_finetune: phase two. The upper blocks of the backbone learn too, from the head of phase one."""

from __future__ import annotations

from penstock.config import ImageFinetuneView, load_view
from penstock.console import run_stage
from penstock.vision import backbone as backbones
from penstock.vision.training import learn
from stages.layout import ImageLayout


def main(dataset: str) -> None:
    """Fine-tune the network of ``dataset``."""
    layout = ImageLayout(dataset)
    view = load_view(ImageFinetuneView, dataset)
    network, _ = backbones.load(layout.weights("head"), view.backbone, dropout=view.finetuning.dropout)
    learn(
        "finetune",
        network,
        view.finetuning,
        view.backbone,
        view.compute,
        seed=view.seed,
        paths=layout.phase("finetune"),
        title=f"{dataset}, finetune",
    )


if __name__ == "__main__":
    run_stage("images_finetune", main)
