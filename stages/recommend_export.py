"""recommend_export: one ONNX file from the ids of a history to the best items, proven on the hold-out's users."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl

from penstock.artifact.export import code_sha256, data_sha256, library_versions
from penstock.artifact.graph import ML, ML_OPSET, OPSET
from penstock.artifact.manifest import MANIFEST, MODEL
from penstock.artifact.model import open_session
from penstock.artifact.recommender_export import INPUTS, OUTPUTS, items_json, to_onnx
from penstock.artifact.recommender_manifest import ITEMS, Limits, RecommenderManifest
from penstock.artifact.recommender_model import RecommenderModel
from penstock.artifact.recommender_parity import prove, require
from penstock.config import InteractionExportView, load_view
from penstock.console import progress, run_stage, say
from penstock.recommend.judging import asked
from penstock.recommend.search import Selection
from penstock.recommend.training import from_frame
from penstock.storage import read_json, read_parquet, write_bytes, write_json
from stages.layout import InteractionLayout

# The code that makes a model, from its source to its file. dvc.yaml names the same.
CODE = (
    "penstock/artifact",
    "penstock/config/__init__.py",
    "penstock/config/base.py",
    "penstock/config/images.py",
    "penstock/config/interactions.py",
    "penstock/config/tables.py",
    "penstock/contract.py",
    "penstock/features/columns.py",
    "penstock/features/derive.py",
    "penstock/recommend",
    "penstock/sources/__init__.py",
    "penstock/sources/files.py",
    "penstock/sources/package.py",
    "penstock/storage.py",
    "penstock/validation/calibration.py",
    "stages/ingest.py",
    "stages/layout.py",
    "stages/recommend_export.py",
    "stages/recommend_split.py",
    "stages/recommend_train.py",
    "stages/recommend_validate.py",
)
MADE_WITH = ("numpy", "onnx", "onnxruntime", "penstock", "polars", "scipy")


def describe(
    dataset: str, view: InteractionExportView, selection: Selection, raw: pl.DataFrame, **files: bytes
) -> RecommenderManifest:
    """The manifest of the files."""
    chosen = selection.candidates[selection.winner]
    return RecommenderManifest(
        format=1,
        kind="interactions",
        name=dataset,
        title=view.card.title or dataset,
        task="interactions",
        sha256=hashlib.sha256(files["model"]).hexdigest(),
        items_sha256=hashlib.sha256(files["items"]).hexdigest(),
        opset={"ai.onnx": OPSET, ML: ML_OPSET},
        inputs=INPUTS,
        outputs=OUTPUTS,
        order="oldest_first",
        items=len(json.loads(files["items"])["id"]),
        voting=view.train.max_history,
        pool=view.export.pool,
        limits=Limits.model_validate(view.export.limits.model_dump()),
        model=selection.winner,
        metrics={f"{name}@{view.scoring.k}": value for name, value in chosen.metrics.items()},
        parameters={**chosen.settings, **view.train.model_dump()},
        data_sha256=data_sha256(raw.with_columns(pl.col("genres").list.join("|"))),
        code_sha256=code_sha256(Path(__file__).parents[1], CODE),
        versions=library_versions(MADE_WITH),
    )


def main(dataset: str) -> None:
    """Export the recommender of ``dataset``."""
    layout = InteractionLayout(dataset)
    view = load_view(InteractionExportView, dataset)
    selection = Selection.model_validate(read_json(layout.selection))
    weights, frame = read_parquet(layout.weights), read_parquet(layout.split)
    half_life = read_json(layout.reports / "training.json")["half_life"]
    model = from_frame(weights, half_life=half_life, train=view.train, pool=view.export.pool)
    content = to_onnx(model, dataset)
    items = items_json(weights.select("id", "count"), frame)
    manifest = describe(dataset, view, selection, read_parquet(layout.raw), model=content, items=items)
    artefact = RecommenderModel(manifest, open_session(layout.model / MODEL, content, 1), {})
    people = asked(frame)
    with progress(f"{dataset}: ONNX", 1 + len(people.users), unit="users") as advance:
        found = prove(model, artefact, people.pasts, k=view.scoring.k, advance=advance)
    write_json(layout.reports / "parity.json", found.as_dict(), sort_keys=False)
    # Nothing is in place before it is proven: the bytes that were asked are those that are written.
    require(found, view.export)
    write_bytes(layout.model / MODEL, content)
    write_bytes(layout.model / ITEMS, items)
    write_json(layout.model / MANIFEST, manifest.model_dump(), sort_keys=False)
    say(
        f"{dataset}: {len(content) / 2**20:.1f} MiB, {manifest.items} items; {found.max_difference:.1e} from the arrays "
        f"at most, {found.disagreement:.2%} of places differ"
    )


if __name__ == "__main__":
    run_stage("recommend_export", main)
