"""Where every output of a data set lies: the paths that dvc.yaml names, once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ImageLayout", "InteractionLayout", "Layout", "Phase"]


@dataclass(frozen=True)
class Layout:
    """The paths of one data set, relative to the root of the repository."""

    dataset: str

    @property
    def raw(self) -> Path:
        return Path("data/raw") / f"{self.dataset}.parquet"

    @property
    def quarantine(self) -> Path:
        return Path("data/quarantine") / f"{self.dataset}.parquet"

    @property
    def contract(self) -> Path:
        """The contract with every column's type resolved: named, by default or inferred."""
        return self.reports / "contract.json"

    @property
    def prepared(self) -> Path:
        """Folder with train.parquet and holdout.parquet."""
        return Path("data/prepared") / self.dataset

    @property
    def features(self) -> Path:
        """Folder with train.parquet, holdout.parquet and columns.json."""
        return Path("data/features") / self.dataset

    @property
    def predictions(self) -> Path:
        return Path("data/predictions") / f"{self.dataset}.parquet"

    @property
    def rejected(self) -> Path:
        """Rows of the scored batch that did not fit."""
        return Path("data/quarantine") / f"{self.dataset}_predictions.parquet"

    @property
    def model(self) -> Path:
        """Folder with pipeline.skops, model.onnx and manifest.json."""
        return Path("models") / self.dataset

    @property
    def reports(self) -> Path:
        return Path("reports") / self.dataset

    @property
    def selection(self) -> Path:
        return self.reports / "selection.json"


@dataclass(frozen=True)
class Phase:
    """Where a phase of training on pictures reads and writes."""

    raw: Path
    split: Path
    checkpoints: Path
    live: Path
    weights: Path
    answers: Path
    curves: Path


@dataclass(frozen=True)
class ImageLayout(Layout):
    """The paths of a set of pictures. ``raw``, ``quarantine``, ``model`` and ``reports`` are as for a table."""

    @property
    def split(self) -> Path:
        """Which part each row of ``raw`` belongs to."""
        return Path("data/prepared") / f"{self.dataset}.parquet"

    @property
    def features(self) -> Path:
        """Folder with features of the frozen backbone: features.npy, mirrored.npy, rows.npy."""
        return Path("data/features") / self.dataset

    def weights(self, phase: str) -> Path:
        """The network after a phase (head, finetune, scratch)."""
        return self.model / f"{phase}.safetensors"

    def answers(self, phase: str) -> Path:
        """What the network after a phase says of the validation part and the hold-out."""
        return Path("data/predictions") / f"{self.dataset}_{phase}.parquet"

    def curves(self, phase: str) -> Path:
        """One line an epoch."""
        return self.reports / f"{phase}_curves.csv"

    def live(self, phase: str) -> Path:
        """What DVCLive writes while a phase runs."""
        return self.reports / "live" / phase

    def checkpoints(self, phase: str) -> Path:
        """Of a run that is not done. No output: DVC would remove it before the run could go on."""
        return Path(".penstock/checkpoints") / self.dataset / phase

    def phase(self, phase: str) -> Phase:
        """All paths of a phase."""
        return Phase(
            raw=self.raw,
            split=self.split,
            checkpoints=self.checkpoints(phase),
            live=self.live(phase),
            weights=self.weights(phase),
            answers=self.answers(phase),
            curves=self.curves(phase),
        )


@dataclass(frozen=True)
class InteractionLayout(Layout):
    """The paths of a set of interactions. ``raw``, ``quarantine``, ``model`` and ``reports`` are as for a table."""

    @property
    def split(self) -> Path:
        """The interactions in the order of users and time, with the part of each."""
        return Path("data/prepared") / f"{self.dataset}.parquet"

    @property
    def weights(self) -> Path:
        """One row for each item: its neighbours, their weights, and the vector by which it is like others."""
        return self.model / "weights.parquet"

    @property
    def others(self) -> Path:
        """What the candidates that were not chosen recommend to those who are judged by."""
        return Path("data/predictions") / f"{self.dataset}_others.parquet"
