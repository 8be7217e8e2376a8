"""The hold-out: what the phases and the artefact answer, and everything that is said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from penstock.config import ImageScoring, PictureContract
from penstock.errors import PenstockError
from penstock.pictures import Pixels, decode
from penstock.storage import read_parquet
from penstock.validation import curves
from penstock.vision import judging
from penstock.vision import temperature as temperatures
from penstock.vision.corruptions import KINDS, SEVERITIES, corrupt

__all__ = [
    "FINAL",
    "PHASES",
    "QUANTISED",
    "Answers",
    "Evaluation",
    "Holdout",
    "Predictor",
    "answer",
    "evaluate",
    "listed",
    "read_holdout",
    "read_phase",
    "robustness",
    "steps",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PHASES = ("scratch", "head", "finetune")
FINAL, QUANTISED = "finetune", "int8"
# Each against what it is meant to improve on; int8 against what it must not fall behind.
PAIRS = (("finetune", "head"), ("finetune", "scratch"), ("head", "scratch"), ("int8", "finetune"))
BATCH = 32  # pictures decoded at a time
# Each passed the contract when it came in; as stored it may be smaller, and is not judged again.
STORED = PictureContract(min_side=1)


class Predictor(Protocol):
    """What is needed of an artefact."""

    def predict(self, pictures: Sequence[Pixels]) -> tuple[Any, NDArray[np.floating]]:
        """Labels, shape (n,), and probabilities, shape (n, K)."""


@dataclass(frozen=True)
class Holdout:
    """The pictures that are judged by.

    Attributes:
        rows: Their rows in the raw table, ascending, shape (n,).
        contents: The encoded pictures.
        sources: Where each comes from.
        labels: What each shows.
    """

    rows: Integers
    contents: pl.Series
    sources: pl.Series
    labels: pl.Series

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, at: int) -> Pixels:
        """One picture, RGB, shape (height, width, 3)."""
        return decode(self.contents[int(at)], STORED)

    def codes(self, classes: Sequence[str]) -> Integers:
        """The place of each label in ``classes``, shape (n,).

        Raises:
            PenstockError: A label is none of them.
        """
        return _codes(self.labels, classes)


def _codes(labels: pl.Series, classes: Sequence[str]) -> Integers:
    unknown = sorted(set(labels) - set(classes))
    if unknown:
        raise PenstockError(
            f"the split holds the class {unknown[0]!r}, which the model lacks; it knows {', '.join(classes)}",
            hint="the model is of other data: `dvc repro`",
        )
    places = {label: code for code, label in enumerate(classes)}
    found: Integers = labels.replace_strict(places, return_dtype=pl.Int64).to_numpy()
    return found


@dataclass(frozen=True)
class Answers:
    """What one network says of the hold-out.

    Attributes:
        probabilities: Shape (n, K).
        plain: The same without temperature; None where that is not known.
        temperature: By which the logits were divided; None where that is not known.
    """

    probabilities: Floats
    plain: Floats | None = None
    temperature: float | None = None


def read_holdout(raw: Path, split: Path) -> Holdout:
    """Read the pictures of the hold-out.

    Raises:
        PenstockError: A file is missing or unreadable, or there is no hold-out.
    """
    parts = read_parquet(split)
    rows = parts.filter(pl.col("part") == "holdout")["row"].sort()
    if rows.is_empty():
        raise PenstockError(f"{split}: there is no hold-out", hint="`dvc repro images_split`")
    table = read_parquet(raw, columns=["picture", "source", "label"])
    if table.height != parts.height:
        raise PenstockError(
            f"{split}: {parts.height} rows, but {raw} has {table.height}",
            hint="they are of two runs: `dvc repro`",
        )
    kept = table[rows]
    return Holdout(rows.cast(pl.Int64).to_numpy(), kept["picture"], kept["source"], kept["label"])


def read_phase(path: Path, holdout: Holdout, classes: Sequence[str], *, scaled: bool) -> Answers:
    """What the network after a phase says of the hold-out.

    Args:
        path: Its answers, with the logits of the validation part and the hold-out.
        holdout: The pictures.
        classes: In the order of the logits.
        scaled: Whether to find the temperature that fits the validation part best, and apply it.

    Raises:
        PenstockError: The file is missing, or of another hold-out or other classes.
    """
    frame = read_parquet(path).sort("row")
    parts = {part: frame.filter(pl.col("part") == part) for part in ("validation", "holdout")}
    logits = {part: found["logits"].to_numpy().astype(np.float64) for part, found in parts.items()}
    width = frame["logits"].dtype.shape[0] if isinstance(frame["logits"].dtype, pl.Array) else None
    if width != len(classes):
        raise PenstockError(
            f"{path}: logits: expected {len(classes)} for each picture, found {width}",
            hint="they are of another run: `dvc repro`",
        )
    if not np.array_equal(parts["holdout"]["row"].to_numpy(), holdout.rows):
        raise PenstockError(
            f"{path}: its hold-out is not that of the split", hint="they are of two runs: `dvc repro`"
        )
    temperature = 1.0
    if scaled:
        truth = _codes(parts["validation"]["label"], classes)
        temperature = temperatures.fit_temperature(logits["validation"], truth)
    plain = temperatures.probabilities(logits["holdout"], 1.0)
    return Answers(temperatures.probabilities(logits["holdout"], temperature), plain, temperature)


# --- the artefact -----------------------------------------------------------------------------------


def answer(model: Predictor, holdout: Holdout, advance: Callable[[float], None]) -> Floats:
    """Probabilities of the artefact, shape (n, K); only a few pictures are decoded at a time."""
    found = []
    for start in range(0, len(holdout), BATCH):
        places = range(start, min(start + BATCH, len(holdout)))
        found.append(model.predict([holdout.pixels(at) for at in places])[1])
        advance(len(places))
    return np.concatenate(found).astype(np.float64)


def robustness(
    model: Predictor,
    holdout: Holdout,
    classes: Sequence[str],
    *,
    count: int,
    seed: int,
    advance: Callable[[float], None],
) -> pl.DataFrame:
    """Top-1 on pictures as they are and corrupted: kind, severity, top1.

    Args:
        model: The artefact.
        holdout: The pictures.
        classes: In the order of the model's probabilities.
        count: How many of them, drawn once for all kinds.
        seed: Of the draw and the corruptions.
        advance: Called with the number of pictures done.

    Returns:
        First "none" of severity 0; without rows where ``count`` is 0.
    """
    chosen = np.random.default_rng(seed).permutation(len(holdout))[:count]
    chosen.sort()
    cases = [("none", 0), *((kind, severity) for kind in KINDS for severity in SEVERITIES)]
    hits = dict.fromkeys(cases, 0)
    truth = holdout.codes(classes)
    for start in range(0, len(chosen), BATCH):
        places = chosen[start : start + BATCH]
        clean = [holdout.pixels(at) for at in places]
        for kind, severity in cases:
            pictures = clean
            if severity:
                pictures = [
                    corrupt(pixels, kind, severity, seed=[seed, int(holdout.rows[at])])
                    for pixels, at in zip(clean, places, strict=True)
                ]
            hits[kind, severity] += int((model.predict(pictures)[1].argmax(axis=1) == truth[places]).sum())
            advance(len(places))
    rows = [(kind, severity, hit / len(chosen)) for (kind, severity), hit in hits.items() if len(chosen)]
    return pl.DataFrame(
        rows, schema={"kind": pl.String, "severity": pl.Int64, "top1": pl.Float64}, orient="row"
    )


def steps(holdout: int, *, quantised: bool, corrupted: int) -> int:
    """Pictures that go through an artefact: the hold-out once or twice, and what ``robustness`` sees."""
    return holdout * (1 + quantised) + min(corrupted, holdout) * (1 + len(KINDS) * len(SEVERITIES))


# --- what is said of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluation:
    """What is written.

    Attributes:
        metrics: Nested, for evaluation.json.
        tables: Name of a CSV file → its rows.
        wrong: Places of the most confident errors of the final model.
        chosen: The class that the final model gives each picture, shape (n,).
    """

    metrics: dict[str, Any]
    tables: dict[str, pl.DataFrame]
    wrong: Integers
    chosen: Integers

    def to_explain(self, count: int, seed: int) -> tuple[Integers, Integers]:
        """Places of pictures worth an explanation, and their given classes.

        Half are the most confident errors, the others drawn from what is not among those.
        """
        errors = self.wrong[: count // 2]
        others = np.setdiff1d(np.arange(len(self.chosen)), self.wrong)
        drawn = np.random.default_rng(seed).permutation(others)[: count - len(errors)]
        places = np.concatenate([errors, np.sort(drawn)]).astype(np.int64)
        return places, self.chosen[places]


def evaluate(
    answers: Mapping[str, Answers],
    holdout: Holdout,
    classes: Sequence[str],
    corrupted: pl.DataFrame,
    *,
    scoring: ImageScoring,
    seed: int,
) -> Evaluation:
    """Everything that is measured.

    Args:
        answers: By name: scratch, head, finetune (which is the artefact), and int8 if there is one.
        holdout: The pictures.
        classes: In the order of the probabilities.
        corrupted: As ``robustness`` gives it.
        scoring: What is measured.
        seed: Of the bootstrap.
    """
    truth = holdout.codes(classes)
    chosen = {name: found.probabilities.argmax(axis=1) for name, found in answers.items()}
    right = {name: codes == truth for name, codes in chosen.items()}
    metrics: dict[str, Any] = {"pictures": len(holdout), "classes": len(classes)}
    phases = []
    for name, found in answers.items():
        interval = judging.top1_interval(right[name], confidence=scoring.confidence, seed=seed)
        metrics[name] = {
            **judging.measure(truth, found.probabilities, scoring),
            "top1_low": interval.low,
            "top1_high": interval.high,
        }
        if found.plain is not None:
            metrics[name]["ece_uncalibrated"] = judging.expected_calibration_error(
                truth, found.plain, scoring.calibration_bins
            )
        if found.temperature is not None:
            metrics[name]["temperature"] = found.temperature
        phases.append((name, interval.value, interval.low, interval.high))
    compared = judging.compare_all(right, PAIRS, confidence=scoring.confidence, seed=seed)
    metrics["differences"] = {name: found.dump() for name, found in compared.items()}
    if not corrupted.is_empty():
        broken = corrupted.filter(pl.col("severity") > 0)
        metrics["corrupted"] = {"none": corrupted["top1"][0], "mean": broken["top1"].mean()}
    final = answers[FINAL]
    wrong = judging.most_confident_errors(truth, final.probabilities, scoring.wrong)
    tables = {
        "confusion": curves.confusion(truth, chosen[FINAL], classes),
        "per_class": judging.per_class(truth, chosen[FINAL], classes),
        "calibration": _calibration(truth, final, scoring.calibration_bins),
        "corruption": corrupted,
        "phases": pl.DataFrame(phases, schema=["phase", "top1", "low", "high"], orient="row"),
        "wrong": listed(holdout, final, classes, wrong),
    }
    return Evaluation(metrics, tables, wrong, chosen[FINAL])


def _calibration(truth: Integers, answers: Answers, bins: int) -> pl.DataFrame:
    """Reliability of the chosen class, before temperature and after."""
    each = {"before": answers.plain, "after": answers.probabilities}
    return pl.concat(
        judging.reliability(truth, probabilities, bins).select(
            pl.lit(name).alias("temperature"), "predicted", "observed", "count"
        )
        for name, probabilities in each.items()
        if probabilities is not None
    )


def listed(holdout: Holdout, answers: Answers, classes: Sequence[str], places: Integers) -> pl.DataFrame:
    """Some pictures and what is said of them: row, source, label, predicted, probability."""
    chosen = answers.probabilities[places].argmax(axis=1)
    return pl.DataFrame(
        {
            "row": holdout.rows[places],
            "source": holdout.sources[places],
            "label": holdout.labels[places],
            "predicted": pl.Series([classes[code] for code in chosen], dtype=pl.String),
            "probability": answers.probabilities[places].max(axis=1),
        }
    )
