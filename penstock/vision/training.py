"""The two phases: a head on kept features, then the upper blocks of the network; and what a killed run does next.

A run keeps a checkpoint of its last epoch in a folder named for everything that decides its result. If it is
started again with the same of everything it goes on from there, with what was frozen still frozen: freezing
is done before the checkpoint is read, not by a callback that would do it again. Once its result is written
the folder is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from penstock.config import Backbone, Compute, Extraction, Finetuning
from penstock.console import progress, say
from penstock.errors import PenstockError
from penstock.vision import backbone as backbones
from penstock.vision.data import (
    Album,
    EpochSampler,
    Pictures,
    Split,
    augmentation,
    class_weights,
    evaluation_loader,
    read_album,
    read_split,
    training_loader,
)
from penstock.vision.memory import keep_freed_memory
from penstock.vision.module import Classifier, Curves, MovingAverage
from penstock.vision.outputs import write_answers, write_curves

__all__ = [
    "Learnt",
    "Loaders",
    "PhasePaths",
    "answers",
    "checkpoints",
    "extract",
    "finetune",
    "fit",
    "fit_head",
    "prepare_torch",
    "remove",
]

EVALUATED = 64  # pictures at a time
CHECKPOINT = "last.ckpt"
BEST = "best"


class PhasePaths(Protocol):
    """Where a phase reads and writes."""

    @property
    def raw(self) -> Path: ...
    @property
    def split(self) -> Path: ...
    @property
    def checkpoints(self) -> Path: ...
    @property
    def live(self) -> Path: ...
    @property
    def weights(self) -> Path: ...
    @property
    def answers(self) -> Path: ...
    @property
    def curves(self) -> Path: ...


@dataclass(frozen=True)
class Learnt:
    """What a phase ends with.

    Attributes:
        network: With the weights of the epoch that is kept.
        epochs: One line of the curves each.
        main: Whether this is the process that writes; of several that train together, one does.
    """

    network: Any
    epochs: list[dict[str, float]]
    main: bool = True


def prepare_torch(compute: Compute, seed: int) -> None:
    """Threads, memory, determinism and random numbers of this process."""
    keep_freed_memory()
    torch.manual_seed(seed)
    torch.set_num_threads(compute.threads)
    torch.use_deterministic_algorithms(compute.deterministic)
    # Nothing here reads memory that nobody has written; to fill it all the same costs a tenth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


# --- phase one --------------------------------------------------------------------------------------


def extract(
    network: Any,
    album: Album,
    backbone: Backbone,
    rows: NDArray[np.int64],
    compute: Compute,
    *,
    mirrored: bool,
) -> NDArray[np.float32]:
    """Features of the frozen network, shape (n_rows, n_features), with a progress bar.

    Args:
        network: With or without a classifier, which is not asked.
        album: All pictures.
        backbone: How they are prepared.
        rows: Which, in the order of the result.
        compute: Workers.
        mirrored: Of the pictures' mirror images.
    """
    device = _device(compute)
    preprocess = backbones.preprocess(backbone, network).to(device)
    network = network.to(device).eval()
    pictures = Pictures(
        album, rows, np.zeros(len(album), dtype=np.int64), backbones.preprocess(backbone, network)
    )
    loader = evaluation_loader(pictures, batch=EVALUATED, workers=compute.workers)
    found = []
    title = f"features of {len(rows)} pictures" + (", mirrored" if mirrored else "")
    with progress(title, len(rows), unit="pictures") as advance, torch.inference_mode():
        for scaled, _ in loader:
            seen = scaled.flip(-1) if mirrored else scaled
            prepared = preprocess.normalise(seen.to(device)).contiguous(memory_format=torch.channels_last)
            found.append(backbones.features(network, prepared).float().cpu().numpy())
            advance(len(scaled))
    return np.concatenate(found)


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches of features at once: an index is a list of places."""

    def __init__(self, features: Tensor, codes: Tensor) -> None:
        self._features, self._codes = features, codes

    def __len__(self) -> int:
        return len(self._codes)

    def __getitem__(self, places: Any) -> tuple[Tensor, Tensor]:
        chosen = torch.tensor(places) % len(self._codes)
        return self._features[chosen], self._codes[chosen]


