"""train: the winner, fitted on the whole training part, and which columns it leans on."""

from __future__ import annotations

if __name__ == "__main__":
    import penstock.without_pandas  # noqa: F401  (before anything loads scikit-learn)

from penstock.config import TrainView, load_view
from penstock.console import run_stage, say
from penstock.features.columns import read
from penstock.storage import read_json, read_parquet, write_csv, write_json
from penstock.validation import importance, persistence, training
from penstock.validation.fitting import tabulate
from penstock.validation.judging import measure
from stages.layout import Layout


def main(dataset: str) -> None:
    """Fit what validate has selected for ``dataset``."""
    layout = Layout(dataset)
    view = load_view(TrainView, dataset)
    columns = read(layout.features / "columns.json")
    selection = training.Selection.model_validate(read_json(layout.selection))
    table = tabulate(read_parquet(layout.features / "train.parquet"), columns, view.task, view.seed)
    trained = training.train(
        table,
        selection,
        sampler=view.sampler,
        splitter=view.splitter,
        scoring=view.scoring,
        calibration=view.train.calibration,
    )
    persistence.save(trained.pipeline, layout.model / "pipeline.skops")
    some = importance.sample(table, view.train.importance_repeats)
    lost = importance.permutation(
        trained.pipeline,
        some,
        view.scoring,
        repeats=view.train.importance_repeats,
        threshold=trained.threshold,
    )
    shares = importance.contributions(trained.pipeline, some)
    write_csv(
        layout.reports / "importance.csv",
        lost if shares is None else lost.join(shares, on="feature", how="left", maintain_order="left"),
    )
    seen = training.predict(trained.pipeline, table)
    metric = view.scoring.metric
    in_sample = measure(table.y, seen, table, trained.threshold, view.scoring)[metric]
    write_json(
        layout.reports / "training.json",
        {
            "rows": table.frame.height,
            "features": len(columns.features),
            metric: in_sample,
            "threshold": trained.threshold,
        },
    )
    say(
        f"{dataset}: {selection.candidate} trained on {table.frame.height} rows; in-sample {metric} {in_sample:.4g}"
    )


if __name__ == "__main__":
    run_stage("train", main)
