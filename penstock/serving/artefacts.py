"""Loaded artefacts, whatever they are about, behind one interface: from a request to answers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from penstock.artifact.manifest import MANIFEST
from penstock.config.serving import Limits, ServedModel
from penstock.errors import PenstockError
from penstock.serving.open_inference import InferRequest
from penstock.serving.refusals import Fault, Refusal
from penstock.storage import read_json

__all__ = [
    "VERSION_LENGTH",
    "Artefact",
    "Rules",
    "TensorInfo",
    "Work",
    "kind_of",
    "open_artefact",
    "outputs_of",
]

VERSION_LENGTH = 12  # hex digits of the SHA-256: what a version is called
WARM_RUNS, MOST_RUNS = 5, 100
WARM_SECONDS = (
    0.05  # in which a quick model is run on: on a busy machine, five runs may all have waited for the core
)


@dataclass(frozen=True)
class Rules:
    """What holds for every request.

    Attributes:
        limits: Of its size.
        ignore_others: Columns that a model does not have are let pass.
    """

    limits: Limits
    ignore_others: bool = False


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as the Open Inference Protocol describes it; -1 is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def told(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class Work(ABC):
    """Checked rows of one request, ready to be run."""

    @abstractmethod
    def __len__(self) -> int:
        """Rows."""

    def group(self) -> Hashable:
        """Works of one group can share a run."""
        return None


# The graph's outputs, by name, of some rows.
Outputs = dict[str, NDArray[Any]]


class Artefact(ABC):
    """One version of one model.

    Attributes:
        kind: What it is about.
        heavy: Whether decoding a request takes so long that it is done in a thread.
        version: By which it is asked for.
        sha256: Of the ONNX file.
        title: For people.
        inputs: As the Open Inference Protocol describes them.
        outputs: Likewise.
        fixed_cost: Seconds of a run of one row, measured when it was loaded.
        row_cost: Seconds of each further row of a run.
    """

    kind: ClassVar[str]
    heavy: ClassVar[bool] = False
    version: str
    sha256: str
    title: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    fixed_cost: float = 0.0
    row_cost: float = 0.0

    @abstractmethod
    def plain(self, content: bytes) -> Work:
        """The rows of a plain request's body.

        Raises:
            Refusal: It cannot be answered.
        """

    @abstractmethod
    def tensors(self, request: InferRequest) -> Work:
        """The rows of tensors.

        Raises:
            Refusal: They cannot be answered.
        """

    @abstractmethod
    def run(self, works: Sequence[Work]) -> Outputs:
        """The graph's outputs of works of one group, one after another."""

    @abstractmethod
    def answers(self, outputs: Outputs) -> list[dict[str, Any]]:
        """Outputs row by row, as the plain route and the request log have them."""

    @abstractmethod
    def records(self, work: Work) -> list[dict[str, Any]]:
        """What was asked, row by row, for the request log."""

    def beyond(self, work: Work) -> Fault | None:  # noqa: ARG002  (a kind without such values has none)
        """A value so large that no finite answer can be expected, if there is one."""
        return None

    @abstractmethod
    def row_schema(self) -> dict[str, Any]:
        """JSON Schema of a row of the plain route."""

    @abstractmethod
    def answer_schema(self) -> dict[str, Any]:
        """JSON Schema of an answer to it."""

    @abstractmethod
    def example(self, rows: int) -> Work:
        """Rows to warm it up with."""

    def warm_up(self, most: int) -> None:
        """Run it a few times, so that no request is the first, and measure what a run costs.

        Raises:
            PenstockError: It does not run, or gives another number of rows than it was asked for.
        """
        try:
            self.fixed_cost = self._measured(1)
            several = min(most, 16 if self.fixed_cost > 0.001 else 64)
            if several > 1:
                self.row_cost = max(0.0, self._measured(several) - self.fixed_cost) / (several - 1)
        except PenstockError:
            raise
        except Exception as error:  # ONNX Runtime's own exceptions derive from nothing more specific
            words = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise PenstockError(
                f"{self.title}: does not run: {words}", hint="export the model anew: `dvc repro`"
            ) from error

    def _measured(self, rows: int) -> float:
        work = self.example(rows)
        took: list[float] = []
        ends = time.perf_counter() + WARM_SECONDS
        while len(took) < WARM_RUNS or (len(took) < MOST_RUNS and time.perf_counter() < ends):
            began = time.perf_counter()
            outputs = self.run([work])
            took.append(time.perf_counter() - began)
        if any(len(values) != rows for values in outputs.values()):
            raise PenstockError(
                f"{self.title}: was asked for {rows} rows, and gives outputs of "
                f"{', '.join(str(values.shape) for values in outputs.values())}",
                hint="export the model anew: `dvc repro`",
            )
        return min(took)  # what it takes when nobody else has the core


def outputs_of(whole: Outputs, start: int, rows: int) -> Outputs:
    """The outputs of some rows of a run.

    Raises:
        Refusal: A number is not finite, or the run has given too few.
    """
    part = {name: values[start : start + rows] for name, values in whole.items()}
    for name, values in part.items():
        if len(values) != rows:
            raise Refusal(500, "shape", f"the model gives {name} of shape {values.shape} for {rows} rows")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise Refusal(500, "not_finite", f"the model gives a {name} that is no finite number")
    return part


# A folder, what is declared of it, and the rules → the artefact.
Opener = Callable[[Path, ServedModel, Rules], Artefact]


def _tables(folder: Path, declared: ServedModel, rules: Rules) -> Artefact:
    from penstock.serving.tables import TableArtefact

    if declared.variant != "fp32":
        raise PenstockError(
            f"{folder}: has no {declared.variant} variant", hint="models of tables have one file"
        )
    return TableArtefact(folder, rules)


def _pictures(folder: Path, declared: ServedModel, rules: Rules) -> Artefact:
    from penstock.serving.pictures import PictureArtefact

    return PictureArtefact(folder, declared.variant, rules)


# By the manifest's `kind`; one of tables has none.
KINDS: dict[str, Opener] = {"tables": _tables, "images": _pictures}


def kind_of(folder: Path) -> str:
    """What the artefact of a folder is about.

    Raises:
        PenstockError: It is none, or of a kind that is not served.
    """
    path = folder / MANIFEST
    if not path.is_file():
        there = "there is no such folder" if not folder.is_dir() else f"there is no {MANIFEST} in it"
        raise PenstockError(
            f"{folder}: {there}", hint="name a folder such as models/churn; `dvc repro` makes it"
        )
    content = read_json(path)
    kind = str(content.get("kind", "tables")) if isinstance(content, dict) else "tables"
    if kind not in KINDS:
        raise PenstockError(f"{path}: kind: {kind!r} is not served", hint=f"there are: {', '.join(KINDS)}")
    return kind


def open_artefact(folder: Path, declared: ServedModel, rules: Rules, *, most: int) -> Artefact:
    """Load an artefact and warm it up.

    Args:
        folder: Holds the manifest and what it names.
        declared: What is declared of it.
        rules: What holds for every request.
        most: Rows of a run.

    Raises:
        PenstockError: Something is missing, a hash is not the manifest's, it refers to data outside itself, or does not run.
    """
    artefact = KINDS[kind_of(folder)](folder, declared, rules)
    artefact.warm_up(most)
    return artefact