def _feature_loader(rows: _Rows, sampler: Any, batch: int) -> DataLoader[Any]:
    return DataLoader(rows, sampler=BatchSampler(sampler, batch, drop_last=False), batch_size=None)


def fit_head(
    train: tuple[NDArray[np.float32], NDArray[np.int64]],
    validation: tuple[NDArray[np.float32], NDArray[np.int64]],
    settings: Extraction,
    compute: Compute,
    *,
    classes: int,
    seed: int,
    folder: Path,
    live: Path | None = None,
    title: str = "head",
) -> tuple[nn.Linear, list[dict[str, float]]]:
    """Train a linear head on features.

    Args:
        train: Features of shape (n, d) and classes of shape (n,).
        validation: The same, of the validation part.
        settings: Of the phase.
        compute: Where it runs.
        classes: How many.
        seed: Of the order of the pictures.
        folder: Of the checkpoint.
        live: Folder of DVCLive.
        title: For the terminal.

    Returns:
        The head, and its curves.
    """
    features, codes = (torch.from_numpy(np.ascontiguousarray(part)) for part in train)
    head = nn.Linear(features.shape[1], classes)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    as_finetuning = Finetuning(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        imbalance=settings.imbalance,
        patience=settings.patience,
        mixup=0.0,
        warmup=0.0,
        ema=None,
        keep="best",
    )
    weights = class_weights(train[1], classes)
    sampler = EpochSampler(
        len(codes),
        seed,
        weights[codes] if settings.imbalance == "balanced_sampler" else None,
        batch=min(settings.batch_size, len(codes)),
    )
    rows = _Rows(features, codes)
    judged = _Rows(*(torch.from_numpy(np.ascontiguousarray(part)) for part in validation))
    decayed = {"params": [head.weight], "lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    module = Classifier(
        head,
        nn.Identity(),
        as_finetuning,
        batches=lambda _world: -(-len(sampler) // settings.batch_size),
        groups=[decayed, {"params": [head.bias], "lr": settings.learning_rate, "weight_decay": 0.0}],
        classes=classes,
        weights=weights,
        seed=seed,
    )
    # A head is a matrix: more than one process would wait for each other.
    alone = compute.model_copy(update={"devices": 1, "strategy": "auto", "num_nodes": 1})
    loaders = Loaders(
        lambda _rank, _world: _feature_loader(rows, sampler, settings.batch_size),
        lambda _rank, _world: _feature_loader(judged, range(len(judged)), EVALUATED),
    )
    return head, fit(module, loaders, as_finetuning, alone, folder=folder, live=live, title=title)


# --- phase two --------------------------------------------------------------------------------------


def finetune(
    network: Any,
    album: Album,
    split: Split,
    backbone: Backbone,
    settings: Finetuning,
    compute: Compute,
    *,
    seed: int,
    folder: Path,
    live: Path | None = None,
    title: str = "finetune",
    callbacks: Sequence[Any] = (),
) -> Learnt:
    """Train the unfrozen part of a network on augmented pictures.

    Args:
        network: With a classifier of as many classes as the split has.
        album: All pictures.
        split: Which are learnt from and which are validated by.
        backbone: How pictures are prepared.
        settings: Of the phase.
        compute: Where it runs.
        seed: Of orders, augmentation, dropout and mixing.
        folder: Of the checkpoint.
        live: Folder of DVCLive.
        title: For the terminal.
        callbacks: More of Lightning's, to watch it by.

    Raises:
        PenstockError: What is to be unfrozen is not there.
    """
    backbones.freeze(network, settings.unfreeze)
    preprocess = backbones.preprocess(backbone, network)
    rows, judged = split.parts["train"], split.parts["validation"]
    augment = augmentation(settings, backbone.side, backbone.interpolation)
    pictures = Pictures(album, rows, split.codes, preprocess, augment=augment, seed=seed)

    def training(rank: int, world: int) -> DataLoader[Any]:
        return training_loader(
            pictures, split.codes[rows], settings, seed=seed, workers=compute.workers, rank=rank, world=world
        )

    def validating(rank: int, world: int) -> DataLoader[Any]:
        return evaluation_loader(
            Pictures(album, judged, split.codes, preprocess),
            batch=EVALUATED,
            workers=compute.workers,
            rows=range(rank, len(judged), world),
        )

    module = Classifier(
        network,
        preprocess.normalise,
        settings,
        groups=backbones.parameter_groups(
            network,
            learning_rate=settings.learning_rate,
            layer_decay=settings.layer_decay,
            weight_decay=settings.weight_decay,
        ),
        batches=lambda world: len(training(0, world)),
        classes=len(split.classes),
        weights=class_weights(split.codes[rows], len(split.classes)),
        seed=seed,
    )
    loaders = Loaders(training, validating)
    epochs = fit(
        module, loaders, settings, compute, folder=folder, live=live, title=title, callbacks=callbacks
    )
    return Learnt(network.eval(), epochs, main=module.global_rank == 0)


# --- Lightning --------------------------------------------------------------------------------------


class Loaders(lightning.LightningDataModule):
    """Loaders that are made once this process knows its number among those that train together."""

    def __init__(
        self, train: Callable[[int, int], DataLoader[Any]], validation: Callable[[int, int], DataLoader[Any]]
    ) -> None:
        super().__init__()
        self._train, self._validation = train, validation

    def train_dataloader(self) -> DataLoader[Any]:
        loader = self._train(*self._place())
        sampler: Any = loader.sampler
        if isinstance(sampler, BatchSampler):
            sampler = sampler.sampler
        trainer = self.trainer
        assert trainer is not None
        # Steps tell the epoch. A trainer that goes on from a checkpoint counts its epochs right only after it has
        # begun to fetch; its steps it knows from the start.
        sampler.follow(lambda: trainer.global_step // max(1, len(loader)))
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        return self._validation(*self._place())

    def _place(self) -> tuple[int, int]:
        trainer = self.trainer
        assert trainer is not None
        return trainer.global_rank, trainer.world_size


def checkpoints(root: Path, *parts: Any) -> Path:
    """The folder of a run's checkpoint, named for all that decides its result.

    Args:
        root: Outside of what DVC removes before a stage.
        parts: Views, arrays, names and hashes.
    """
    digest = hashlib.sha256(f"torch {torch.__version__}".encode())
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).tobytes())
        elif hasattr(part, "model_dump"):
            digest.update(json.dumps(part.model_dump(mode="json"), sort_keys=True).encode())
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return root / digest.hexdigest()[:16]


