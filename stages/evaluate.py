"""evaluate: the hold-out through onnxruntime and the manifest alone."""

from __future__ import annotations

import polars as pl

from penstock.artifact.model import Model, load
from penstock.config import EvaluateView, load_view
from penstock.console import run_stage, say
from penstock.errors import PenstockError
from penstock.storage import read_parquet, write_csv, write_json
from penstock.validation import curves
from penstock.validation.holdout import Judged, by_slice, judge
from stages.layout import Layout


def judged(model: Model, holdout: pl.DataFrame, view: EvaluateView) -> Judged:
    """The answers of the artefact beside the truth."""
    manifest, truth = model.manifest, holdout[view.task.target]
    outputs = model.run(holdout)
    if manifest.classes is None:
        return judge(truth, outputs["value"][:, 0], classes=None, threshold=None, scoring=view.scoring)
    if not set(truth.cast(pl.String)) <= set(manifest.classes):
        raise PenstockError(
            f"the hold-out holds classes that the model lacks; it knows {', '.join(manifest.classes)}"
        )
    return judge(
        truth,
        outputs["probabilities"],
        classes=manifest.classes,
        threshold=manifest.threshold,
        scoring=view.scoring,
    )


def main(dataset: str) -> None:
    """Judge the artefact of ``dataset`` on rows that nothing was learnt from."""
    layout = Layout(dataset)
    view = load_view(EvaluateView, dataset)
    holdout = read_parquet(layout.prepared / "holdout.parquet")
    result = judged(load(layout.model), holdout, view)
    folder = layout.reports / "evaluation"
    curves.write_all(
        folder,
        result.y,
        result.prediction,
        classes=result.classes,
        threshold=result.threshold,
        scoring=view.scoring,
    )
    write_csv(folder / "slices.csv", by_slice(holdout, view.task.slices, result))
    write_json(layout.reports / "evaluation.json", result.metrics)
    metric = view.scoring.metric
    say(f"{dataset}: {metric} {result.metrics[metric]:.4g} on {holdout.height} rows set apart")


if __name__ == "__main__":
    run_stage("evaluate", main)
