"""export: one ONNX file from raw columns to answers, proven equal on the whole hold-out, and its manifest."""

from __future__ import annotations

if __name__ == "__main__":
    import penstock.without_pandas  # noqa: F401  (before anything loads scikit-learn)

import hashlib
from pathlib import Path

from penstock.artifact import export, parity
from penstock.artifact.graph import ML, ML_OPSET, OPSET
from penstock.artifact.manifest import MANIFEST, MODEL, Input, Manifest
from penstock.artifact.model import load
from penstock.config import Column, ExportView, load_view
from penstock.console import run_stage, say
from penstock.features.columns import Columns, encode_target, read
from penstock.storage import read_json, read_parquet, write_bytes, write_json
from penstock.validation import persistence
from penstock.validation.fitting import tabulate
from penstock.validation.judging import measure
from penstock.validation.training import predict
from stages.layout import Layout

# The code that makes a model, from its source to its file. dvc.yaml names the same.
CODE = (
    "penstock/artifact",
    "penstock/config/__init__.py",
    "penstock/config/base.py",
    "penstock/config/images.py",
    "penstock/config/interactions.py",
    "penstock/config/tables.py",
    "penstock/contract.py",
    "penstock/features",
    "penstock/preparation.py",
    "penstock/signals.py",
    "penstock/sources/__init__.py",
    "penstock/sources/files.py",
    "penstock/sources/npm.py",
    "penstock/sources/package.py",
    "penstock/sources/pictures.py",
    "penstock/sources/recordings.py",
    "penstock/storage.py",
    "penstock/validation",
    "stages/export.py",
    "stages/features.py",
    "stages/ingest.py",
    "stages/layout.py",
    "stages/prepare.py",
    "stages/train.py",
    "stages/validate.py",
)


def manifest(
    dataset: str,
    view: ExportView,
    columns: Columns,
    takes: tuple[Input, ...],
    content: bytes,
    threshold: float | None,
) -> Manifest:
    """The manifest of ``content``, the bytes of the ONNX file."""
    layout = Layout(dataset)
    means = read_json(layout.reports / "validation.json")
    return Manifest(
        format=1,
        name=dataset,
        title=view.card.title or dataset,
        task=view.task.kind,
        target=view.task.target,
        sha256=hashlib.sha256(content).hexdigest(),
        opset={"ai.onnx": OPSET, ML: ML_OPSET},
        inputs=takes,
        outputs=export.outputs(columns),
        classes=None if columns.classes is None else tuple(map(str, columns.classes)),
        positive=None if view.task.positive is None else str(view.task.positive),
        threshold=threshold,
        metrics={name: value for name, value in means.items() if isinstance(value, float)},
        parameters=read_json(layout.selection),
        data_sha256=export.data_sha256(read_parquet(layout.raw)),
        code_sha256=export.code_sha256(Path(__file__).parents[1], CODE),
        versions=export.library_versions(),
    )


def main(dataset: str) -> None:
    """Write the artefact of ``dataset`` and compare it with the pipeline it was made from."""
    layout = Layout(dataset)
    view = load_view(ExportView, dataset)
    columns = read(layout.features / "columns.json")
    contract = {name: Column.model_validate(item) for name, item in read_json(layout.contract).items()}
    threshold = read_json(layout.reports / "training.json")["threshold"]
    pipeline = persistence.load(layout.model / "pipeline.skops")
    takes = export.inputs(columns, view.derive, contract)
    model = export.to_onnx(pipeline, columns, view.derive, takes, threshold=threshold, name=dataset)
    content = model.SerializeToString(deterministic=True)
    write_bytes(layout.model / MODEL, content)
    write_json(
        layout.model / MANIFEST,
        manifest(dataset, view, columns, takes, content, threshold).model_dump(),
        sort_keys=False,
    )

    features = read_parquet(layout.features / "holdout.parquet")
    table = tabulate(features, columns, view.task, seed=0)
    found = parity.compare(
        load(layout.model),
        read_parquet(layout.prepared / "holdout.parquet"),
        predict(pipeline, table),
        spread=1.0 if columns.classes is not None else float(encode_target(features, columns).std()),
        threshold=threshold,
        metric=lambda answers: measure(table.y, answers, table, threshold, view.scoring)[view.scoring.metric],
    )
    write_json(layout.reports / "parity.json", found.as_dict(), digits=2)
    parity.require(found, view.export)
    say(
        f"{dataset}: {len(content) / 1024:.0f} KiB of ONNX, {found.max_difference:.1e} from the pipeline at most"
    )


if __name__ == "__main__":
    run_stage("export", main)