def fit(
    module: Classifier,
    loaders: Loaders,
    settings: Finetuning,
    compute: Compute,
    *,
    folder: Path,
    live: Path | None,
    title: str,
    callbacks: Sequence[Any] = (),
) -> list[dict[str, float]]:
    """Train, or go on training from the checkpoint in ``folder``. The module then holds the kept weights.

    Raises:
        PenstockError: The configured devices, strategy or precision are not to be had, or the loss is no number.
    """
    curves = Curves(live, title)
    best = ModelCheckpoint(
        dirpath=folder, filename=BEST, monitor="validation_loss", save_top_k=1, enable_version_counter=False
    )
    last = ModelCheckpoint(
        dirpath=folder,
        filename="last",
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    own: list[Any] = [curves]
    if settings.ema is not None:
        own.append(MovingAverage(settings.ema))
    if settings.patience is not None:
        own.append(
            EarlyStopping("validation_loss", patience=settings.patience, check_on_train_epoch_end=True)
        )
    if sys.stderr.isatty():
        own.append(RichProgressBar(leave=False))
    with _quiet():
        trainer = _trainer(
            compute,
            max_epochs=settings.epochs,
            gradient_clip_val=settings.clip,
            callbacks=[*own, *callbacks, *([best] if settings.keep == "best" else []), last],
            enable_progress_bar=sys.stderr.isatty(),
        )
        resumed = folder / CHECKPOINT
        if resumed.is_file():
            say(f"{title}: goes on from its last whole epoch ({resumed})")
        # Written by this project a moment ago; weights_only all the same, for a checkpoint is a pickle.
        trainer.fit(
            module,
            datamodule=loaders,
            ckpt_path=resumed if resumed.is_file() else None,
            weights_only=True,
        )
    if not np.isfinite([epoch["train_loss"] for epoch in curves.epochs]).all():
        raise PenstockError(
            f"{title}: the training loss is no longer a number", hint="lower learning_rate, or set clip"
        )
    if settings.keep == "best" and Path(best.best_model_path).is_file():
        kept = torch.load(best.best_model_path, weights_only=True, map_location="cpu")
        module.load_state_dict(kept["state_dict"])
    return curves.epochs


def _trainer(compute: Compute, **settings: Any) -> lightning.Trainer:
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    devices = list(compute.devices) if isinstance(compute.devices, tuple) else compute.devices
    try:
        return lightning.Trainer(
            accelerator=compute.accelerator,
            devices=devices,
            strategy=compute.strategy,
            num_nodes=compute.num_nodes,
            precision=compute.precision,  # type: ignore[arg-type]
            deterministic=compute.deterministic,
            logger=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **settings,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise PenstockError(
            f"compute: {str(error).strip().splitlines()[0]}",
            hint="mend accelerator, devices, strategy, num_nodes or precision; `compute: cpu` runs anywhere",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on what is meant: its advertisements, few workers, few batches."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in (
                ".*LeafSpec.*",
                ".*in eval mode at the start.*",
                ".*does not have many workers.*",
                ".*exists and is not empty.*",
                ".*lr_scheduler.*",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def remove(folder: Path) -> None:
    """Remove a run's checkpoint, once its result is written."""
    shutil.rmtree(folder, ignore_errors=True)


def _device(compute: Compute) -> torch.device:
    """Where features and answers are computed: a GPU where the training would take one."""
    gpu = compute.accelerator in {"auto", "gpu", "cuda"} and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def answers(
    network: Any, album: Album, backbone: Backbone, rows: NDArray[np.int64], compute: Compute, *, title: str
) -> NDArray[np.float32]:
    """Logits of a trained network, shape (n_rows, n_classes), with a progress bar."""
    device = _device(compute)
    preprocess = backbones.preprocess(backbone, network).to(device)
    network = network.to(device).eval()
    pictures = Pictures(
        album, rows, np.zeros(len(album), dtype=np.int64), backbones.preprocess(backbone, network)
    )
    found = []
    with progress(title, len(rows), unit="pictures") as advance, torch.inference_mode():
        for scaled, _ in evaluation_loader(pictures, batch=EVALUATED, workers=compute.workers):
            prepared = preprocess.normalise(scaled.to(device)).contiguous(memory_format=torch.channels_last)
            found.append(network(prepared).float().cpu().numpy())
            advance(len(scaled))
    return np.concatenate(found)


def learn(
    phase: str,
    network: Any,
    settings: Finetuning,
    backbone: Backbone,
    compute: Compute,
    *,
    seed: int,
    paths: PhasePaths,
    title: str,
) -> None:
    """Train a network and write its weights, its answers on what it did not learn from, and its curves.

    Args:
        phase: For the checkpoint's name and the terminal.
        network: With its starting weights.
        settings: Of the phase.
        backbone: How pictures are prepared.
        compute: Where it runs.
        seed: Of the run.
        paths: Where things lie.
        title: Data set and phase, for the terminal.
    """
    prepare_torch(compute, seed)
    album, split = read_album(paths.raw), read_split(paths.split)
    start = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        start.update(name.encode() + tensor.contiguous().numpy().tobytes())
    data = hashlib.sha256(paths.raw.read_bytes()).hexdigest()
    folder = checkpoints(
        paths.checkpoints,
        phase,
        settings,
        backbone,
        compute,
        seed,
        data,
        split.parts["train"],
        start.hexdigest(),
    )
    learnt = finetune(
        network,
        album,
        split,
        backbone,
        settings,
        compute,
        seed=seed,
        folder=folder,
        live=paths.live,
        title=title,
    )
    if not learnt.main:
        return
    logits = {
        part: answers(learnt.network, album, backbone, split.parts[part], compute, title=f"{title}: {part}")
        for part in ("validation", "holdout")
    }
    backbones.save(paths.weights, learnt.network, split.classes)
    write_answers(paths.answers, split, logits)
    write_curves(paths.curves, learnt.epochs)
    remove(folder)
    say(
        f"{title}: validation top-1 {learnt.epochs[-1]['validation_top1']:.3f} after {len(learnt.epochs)} epochs"
    )
