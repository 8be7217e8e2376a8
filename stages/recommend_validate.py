"""recommend_validate: every setting of every candidate on the validation part, and the choice of one."""

from __future__ import annotations

from penstock.config import InteractionValidateView, load_view
from penstock.console import progress, run_stage, say
from penstock.recommend import search
from penstock.recommend.fitting import settings_of
from penstock.recommend.training import problem
from penstock.storage import read_parquet, write_csv, write_json
from stages.layout import InteractionLayout


def main(dataset: str) -> None:
    """Judge the candidates of ``dataset``."""
    layout = InteractionLayout(dataset)
    view = load_view(InteractionValidateView, dataset)
    posed = problem(read_parquet(layout.split), view.catalogue, judged_by="validation")
    count = sum(len(settings_of(candidate)) for candidate in view.candidates.values())
    with progress(f"validate {dataset}", count, unit="settings") as advance:
        trials = search.search(
            view.candidates,
            posed,
            train=view.train,
            scoring=view.scoring,
            seed=view.seed,
            advance=advance,
        )
    selection = search.select(trials, view.candidates, view.scoring.metric)
    write_csv(layout.reports / "validation" / "trials.csv", search.as_table(trials))
    write_json(layout.selection, selection.model_dump(), digits=17, sort_keys=False)
    write_json(layout.reports / "validation.json", selection.metrics())
    metric = view.scoring.metric
    told = ", ".join(f"{name} {one.metrics[metric]:.4f}" for name, one in selection.candidates.items())
    say(f"{dataset}: {selection.winner} is chosen; {metric}@{view.scoring.k}: {told}")


if __name__ == "__main__":
    run_stage("recommend_validate", main)
