"""images_export: ONNX files from a picture's pixels to its label, proven on the whole hold-out, and their manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from penstock.artifact.export import code_sha256, library_versions
from penstock.artifact.manifest import MANIFEST, MODEL
from penstock.artifact.model import open_session
from penstock.artifact.picture_manifest import INT8_MODEL, Int8, PictureManifest
from penstock.artifact.picture_model import PictureModel
from penstock.config import ImageExportView, load_view
from penstock.console import progress, run_stage, say
from penstock.storage import write_bytes, write_json
from penstock.vision import backbone as backbones
from penstock.vision import export, parity
from penstock.vision.data import Album, Split, read_album, read_split
from penstock.vision.outputs import read_answers
from penstock.vision.quantise import quantise
from penstock.vision.temperature import fit_temperature, measure, probabilities
from penstock.vision.training import answers, prepare_torch
from stages.layout import ImageLayout

PHASE = "finetune"

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
    "penstock/pictures.py",
    "penstock/sources/__init__.py",
    "penstock/sources/files.py",
    "penstock/sources/npm.py",
    "penstock/sources/package.py",
    "penstock/sources/pictures.py",
    "penstock/storage.py",
    "penstock/validation/calibration.py",
    "penstock/vision/backbone.py",
    "penstock/vision/data.py",
    "penstock/vision/export.py",
    "penstock/vision/ingestion.py",
    "penstock/vision/memory.py",
    "penstock/vision/module.py",
    "penstock/vision/outputs.py",
    "penstock/vision/parity.py",
    "penstock/vision/preprocess.py",
    "penstock/vision/quantise.py",
    "penstock/vision/splitting.py",
    "penstock/vision/temperature.py",
    "penstock/vision/training.py",
    "stages/images_export.py",
    "stages/images_features.py",
    "stages/images_finetune.py",
    "stages/images_head.py",
    "stages/images_split.py",
    "stages/ingest.py",
    "stages/layout.py",
)


def describe(
    dataset: str,
    view: ImageExportView,
    split: Split,
    album: Album,
    files: Mapping[str, bytes],
    *,
    temperature: float,
    metrics: dict[str, float | None],
) -> PictureManifest:
    """The manifest of the fp32 file; of the other, once it has been compared."""
    labels = [split.classes[code] for code in split.codes]
    return PictureManifest(
        format=1,
        kind="images",
        name=dataset,
        title=view.card.title or dataset,
        task="images",
        sha256=hashlib.sha256(files[MODEL]).hexdigest(),
        int8=None,
        opset={"ai.onnx": view.export.opset},
        inputs=export.inputs(),
        outputs=export.outputs(split.classes),
        classes=split.classes,
        side=view.backbone.side,
        temperature=temperature,
        contract=view.contract,
        metrics=metrics,
        parameters={"backbone": view.backbone.model_dump(), PHASE: view.finetuning.model_dump()},
        data_sha256=export.data_sha256(album, labels),
        code_sha256=code_sha256(Path(__file__).parents[1], CODE),
        versions=library_versions(export.MADE_WITH),
    )


def with_int8(manifest: PictureManifest, files: Mapping[str, bytes], found: parity.Parity) -> PictureManifest:
    """The manifest with what was found of the int8 file, if there is one."""
    if found.int8 is None:
        return manifest
    int8 = Int8(
        sha256=hashlib.sha256(files[INT8_MODEL]).hexdigest(),
        accuracy_drop=found.int8.accuracy_drop,
        label_disagreement=found.int8.label_disagreement,
    )
    return manifest.model_copy(update={"int8": int8})


def main(dataset: str) -> None:
    """Write the artefact of ``dataset``, once it is known to be the network that was trained."""
    layout = ImageLayout(dataset)
    view = load_view(ImageExportView, dataset)
    export.require_opset(view.export.opset)
    compute = view.compute.model_copy(update={"accelerator": "cpu"})  # a GPU rounds otherwise
    prepare_torch(compute, view.seed)
    album, split = read_album(layout.raw), read_split(layout.split)
    network, classes = backbones.load(layout.weights(PHASE), view.backbone)
    preprocess = backbones.preprocess(view.backbone, network)
    logits, codes = read_answers(layout.answers(PHASE), "validation", classes)
    temperature = fit_temperature(logits, codes) if view.export.temperature else 1.0

    traced = export.trace(network, view.backbone.side, view.export.opset)
    whole = partial(
        export.whole, preprocess=preprocess, classes=classes, temperature=temperature, name=dataset
    )
    files = {MODEL: whole(traced)}
    settings = view.export.quantise
    if settings.enabled:
        prepared = export.calibration(album, split.parts["train"], preprocess, settings.pictures, view.seed)
        with progress(f"{dataset}: int8, {settings.method}", len(prepared), unit="pictures") as advance:
            files[INT8_MODEL] = whole(quantise(traced, prepared, settings.method, advance=advance))

    metrics = measure(logits, codes, temperature)
    manifest = describe(dataset, view, split, album, files, temperature=temperature, metrics=metrics)
    rows = split.parts["holdout"]
    answered = answers(network, album, view.backbone, rows, compute, title=f"{dataset}: hold-out, torch")
    found = parity.prove(
        {
            name: PictureModel(manifest, open_session(layout.model / name, content, compute.threads))
            for name, content in files.items()
        },
        album,
        rows,
        split.codes[rows],
        probabilities(answered, temperature),
        title=f"{dataset}: hold-out, ONNX",
    )
    write_json(layout.reports / "parity.json", found.as_dict(), sort_keys=False)
    # Nothing is in place before it is proven: the bytes that were asked are those that are written.
    parity.require(found, view.export)
    (layout.model / INT8_MODEL).parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(layout.model / name, content)
    write_json(layout.model / MANIFEST, with_int8(manifest, files, found).model_dump(), sort_keys=False)
    sizes = ", ".join(f"{name} {len(content) / 2**20:.1f} MiB" for name, content in files.items())
    say(f"{dataset}: {sizes}; {found.max_difference:.1e} from the network at most, top-1 {found.top1:.3f}")


if __name__ == "__main__":
    run_stage("images_export", main)
