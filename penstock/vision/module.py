"""The Lightning module of both phases, and what goes on beside its steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from penstock.config import Finetuning
from penstock.console import say
from penstock.vision.data import seed_of

__all__ = ["Classifier", "Curves", "MovingAverage", "rate"]

# A moving average counts few steps as what they are: without it the starting weights would stay in for long.
EARLY = 10


def rate(settings: Finetuning, step: int, steps: int) -> float:
    """The learning rate of a step as a share of the configured one: warm-up, then the schedule."""
    warm = settings.warmup * steps
    if settings.schedule == "constant":
        return min(1.0, (step + 1) / warm) if warm >= 1 else 1.0
    if settings.schedule == "one_cycle":
        # Smith 2018: up and down by half a cosine each; the first 30 % go up unless `warmup` says otherwise.
        warm = warm if warm >= 1 else 0.3 * steps
        if step < warm:
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / warm))
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, steps - warm))))
    if step < warm:
        return min(1.0, (step + 1) / warm)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1.0, steps - warm))))


class Classifier(lightning.LightningModule):
    """A network that learns to tell classes apart.

    Dropout, mixup and cutmix of a step are seeded by run, epoch and step, so a run that is continued takes
    the steps that it would have taken.

    Args:
        network: From prepared pictures (or features) to logits, shape (n, classes).
        normalise: From what the loader gives to what the network takes.
        settings: Of the phase.
        groups: Of the parameters that learn, for AdamW.
        batches: Number of processes → batches of an epoch.
        classes: How many.
        weights: Of the classes in the loss, shape (classes,), or None.
        seed: Of the run.
    """

    def __init__(
        self,
        network: nn.Module,
        normalise: Callable[[Tensor], Tensor],
        settings: Finetuning,
        *,
        groups: list[dict[str, Any]],
        batches: Callable[[int], int],
        classes: int,
        weights: Tensor | None,
        seed: int,
    ) -> None:
        super().__init__()
        self.network, self.settings = network, settings
        self._normalise, self._groups, self._batches = normalise, groups, batches
        self._classes, self._seed = classes, seed
        self.register_buffer("class_weights", weights, persistent=False)

    def train(self, mode: bool = True) -> Classifier:
        """As for any module, but what is frozen keeps its statistics, and so do batch norms if they shall."""
        super().train(mode)
        if mode:
            for module in self.network.modules():
                parameters = list(module.parameters())
                frozen = bool(parameters) and not any(item.requires_grad for item in parameters)
                norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                if frozen or (norm and self.settings.batch_norm == "frozen"):
                    module.eval()
        return self

    def on_train_epoch_start(self) -> None:
        # Lightning takes the modes as it finds them, and a network that was just read is in evaluation.
        self.train()

    def forward(self, batch: Tensor) -> Tensor:
        """Logits, shape (n, classes)."""
        prepared = self._normalise(batch.float())
        if prepared.ndim == 4:
            prepared = prepared.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(prepared)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        inputs, codes = batch
        torch.manual_seed(seed_of(self._seed, self.current_epoch, number, self.global_rank))
        inputs, targets = self._mixed(inputs.float(), codes)
        weights = self.get_buffer("class_weights") if self.settings.imbalance == "class_weight" else None
        loss = functional.cross_entropy(
            self(inputs), targets, weight=weights, label_smoothing=self.settings.label_smoothing
        )
        self.log(
            "train_loss", loss.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=len(codes)
        )
        return loss

    def _mixed(self, inputs: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        from torchvision.transforms import v2

        chosen = []
        if self.settings.mixup > 0:
            chosen.append(v2.MixUp(alpha=self.settings.mixup, num_classes=self._classes))
        if self.settings.cutmix > 0:
            chosen.append(v2.CutMix(alpha=self.settings.cutmix, num_classes=self._classes))
        if not chosen or inputs.ndim != 4:
            return inputs, codes
        mixed: tuple[Tensor, Tensor] = chosen[int(torch.randint(len(chosen), (1,)))](inputs, codes)
        return mixed

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        inputs, codes = batch
        logits = self(inputs)
        loss = functional.cross_entropy(logits, codes)
        top1 = (logits.argmax(dim=1) == codes).float().mean()
        for name, value in (("validation_loss", loss), ("validation_top1", top1)):
            self.log(name, value, on_epoch=True, sync_dist=True, batch_size=len(codes))

    def configure_optimizers(self) -> Any:
        optimizer: Optimizer = AdamW(self._groups)
        # Not Trainer.estimated_stepping_batches: it begins to fetch pictures, before a continued run knows its epoch.
        steps = int(self.trainer.max_epochs or 1) * self._batches(self.trainer.world_size)
        schedule = LambdaLR(optimizer, lambda step: rate(self.settings, step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MovingAverage(WeightAveraging):
    """Exponential moving average of the weights: what is validated, and what the run ends with."""

    def __init__(self, decay: float) -> None:
        def average(kept: Any, current: Any, updates: Any) -> None:
            share = min(decay, (1 + int(updates)) / (EARLY + int(updates)))
            if torch.is_floating_point(kept[0]):
                torch._foreach_lerp_(kept, current, 1 - share)
            else:
                torch._foreach_copy_(kept, current)

        super().__init__(multi_avg_fn=average)


class Curves(Callback):
    """One line for each epoch: on the terminal, in a DVCLive folder, and in the checkpoint.

    A continued run writes the earlier epochs again from its checkpoint, so that its curves are whole.

    Args:
        folder: Of DVCLive, or None for none.
        title: Data set and phase, for the terminal.
    """

    METRICS = ("train_loss", "validation_loss", "validation_top1")

    def __init__(self, folder: Path | None, title: str) -> None:
        self.epochs: list[dict[str, float]] = []
        self._folder, self._title = folder, title
        self._live: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._folder is None or not trainer.is_global_zero:
            return
        from dvclive.live import Live

        # Nothing but curves: the stage's own files say the rest, and DVC itself makes the experiment.
        self._live = Live(str(self._folder), save_dvc_exp=False, dvcyaml=None, report=None)
        for epoch in self.epochs:
            self._draw(epoch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = {"epoch": float(trainer.current_epoch)}
        epoch |= {name: float(trainer.callback_metrics[name]) for name in self.METRICS}
        epoch["learning_rate"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        self.epochs.append(epoch)
        if not trainer.is_global_zero:
            return
        self._draw(epoch)
        if trainer.max_epochs <= 20 or (trainer.current_epoch + 1) % 10 == 0:
            say(
                f"{self._title}: epoch {trainer.current_epoch + 1} of {trainer.max_epochs}, "
                f"loss {epoch['train_loss']:.3f}, validation loss {epoch['validation_loss']:.3f}, "
                f"top-1 {epoch['validation_top1']:.3f}"
            )

    def _draw(self, epoch: dict[str, float]) -> None:
        if self._live is None:
            return
        for name, value in epoch.items():
            if name != "epoch":
                self._live.log_metric(name, value, timestamp=False)
        self._live.next_step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self._live is not None:
            self._live.end()

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = list(state_dict["epochs"])
