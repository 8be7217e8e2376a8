"""Loading an artefact: nothing is run before the file is known to be the one that was validated."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from penstock.artifact import manifest as manifests
from penstock.artifact.manifest import MODEL, Manifest
from penstock.errors import PenstockError

if TYPE_CHECKING:
    import polars as pl
    from onnxruntime import InferenceSession

__all__ = ["Model", "load", "open_session", "read_verified"]


@dataclass(frozen=True)
class Model:
    """A loaded artefact.

    Attributes:
        manifest: What it is.
        session: The ONNX session.
    """

    manifest: Manifest
    session: InferenceSession

    def run(self, frame: pl.DataFrame) -> dict[str, NDArray[Any]]:
        """The graph's outputs for a typed table, by name.

        Args:
            frame: The manifest's columns, typed as its contract says.
        """
        # Late, as polars below: a predictor that is given arrays has none.
        from penstock.artifact.inputs import feeds

        return self.run_arrays(feeds(frame, self.manifest.inputs))

    def run_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The graph's outputs, by name, for one array of shape (rows, 1) for each input."""
        names = [output.name for output in self.manifest.outputs]
        return dict(zip(names, self.session.run(names, dict(arrays)), strict=True))

    def predict(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Answers as a table, one row per row of ``frame``.

        Returns:
            binary: label, probability (of the positive class). multiclass: label and one
            probability_<class> each. regression: value.
        """
        import polars as pl

        outputs = self.run(frame)
        if self.manifest.classes is None:
            return pl.DataFrame({"value": outputs["value"][:, 0]})
        # ORT gives strings as Python objects; few distinct ones are cheaper looked up by code.
        label = pl.Series("label", outputs["label"], dtype=pl.String)
        probabilities = outputs["probabilities"]
        if self.manifest.task == "binary":
            return pl.DataFrame([label, pl.Series("probability", np.ascontiguousarray(probabilities[:, 1]))])
        each = [
            pl.Series(f"probability_{name}", np.ascontiguousarray(probabilities[:, code]))
            for code, name in enumerate(self.manifest.classes)
        ]
        return pl.DataFrame([label, *each])


def load(folder: Path, *, threads: int = 1) -> Model:
    """Load an artefact.

    Args:
        folder: Holds model.onnx and manifest.json.
        threads: Within one operator. One thread gives the same bits on every run.

    Raises:
        PenstockError: Something is missing, the file's hash is not the manifest's, or it refers to data
            outside itself.
    """
    manifest = manifests.read(folder)
    path = folder / MODEL
    return Model(manifest, open_session(path, read_verified(path, manifest.sha256), threads))


def read_verified(path: Path, sha256: str) -> bytes:
    """Read a file of an artefact.

    Raises:
        PenstockError: It is missing, or its hash is not the manifest's.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise PenstockError(
            f"{path}: there is no such file", hint="`dvc repro` makes it, `dvc pull` fetches it"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise PenstockError(
            f"{path}: does not match its manifest (SHA-256 {digest[:12]}…, expected {sha256[:12]}…)",
            hint="it was changed or is of another run; fetch both anew: `dvc checkout models`, or `dvc repro`",
        )
    return content


def open_session(path: Path, content: bytes, threads: int) -> InferenceSession:
    """A session of a model that is in memory.

    Args:
        path: Where it was read, for messages.
        content: The file.
        threads: Within one operator.

    Raises:
        PenstockError: It is not a model, or refers to data outside itself.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # From bytes the session has no folder to resolve external data against: a file that refers to any fails.
    try:
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ORT's own exceptions derive from nothing more specific
        raise PenstockError(
            f"{path}: not a model that can be loaded ({str(error).splitlines()[0][:200]})",
            hint="files with external data are refused; export the model anew: `dvc repro`",
        ) from error
