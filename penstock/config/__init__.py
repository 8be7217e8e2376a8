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
from penstock.config.interactions import (
    Als,
    Ease,
    InteractionDataset,
    InteractionEvaluateView,
    InteractionExport,
    InteractionExportView,
    InteractionIngestView,
    InteractionPrepare,
    InteractionReportView,
    InteractionScoring,
    InteractionSplitView,
    InteractionTask,
    InteractionTrain,
    InteractionTrainView,
    InteractionValidateView,
    ItemCatalogue,
    ItemKnn,
    Popularity,
    Recommending,
    RequestLimits,
    Transitions,
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
    "INTERACTIONS",
    "INTERACTION_STAGES",
    "PARAMS",
    "REGRESSION_ONLY",
    "STAGES",
    "Als",
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
    "Ease",
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
    "InteractionDataset",
    "InteractionEvaluateView",
    "InteractionExport",
    "InteractionExportView",
    "InteractionIngestView",
    "InteractionPrepare",
    "InteractionReportView",
    "InteractionScoring",
    "InteractionSplitView",
    "InteractionTask",
    "InteractionTrain",
    "InteractionTrainView",
    "InteractionValidateView",
    "ItemCatalogue",
    "ItemKnn",
    "ListingSource",
    "Log",
    "ModelName",
    "NpmSource",
    "OpenShare",
    "PackageSource",
    "Params",
    "PictureContract",
    "Popularity",
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
    "Recommending",
    "RecordingsSource",
    "ReportView",
    "RequestLimits",
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
    "Transitions",
    "ValidateView",
    "View",
    "is_images",
    "kind_of",
    "load",
    "load_view",
    "validated",
]

PARAMS = Path("params.yaml")
IMAGES = "images"  # the task.kind of a set of pictures
INTERACTIONS = "interactions"  # of a set of interactions; every other kind is of a table

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

# The stages of interactions. They too share `ingest` alone.
INTERACTION_STAGES: dict[str, type[View]] = {
    "ingest": InteractionIngestView,
    "recommend_split": InteractionSplitView,
    "recommend_validate": InteractionValidateView,
    "recommend_train": InteractionTrainView,
    "recommend_export": InteractionExportView,
    "recommend_evaluate": InteractionEvaluateView,
    "recommend_report": InteractionReportView,
}

KINDS: dict[str, type[View]] = {IMAGES: ImageDataset, INTERACTIONS: InteractionDataset}
IN_WORDS: dict[type[View], str] = {
    Dataset: "a table",
    ImageDataset: "a set of pictures",
    InteractionDataset: "a set of interactions",
}
AnyDataset = Dataset | ImageDataset | InteractionDataset


class Params(View):
    """The whole of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    names: tuple[str, ...]  # the tables of the graph: dvc.yaml's matrix
    pictures: tuple[str, ...]  # the sets of pictures: its second matrix
    interactions: tuple[str, ...] = ()  # the sets of interactions: its third
    datasets: dict[str, AnyDataset]

    @model_validator(mode="after")
    def _names_are_the_data_sets(self) -> Self:
        listed: dict[type[View], tuple[str, ...]] = {
            Dataset: self.names,
            ImageDataset: self.pictures,
            InteractionDataset: self.interactions,
        }
        if {name for names in listed.values() for name in names} != self.datasets.keys():
            raise ValueError(
                "`names`, `pictures` and `interactions` together and the keys of `datasets` differ"
            )
        for kind, names in listed.items():
            for name in names:
                found = type(self.datasets[name])
                if found is not kind:
                    raise ValueError(f"{name} is {IN_WORDS[found]}, and is listed as {IN_WORDS[kind]}")
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
        raise PenstockError(
            f"{path}: {dataset} is {IN_WORDS[type(whole)]}, and has no {lacking[0]!r}",
            hint="this stage is for another kind",
        )
    chosen = {name: getattr(whole, name) for name in fields}
    for name, value in chosen.items():
        # Kinds share names of groups: `prepare` of a picture is not that of a table.
        wanted = view.model_fields[name].annotation
        if isinstance(wanted, type) and issubclass(wanted, View) and not isinstance(value, wanted):
            raise PenstockError(
                f"{path}: {dataset} is {IN_WORDS[type(whole)]}, and its {name!r} is not what this stage takes",
                hint="this stage is for another kind",
            )
    if "seed" in view.model_fields:
        if "seed" not in raw:
            raise PenstockError(f"{path}: seed: missing", hint="set it in conf/config.yaml")
        chosen["seed"] = raw["seed"]
    return validated(view, chosen, path)


def kind_of(dataset: str, path: Path = PARAMS) -> str:
    """The kind of a data set: that of its task, as it is written.

    Raises:
        PenstockError: There is no such data set.
    """
    return _kind(_raw_dataset(_read(path), dataset, path))


def is_images(dataset: str, path: Path = PARAMS) -> bool:
    """Whether a data set is a set of pictures.

    Raises:
        PenstockError: There is no such data set.
    """
    return kind_of(dataset, path) == IMAGES


def _raw_dataset(raw: dict[str, Any], dataset: str, path: Path) -> Any:
    datasets = raw.get("datasets")
    if not isinstance(datasets, dict) or dataset not in datasets:
        known = ", ".join(sorted(datasets)) if isinstance(datasets, dict) else "none"
        raise PenstockError(
            f"{path}: no data set {dataset!r}", hint=f"known: {known}; add conf/dataset/{dataset}.yaml"
        )
    return datasets[dataset]


def _kind(raw: Any) -> str:
    task = raw.get("task") if isinstance(raw, dict) else None
    return str(task.get("kind")) if isinstance(task, dict) else ""


def _dataset(name: str, raw: Any, path: Path) -> AnyDataset:
    kind = KINDS.get(_kind(raw), Dataset)
    found = validated(kind, raw, path, prefix=f"datasets.{name}.")
    assert isinstance(found, AnyDataset)
    return found


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
