"""Typed, frozen views of params.yaml. Nothing downstream reads an untyped dictionary.

params.yaml is composed from conf/ and loses its types on the way, so each stage validates what it
reads before it works: a key that no view knows is an error that names the key and the file.

A stage sees one *view*: the parameter groups that dvc.yaml lists for it and nothing else, so a stage
cannot depend on a parameter without saying so.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from penstock.config.base import Card, OpenShare, Scalar, Share, View
from penstock.config.images import (
    Backbone,
    Compute,
    Extraction,
    Finetuning,
    FolderSource,
    ImageDataset,
    ImageEvaluateView,
    ImageExport,
    ImageExportView,
    ImageFeaturesView,
    ImageFinetuneView,
    ImageHeadView,
    ImageIngestView,
    ImagePrepare,
    ImageProfile,
    ImageProfileView,
    ImageReportView,
    ImageScoring,
    ImageScratchView,
    ImageSource,
    ImageSplitView,
    ImageTask,
    ListingSource,
    NpmSource,
    PictureContract,
    Quantise,
    Sheet,
)
from penstock.config.tables import (
    REGRESSION_ONLY,
    Bins,
    Candidate,
    Column,
    ColumnType,
    Contract,
    Costs,
    Cross,
    Dataset,
    DatePart,
    Derived,
    Difference,
    EvaluateView,
    Export,
    ExportView,
    Features,
    FeaturesView,
    FileSource,
    Grid,
    IngestView,
    Log,
    ModelName,
    PackageSource,
    Predict,
    PredictView,
    Prepare,
    PrepareView,
    Product,
    Profile,
    ProfileView,
    Range,
    Ratio,
    RecordingsSource,
    ReportView,
    Sampler,
    Scoring,
    Search,
    Source,
    Space,
    Splitter,
    Sum,
    Task,
    Train,
    TrainView,
    ValidateView,
)
from penstock.errors import PenstockError

__all__ = [
    "IMAGES",
    "IMAGE_STAGES",
    "PARAMS",
    "REGRESSION_ONLY",
    "STAGES",
    "Backbone",
    "Bins",
    "Candidate",
    "Card",
    "Column",
    "ColumnType",
    "Compute",
    "Contract",
    "Costs",
    "Cross",
    "Dataset",
    "DatePart",
    "Derived",
    "Difference",
    "EvaluateView",
    "Export",
    "ExportView",
    "Extraction",
    "Features",
    "FeaturesView",
    "FileSource",
    "Finetuning",
    "FolderSource",
    "Grid",
    "ImageDataset",
    "ImageEvaluateView",
    "ImageExport",
    "ImageExportView",
    "ImageFeaturesView",
    "ImageFinetuneView",
    "ImageHeadView",
    "ImageIngestView",
    "ImagePrepare",
    "ImageProfile",
    "ImageProfileView",
    "ImageReportView",
    "ImageScoring",
    "ImageScratchView",
    "ImageSource",
    "ImageSplitView",
    "ImageTask",
    "IngestView",
    "ListingSource",
    "Log",
    "ModelName",
    "NpmSource",
    "OpenShare",
    "PackageSource",
    "Params",
    "PictureContract",
    "Predict",
    "PredictView",
    "Prepare",
    "PrepareView",
    "Product",
    "Profile",
    "ProfileView",
    "Quantise",
    "Range",
    "Ratio",
    "RecordingsSource",
    "ReportView",
    "Sampler",
    "Scalar",
    "Scoring",
    "Search",
    "Share",
    "Sheet",
    "Source",
    "Space",
    "Splitter",
    "Sum",
    "Task",
    "Train",
    "TrainView",
    "ValidateView",
    "View",
    "is_images",
    "load",
    "load_view",
    "validated",
]

PARAMS = Path("params.yaml")
IMAGES = "images"  # the task.kind of a set of pictures; every other kind is of a table

STAGES: dict[str, type[View]] = {
    "ingest": IngestView,
    "profile": ProfileView,
    "prepare": PrepareView,
    "features": FeaturesView,
    "validate": ValidateView,
    "train": TrainView,
    "export": ExportView,
    "evaluate": EvaluateView,
    "predict": PredictView,
    "report": ReportView,
}

# The stages of pictures. They share `ingest`, and nothing after it.
IMAGE_STAGES: dict[str, type[View]] = {
    "ingest": ImageIngestView,
    "images_profile": ImageProfileView,
    "images_split": ImageSplitView,
    "images_features": ImageFeaturesView,
    "images_head": ImageHeadView,
    "images_finetune": ImageFinetuneView,
    "images_scratch": ImageScratchView,
    "images_export": ImageExportView,
    "images_evaluate": ImageEvaluateView,
    "images_report": ImageReportView,
}


class Params(View):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    names: tuple[str, ...]  # the tables of the graph: dvc.yaml's matrix
    pictures: tuple[str, ...]  # the sets of pictures: its other matrix
    datasets: dict[str, Dataset | ImageDataset]

    @model_validator(mode="after")
    def _names_are_the_data_sets(self) -> Self:
        if {*self.names, *self.pictures} != self.datasets.keys():
            raise ValueError("`names` and `pictures` together and the keys of `datasets` differ")
        if any(isinstance(self.datasets[name], ImageDataset) for name in self.names):
            raise ValueError("`names` holds a set of pictures; those are `pictures`")
        return self

    @property
    def tables(self) -> dict[str, Dataset]:
        """The data sets that are tables."""
        return {name: item for name, item in self.datasets.items() if isinstance(item, Dataset)}


AnyView = TypeVar("AnyView", bound=View)


def load(path: Path = PARAMS) -> Params:
    """Read and validate a whole parameter file.

    Raises:
        PenstockError: The file is missing or not YAML, or a key or value in it is wrong.
    """
    raw = _read(path)
    datasets = raw.get("datasets")
    if isinstance(datasets, dict):
        # One by one, by kind: as a union, pydantic would complain of every kind that a data set is not.
        raw["datasets"] = {name: _dataset(str(name), item, path) for name, item in datasets.items()}
    return validated(Params, raw, path)


def load_view(view: type[AnyView], dataset: str, path: Path = PARAMS) -> AnyView:
    """What one stage sees of one data set. The rest of that data set is validated too, before any work.

    Raises:
        PenstockError: As for ``load``, or there is no such data set, or it is not of the view's kind.
    """
    raw = _read(path)
    whole = _dataset(dataset, _raw_dataset(raw, dataset, path), path)
    fields = [name for name in view.model_fields if name != "seed"]
    lacking = [name for name in fields if name not in type(whole).model_fields]
    if lacking:
        kind = "a table" if isinstance(whole, Dataset) else "a set of pictures"
        raise PenstockError(
            f"{path}: {dataset} is {kind}, and has no {lacking[0]!r}", hint="this stage is for the other kind"
        )
    chosen = {name: getattr(whole, name) for name in fields}
    if "seed" in view.model_fields:
        if "seed" not in raw:
            raise PenstockError(f"{path}: seed: missing", hint="set it in conf/config.yaml")
        chosen["seed"] = raw["seed"]
    return validated(view, chosen, path)


def is_images(dataset: str, path: Path = PARAMS) -> bool:
    """Whether a data set is a set of pictures.

    Raises:
        PenstockError: There is no such data set.
    """
    return _holds_pictures(_raw_dataset(_read(path), dataset, path))


def _raw_dataset(raw: dict[str, Any], dataset: str, path: Path) -> Any:
    datasets = raw.get("datasets")
    if not isinstance(datasets, dict) or dataset not in datasets:
        known = ", ".join(sorted(datasets)) if isinstance(datasets, dict) else "none"
        raise PenstockError(
            f"{path}: no data set {dataset!r}", hint=f"known: {known}; add conf/dataset/{dataset}.yaml"
        )
    return datasets[dataset]


def _holds_pictures(raw: Any) -> bool:
    task = raw.get("task") if isinstance(raw, dict) else None
    return isinstance(task, dict) and task.get("kind") == IMAGES


def _dataset(name: str, raw: Any, path: Path) -> Dataset | ImageDataset:
    kind: type[Dataset | ImageDataset] = ImageDataset if _holds_pictures(raw) else Dataset
    return validated(kind, raw, path, prefix=f"datasets.{name}.")


def _read(path: Path) -> dict[str, Any]:
    try:
        # libyaml's parser reads a long file in a tenth of the time; it is not in every build of PyYAML.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  (both are safe)
    except FileNotFoundError as error:
        raise PenstockError(f"{path}: there is no such file", hint="compose it: `make params`") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PenstockError(f"{path}: not YAML: {error}", hint="compose it anew: `make params`") from error
    if not isinstance(raw, dict):
        raise PenstockError(f"{path}: expected a mapping, found {type(raw).__name__}", hint="`make params`")
    return raw


def validated(
    view: type[AnyView],
    raw: Any,
    path: Path,
    *,
    prefix: str = "",
    hint: str = "mend it in conf/ and compose: `make params`, or `dvc exp run`",
) -> AnyView:
    """Check settings.

    Args:
        view: What they must be.
        raw: As read.
        path: The file to name in an error.
        prefix: Of the keys in that file.
        hint: What to do about an error.

    Raises:
        PenstockError: A key is misspelt or missing, or a value is wrong; all of them are named.
    """
    try:
        return view.model_validate(raw)
    except ValidationError as error:
        lines = [_explained(item, view, prefix) for item in error.errors(include_url=False)]
        raise PenstockError(f"{path}: " + "; ".join(lines), hint=hint) from error


def _explained(item: Any, view: type[View], prefix: str) -> str:
    # pydantic puts the discriminator's value into the location of a union: it is no key of the file.
    where = prefix + ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), sorted(_known_keys(view)), n=1)
        return f"{where}: no such key" + (f", did you mean {near[0]!r}?" if near else "")
    if item["type"] == "missing":
        return f"{where}: missing"
    if item["type"] == "value_error":
        return f"{where or 'params'}: {item['ctx']['error']}".replace(".: ", ": ")
    given = f", not {item['input']!r}" if isinstance(item["input"], Scalar | None) else ""
    return f"{where}: {item['msg'][0].lower()}{item['msg'][1:]}{given}"


def _known_keys(view: type[View]) -> set[str]:
    """Every key that the view or a view inside it knows."""
    import typing

    keys: set[str] = set()

    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, View):
            for name, field in annotation.model_fields.items():
                keys.add(name)
                visit(field.annotation)
        for argument in typing.get_args(annotation):
            visit(argument)

    visit(view)
    return keys
