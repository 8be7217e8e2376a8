"""What can be chosen for a set of interactions: who took what, and when."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from penstock.config.base import Card, OpenShare, Share, View
from penstock.config.tables import Contract, Source

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Positives = Annotated[tuple[Positive, ...], Field(min_length=1)]
NotNegatives = Annotated[tuple[NotNegative, ...], Field(min_length=1)]
HalfLives = Annotated[tuple[Positive | None, ...], Field(min_length=1)]  # places in a history; null: no decay


# --- what the interactions are ----------------------------------------------------------------------


class InteractionTask(View):
    """Which column says what. A row is one interaction of a user with an item at a time."""

    kind: Literal["interactions"]
    user: str = "user"
    item: str = "item"  # whole numbers from 0, or any text
    time: str = "time"  # a date-time, or whole numbers since 1970
    time_unit: Literal["s", "ms", "us", "ns"] = "s"  # of whole numbers
    rating: str | None = None
    title: str | None = None  # these three are of the item: its first row that has one counts
    genres: str | None = None
    year: str | None = None
    genre_separator: str = "|"


class InteractionPrepare(View):
    """Which interactions are learnt from, tuned by and judged by. Time decides, never chance."""

    # last: of each user the last interaction is set apart, the one before it tunes. time: one moment for all users.
    split: Literal["last", "time"] = "last"
    holdout: OpenShare = 0.1  # time: share of all interactions, the latest
    validation: OpenShare = 0.1  # time: of the rest, the latest
    min_interactions: Annotated[int, Field(ge=3)] = 3  # last: of a user who is judged
    min_rating: float | None = None  # below it an interaction is no sign of liking, and is left out


class ItemCatalogue(View):
    """Which items can be recommended."""

    min_support: Count = 3  # interactions in the training part; of fewer nothing is learnt
    max_items: Count = 10_000  # the most popular ones: a fit takes 16 bytes × items², and time by their cube


# --- what is made of them ---------------------------------------------------------------------------


class Popularity(View):
    """The same for everyone. A baseline."""

    kind: Literal["popularity"]
    half_lives: Annotated[tuple[Positive | None, ...], Field(min_length=1)] = (
        None,
    )  # days; null: of all times


class ItemKnn(View):
    """Cosine of two items over users, shrunk where few have both (Deshpande and Karypis, 2004)."""

    kind: Literal["item_knn"]
    shrinkage: NotNegatives = (3.0, 10.0)
    neighbours: Counts = (20, 50)
    half_lives: HalfLives = (None, 1.5, 3.0, 6.0)


class Ease(View):
    """Ridge regression of each item on all others (Steck, 2019)."""

    kind: Literal["ease"]
    ridge: Positives = (100.0, 300.0, 1000.0)
    half_lives: HalfLives = (None, 1.5, 3.0, 6.0)


class Transitions(View):
    """Ridge regression of what comes next on what came before (SLIT; Choi et al., 2021)."""

    kind: Literal["transitions"]
    ridge: Positives = (100.0, 300.0)
    past: Positives = (5.0, 10.0)  # half-life of what came before, in places
    future: Positives = (0.5, 1.0)  # of what comes after


class Als(View):
    """Implicit-feedback matrix factorisation (Hu, Koren and Volinsky, 2008), by the package implicit. A baseline."""

    kind: Literal["als"]
    factors: Counts = (32, 64, 128)
    regularisation: NotNegatives = (1.0, 10.0, 30.0)
    alpha: Positives = (1.0, 5.0)
    iterations: Count = 15


Recommending = Annotated[Popularity | ItemKnn | Ease | Transitions | Als, Field(discriminator="kind")]


def _without_nulls(candidates: Any) -> Any:
    """A candidate that the base file names and a data set does not want is set to null."""
    if not isinstance(candidates, dict):
        return candidates
    return {name: candidate for name, candidate in candidates.items() if candidate is not None}


Candidates = Annotated[dict[str, Recommending], BeforeValidator(_without_nulls), Field(min_length=1)]


class InteractionTrain(View):
    """How a fitted model is cut down to what an artefact holds. The search judges it so, too."""

    neighbours: Count = 300  # weights that an item keeps, the strongest; in float16
    floor: NotNegative = 0.02  # of a vote by recency, however old
    max_history: Annotated[int, Field(ge=1, le=1000)] = 100  # last items of a history that vote
    factors: Count = 32  # of the vectors by which two items are alike
    genre_weight: Share = 0.5  # of genres in that likeness, where they are known; the rest is who took both


class InteractionScoring(View):
    """What is measured."""

    metric: Literal["ndcg", "hit_rate", "recall", "mrr"] = "ndcg"  # that decides
    k: Count = 10  # length of the list that it is measured on
    depth: Annotated[int, Field(ge=1, le=500)] = 100  # of the lists that curves are drawn from
    confidence: OpenShare = 0.95  # of the intervals
    resamples: Count = 2000  # of users, for intervals and tests
    diversities: tuple[Share, ...] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # for which cost and gain are shown
    examples: Annotated[int, Field(ge=0)] = 6  # users shown with their list and its reasons


class RequestLimits(View):
    """What one request to the artefact may ask for."""

    history: Count = 1000
    exclude: Count = 10_000
    k: Count = 500
    batch: Count = 16  # a run of more takes more memory, and is no faster


class InteractionExport(View):
    """When the ONNX file counts as the same model."""

    pool: Count = 100  # best items among which diversity chooses
    max_difference: Positive = 1.0e-5  # of a score
    max_disagreement: Share = 0.002  # share of places in the lists with another item
    limits: RequestLimits = RequestLimits()


class InteractionDataset(View):
    """Everything that is chosen for one set of interactions."""

    card: Card
    task: InteractionTask
    source: Source
    contract: Contract
    prepare: InteractionPrepare
    catalogue: ItemCatalogue
    candidates: Candidates
    train: InteractionTrain
    scoring: InteractionScoring
    export: InteractionExport


# --- what each stage sees ---------------------------------------------------------------------------


class InteractionIngestView(View):
    source: Source
    contract: Contract
    task: InteractionTask


class InteractionSplitView(View):
    seed: int
    prepare: InteractionPrepare


class InteractionValidateView(View):
    seed: int
    catalogue: ItemCatalogue
    candidates: Candidates
    train: InteractionTrain
    scoring: InteractionScoring


class InteractionTrainView(View):
    seed: int
    catalogue: ItemCatalogue
    candidates: Candidates
    train: InteractionTrain
    scoring: InteractionScoring


class InteractionExportView(View):
    card: Card
    train: InteractionTrain
    scoring: InteractionScoring
    export: InteractionExport


class InteractionEvaluateView(View):
    seed: int
    scoring: InteractionScoring


class InteractionReportView(View):
    card: Card
    scoring: InteractionScoring
