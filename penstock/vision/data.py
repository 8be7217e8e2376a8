"""Pictures on their way to the network: decoded, augmented and batched, the same for any number of workers.

What happens to a picture depends on the seed, the epoch and the picture alone, never on which process does
it or on what that process did before. A run that is continued therefore sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from penstock.config import Finetuning
from penstock.errors import PenstockError
from penstock.pictures import STORED, decode
from penstock.storage import read_parquet
from penstock.vision.preprocess import Preprocess

__all__ = [
    "Album",
    "EpochSampler",
    "Pictures",
    "Split",
    "augmentation",
    "class_weights",
    "evaluation_loader",
    "read_album",
    "read_split",
    "seed_of",
    "training_loader",
]

# Of a seed; torch takes 64 bits, NumPy 32.
MASK = 2**31 - 1


def seed_of(*numbers: int) -> int:
    """One seed out of several numbers; neighbours give unrelated ones."""
    return int(np.random.SeedSequence([number & MASK for number in numbers]).generate_state(1)[0]) & MASK


@dataclass(frozen=True)
class Split:
    """The rows of each part, and every row's class.

    Attributes:
        parts: train, validation and holdout → rows, ascending.
        codes: The class of each row as its place in ``classes``, shape (n_rows,).
        classes: Sorted labels.
    """

    parts: dict[str, NDArray[np.int64]]
    codes: NDArray[np.int64]
    classes: tuple[str, ...]


def read_split(path: Path) -> Split:
    """Read what images_split wrote."""
    frame = read_parquet(path).sort("row")
    classes = tuple(sorted(frame["label"].unique()))
    parts = {
        part: frame.filter(pl.col("part") == part)["row"].cast(pl.Int64).to_numpy()
        for part in ("train", "validation", "holdout")
    }
    return Split(
        parts, frame["label"].cast(pl.Enum(classes)).to_physical().cast(pl.Int64).to_numpy(), classes
    )


class Album:
    """The encoded pictures of a Parquet file, in memory as they are on disk; forked workers share them."""

    def __init__(self, column: pa.ChunkedArray, path: Path) -> None:
        self._column = pa.concat_arrays(column.cast(pa.large_binary()).chunks)
        self._path = path

    def __len__(self) -> int:
        return len(self._column)

    def content(self, row: int) -> bytes:
        """One picture as it is stored."""
        return bytes(self._column[row].as_buffer().to_pybytes())

    def pixels(self, row: int) -> NDArray[np.uint8]:
        """One picture, uint8, shape (height, width, 3)."""
        # Each passed its contract when it came in; as stored it may be smaller, and is not judged again.
        return decode(self.content(row), STORED)


def read_album(path: Path) -> Album:
    """Read the pictures of ``path``.

    Raises:
        PenstockError: The file is missing, truncated or not one of pictures.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it")
    try:
        return Album(pq.read_table(path, columns=["picture"]).column("picture"), path)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise PenstockError(
            f"{path}: not a readable Parquet file of pictures ({str(error).splitlines()[0]})",
            hint="remove it and run `dvc repro`",
        ) from error


def augmentation(settings: Finetuning, side: int, interpolation: str) -> Callable[[Tensor], Tensor]:
    """What a training picture goes through: uint8 (3, height, width) → uint8 (3, side, side).

    Colours and shapes are changed while a picture is small, which is cheaper, or else after it has been cropped.
    """
    from torchvision.transforms import InterpolationMode, v2

    mode = InterpolationMode(interpolation)
    sizing: list[Any] = [v2.Resize((side, side), interpolation=mode, antialias=True)]
    if settings.augment in {"crop", "trivial", "rand"}:
        sizing = [
            v2.RandomResizedCrop(
                side, scale=(settings.crop_scale, 1.0), ratio=(0.8, 1.25), interpolation=mode, antialias=True
            )
        ]
    flipping: list[Any] = [] if settings.augment == "none" else [v2.RandomHorizontalFlip()]
    policy: list[Any] = {"trivial": [v2.TrivialAugmentWide()], "rand": [v2.RandAugment()]}.get(
        settings.augment, []
    )
    small = v2.Compose([*flipping, *policy, *sizing])
    large = v2.Compose([*sizing, *flipping, *policy])

    def augment(picture: Tensor) -> Tensor:
        changed: Tensor = (small if max(picture.shape[-2:]) < side else large)(picture)
        return changed

    return augment


