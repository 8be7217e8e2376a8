"""recommend_train: the choice, fitted on all that does not judge; and what the other candidates recommend."""

from __future__ import annotations

from penstock.config import InteractionTrainView, load_view
from penstock.console import progress, run_stage, say
from penstock.recommend import search
from penstock.recommend.training import problem
from penstock.storage import read_json, read_parquet, write_json, write_parquet
from stages.layout import InteractionLayout


def main(dataset: str) -> None:
    """Fit what recommend_validate has selected for ``dataset``."""
    layout = InteractionLayout(dataset)
    view = load_view(InteractionTrainView, dataset)
    selection = search.Selection.model_validate(read_json(layout.selection))
    posed = problem(read_parquet(layout.split), view.catalogue, judged_by="holdout")
    with progress(f"train {dataset}", len(selection.candidates), unit="models") as advance:
        weights, summary = search.fit_winner(
            selection, view.candidates, posed, train=view.train, seed=view.seed
        )
        advance(1)
        others = search.lists_of_others(
            selection,
            view.candidates,
            posed,
            train=view.train,
            depth=view.scoring.depth,
            seed=view.seed,
            advance=advance,
        )
    write_parquet(layout.weights, weights)
    write_parquet(layout.others, others)
    write_json(layout.reports / "training.json", summary, sort_keys=False)
    say(
        f"{dataset}: {selection.winner} trained, {summary['items']} items, {summary['weights']} weights, "
        f"{summary['kept']:.1%} of their sum"
    )


if __name__ == "__main__":
    run_stage("recommend_train", main)
