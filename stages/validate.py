"""validate: nested validation of every candidate; the winner's parameters; samplers side by side."""

from __future__ import annotations

if __name__ == "__main__":
    import penstock.without_pandas  # noqa: F401  (before anything loads scikit-learn)

from penstock.config import ValidateView, load_view
from penstock.console import progress, run_stage, say
from penstock.features.columns import read
from penstock.reproducible import available_cores
from penstock.storage import read_parquet, write_csv, write_json
from penstock.validation import estimators
from penstock.validation.parallel import workers
from penstock.validation.parallel_ray import ray_workers
from stages.layout import Layout


def preload(view: ValidateView) -> list[str]:
    """What the worker processes will need, to be imported once for all of them."""
    models = estimators.modules((candidate.model for candidate in view.candidates.values()), view.task.kind)
    sampled = any(sampler.name != "none" for sampler in (view.sampler, *view.compare_samplers))
    return [
        "penstock.without_pandas",
        "penstock.validation.judging",
        *models,
        *(["imblearn.combine"] if sampled else []),
    ]


def main(dataset: str) -> None:
    """Judge the candidates of ``dataset`` on its training part."""
    layout = Layout(dataset)
    view = load_view(ValidateView, dataset)
    columns = read(layout.features / "columns.json")
    ray = view.search.backend == "ray"
    with ray_workers(available_cores()) if ray else workers(available_cores(), preload(view)) as spread:
        # Only now: the workers' server imports scikit-learn at the same time.
        from penstock.validation import curves, leaderboard
        from penstock.validation.fitting import tabulate
        from penstock.validation.judging import Plan

        table = tabulate(read_parquet(layout.features / "train.parquet"), columns, view.task, view.seed)
        plan = Plan(view.splitter, view.search, view.scoring)
        count = leaderboard.count_tasks(plan, view.candidates, view.features, len(view.compare_samplers))
        with progress(f"validate {dataset}", count, unit="fits") as advance:
            board = leaderboard.build(
                table,
                plan,
                view.candidates,
                features=view.features,
                sampler=view.sampler,
                compare_samplers=view.compare_samplers,
                spread=spread,
                advance=advance,
            )
    folder = layout.reports / "validation"
    write_json(folder / "leaderboard.json", board.dump())
    write_csv(folder / "leaderboard.csv", board.table(board.entries))
    if board.samplers:
        write_csv(folder / "samplers.csv", board.table(board.samplers))
    seen = board.out_of_fold
    curves.write_all(
        folder,
        seen.y,
        seen.prediction,
        classes=columns.classes,
        threshold=seen.threshold,
        scoring=view.scoring,
    )
    write_json(layout.selection, board.selection(), digits=17)
    write_json(layout.reports / "validation.json", board.validation())
    say(f"{dataset}: {board.headline}")


if __name__ == "__main__":
    run_stage("validate", main)
