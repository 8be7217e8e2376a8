"""Fitted pipelines on disk: no pickle, the same bytes for the same pipeline, and only types that are known.

skops names arrays after the addresses that objects have in memory, stamps its archive with the time, and
writes the gaps in C structures as they happen to be: all three are replaced here. Reading accepts scikit-learn's and NumPy's types as skops knows them and the list
below; what a file says of itself counts for nothing.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

from penstock.errors import PenstockError
from penstock.storage import write_bytes

__all__ = ["dumps", "load", "loads", "save"]

TRUSTED = (
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "numpy.dtype",
    "penstock.features.transformers.OutlierClipper",
    "penstock.features.transformers.SinglePrecisionTargetEncoder",
    "penstock.validation.calibration.Calibrated",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.metrics._dist_metrics.EuclideanDistance32",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance32",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)

SCHEMA = "schema.json"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip archive can name
READABLE = 0o644 << 16


def dumps(pipeline: Any) -> bytes:
    """A fitted pipeline as a skops archive: equal pipelines give equal bytes, in any process."""
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(pipeline))) as archive:
        schema = json.loads(archive.read(SCHEMA))
        numbers: dict[int, int] = {}
        files: dict[str, str] = {}
        _renumber(schema, numbers, files)
        contents = {new: _unpadded(archive.read(old)) for old, new in files.items()}
    contents[SCHEMA] = json.dumps(schema, indent=1).encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression=zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, date_time=EPOCH)
            entry.external_attr = READABLE
            archive.writestr(entry, content)
    return target.getvalue()


def _unpadded(content: bytes) -> bytes:
    """An array file whose records have zeros between their fields.

    A tree's nodes are C structures: what lies in their gaps is whatever the memory held before.
    """
    import numpy as np

    # npz archives (sparse matrices) hold plain numbers, without gaps.
    if not content.startswith(b"\x93NUMPY"):
        return content
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean = np.zeros(array.shape, dtype=array.dtype)
    for name in array.dtype.names:
        clean[name] = array[name]
    target = io.BytesIO()
    np.lib.format.write_array(target, clean, allow_pickle=False)
    return target.getvalue()


def _renumber(node: Any, numbers: dict[int, int], files: dict[str, str]) -> None:
    """Replace addresses by ranks of first appearance, in place."""
    if isinstance(node, list):
        for item in node:
            _renumber(item, numbers, files)
        return
    if not isinstance(node, dict):
        return
    # Which equal constants are one object is the interpreter's affair: they need no identity.
    if node.get("__loader__") == "JsonNode":
        node.pop("__id__", None)
    if isinstance(node.get("__id__"), int):
        node["__id__"] = numbers.setdefault(node["__id__"], len(numbers) + 1)
    if isinstance(node.get("file"), str):
        old = node["file"]
        node["file"] = files.setdefault(old, f"{len(files) + 1:05d}{Path(old).suffix}")
    for item in node.values():
        _renumber(item, numbers, files)


def loads(content: bytes, *, name: str = "pipeline") -> Any:
    """The pipeline in a skops archive.

    Raises:
        PenstockError: It is no such archive, or it holds types that are not on the list.
    """
    import skops.io

    try:
        foreign = sorted(set(skops.io.get_untrusted_types(data=content)) - set(TRUSTED))
        if foreign:
            raise PenstockError(
                f"{name}: holds types that Penstock does not load: {', '.join(foreign[:5])}",
                hint="load only what `dvc repro` made",
            )
        return skops.io.loads(content, trusted=list(TRUSTED))
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise PenstockError(
            f"{name}: not a readable skops file ({error})", hint="remove it and run `dvc repro`"
        ) from error


def save(pipeline: Any, path: Path) -> None:
    """Write a fitted pipeline, all or nothing."""
    write_bytes(path, dumps(pipeline))


def load(path: Path) -> Any:
    """Read a fitted pipeline.

    Raises:
        PenstockError: The file is missing, damaged, or holds types that are not on the list.
    """
    if not path.is_file():
        raise PenstockError(f"{path}: there is no such file", hint="run `dvc repro` to make it")
    return loads(path.read_bytes(), name=str(path))
