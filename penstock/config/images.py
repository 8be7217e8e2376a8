"""What can be chosen for a set of pictures."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from penstock.config.base import Card, OpenShare, Share, View

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]


# --- what the pictures are --------------------------------------------------------------------------


class ImageTask(View):
    """One label for each picture."""

    kind: Literal["images"]


class Sheet(View):
    """One PNG of a data package, of which each row holds one picture, and the JSON list of their labels."""

    pictures: str
    labels: str
    offset: Annotated[int, Field(ge=0)] = 0  # of the sheet's first picture in the list of labels


class NpmSource(View):
    """Sheets of small pictures inside a package of the npm registry, pinned by version and integrity hash."""

    kind: Literal["npm"]
    package: str
    version: str
    integrity: str  # as npm writes it: "sha512-" and base64
    side: Count  # of a picture, in pixels
    classes: Annotated[tuple[str, ...], Field(min_length=2)]  # in the order of the labels' numbers
    sheets: Annotated[tuple[Sheet, ...], Field(min_length=1)]
    per_class: Count  # pictures taken of each class, the first ones of the sheets in their order
    watch: str


class FolderSource(View):
    """``path``/<class>/…/<picture>: the first folder under ``path`` is the class (ImageFolder)."""

    kind: Literal["folder"]
    path: str
    watch: str


class ListingSource(View):
    """A CSV that names the pictures and their classes. Relative paths start at the folder of the CSV."""

    kind: Literal["listing"]
    path: str
    picture: str = "path"  # the column of paths
    label: str = "label"  # the column of classes
    watch: str


ImageSource = Annotated[NpmSource | FolderSource | ListingSource, Field(discriminator="kind")]


class PictureContract(View):
    """What a picture must be, and how many may not be."""

    min_side: Count = 16  # pixels; a smaller picture shows nothing
    max_pixels: Count = 64_000_000  # by the header, before anything is decoded: a decompression bomb
    animated: Literal["first_frame", "refuse"] = "first_frame"
    duplicates: Literal["quarantine", "keep"] = (
        "quarantine"  # of a picture that is there already, byte for byte
    )
    stored_side: Count | None = (
        512  # a larger shorter side is scaled down to this when stored; null: as it came
    )
    classes: tuple[str, ...] | None = None  # the labels allowed; null: whatever there is
    max_quarantine_share: Share = 0.01


class ImagePrepare(View):
    """Which pictures are set apart. Pictures that look the same never straddle a split."""

    holdout: OpenShare = 0.25  # judged by, never learnt from
    validation: OpenShare = 0.1  # of the rest: for early stopping and the temperature
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] = 3  # of 64 in which two hashes may differ


class ImageProfile(View):
    """The page to look at before training."""

    pictures_per_class: Count = 24  # on the contact sheet
    thumbnail: Count = 64  # side in pixels


# --- what is made of them ---------------------------------------------------------------------------


class Backbone(View):
    """A network of timm, and where its weights come from."""

    name: str  # timm's
    weights: Literal["package", "file", "hub", "random"]
    path: str | None = None  # for file: .safetensors
    side: Annotated[int, Field(ge=32)]  # of the square that the network sees, in pixels
    fit: Literal["crop", "squash"] = "crop"  # the middle square of the picture, or all of it out of shape
    crop_share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # of the shorter side
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    @model_validator(mode="after")
    def _a_file_has_a_path(self) -> Self:
        if (self.weights == "file") != (self.path is not None):
            raise ValueError("`path` goes with weights: file, and with no other")
        if self.weights == "file" and not str(self.path).endswith(".safetensors"):
            raise ValueError(
                f"path {self.path!r} does not end in .safetensors; other formats may run code when read"
            )
        return self


class Extraction(View):
    """Phase one: a linear head on features of the frozen backbone, which are computed once and kept."""

    mirrored: bool = True  # features of each training picture's mirror image too
    epochs: Count = 60
    batch_size: Count = 256
    learning_rate: Positive = 1.0e-3
    weight_decay: NotNegative = 1.0e-2
    label_smoothing: Share = 0.0
    imbalance: Literal["none", "class_weight", "balanced_sampler"] = "none"
    patience: Count | None = 10  # epochs without a lower validation loss; null: to the end


class Finetuning(View):
    """Phase two: the upper part of the backbone learns too. Also what a network from scratch learns by."""

    epochs: Count = 10
    batch_size: Count = 32  # of one device
    unfreeze: Annotated[int, Field(ge=1)] | Literal["all"] | tuple[str, ...] = 5
    batch_norm: Literal["train", "frozen"] = "train"  # statistics of the unfrozen part
    learning_rate: Positive = 1.0e-3  # of the head; AdamW
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = (
        0.8  # of the learning rate, from block to block downwards
    )
    weight_decay: NotNegative = 0.02  # not of norms and biases
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup: Share = 0.1  # of all steps
    label_smoothing: Share = 0.1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2  # before the head
    augment: Literal["none", "flip", "crop", "trivial", "rand"] = "crop"  # each holds the ones before trivial
    crop_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6  # smallest share of the area that a crop keeps
    mixup: NotNegative = 0.2  # α of the Beta distribution; 0: none
    cutmix: NotNegative = 0.0  # where both are on, a coin decides for each batch
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.99  # moving average of the weights; null: none
    clip: Positive | None = 5.0  # of the gradient's norm
    imbalance: Literal["none", "class_weight", "balanced_sampler"] = "none"
    patience: Count | None = None  # epochs without a lower validation loss; null: to the end
    keep: Literal["last", "best"] = "last"  # epoch; best: by validation loss


class Compute(View):
    """Where it runs. All but the last three go to lightning.Trainer as they are."""

    accelerator: str = "auto"
    devices: int | str | tuple[int, ...] = "auto"
    strategy: str = "auto"
    num_nodes: Count = 1
    precision: str = "32-true"
    threads: Count = 2  # of torch on the CPU; another number may change the last bits of a result
    workers: Annotated[int, Field(ge=0)] = 1  # processes that decode and augment; 0: none beside the training
    deterministic: bool = True


# --- how it is judged and handed over ---------------------------------------------------------------


class ImageScoring(View):
    """What is measured on the hold-out."""

    top: Annotated[int, Field(ge=2)] = 5  # top-k accuracy besides top-1
    confidence: OpenShare = 0.95  # of the intervals
    calibration_bins: Annotated[int, Field(ge=2)] = 10
    wrong: Count = 40  # most confident errors on the sheet
    explained: Annotated[int, Field(ge=0)] = 12  # pictures with a Grad-CAM map
    corrupted: Annotated[int, Field(ge=0)] = 500  # hold-out pictures that are also judged corrupted


class Quantise(View):
    """The int8 file beside the fp32 one."""

    enabled: bool = True
    pictures: Count = 256  # of the training part, to calibrate the ranges by
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    max_accuracy_drop: Share = 0.01  # top-1 on the hold-out; more fails the stage


class ImageExport(View):
    """When the ONNX file counts as the same model."""

    opset: int = 20
    temperature: bool = True  # probabilities scaled by the temperature found on the validation part
    max_difference: Positive = 1.0e-3  # of a probability
    max_label_disagreement: Share = 0.002
    quantise: Quantise = Quantise()


class ImageDataset(View):
    """Everything that is chosen for one set of pictures."""

    card: Card
    task: ImageTask
    source: ImageSource
    contract: PictureContract
    profile: ImageProfile
    prepare: ImagePrepare
    backbone: Backbone
    extraction: Extraction
    finetuning: Finetuning
    scratch: Finetuning
    compute: Compute
    scoring: ImageScoring
    export: ImageExport


# --- what each stage sees ---------------------------------------------------------------------------


class ImageIngestView(View):
    source: ImageSource
    contract: PictureContract
    task: ImageTask


class ImageProfileView(View):
    card: Card
    profile: ImageProfile


class ImageSplitView(View):
    seed: int
    prepare: ImagePrepare


class ImageFeaturesView(View):
    seed: int
    backbone: Backbone
    extraction: Extraction
    compute: Compute


class ImageHeadView(View):
    seed: int
    backbone: Backbone
    extraction: Extraction
    compute: Compute


class ImageFinetuneView(View):
    seed: int
    backbone: Backbone
    finetuning: Finetuning
    compute: Compute


class ImageScratchView(View):
    seed: int
    backbone: Backbone
    scratch: Finetuning
    compute: Compute


class ImageExportView(View):
    seed: int
    card: Card
    task: ImageTask
    contract: PictureContract
    backbone: Backbone
    finetuning: Finetuning
    compute: Compute
    export: ImageExport


class ImageEvaluateView(View):
    seed: int
    scoring: ImageScoring
    backbone: Backbone
    export: ImageExport


class ImageReportView(View):
    card: Card
    backbone: Backbone
    extraction: Extraction
    finetuning: Finetuning
    scratch: Finetuning
    scoring: ImageScoring