class Pictures(Dataset[tuple[Tensor, int]]):
    """Pictures of some rows, ready for the network but for normalisation.

    An index is ``epoch * len(self) + place``, as EpochSampler gives it: the epoch is part of what seeds a
    picture's augmentation, and a worker that lives for several epochs learns of it in no other way.
    """

    def __init__(
        self,
        album: Album,
        rows: NDArray[np.int64],
        codes: NDArray[np.int64],
        preprocess: Preprocess,
        *,
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self._album, self._rows, self._codes = album, rows, codes
        self._preprocess, self._augment, self._seed = preprocess, augment, seed

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        epoch, place = divmod(index, len(self._rows))
        row = int(self._rows[place])
        picture = torch.from_numpy(self._album.pixels(row)).permute(2, 0, 1)
        code = int(self._codes[row])
        if self._augment is None:
            return self._preprocess.scale(self._preprocess.crop(picture[None]))[0], code
        # Not torch.manual_seed: it also notes, with a traceback, what to tell a GPU, and takes longer than the picture.
        kept = torch.get_rng_state()
        torch.default_generator.manual_seed(seed_of(self._seed, epoch, row))
        changed = self._augment(picture)
        torch.set_rng_state(kept)
        return changed, code


class EpochSampler(Sampler[int]):
    """The order of an epoch, known from seed and epoch alone, of which each process takes every n-th.

    Together the processes see the batches that a single one with their joint batch size would see.

    Args:
        rows: Pictures.
        seed: Of the order.
        weights: Of each picture where classes are to be balanced: drawn with replacement, ``rows`` in all.
        rank: Number of this process.
        world: Processes.
        batch: Of one process; what does not fill a batch of every process is left out of the epoch.
    """

    def __init__(
        self,
        rows: int,
        seed: int,
        weights: Tensor | None = None,
        *,
        rank: int = 0,
        world: int = 1,
        batch: int = 1,
    ) -> None:
        self._rows, self._seed, self._weights = rows, seed, weights
        self._rank, self._world = rank, world
        whole = rows // (batch * world) * batch * world
        # Fewer pictures than a batch: one batch of what there is.
        self._kept = whole or rows // world * world
        self._epoch: Callable[[], int] = lambda: 0

    def follow(self, epoch: Callable[[], int]) -> None:
        """Ask for the epoch whenever an order is begun.

        Lightning would tell it by ``set_epoch``, but in the first epoch of a continued run too late: workers
        have then begun to fetch the pictures of epoch 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        return self._kept // self._world

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch()
        generator = torch.Generator().manual_seed(seed_of(self._seed, epoch))
        if self._weights is None:
            order = torch.randperm(self._rows, generator=generator)
        else:
            order = torch.multinomial(self._weights, self._rows, replacement=True, generator=generator)
        mine = order[: self._kept][self._rank :: self._world]
        return (epoch * self._rows + int(place) for place in mine)


def class_weights(codes: NDArray[np.int64], classes: int) -> Tensor:
    """Weights inversely proportional to the classes' pictures, with a mean of 1 over pictures, shape (classes,)."""
    counts = np.bincount(codes, minlength=classes)
    return torch.tensor(len(codes) / (classes * counts), dtype=torch.float32)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def training_loader(
    pictures: Pictures,
    codes: NDArray[np.int64],
    settings: Finetuning,
    *,
    seed: int,
    workers: int,
    rank: int,
    world: int,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of augmented pictures. ``codes``: the classes of ``pictures``, in their order."""
    weights = None
    if settings.imbalance == "balanced_sampler":
        weights = class_weights(codes, int(codes.max()) + 1)[torch.from_numpy(codes)]
    sampler = EpochSampler(len(pictures), seed, weights, rank=rank, world=world, batch=settings.batch_size)
    return DataLoader(
        pictures,
        batch_size=min(settings.batch_size, len(sampler)),
        sampler=sampler,
        num_workers=workers,
        worker_init_fn=_one_thread,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )


def evaluation_loader(
    pictures: Pictures, *, batch: int, workers: int, rows: Sequence[int] | None = None
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of pictures as they are, in order; of some places only where ``rows`` are given."""
    return DataLoader(
        pictures,
        batch_size=batch,
        sampler=rows,
        num_workers=workers,
        worker_init_fn=_one_thread,
        multiprocessing_context="fork" if workers else None,
    )
