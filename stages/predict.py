"""predict: a new batch scored by the artefact, as `penstock predict` does it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.artifact.model import Model, load
from penstock.artifact.score import score_file
from penstock.config import PredictView, load_view
from penstock.console import run_stage, say
from penstock.reproducible import available_cores
from penstock.storage import read_parquet, write_json, write_parquet
from stages.layout import Layout


@contextmanager
def batch(configured: str | None, holdout: Path, model: Model) -> Iterator[Path]:
    """The file to score: the configured one, or the hold-out as it would come in, without its target."""
    if configured is not None:
        yield Path(configured)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "holdout.parquet"
        write_parquet(path, read_parquet(holdout).drop(model.manifest.target))
        yield path


def main(dataset: str) -> None:
    """Score the batch of ``dataset``."""
    layout = Layout(dataset)
    view = load_view(PredictView, dataset)
    model = load(layout.model)
    with batch(view.predict.batch, layout.prepared / "holdout.parquet", model) as path:
        scored = score_file(model, path, layout.predictions, layout.rejected, workers=available_cores())
    write_json(
        layout.reports / "prediction.json",
        {"rows": scored.rows, "rejected": scored.rejected, "reasons": scored.reasons},
    )
    say(f"{dataset}: {scored.rows} rows scored, {scored.rejected} do not fit")


if __name__ == "__main__":
    run_stage("predict", main)
