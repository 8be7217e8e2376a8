"""The live model: what a device's wearer does, by the graph's model of windows.

It is the artefact that `dvc repro` makes, checked against its manifest; when it is made anew, the new one is used.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.artifact.manifest import MANIFEST
from penstock.artifact.model import Model, load
from penstock.config.streaming import Activity
from penstock.console import say
from penstock.errors import PenstockError
from penstock.signals import names
from penstock.sources.recordings import CHANNELS

__all__ = ["Classifier"]

LOOK = 5.0  # seconds between looks for another model


class Classifier:
    """Tells activities, as long as there is a model.

    Args:
        view: What is declared.
        root: The repository.
    """

    def __init__(self, view: Activity, root: Path = Path()) -> None:
        self.view, self.folder = view, root / view.model
        self.model: Model | None = None
        self._known: tuple[int, int] | None = None
        self._looked = -LOOK
        self._told = ""

    def look(self) -> None:
        """Load the model if there is another one than before."""
        self._looked = time.monotonic()
        try:
            found = (self.folder / MANIFEST).stat()
            known = (found.st_mtime_ns, found.st_ino)
            if known == self._known:
                return
            model = load(self.folder)
            wanted = set(names(CHANNELS))
            given = {column.name for column in model.manifest.inputs}
            if given != wanted or model.manifest.classes is None:
                missing = ", ".join(sorted(given ^ wanted)[:3]) or "no classes"
                raise PenstockError(
                    f"{self.folder}: no model of activities ({missing})",
                    hint="indexer.activity.model: name the artefact of a data set of windows, as `watch` is",
                )
        except FileNotFoundError:
            self._tell(f"{self.folder}: there is no model yet, no activity is told; `dvc repro` makes it")
        except PenstockError as error:
            # Half of it may be written: the one that is loaded goes on, and the files are looked at again.
            self._tell(error.message if error.hint is None else f"{error.message}; {error.hint}")
        else:
            self._tell(f"activities by {self.folder}, {model.manifest.sha256[:12]}")
            self.model, self._known = model, known

    def _tell(self, words: str) -> None:
        if words != self._told:
            say(f"windows: {words}")
            self._told = words

    def __call__(
        self, accelerometer: NDArray[np.float64], gyroscope: NDArray[np.float64]
    ) -> list[dict[str, Any]] | None:
        """Label, probability and model of each window; None if there is no model.

        Args:
            accelerometer: Features, shape (windows, features of three axes).
            gyroscope: The same of it.
        """
        if time.monotonic() - self._looked > LOOK:
            self.look()
        model = self.model
        if model is None or model.manifest.classes is None:
            return None
        features = dict(
            zip(names(CHANNELS), np.concatenate([accelerometer, gyroscope], axis=1).T, strict=True)
        )
        arrays = {
            item.name: features[item.name].astype(np.float32 if item.element == "float" else np.float64)[
                :, None
            ]
            for item in model.manifest.inputs
        }
        outputs = model.run_arrays(arrays)
        most = outputs["probabilities"].max(axis=1)
        version = model.manifest.sha256[:12]
        return [
            {"label": str(label), "probability": float(p), "model": version}
            for label, p in zip(outputs["label"].reshape(-1), most, strict=True)
        ]
