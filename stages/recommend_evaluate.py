"""recommend_evaluate: the hold-out through onnxruntime and the artefact alone, beside what the others recommend."""

from __future__ import annotations

import polars as pl

from penstock.artifact.recommender_model import load
from penstock.config import InteractionEvaluateView, load_view
from penstock.console import progress, run_stage, say
from penstock.recommend import judging
from penstock.storage import read_parquet, write_csv, write_json
from stages.layout import InteractionLayout


def main(dataset: str) -> None:
    """Judge the artefact of ``dataset`` by what users took up after everything that was learnt from."""
    layout = InteractionLayout(dataset)
    view = load_view(InteractionEvaluateView, dataset)
    scoring = view.scoring
    model = load(layout.model)
    frame = read_parquet(layout.split)
    people = judging.asked(frame)
    requests = [model.within_limits(past) for past in people.pasts]

    def ask(k: int, diversity: float) -> tuple[judging.Lists, judging.Lists]:
        histories, exclude = zip(*requests, strict=True)
        found = model.recommend(histories, k=k, exclude=exclude, diversity=diversity)
        return found.items, found.because

    others = judging.lists_of(read_parquet(layout.others), people)
    with progress(f"evaluate {dataset}", 1 + len(scoring.diversities), unit="rounds") as advance:
        result = judging.evaluate(
            ask,
            model.manifest.model,
            others,
            people,
            judging.known(frame),
            scoring=scoring,
            seed=view.seed,
            advance=advance,
        )
    for name, table in result.tables.items():
        write_csv(layout.reports / "evaluation" / f"{name}.csv", table)
    titles = {id_: item.title for id_, item in model.items.items()}
    titles = judging.titles(frame.filter(pl.col("title").is_not_null())) | titles
    write_json(layout.reports / "evaluation" / "examples.json", judging.in_titles(result.examples, titles))
    write_json(layout.reports / "evaluation.json", result.metrics, sort_keys=False)
    own = result.metrics[model.manifest.model]
    say(
        f"{dataset}: hit rate {own['hit_rate']:.4f} and NDCG {own['ndcg']:.4f} at {scoring.k} for "
        f"{len(people.users)} users"
    )


if __name__ == "__main__":
    run_stage("recommend_evaluate", main)
